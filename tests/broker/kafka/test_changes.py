"""One change at a time, and answers by the deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from seawall.broker import Broker
from seawall.broker.errors import BrokerError, UnknownTopic
from seawall.broker.kafka import codes
from seawall.broker.kafka.changes import Changes
from seawall.broker.kafka.codes import KafkaError, code_of
from seawall.broker.kafka.node import Node
from seawall.broker.kafka.settings import ServerSettings

WAIT_S = 60.0


def run(broker: Broker, scene: Callable[[Node, Changes], object]) -> None:
    """Play a scene, a coroutine function, with a node of its own."""

    async def play() -> None:
        node = Node(broker, ServerSettings())
        try:
            await scene(node, node.part(Changes))  # type: ignore[misc]
        finally:
            await node.close_parts()

    asyncio.run(play())


def codes_of(outcomes: list[object]) -> list[int]:
    return [code_of(each) if isinstance(each, Exception) else codes.NONE for each in outcomes]


def test_each_job_has_its_result_or_its_error(broker: Broker) -> None:
    def unknown() -> int:
        raise UnknownTopic(topic="x")

    def odd() -> int:
        raise KafkaError(codes.INVALID_REQUEST, "odd")

    def bug() -> int:
        raise ZeroDivisionError

    async def scene(node: Node, changes: Changes) -> None:
        outcomes = await changes.make([lambda: 1, unknown, odd, bug, lambda: 2])
        assert (outcomes[0], outcomes[4]) == (1, 2)
        assert codes_of([*outcomes]) == [
            codes.NONE,
            codes.UNKNOWN_TOPIC_OR_PARTITION,
            codes.INVALID_REQUEST,
            codes.UNKNOWN_SERVER_ERROR,
            codes.NONE,
        ]
        assert isinstance(outcomes[1], BrokerError)

    run(broker, scene)


def test_only_one_runs_at_a_time(broker: Broker) -> None:
    running: list[int] = [0, 0]

    def job() -> None:
        running[0] += 1
        running[1] = max(running)
        time.sleep(0.002)
        running[0] -= 1

    async def scene(node: Node, changes: Changes) -> None:
        await asyncio.gather(*(changes.make([job] * 5) for _ in range(4)))

    run(broker, scene)
    assert running == [0, 1]


def test_the_deadline_leaves_open_what_runs_and_begins_nothing_more(broker: Broker) -> None:
    go_on, done = threading.Event(), []

    def slow() -> None:
        go_on.wait(WAIT_S)
        done.append("slow")

    async def scene(node: Node, changes: Changes) -> None:
        told = ""
        while "goes on" not in told:  # else the time was up before it could begin
            assert told == "" or "nothing was done" in told
            outcomes = await changes.make([slow, lambda: done.append("second")], timeout_ms=30)
            assert codes_of([*outcomes]) == [codes.REQUEST_TIMED_OUT] * 2
            assert "nothing was done" in str(outcomes[1])
            told = str(outcomes[0])
        # Another client's turn does not come as long as it runs …
        [waited] = await changes.make([lambda: done.append("third")], timeout_ms=30)
        assert codes_of([waited]) == [codes.REQUEST_TIMED_OUT]
        assert done == []
        go_on.set()
        # … and comes then.
        assert codes_of([*await changes.make([lambda: done.append("fourth")])]) == [0]

    run(broker, scene)
    assert done == ["slow", "fourth"]


def test_a_client_that_goes_away_stops_nothing(broker: Broker) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        go_on.wait(WAIT_S)
        done.append("slow")

    async def scene(node: Node, changes: Changes) -> None:
        client = asyncio.create_task(changes.make([slow, lambda: done.append("second")]))
        waiting = asyncio.create_task(changes.make([lambda: done.append("third")]))
        await asyncio.to_thread(begun.wait, WAIT_S)
        client.cancel()
        waiting.cancel()
        await asyncio.wait({client, waiting})
        next_one = asyncio.create_task(changes.make([lambda: done.append("fourth")]))
        go_on.set()
        assert codes_of([*await next_one]) == [0]

    run(broker, scene)
    assert done == ["slow", "fourth"]


def test_a_server_that_stops_begins_nothing_and_waits_for_what_runs(broker: Broker) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        go_on.wait(WAIT_S)
        done.append("slow")

    async def scene(node: Node, changes: Changes) -> None:
        client = asyncio.create_task(changes.make([slow, lambda: done.append("second")]))
        await asyncio.to_thread(begun.wait, WAIT_S)
        node.stopping.set()
        closing = asyncio.create_task(changes.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        go_on.set()
        await closing
        assert done == ["slow"]
        assert codes_of([*await client]) == [codes.NONE, codes.REQUEST_TIMED_OUT]

    run(broker, scene)
