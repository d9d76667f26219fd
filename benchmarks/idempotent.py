"""What it costs that each record is stored once: numbers that are checked in each append."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator

from benchmarks.bare import batch_of_one
from benchmarks.measure import (
    TOPIC,
    Result,
    Setting,
    broker_with_topic,
    distinct_values,
    ratios,
    take_turns,
)
from benchmarks.publish import median_us
from seawall.wal.records import encode_batch

AT_MOST = 1.3
APPEND_AT_MOST = 2.0


def measure(setting: Setting) -> Iterator[Result]:
    value = distinct_values(1)[0]
    count = setting.pick(100, 20)
    rounds = setting.pick(30, 4)
    with (
        broker_with_topic(setting.folder / "broker") as broker,
        broker.producer(idempotent=True) as idempotent,
        broker.producer() as plain,
    ):
        checked, unchecked = take_turns(
            rounds,
            lambda: median_us(lambda: idempotent.send(TOPIC, value).result(), count),
            lambda: median_us(lambda: plain.send(TOPIC, value).result(), count),
        )
    yield Result(
        what="one idempotent publish at a time: median latency",
        against="one that is not",
        values=ratios(checked, unchecked),
        at_most=AT_MOST,
        detail=f"{statistics.median(checked):.0f} us to {statistics.median(unchecked):.0f} us",
    )
    with broker_with_topic(setting.folder / "broker") as broker:
        log = broker.engine.log(broker.engine.partition_id(TOPIC, 0))
        batch = bytearray(batch_of_one(value))
        sequences = itertools.count()

        def append_numbered() -> float:
            batches = [
                encode_batch(
                    [(1, None, value, ())],
                    producer_id=1,
                    producer_epoch=0,
                    base_sequence=next(sequences),
                )
                for _ in range(count)
            ]
            each = iter(batches)
            return median_us(lambda: log.append_checked([next(each)]), count)

        numbered, bare = take_turns(
            rounds, append_numbered, lambda: median_us(lambda: log.append([batch]), count)
        )
        log.sync()
    yield Result(
        what="an append that is checked, without its sync: median",
        against="one that is not",
        values=ratios(numbered, bare),
        at_most=APPEND_AT_MOST,
        detail=f"{statistics.median(numbered):.1f} us to {statistics.median(bare):.1f} us",
    )
