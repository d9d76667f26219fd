"""The places that the same tests run against: a directory, a server of ours, Apache Kafka.

Apache Kafka is used where ``SEAWALL_APACHE_KAFKA`` says how to get one: ``host:port`` of one
that runs, or a folder with its jars, from which one is started.
"""

from __future__ import annotations

import base64
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from server_processes import server_process
from storage import memory_folder

DIRECTORY = "directory"
SERVER = "seawall serve"
KAFKA = "Apache Kafka"
PLACES = (DIRECTORY, SERVER, KAFKA)
KAFKA_VARIABLE = "SEAWALL_APACHE_KAFKA"
NO_KAFKA = f"no Apache Kafka: {KAFKA_VARIABLE} is neither HOST:PORT nor a folder with its jars"
NO_JARS = f"no Apache Kafka of one's own: {KAFKA_VARIABLE} is no folder with its jars"


@contextmanager
def directory() -> Iterator[str]:
    """A location that is a directory."""
    with memory_folder() as folder:
        yield folder


@contextmanager
def server() -> Iterator[str]:
    """A location that is a server of ours, in a process of its own."""
    with (
        memory_folder() as folder,
        # Groups come together at once.
        server_process(folder, group_initial_rebalance_delay_ms=0) as serving,
    ):
        yield f"kafka://{serving.address}"


@contextmanager
def apache_kafka() -> Iterator[str | None]:
    """A location that is Apache Kafka, None where there is none."""
    lib = kafka_jars()
    if lib is None:
        how = os.environ.get(KAFKA_VARIABLE, "")
        yield f"kafka://{how}" if ":" in how else None
        return
    from clients.endpoints import Kafka

    with (
        tempfile.TemporaryDirectory(prefix="seawall-kafka-") as folder,
        Kafka(Path(folder), lib, cluster_id=_new_id()) as kafka,
    ):
        yield f"kafka://{kafka.address}"


def _new_id() -> str:
    """A cluster id as Kafka makes them; one that begins with a dash would be an option."""
    return "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


def kafka_jars() -> Path | None:
    """The folder with Apache Kafka's jars, None where the variable names none."""
    how = os.environ.get(KAFKA_VARIABLE, "")
    return Path(how) if how and Path(how).is_dir() else None


def at(kind: str) -> AbstractContextManager[str | None]:
    """A location of one of `PLACES`; None where there is no Apache Kafka."""
    makers: dict[str, Callable[[], AbstractContextManager[str | None]]] = {
        DIRECTORY: directory,
        SERVER: server,
        KAFKA: apache_kafka,
    }
    return makers[kind]()
