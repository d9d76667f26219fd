"""`AsyncConsumer.run`: the same promises with coroutines, and a loop that is never blocked."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest
from brokers import LONG_S, put, read_all, values

from seawall.broker import AsyncConsumer, Broker, DeliveredRecord, Handled, Lag, Reject, RetryLater
from seawall.broker.dispatcher import Place
from seawall.broker.engine import EXECUTOR_THREADS
from seawall.broker.errors import HandlerFailed, NotInGroup
from seawall.broker.handling_core import Handling

FAST: dict[str, Any] = {"retry_backoff_ms": 1, "retry_backoff_max_ms": 5, "ack_interval_ms": 20}


def committed(broker: Broker) -> int:
    return broker.group("g").offsets[0].committed


def running(
    broker: Broker,
    handler: Callable[[DeliveredRecord], Awaitable[object] | object],
    *,
    consumer: dict[str, Any] | None = None,
    **settings: Any,
) -> Handled:
    async def main() -> Handled:
        async with await AsyncConsumer.open(broker, "orders", group="g", **(consumer or {})) as c:
            return await c.run(handler, **{**FAST, **settings})

    return asyncio.run(main())


def test_hands_over_every_record_and_acknowledges_it(broker: Broker) -> None:
    put(broker, *[b"%d" % n for n in range(300)])
    seen: list[bytes | None] = []

    async def handler(record: DeliveredRecord) -> None:
        await asyncio.sleep(0)
        seen.append(record.value)

    assert running(broker, handler, max_records=300) == Handled(handled=300)
    assert seen == [b"%d" % n for n in range(300)]
    assert committed(broker) == 300


def test_retries_dead_letters_and_callbacks_in_the_loop(broker: Broker) -> None:
    put(broker, b"bad", b"later", b"good")
    told: list[tuple[str, bytes | None, int]] = []
    threads: set[int] = set()

    async def handler(record: DeliveredRecord) -> None:
        threads.add(threading.get_ident())
        told.append(("handle", record.value, record.delivery_count))
        if record.value == b"bad":
            raise ValueError("no")
        if record.value == b"later" and record.delivery_count == 1:
            raise RetryLater(1)

    def buried(record: Any, failure: Any, metadata: Any) -> None:
        threads.add(threading.get_ident())
        told.append(("buried", record.value, metadata.offset))

    done = running(broker, handler, max_records=3, max_deliveries=2, on_dead_letter=buried)
    assert done == Handled(handled=2, retries=2, dead_lettered=1)
    assert told == [
        ("handle", b"bad", 1),
        ("handle", b"bad", 2),
        ("buried", b"bad", 0),
        ("handle", b"later", 1),
        ("handle", b"later", 2),
        ("handle", b"good", 1),
    ]
    assert len(threads) == 1
    assert values(read_all(broker, "orders.dlq")) == [b"bad"]
    assert committed(broker) == 3


def test_as_many_tasks_as_concurrency_and_each_key_in_order(broker: Broker) -> None:
    with broker.producer() as producer:
        for n in range(120):
            producer.send("orders", b"%d" % n, key=b"k%d" % (n % 12))
    at_work: list[bytes | None] = []
    together = asyncio.Event()
    most = 0
    order: dict[bytes | None, list[int]] = {}

    async def handler(record: DeliveredRecord) -> None:
        nonlocal most
        assert record.key not in at_work
        at_work.append(record.key)
        most = max(most, len(at_work))
        if most == 5:
            together.set()
        await together.wait()
        await asyncio.sleep(0.002)
        at_work.remove(record.key)
        order.setdefault(record.key, []).append(record.offset)

    assert running(broker, handler, max_records=120, concurrency=5).handled == 120
    assert most == 5
    assert all(offsets == sorted(offsets) for offsets in order.values())


def test_a_plain_function_is_a_handler_too(broker: Broker) -> None:
    put(broker, b"a")
    seen: list[DeliveredRecord] = []
    assert running(broker, seen.append, max_records=1).handled == 1
    assert seen[0].delivery_count == 1


def test_the_loop_is_not_blocked(broker: Broker) -> None:
    put(broker, *[b"%d" % n for n in range(5)])
    ticks = 0
    stop = threading.Event()

    async def tick() -> None:
        nonlocal ticks
        while ticks < 40:
            await asyncio.sleep(0.005)
            ticks += 1
        stop.set()

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        async with await AsyncConsumer.open(broker, "orders", group="g") as consumer:
            # That it is blocked until then is all that could end it before it has ticked.
            await consumer.run(
                lambda record: asyncio.sleep(0.01), stop=stop, timeout_ms=60_000, **FAST
            )
            assert ticks == 40
        await ticking

    asyncio.run(main())


def test_cancelled_it_lets_finish_what_runs(broker: Broker) -> None:
    put(broker, b"a", b"b")

    async def main() -> None:
        began = asyncio.Event()
        finished: list[bytes | None] = []

        async def handler(record: DeliveredRecord) -> None:
            began.set()
            await asyncio.sleep(0.05)
            finished.append(record.value)

        async with await AsyncConsumer.open(broker, "orders", group="g") as consumer:
            task = asyncio.create_task(consumer.run(handler, **FAST))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert finished == [b"a"]
            assert committed(broker) == 1
            assert values(await consumer.poll()) == [b"b"]  # the consumer goes on there

    asyncio.run(main())


@pytest.mark.parametrize("turns", [0, 1])  # that it has had before
def test_a_turn_that_comes_after_its_end_takes_nothing(broker: Broker, turns: int) -> None:
    """Cancelled, the end may get the consumer before a thread that was asked earlier."""
    put(broker, b"a", b"b")

    async def handler(record: DeliveredRecord) -> None:
        raise AssertionError

    async def main() -> None:
        late: list[Callable[[], object]] = []
        done: list[Callable[[], object]] = []

        async with await AsyncConsumer.open(broker, "orders", group="g") as consumer:
            run = consumer._run

            async def cancelled_once(call: Callable[[], Any], **settings: Any) -> Any:
                if len(done) == turns and not late:
                    late.append(call)
                    raise asyncio.CancelledError
                done.append(call)
                return await run(call, **settings)

            consumer._run = cancelled_once  # type: ignore[method-assign]
            with pytest.raises(asyncio.CancelledError):
                await consumer.run(handler)
            consumer._run = run  # type: ignore[method-assign]
            late.pop()()
            assert not consumer._consumer.is_running
            assert values(await consumer.poll()) == [b"a", b"b"]

    asyncio.run(main())


def test_what_does_not_finish_in_time_is_cancelled(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    put(broker, b"a")
    stop = threading.Event()

    async def handler(record: DeliveredRecord) -> None:
        stop.set()
        await asyncio.sleep(600)

    running(broker, handler, stop=stop, shutdown_timeout_ms=20)
    assert "did not finish within 20 ms" in caplog.text
    assert committed(broker) == 0


async def _is_told_to_end(consumer: AsyncConsumer) -> None:
    runner = consumer._runner
    assert runner is not None
    while not runner._handling.is_stopping:
        await asyncio.sleep(0.001)


def test_close_ends_it(broker: Broker) -> None:
    put(broker, b"a", b"b")

    async def main() -> Handled:
        consumer = await AsyncConsumer.open(broker, "orders", group="g")
        began = asyncio.Event()

        async def handler(record: DeliveredRecord) -> None:
            began.set()
            await _is_told_to_end(consumer)

        task = asyncio.create_task(consumer.run(handler, **FAST))
        await began.wait()
        await consumer.close()
        return await task

    assert asyncio.run(asyncio.wait_for(main(), LONG_S)) == Handled(handled=1)


def test_close_does_not_wait_for_ever_for_a_handler_that_ignores_its_cancellation(
    broker: Broker,
) -> None:
    put(broker, b"a")

    async def main() -> None:
        began, may_end = asyncio.Event(), asyncio.Event()

        async def handler(record: DeliveredRecord) -> None:
            began.set()
            while not may_end.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await may_end.wait()

        consumer = await AsyncConsumer.open(broker, "orders", group="g")
        task = asyncio.create_task(consumer.run(handler, shutdown_timeout_ms=20, **FAST))
        await began.wait()
        await consumer.close()
        assert not task.done()
        may_end.set()
        await task

    asyncio.run(asyncio.wait_for(main(), LONG_S))


def test_closing_many_leaves_their_handlers_a_thread(broker: Broker) -> None:
    put(broker, b"a")
    count = EXECUTOR_THREADS + 1

    async def main() -> list[Handled]:
        async def consume(group: str) -> Handled:
            async def handler(record: DeliveredRecord) -> None:
                began.release()
                await _is_told_to_end(consumer)
                # As producing does while the buffer is full, or writing a dead letter.
                await asyncio.wrap_future(broker.executor.submit(int))

            consumer = await AsyncConsumer.open(broker, "orders", group=group)
            consumers.append(consumer)
            return await consumer.run(handler, shutdown_timeout_ms=3_600_000, **FAST)

        consumers: list[AsyncConsumer] = []
        began = asyncio.Semaphore(0)
        runs = [asyncio.create_task(consume(f"g{number}")) for number in range(count)]
        for _ in range(count):
            await began.acquire()
        await asyncio.gather(*(each.close() for each in consumers))
        return await asyncio.gather(*runs)

    found = asyncio.run(asyncio.wait_for(main(), LONG_S))
    assert found == [Handled(handled=1)] * count


def test_partitions_of_many_that_move_leave_their_handlers_a_thread(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.add_partitions("orders", 2)
    put(broker, b"a")
    put(broker, b"b", partition=1)
    waiting: list[object] = []
    let_finish = Handling._let_finish

    def wait(handling: Handling, places: Sequence[Place]) -> None:
        waiting.append(handling)
        let_finish(handling, places)

    monkeypatch.setattr(Handling, "_let_finish", wait)

    async def main() -> list[Handled]:
        async def consume(group: str) -> Handled:
            async def handler(record: DeliveredRecord) -> None:
                began.release()
                while len(waiting) < EXECUTOR_THREADS:
                    await asyncio.sleep(0.005)
                await asyncio.wrap_future(broker.executor.submit(int))

            settings: dict[str, Any] = {"shutdown_timeout_ms": 3_600_000, "max_records": 2}
            async with await AsyncConsumer.open(broker, "orders", group=group) as consumer:
                return await consumer.run(handler, concurrency=2, **settings, **FAST)

        began = asyncio.Semaphore(0)
        groups = [f"g{number}" for number in range(EXECUTOR_THREADS)]
        runs = [asyncio.create_task(consume(group)) for group in groups]
        for _ in range(2 * len(groups)):
            await began.acquire()
        others = [
            await asyncio.to_thread(broker.consumer, "orders", group=group) for group in groups
        ]
        try:
            return await asyncio.gather(*runs)
        finally:
            for other in others:
                await asyncio.to_thread(other.close)

    found = asyncio.run(asyncio.wait_for(main(), LONG_S))
    assert found == [Handled(handled=2)] * EXECUTOR_THREADS


def test_a_closing_that_is_cancelled_leaves_the_group_all_the_same(broker: Broker) -> None:
    gate = threading.Event()

    async def main() -> None:
        consumer = await AsyncConsumer.open(broker, "orders", group="g")
        busy = [broker.executor.submit(gate.wait, LONG_S) for _ in range(EXECUTOR_THREADS)]
        closing = asyncio.create_task(consumer.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        gate.set()
        await asyncio.gather(*map(asyncio.wrap_future, busy))
        while broker.group("g").members:
            await asyncio.sleep(0.005)

    try:
        asyncio.run(asyncio.wait_for(main(), LONG_S))
    finally:
        gate.set()


def test_a_handler_may_close_its_own_consumer(broker: Broker) -> None:
    put(broker, b"a", b"b")

    async def main() -> None:
        consumer = await AsyncConsumer.open(broker, "orders", group="g")
        await consumer.run(lambda record: consumer.close(), shutdown_timeout_ms=3_600_000, **FAST)

    asyncio.run(asyncio.wait_for(main(), LONG_S))  # it does not wait for itself


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_run(broker: Broker, kind: type[BaseException]) -> None:
    put(broker, b"a", b"stop", b"c")

    async def handler(record: DeliveredRecord) -> None:
        if record.value == b"stop":
            raise kind

    with pytest.raises(kind):
        running(broker, handler)
    assert committed(broker) == 1


def test_a_handler_that_was_cancelled_by_somebody_has_failed(broker: Broker) -> None:
    put(broker, b"a")

    async def handler(record: DeliveredRecord) -> None:
        if record.delivery_count == 1:
            raise asyncio.CancelledError

    assert running(broker, handler, max_records=1) == Handled(handled=1, retries=1)


def test_what_is_no_handler_buries_nothing(broker: Broker) -> None:
    put(broker, b"a")
    with pytest.raises(TypeError, match="is a function that takes a record, not None"):
        running(broker, None, max_records=1)  # type: ignore[arg-type]
    assert committed(broker) == 0


def test_without_a_dead_letter_topic_it_stops(broker: Broker) -> None:
    put(broker, b"a")

    async def handler(record: DeliveredRecord) -> None:
        raise Reject("no")

    with pytest.raises(HandlerFailed):
        running(broker, handler, dead_letter_topic=None)


def test_refuses_what_makes_no_sense(broker: Broker) -> None:
    async def main(**settings: Any) -> None:
        async with await AsyncConsumer.open(broker, "orders") as consumer:
            await consumer.run(print, **settings)

    with pytest.raises(NotInGroup):
        asyncio.run(main())
    with pytest.raises(ValueError, match="concurrency"):
        asyncio.run(main(concurrency=0))
    with pytest.raises(TypeError):
        asyncio.run(main(concurency=1))


def test_partitions_that_move_are_finished_first(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    with broker.producer() as producer:
        for n in range(100):
            producer.send("two", b"%d" % n, partition=n % 2)
    handled: list[tuple[int, int]] = []

    async def handler(record: DeliveredRecord) -> None:
        await asyncio.sleep(0.004)
        handled.append((record.partition, record.offset))

    async def member(stop: threading.Event) -> None:
        async with await AsyncConsumer.open(broker, "two", group="g") as consumer:
            await consumer.run(handler, stop=stop, concurrency=2, max_pending=20, **FAST)

    async def main() -> None:
        stop = threading.Event()
        first = asyncio.create_task(member(stop))
        while len(handled) < 10:
            await asyncio.sleep(0.005)
        second = asyncio.create_task(member(stop))
        while len(handled) < 100:
            await asyncio.sleep(0.005)
        stop.set()
        await asyncio.gather(first, second)

    asyncio.run(asyncio.wait_for(main(), LONG_S))
    assert sorted(handled) == [(p, n) for p in range(2) for n in range(50)]


def test_a_full_pool_warns_in_the_loop(broker: Broker) -> None:
    put(broker, *[b"%d" % n for n in range(20)])
    lags: list[Lag] = []
    stop = threading.Event()

    def slow(record: DeliveredRecord) -> Coroutine[Any, Any, None]:
        return asyncio.sleep(600)

    def told(lag: Lag) -> None:
        lags.append(lag)
        # Time enough for more of them, which do not come.
        asyncio.get_running_loop().call_later(0.2, stop.set)

    running(
        broker,
        slow,
        max_pending=4,
        lag_warning_ms=20,
        on_lag=told,
        stop=stop,
        shutdown_timeout_ms=0,
    )
    assert [lag.running for lag in lags] == [1]


def test_a_second_run_is_refused_and_harms_nobody(broker: Broker) -> None:
    """A handler of the first can still close the consumer, without waiting for itself."""
    put(broker, b"a")

    async def main() -> Handled:
        consumer = await AsyncConsumer.open(broker, "orders", group="g")

        async def handler(record: DeliveredRecord) -> None:
            with pytest.raises(ValueError, match="already"):
                await consumer.run(handler)
            await consumer.close()

        return await consumer.run(handler, shutdown_timeout_ms=3_600_000, **FAST)

    assert asyncio.run(asyncio.wait_for(main(), LONG_S)) == Handled(handled=1)
