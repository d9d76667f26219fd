"""Removing 1,000 segments that everybody has acknowledged."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import TOPIC, Result, Setting, ratios, seconds_for, take_turns
from seawall.broker.broker import Broker
from seawall.wal.records import encode_batch

AT_MOST = 2
SEGMENT_BYTES = 64 << 10


def sealed_segments(broker: Broker, count: int) -> None:
    """So many more segments, full, indexed and acknowledged."""
    log = broker.engine.log(broker.topic(TOPIC).partitions[0].id)
    batch = encode_batch([(1, None, bytes(SEGMENT_BYTES - 200), ())])
    for _ in range(count):
        log.append([bytearray(batch)])
        log.roll()
    log.sync()
    log.checkpoint()
    broker.reset_group("everybody", TOPIC, {0: log.ends().durable_end})


def bare(folder: Path, count: int) -> float:
    """Removing as many files of that size, and syncing their folder."""
    folder.mkdir(exist_ok=True)
    paths = [folder / str(number) for number in range(count)]
    for path in paths:
        path.write_bytes(bytes(SEGMENT_BYTES))
    os.sync()

    def remove() -> None:
        for path in paths:
            os.unlink(path)
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    return seconds_for(remove)


def measure(setting: Setting) -> Iterator[Result]:
    count = setting.pick(1000, 20)
    with Broker.open(setting.folder / "broker") as broker:
        broker.create_topic(TOPIC)

        def trim() -> float:
            sealed_segments(broker, count)
            os.sync()
            took_s = seconds_for(broker.compact)
            if broker.engine.log(broker.topic(TOPIC).partitions[0].id).segments():
                raise RuntimeError("not everything was removed")
            return took_s

        trims, bares = take_turns(
            setting.pick(7, 2), trim, lambda: bare(setting.folder / "bare", count)
        )
    median_ms = statistics.median(trims) * 1000
    yield Result(
        what=f"trim {count:,} acknowledged segments: time",
        against="unlink of as many files, and one fsync of their folder",
        values=ratios(trims, bares),
        at_most=AT_MOST,
        detail=f"{median_ms:.1f} ms, {median_ms * 1000 / count:.0f} us a segment",
    )
