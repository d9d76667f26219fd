"""64 asyncio tasks that each await their publish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from benchmarks.bare import BareFile, batch_of_one
from benchmarks.measure import (
    TOPIC,
    Result,
    Setting,
    broker_with_topic,
    distinct_values,
    rate,
    ratios,
    take_turns,
)
from seawall.broker.aio import AsyncProducer

TASKS = 64
AT_LEAST = 10.0


def measure(setting: Setting) -> Iterator[Result]:
    value = distinct_values(1)[0]
    batch = batch_of_one(value)
    count = setting.pick(100, 5)
    with (
        broker_with_topic(setting.folder / "broker") as broker,
        BareFile(setting.folder / "bare") as bare,
        asyncio.Runner() as runner,
    ):

        async def publish(producer: AsyncProducer) -> None:
            for _ in range(count):
                await producer.send(TOPIC, value)

        async def publish_in_tasks() -> float:
            async with AsyncProducer(broker) as producer:
                await producer.send(TOPIC, value)
                start_s = time.perf_counter()
                await asyncio.gather(*(publish(producer) for _ in range(TASKS)))
                return TASKS * count / (time.perf_counter() - start_s)

        ours, theirs = take_turns(
            setting.pick(10, 2),
            lambda: runner.run(publish_in_tasks()),
            lambda: bare.one_at_a_time(batch, setting.pick(200, 20)),
        )
    yield Result(
        what=f"{TASKS} asyncio tasks, await send(): records a second",
        against="pwrite + fdatasync of the same bytes, one at a time",
        values=ratios(ours, theirs),
        at_least=AT_LEAST,
        detail=f"{rate(ours)} to {rate(theirs)}",
    )
