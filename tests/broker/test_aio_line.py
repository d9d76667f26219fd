"""Records that wait in line: each hears what becomes of it, whatever happens to the line."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from brokers import read_all, values

from seawall.broker import AsyncProducer, Broker
from seawall.broker.aio_line import MOST_PER_TURN
from seawall.broker.errors import BrokerClosed


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_more_than_one_turn_keeps_the_order(broker: Broker) -> None:
    count = 2 * MOST_PER_TURN + 1

    async def work() -> None:
        async with AsyncProducer(broker) as producer:
            futures = [producer.send("orders", b"%d" % number) for number in range(count)]
            found = [(await future).offset for future in futures]
        assert found == list(range(count))

    run(work())
    assert values(read_all(broker)) == [b"%d" % number for number in range(count)]


def test_a_broker_that_is_closed_leaves_nobody_waiting(folder: str) -> None:
    async def work() -> None:
        broker = Broker.open(folder)
        broker.create_topic("orders")
        producer = AsyncProducer(broker)
        futures = [producer.send("orders", b"x") for _ in range(3)]
        broker.close()
        for future in futures:
            with pytest.raises(BrokerClosed):
                await future
        with pytest.raises(BrokerClosed):
            await producer.send("orders", b"x")
        await producer.close()

    run(work())


@pytest.mark.parametrize("has_begun", [False, True])
def test_the_line_goes_on_after_its_task_was_cancelled(broker: Broker, has_begun: bool) -> None:
    async def work() -> None:
        there = asyncio.all_tasks()
        async with AsyncProducer(broker) as producer:
            futures = [producer.send("orders", b"x") for _ in range(3)]
            if has_begun:
                await asyncio.sleep(0)
            for each in asyncio.all_tasks() - there:  # as programs do that end
                each.cancel()
            done, pending = await asyncio.wait(futures, timeout=30)
            assert not pending
            assert all(each.cancelled() for each in done)
            metadata = await producer.send("orders", b"y")
        assert values(read_all(broker))[metadata.offset] == b"y"

    run(work())
