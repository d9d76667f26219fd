"""Running a handler, against the loop of `poll` and `ack` that does without one."""

from __future__ import annotations

import itertools
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

AT_LEAST = 0.2


def measure(setting: Setting) -> Iterator[Result]:
    count = setting.pick(50_000, 2_000)
    groups = (f"g{number}" for number in itertools.count())
    with broker_with_topic(setting.folder / "broker") as broker:
        with broker.producer() as producer:
            for value in distinct_values(count):
                producer.send(TOPIC, value)

        def handle(record: object) -> None:
            pass

        def run() -> None:
            with broker.consumer(TOPIC, group=next(groups)) as consumer:
                consumer.run(handle, max_records=count)

        def loop() -> None:
            left = count
            with broker.consumer(TOPIC, group=next(groups)) as consumer:
                while left:
                    records = consumer.poll()
                    for record in records:
                        handle(record)
                    consumer.ack(records)
                    left -= len(records)

        ours, theirs = take_turns(
            setting.pick(9, 3),
            lambda: count / seconds_for(run),
            lambda: count / seconds_for(loop),
        )
    yield Result(
        what="run with a handler that does nothing: records a second",
        against="a loop of poll, the same function, and one ack per poll",
        values=ratios(ours, theirs),
        at_least=AT_LEAST,
        detail=f"{rate(ours)} to {rate(theirs)}",
    )
