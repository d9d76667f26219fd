"""Asynchronous produce: send everything, then flush. All of it is on disk at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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
from seawall.wal.records import HEADER_BYTES, encode_batch

AT_LEAST = {"compiled": 0.30, "pure": 0.15}
RECORDS_PER_SYNC = 1000


def encoded_records(values: list[bytes]) -> list[bytes]:
    """Each value as many bytes as its record has in a batch."""
    batch = encode_batch([(0, None, value, ()) for value in values[:RECORDS_PER_SYNC]])
    size = round((len(batch) - HEADER_BYTES) / len(values[:RECORDS_PER_SYNC]))
    return [value.ljust(size, b"\0") for value in values]


def write_records(path: Path, records: list[bytes]) -> None:
    """A write for each record, a sync for every 1,000."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for at in range(0, len(records), RECORDS_PER_SYNC):
            for record in records[at : at + RECORDS_PER_SYNC]:
                os.write(descriptor, record)
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def measure(setting: Setting) -> Iterator[Result]:
    count = setting.pick(100_000, 5_000)
    values = distinct_values(count)
    records = encoded_records(values)
    with (
        broker_with_topic(setting.folder / "broker") as broker,
        broker.producer() as producer,
    ):

        def produce() -> None:
            send = producer.send
            for value in values:
                send(TOPIC, value)
            producer.flush()

        ours, theirs = take_turns(
            setting.pick(10, 2),
            lambda: count / seconds_for(produce),
            lambda: count / seconds_for(lambda: write_records(setting.folder / "bare", records)),
        )
    yield Result(
        what="asynchronous produce, durable: records a second",
        against="a write of the same bytes for each record, fdatasync for every 1,000",
        values=ratios(ours, theirs),
        at_least=AT_LEAST[setting.core],
        detail=f"{rate(ours)} to {rate(theirs)}",
    )
