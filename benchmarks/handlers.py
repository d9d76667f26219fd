"""Running a handler, against the loop of `poll` and `ack` that does the same by hand.

`run` notes each record in a file before its handler gets it, and takes the note back after
it, so that a record whose process dies is counted. So the loop writes as often.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

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
NOTE = b"x" * 16
NOTHING = bytes(16)


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

        def note(data: bytes) -> None:
            os.pwrite(notes.fileno(), data, 0)

        def loop(note: Callable[[bytes], object]) -> None:
            left = count
            with broker.consumer(TOPIC, group=next(groups)) as consumer:
                while left:
                    records = consumer.poll()
                    for record in records:
                        note(NOTE)
                        handle(record)
                        note(NOTHING)
                    consumer.ack(records)
                    left -= len(records)

        with (setting.folder / "notes").open("wb") as notes:
            ours, theirs = take_turns(
                setting.pick(9, 3),
                lambda: count / seconds_for(run),
                lambda: count / seconds_for(lambda: loop(note)),
            )
        bare = [count / seconds_for(lambda: loop(len)) for _ in range(3)]
    yield Result(
        what="run with a handler that does nothing: records a second",
        against="a loop of poll, two small writes around the same function, and one ack per poll",
        values=ratios(ours, theirs),
        at_least=AT_LEAST,
        detail=f"{rate(ours)} to {rate(theirs)}; without the writes {rate(bare)}",
    )
