"""Consuming in process, against building the same records and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import (
    TOPIC,
    Result,
    Setting,
    broker_with_topic,
    distinct_values,
    rate,
    ratios,
    seconds_for,
    take_turns,
)
from seawall.broker.consumer import DEFAULT_MAX_RECORDS
from seawall.wal.records import Record

AT_LEAST = {"compiled": 0.5, "pure": 0.2}
NOW_MS = 1_700_000_000_000


def build(values: list[bytes]) -> None:
    """As many records, in lists as long as those of `poll`."""
    for at in range(0, len(values), DEFAULT_MAX_RECORDS):
        records = []
        for offset, value in enumerate(values[at : at + DEFAULT_MAX_RECORDS], at):
            records.append(Record(TOPIC, 0, offset, NOW_MS, None, value, ()))


def measure(setting: Setting) -> Iterator[Result]:
    count = setting.pick(200_000, 5_000)
    values = distinct_values(count)
    with broker_with_topic(setting.folder / "broker") as broker:
        with broker.producer() as producer:
            for value in values:
                producer.send(TOPIC, value)

        def consume() -> None:
            left = count
            with broker.consumer(TOPIC) as consumer:
                while left:
                    left -= len(consumer.poll())

        ours, theirs = take_turns(
            setting.pick(15, 3),
            lambda: count / seconds_for(consume),
            lambda: count / seconds_for(lambda: build(values)),
        )
    yield Result(
        what="consume in process: records a second",
        against="building as many positional NamedTuples of the same seven fields",
        values=ratios(ours, theirs),
        at_least=AT_LEAST[setting.core],
        detail=f"{rate(ours)} to {rate(theirs)}",
    )
