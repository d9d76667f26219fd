"""`AsyncProducer` and `AsyncConsumer`: the same promises, and a loop that never waits."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from brokers import broker_on, put, read_all, values
from storage import FaultyFiles

from seawall.broker import AnyConsumer, AsyncConsumer, AsyncProducer, Broker
from seawall.broker.errors import (
    BrokerClosed,
    BrokerError,
    RecordTooLarge,
    UnknownTopic,
)
from seawall.wal.files import READ_WRITE, Descriptor, Files


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


class WatchedFiles(FaultyFiles):
    """Notes what one thread asks of the operating system."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: int | None = None
        self.asked: list[str] = []

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Fail if this thread asks anything of it."""
        self.watched = threading.get_ident()
        try:
            yield
        finally:
            self.watched = None
        assert self.asked == []

    def _call(self, kind: str, path: str, size_bytes: int = -1) -> int | None:
        if threading.get_ident() == self.watched:
            self.asked.append(kind)
        return super()._call(kind, path, size_bytes)

    def try_lock(self, descriptor: int, *, exclusive: bool = True) -> bool:
        if threading.get_ident() == self.watched:
            self.asked.append("try_lock")
        return super().try_lock(descriptor, exclusive=exclusive)


def test_publish_and_read(broker: Broker) -> None:
    async def work() -> None:
        async with AsyncProducer(broker) as producer:
            first = await producer.send(
                "orders", b"v", key=b"k", headers={"a": b"1"}, partition=0, timestamp=5
            )
            assert first == ("orders", 0, 0, 5)
            await producer.flush()
        async with await AsyncConsumer.open(broker, "orders", group="g") as consumer:
            [record] = await consumer.poll(timeout_ms=50_000)
            assert (record.key, record.value, list(record.headers)) == (b"k", b"v", [("a", b"1")])
            assert consumer.assignment() == [("orders", 0)]
            assert consumer.position("orders", 0) == 1
            assert await consumer.lag() == {("orders", 0): 1}
            await consumer.ack()
            assert consumer.committed("orders", 0) == 1
            await consumer.seek("orders", 0, 0)
            assert len(await consumer.poll()) == 1

    run(work())


def test_each_record_once(broker: Broker) -> None:
    async def work() -> None:
        async with AsyncProducer(broker, idempotent=True) as producer:
            futures = [producer.send("orders", b"%d" % number) for number in range(100)]
            got = await asyncio.gather(*futures)
            assert [metadata.offset for metadata in got] == list(range(100))

    run(work())
    assert [each.last_sequence for each in broker.producers("orders", 0)] == [99]


def test_records_keep_the_order_of_the_calls(broker: Broker) -> None:
    """Also while the topic is looked up, and while there is no room."""

    async def work() -> None:
        async with AsyncProducer(broker, buffer_bytes=2000) as producer:
            futures = [producer.send("orders", b"%d" % number) for number in range(2000)]
            got = await asyncio.gather(*futures)
            assert [metadata.offset for metadata in got] == list(range(2000))

    run(work())
    assert values(read_all(broker)) == [b"%d" % number for number in range(2000)]


def test_a_partitioner_is_asked_once_for_each_record(folder: str) -> None:
    """Also for those that have to wait for room."""
    asked: list[bytes | None] = []

    def partitioner(topic: str, key: bytes | None, partitions: int) -> int:
        asked.append(key)
        return 0

    async def work() -> None:
        async with AsyncProducer(broker, buffer_bytes=2000, partitioner=partitioner) as producer:
            await asyncio.gather(
                *(producer.send("orders", None, key=b"%d" % number) for number in range(500))
            )

    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        run(work())
    assert asked == [b"%d" % number for number in range(500)]


def test_a_record_that_fits_needs_no_thread(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def line_up(*args: object) -> None:
        raise AssertionError("it was handed to a thread")

    async def work() -> None:
        async with AsyncProducer(broker) as producer:
            await producer.send("orders", b"finds the topic")
            monkeypatch.setattr(producer._line, "add", line_up)
            await producer.send("orders", b"x", key=b"k", headers={"a": b"1"})

    run(work())


def test_many_tasks(folder: str) -> None:
    files = WatchedFiles()

    async def work() -> None:
        async def publish(name: int) -> list[int]:
            return [(await producer.send("orders", b"%d" % name)).offset for _ in range(50)]

        with files.untouched():
            async with AsyncProducer(broker) as producer:
                offsets = await asyncio.gather(*map(publish, range(64)))
        assert sorted(offset for mine in offsets for offset in mine) == list(range(64 * 50))
        assert all(mine == sorted(mine) for mine in offsets)

    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        run(work())


@pytest.mark.parametrize("known", [False, True])
def test_errors_are_raised_where_they_are_awaited(broker: Broker, known: bool) -> None:
    async def work() -> None:
        async with AsyncProducer(broker) as producer:
            if known:
                await producer.send("orders", b"x")
            bad = producer.send("orders", b"x" * (2 << 20))
            unknown = producer.send("nowhere", b"x")
            wrong = producer.send("orders", "text")  # type: ignore[arg-type]
            good = producer.send("orders", b"x")
            with pytest.raises(RecordTooLarge):
                await bad
            with pytest.raises(UnknownTopic):
                await unknown
            with pytest.raises(TypeError):
                await wrong
            assert (await good).offset == int(known)

    run(work())


def test_a_failed_write_reaches_who_awaits_it(folder: str) -> None:
    files = FaultyFiles()

    async def work() -> None:
        async with AsyncProducer(broker) as producer:
            await producer.send("orders", b"x")
            files.fail("pwritev")
            with pytest.raises(BrokerError):
                await producer.send("orders", b"lost")
            await producer.flush()
            assert (await producer.send("orders", b"y")).offset == 1

    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        run(work())


def test_a_send_that_is_cancelled_harms_nobody(broker: Broker) -> None:
    async def work() -> None:
        async with AsyncProducer(broker) as producer:
            futures = [producer.send("orders", b"%d" % number) for number in range(10)]
            futures[3].cancel()
            assert len(await asyncio.gather(*futures, return_exceptions=True)) == 10
            assert (await producer.send("orders", b"x")).offset >= 9
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(producer.send("orders", b"x"), 0)

    run(work())


def test_close_waits_for_everything_that_was_sent(broker: Broker) -> None:
    async def work() -> None:
        producer = AsyncProducer(broker, linger_ms=10_000, buffer_bytes=1000)
        futures = [producer.send("orders", b"x" * 100) for _ in range(100)]
        await producer.close()
        await producer.close()
        assert sorted([(await future).offset for future in futures]) == list(range(100))
        with pytest.raises(BrokerClosed):
            await producer.send("orders", b"x")

    run(work())


def test_the_loop_goes_on_while_a_lock_is_not_free(folder: str) -> None:
    files = WatchedFiles()

    async def work() -> None:
        log = broker.engine.log(broker.topic("orders").partitions[0].id)
        async with AsyncProducer(broker, buffer_bytes=3000) as producer:
            await producer.send("orders", b"x")
            other = Descriptor(Files(), log.context.lock_path, READ_WRITE)
            assert Files().try_lock(other.number)  # as another process that was stopped
            try:
                with files.untouched():
                    futures = [producer.send("orders", b"x" * 500) for _ in range(50)]
                    for _ in range(40):  # which it does not get round to if it waits as well
                        await asyncio.sleep(0.005)
                    assert not any(future.done() for future in futures)
            finally:
                del other
            await asyncio.gather(*futures)

    with broker_on(files, folder, lock_timeout_ms=50_000) as broker:
        broker.create_topic("orders")
        run(work())


def test_a_waiting_poll_is_woken(broker: Broker) -> None:
    async def work() -> None:
        async with (
            AsyncProducer(broker) as producer,
            await AsyncConsumer.open(broker, "orders") as consumer,
        ):
            assert await consumer.poll(timeout_ms=50) == []
            for number in range(200):
                waiting = asyncio.create_task(consumer.poll(timeout_ms=None))
                await producer.send("orders", b"%d" % number)
                assert values(await waiting) == [b"%d" % number]

    run(work())


def test_a_cancelled_poll_loses_nothing(broker: Broker) -> None:
    put(broker, *[b"%d" % number for number in range(300)])

    async def work() -> None:
        got: list[bytes | None] = []
        async with await AsyncConsumer.open(broker, "orders", group="g") as consumer:
            for attempt in range(400):
                polling = asyncio.create_task(consumer.poll(1, timeout_ms=0))
                for _ in range(attempt % 4):
                    await asyncio.sleep(0)
                if attempt % 5 == 0:
                    await asyncio.sleep(0.0005)
                polling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got += values(await polling)
                await consumer.ack()
                assert consumer.committed("orders", 0) == len(got)
            while records := await consumer.poll():
                got += values(records)
        assert got == [b"%d" % number for number in range(300)]

    run(work())


@pytest.mark.parametrize("when", ["while it polls", "after it has polled", "not at all"])
def test_what_a_cancelled_poll_took_is_not_acknowledged_by_closing(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    put(broker, *[b"%d" % number for number in range(10)])
    begun, go_on = threading.Event(), threading.Event()

    async def work() -> None:
        consumer = await AsyncConsumer.open(broker, "orders", group="g", enable_auto_commit=True)
        inner = consumer._consumer
        handed_out = len(await consumer.poll(3))
        poll = inner.poll

        def gated(*arguments: Any) -> Any:
            try:
                return poll(*arguments)
            finally:
                begun.set()
                go_on.wait(60)

        monkeypatch.setattr(inner, "poll", gated)
        polling = asyncio.create_task(consumer.poll(4))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        if when == "not at all":
            go_on.set()
            handed_out += len(await polling)
        else:
            polling.cancel()
        if when == "after it has polled":
            await asyncio.wait([polling])
            go_on.set()
            while consumer._turn.locked():
                await asyncio.sleep(0.001)
        closing = asyncio.create_task(consumer.close())
        await asyncio.sleep(0.01)
        go_on.set()
        await closing
        assert 0 < handed_out < 10
        assert broker.group_offsets("g") == {("orders", 0): handed_out}

    try:
        run(work())
    finally:
        go_on.set()


def test_nor_by_closing_the_broker(folder: str) -> None:
    async def work() -> None:
        consumer = await AsyncConsumer.open(broker, "orders", group="g", enable_auto_commit=True)
        poll = asyncio.create_task(consumer.poll())
        await asyncio.sleep(0)
        deadline_s = time.monotonic() + 60
        while not consumer._polls[0].records:  # and the loop hears nothing of it
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        poll.cancel()
        await asyncio.wait([poll])
        assert poll.cancelled()

    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        put(broker, b"x")
        run(work())
    with Broker.open(folder) as broker:
        assert broker.group_offsets("g") == {("orders", 0): 0}


def test_a_waiting_poll_can_be_cancelled(broker: Broker) -> None:
    async def work() -> None:
        async with await AsyncConsumer.open(broker, "orders") as consumer:
            for timeout_s in (0.001, 0.05):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(consumer.poll(timeout_ms=None), timeout_s)
            put(broker, b"x")
            assert values(await consumer.poll(timeout_ms=50_000)) == [b"x"]

    run(work())


def test_a_poll_is_cancelled_in_the_moment_that_it_is_woken(broker: Broker) -> None:
    async def work() -> None:
        async with await AsyncConsumer.open(broker, "orders") as consumer:
            waiting = asyncio.create_task(consumer.poll(timeout_ms=None))
            await _waits(consumer)
            consumer._changed.set()
            waiting.cancel()
            await asyncio.wait([waiting], timeout=30)
            assert waiting.cancelled()

    run(work())


def test_a_waiting_poll_polls_as_often_as_its_group_demands(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def wait(event: asyncio.Event, timeout_s: float) -> None:
        waits.append(timeout_s)
        await asyncio.sleep(0.01)

    monkeypatch.setattr("seawall.broker.aio.wait_until_set", wait)

    async def work() -> None:
        for settings in ({"group": "g", "max_poll_interval_ms": 3_000}, {"group": "g"}, {}):
            async with await AsyncConsumer.open(broker, "orders", **settings) as consumer:
                assert await consumer.poll(timeout_ms=60) == []
            async with await AsyncConsumer.open(broker, "orders", **settings) as consumer:
                waiting = asyncio.create_task(consumer.poll(timeout_ms=None))
                before = len(waits)
                while len(waits) < before + 2:
                    await asyncio.sleep(0.001)
                waiting.cancel()
                await asyncio.wait([waiting])
            found.append(waits[-1])

    found: list[float] = []
    run(work())
    assert found == [1.0, 5.0, 5.0]


async def _waits(consumer: AsyncConsumer) -> None:
    """Return once a poll has found nothing, and waits for a change."""
    while not consumer._changed._waiters:  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)


def test_closing_while_a_poll_waits(broker: Broker) -> None:
    async def work() -> None:
        consumer = await AsyncConsumer.open(broker, "orders")
        waiting = asyncio.create_task(consumer.poll(timeout_ms=None))
        await asyncio.sleep(0.02)
        await consumer.close()
        await consumer.close()
        with pytest.raises(BrokerClosed):
            await waiting

    run(work())


def test_iteration_ends_with_close(broker: Broker) -> None:
    put(broker, b"a", b"b", b"c")

    async def work() -> None:
        consumer = await AsyncConsumer.open(broker, "orders")
        seen = []
        async for record in consumer:
            seen.append(record.value)
            if len(seen) == 3:
                asyncio.get_running_loop().call_later(
                    0.02, lambda: closing.append(asyncio.create_task(consumer.close()))
                )
        assert seen == [b"a", b"b", b"c"]
        await closing[0]

    closing: list[asyncio.Task[None]] = []
    run(work())


def test_leaving_a_loop_loses_nothing(broker: Broker) -> None:
    put(broker, *[b"%d" % number for number in range(10)])

    async def work() -> None:
        async with await AsyncConsumer.open(broker, "orders", group="g") as consumer:
            async for record in consumer:
                await consumer.ack()
                assert consumer.committed("orders", 0) == record.offset + 1
                if record.offset == 3:
                    break
            assert consumer.position("orders", 0) == 4
            assert [record.offset for record in await consumer.poll()] == [4, 5, 6, 7, 8, 9]

    run(work())


def test_members_of_a_group_share_its_partitions(broker: Broker) -> None:
    async def work() -> None:
        broker.create_topic("two", partitions=2)
        async with (
            await AsyncConsumer.open(broker, "two", group="g") as first,
            await AsyncConsumer.open(broker, "two", group="g") as second,
        ):
            assert second.assignment() == []
            # Whoever waits hears of it.
            waiting = asyncio.create_task(second.poll(timeout_ms=50_000))
            await first.poll()
            put(broker, b"a", topic="two", partition=0)
            put(broker, b"b", topic="two", partition=1)
            records = await waiting + await first.poll(timeout_ms=50_000)
            assert sorted(record.value or b"" for record in records) == [b"a", b"b"]
            assert sorted(first.assignment() + second.assignment()) == [("two", 0), ("two", 1)]
            await first.ack()
            await second.ack()
        assert [each.committed for each in broker.group("g").offsets] == [1, 1]

    run(work())


def test_an_opening_that_was_given_up_leaves_the_group(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()
    consumer = broker.consumer

    def begin(*arguments: Any, **settings: Any) -> AnyConsumer:
        began.set()
        return consumer(*arguments, **settings)

    monkeypatch.setattr(broker, "consumer", begin)

    async def work() -> None:
        opening = asyncio.create_task(AsyncConsumer.open(broker, "orders", group="g"))
        while not began.is_set():  # what no thread has begun is not done at all
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # it may have been just in time
            await (await opening).close()
        while broker.groups() != ["g"] or broker.group("g").members:
            await asyncio.sleep(0.01)

    run(work())


def test_a_broker_that_closes_under_them(folder: str) -> None:
    async def work() -> None:
        broker = Broker.open(folder)
        broker.create_topic("orders")
        producer = AsyncProducer(broker)
        consumer = await AsyncConsumer.open(broker, "orders")
        waiting = asyncio.create_task(consumer.poll(timeout_ms=None))
        await producer.send("orders", b"x")
        assert values(await waiting) == [b"x"]
        waiting = asyncio.create_task(consumer.poll(timeout_ms=None))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(broker.close)
        with pytest.raises(BrokerClosed):
            await waiting
        with pytest.raises(BrokerClosed):
            await producer.send("orders", b"y")
        with pytest.raises(BrokerClosed):
            await AsyncConsumer.open(broker, "orders")
        await consumer.close()
        await producer.close()

    run(work())
