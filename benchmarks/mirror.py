"""`seawall mirror` against what it cannot do without: writing the same records.

With ``SEAWALL_APACHE_KAFKA=HOST:PORT`` also from and to an Apache Kafka that runs there.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.apache import kafka_address
from benchmarks.measure import (
    VALUE_BYTES,
    Result,
    Setting,
    distinct_values,
    rate,
    ratios,
    seconds_for,
    take_turns,
)
from benchmarks.serve import new_folder, serving
from seawall.broker import AnyBroker, connect, mirror

WRITE_AT_LEAST = 0.2
READ_AT_LEAST = 0.2
PARTITIONS = 4

_numbers = itertools.count()


def produce(broker: AnyBroker, topic: str, values: list[bytes]) -> None:
    """The same records, by a producer that stores each once, as a mirror's does."""
    with broker.producer(linger_ms=20, batch_bytes=256 << 10, idempotent=True) as producer:
        for number, value in enumerate(values):
            producer.send(topic, value, partition=number % PARTITIONS)


def read(broker: AnyBroker, topic: str, count: int) -> None:
    with broker.consumer(topic) as consumer:
        seen = 0
        while seen < count:
            seen += len(consumer.poll(2_000, 10_000))


class Mirroring:
    """Copies the same topic again and again, each time to where nothing is yet."""

    def __init__(self, setting: Setting, values: list[bytes]) -> None:
        self._setting = setting
        self._values = values

    def rate_of(self, work: Callable[[], object]) -> float:
        return len(self._values) / seconds_for(work)

    def folder(self) -> Path:
        return self._setting.folder / f"copy-{next(_numbers)}"

    def to_directory(self, source: AnyBroker, topic: str) -> float:
        folder = self.folder()
        try:
            with connect(folder) as target:
                return self.rate_of(lambda: mirror(source, target, topics=[topic]))
        finally:
            shutil.rmtree(folder)

    def producing_to_directory(self) -> float:
        folder = self.folder()
        try:
            with connect(folder) as target:
                target.create_topic("t", PARTITIONS)
                return self.rate_of(lambda: produce(target, "t", self._values))
        finally:
            shutil.rmtree(folder)

    def to_cluster(self, cluster: AnyBroker) -> float:
        """From a directory in which the topic has a name that is new."""
        folder, topic = self.folder(), f"mirrored-{next(_numbers)}"
        try:
            with connect(folder) as source:
                source.create_topic(topic, PARTITIONS, {"cleanup.policy": "delete"})
                produce(source, topic, self._values)
                return self.rate_of(lambda: mirror(source, cluster, topics=[topic]))
        finally:
            shutil.rmtree(folder)
            cluster.delete_topic(topic)

    def producing_to_cluster(self, cluster: AnyBroker) -> float:
        topic = f"produced-{next(_numbers)}"
        cluster.create_topic(topic, PARTITIONS)
        try:
            return self.rate_of(lambda: produce(cluster, topic, self._values))
        finally:
            cluster.delete_topic(topic)


def measure(setting: Setting) -> Iterator[Result]:
    values = distinct_values(setting.pick(300_000, 2_000))
    rounds = setting.pick(5, 1)
    mirroring = Mirroring(setting, values)
    with connect(setting.folder / "source") as source:
        source.create_topic("t", PARTITIONS)
        produce(source, "t", values)
        ours, theirs = take_turns(
            rounds,
            lambda: mirroring.to_directory(source, "t"),
            mirroring.producing_to_directory,
        )
    yield result("mirror, directory to directory", "producing the same records", ours, theirs)
    with ExitStack() as stack:
        _, address = stack.enter_context(serving(new_folder(setting, "served")))
        places = {"seawall serve": address}
        kafka = kafka_address()
        if kafka is not None:
            places["Apache Kafka"] = kafka
        for name, where in places.items():
            cluster = stack.enter_context(connect(f"kafka://{where}"))
            yield from measure_cluster(mirroring, cluster, name, values, rounds)


def measure_cluster(
    mirroring: Mirroring, cluster: AnyBroker, name: str, values: list[bytes], rounds: int
) -> Iterator[Result]:
    ours, theirs = take_turns(
        rounds,
        lambda: mirroring.to_cluster(cluster),
        lambda: mirroring.producing_to_cluster(cluster),
    )
    yield result(f"mirror, directory to {name}", "producing the same records", ours, theirs)
    topic = f"source-{next(_numbers)}"
    cluster.create_topic(topic, PARTITIONS)
    try:
        produce(cluster, topic, values)
        ours, theirs = take_turns(
            rounds,
            lambda: mirroring.to_directory(cluster, topic),
            lambda: mirroring.rate_of(lambda: read(cluster, topic, len(values))),
        )
    finally:
        cluster.delete_topic(topic)
    yield result(
        f"mirror, {name} to directory",
        "a consumer that reads the same records",
        ours,
        theirs,
        READ_AT_LEAST,
    )


def result(
    what: str,
    against: str,
    ours: list[float],
    theirs: list[float],
    at_least: float = WRITE_AT_LEAST,
) -> Result:
    megabytes = sorted(ours)[len(ours) // 2] * VALUE_BYTES / 1e6
    return Result(
        what=what,
        against=against,
        values=ratios(ours, theirs),
        at_least=at_least,
        detail=f"{rate(ours)}, {megabytes:.1f} MB/s, against {rate(theirs)}",
    )
