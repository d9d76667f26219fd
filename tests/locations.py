"""The places that the same tests run against: a directory, a server of ours, Apache Kafka.

Apache Kafka is used where ``SEAWALL_APACHE_KAFKA`` says how to get one: ``host:port`` of one
that runs, or a folder with its jars, from which one is started.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server_processes import server_process
from storage import memory_folder

DIRECTORY = "directory"
SERVER = "seawall serve"
KAFKA = "Apache Kafka"
PLACES = (DIRECTORY, SERVER, KAFKA)
KAFKA_VARIABLE = "SEAWALL_APACHE_KAFKA"
NO_KAFKA = f"no Apache Kafka: {KAFKA_VARIABLE} is neither HOST:PORT nor a folder with its jars"


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
    how = os.environ.get(KAFKA_VARIABLE, "")
    if not Path(how).is_dir() or not how:
        yield f"kafka://{how}" if ":" in how else None
        return
    from clients.endpoints import Kafka

    with tempfile.TemporaryDirectory(prefix="seawall-kafka-") as folder:
        kafka = Kafka(Path(folder), Path(how))
        kafka.format()
        kafka.start()
        try:
            yield f"kafka://{kafka.address}"
        finally:
            kafka.kill()
