"""Producers and consumers for asyncio, with the same names.

They never block the event loop: a record that fits in the buffer is taken at once, all
disk work runs on the broker's executor or the producer's thread, and a consumer that
waits is woken by the watcher. One object belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from seawall.broker.aio_events import in_executor, submit, wait_until_set
from seawall.broker.aio_line import REFUSALS, Acknowledgement, Line
from seawall.broker.broker import Broker
from seawall.broker.consumer import DEFAULT_MAX_RECORDS, Consumer
from seawall.broker.errors import BrokerClosed
from seawall.broker.interface import AnyBatch, AnyBroker, AnyConsumer, AnyDelivery, AnyProducer
from seawall.broker.producer import Headers, MustWait
from seawall.broker.translation import translated
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.aio_runner import AsyncRunner, Handler
    from seawall.broker.handling import Handled

Result = TypeVar("Result")

# A member of a group that only waits has to poll now and then, to be known to be at work.
LONGEST_WAIT_S = 5.0
# How long a thread waits at a time for records that come over a network.
SLICE_S = 0.1
# How long leaving a producer waits for acknowledgements when its task was cancelled, as by Ctrl-C.
CANCELLED_MS = 30_000


class AsyncProducer:
    """Publishes records from an event loop; takes the settings of `Broker.producer`."""

    def __init__(self, broker: AnyBroker, **settings: Any) -> None:
        self._producer: AnyProducer = broker.producer(**settings)
        self._executor = broker.executor
        self._waiting: dict[AnyBatch, list[tuple[Acknowledgement, AnyDelivery]]] = {}
        self._line = Line(self._executor, self._follow)

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> Acknowledgement:
        """Publish a record; await what this returns for its acknowledgement.

        Raises, when awaited, what `Producer.send` and `Delivery.result` raise. While the
        buffer is full, awaiting takes that much longer; the loop goes on. Records keep
        the order of the calls, whether these are awaited or not.
        """
        future: Acknowledgement = asyncio.get_running_loop().create_future()
        if self._line.is_empty:
            try:
                delivery = self._producer.put(
                    topic, value, key, headers, partition, timestamp, may_wait=False
                )
            except MustWait:
                pass
            except REFUSALS as error:
                future.set_exception(error)
                return future
            else:
                self._follow(future, delivery)
                return future
        self._line.add(
            future,
            partial(
                self._producer.send,
                topic,
                value,
                key=key,
                headers=headers,
                partition=partition,
                timestamp=timestamp,
            ),
        )
        return future

    def _follow(self, future: Acknowledgement, delivery: AnyDelivery) -> None:
        """Have a future settled; one call-back per batch serves all its records."""
        batch = delivery.batch
        followers = self._waiting.get(batch)
        if followers is not None:
            followers.append((future, delivery))
            return
        self._waiting[batch] = [(future, delivery)]
        batch.when_done(partial(self._call_loop, future.get_loop(), batch))
        self._producer.hurry(batch)

    def _call_loop(self, loop: asyncio.AbstractEventLoop, batch: AnyBatch) -> None:
        # In the thread that wrote the batch. A loop that is closed has no one waiting.
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._settle, batch)

    def _settle(self, batch: AnyBatch) -> None:
        failed = batch.error is not None
        for future, delivery in self._waiting.pop(batch, ()):
            if future.done():
                continue
            error = delivery.exception() if failed else None
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(delivery.metadata())

    async def flush(self, timeout_ms: float | None = None) -> None:
        """Return once the outcome of everything sent so far is known."""
        await self._line.sent()
        await self._run(partial(self._producer.flush, timeout_ms))

    async def close(self, timeout_ms: float | None = None) -> None:
        """Flush, then close. Safe to call twice. ``timeout_ms`` as with `Producer.close`."""
        begun_s = time.monotonic()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                    await self._line.sent()
        finally:
            if timeout_ms is not None:
                timeout_ms = max(0.0, timeout_ms - (time.monotonic() - begun_s) * 1000)
            with contextlib.suppress(BrokerClosed):  # then the broker has closed it, too
                await self._run(partial(self._producer.close, timeout_ms))

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await in_executor(self._executor, call)

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or not issubclass(kind, asyncio.CancelledError):
            await self.close()
            return
        with contextlib.suppress(TimeoutError):  # each report says what became of its record
            await self.close(CANCELLED_MS)


class _Poll:
    """What a thread of the executor has polled, for a caller who may have given up."""

    __slots__ = ("given_up", "records")

    def __init__(self) -> None:
        self.given_up = False
        self.records: list[Record] = []


class AsyncConsumer:
    """Reads records in an event loop. Make it with `AsyncConsumer.open`."""

    def __init__(self, broker: AnyBroker, consumer: AnyConsumer) -> None:
        self._consumer = consumer
        self._executor = broker.executor
        self._runner: AsyncRunner | None = None
        # Over a network nobody tells of new records: then a thread waits for them.
        self._engine = broker.engine if isinstance(broker, Broker) else None
        self._watcher = self._engine.watcher if self._engine is not None else None
        interval_ms = getattr(consumer, "max_poll_interval_ms", math.inf)  # only in a group
        self._longest_wait_s = min(LONGEST_WAIT_S, interval_ms / 3_000)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._closed = False
        # One thread at a time uses the consumer; what cancelled polls took goes back first.
        self._turn = threading.Lock()
        # Those that have not handed out what they took: under way, or given up.
        self._polls: list[_Poll] = []
        if self._watcher is not None:
            self._watcher.subscribe(self._wake)
        if isinstance(consumer, Consumer):
            consumer.before_closing = self._take_back

    @classmethod
    async def open(
        cls, broker: AnyBroker, topics: str | Sequence[str], **settings: Any
    ) -> AsyncConsumer:
        """A consumer; takes the settings of `Broker.consumer`."""
        opening = submit(broker.executor, partial(broker.consumer, topics, **settings))
        try:
            return cls(broker, await asyncio.wrap_future(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise

    def _wake(self) -> None:
        # In the watcher's thread.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    async def poll(
        self, max_records: int = DEFAULT_MAX_RECORDS, timeout_ms: float | None = 0
    ) -> list[Record]:
        """The next records; see `Consumer.poll`."""
        loop = self._loop
        deadline_s = None if timeout_ms is None else loop.time() + timeout_ms / 1000
        while True:
            self._changed.clear()
            left_s = math.inf if deadline_s is None else deadline_s - loop.time()
            slice_ms = 0 if self._watcher is not None else 1000 * max(0, min(left_s, SLICE_S))
            records = await self._poll(max_records, slice_ms)
            if records:
                return records
            left_s = math.inf if deadline_s is None else deadline_s - loop.time()
            if left_s <= 0:
                return []
            if self._watcher is None:
                continue
            await wait_until_set(self._changed, min(left_s, self._longest_wait_s))

    async def _poll(self, max_records: int, slice_ms: float = 0) -> list[Record]:
        poll = _Poll()
        self._polls.append(poll)
        try:
            records = await self._run(partial(self._poll_in_thread, poll, max_records, slice_ms))
        except BaseException:
            poll.given_up = True
            raise
        self._polls.remove(poll)
        return records

    def _poll_in_thread(self, poll: _Poll, max_records: int, slice_ms: float) -> list[Record]:
        if not poll.given_up:
            poll.records = self._consumer.poll(max_records, slice_ms)
        return poll.records

    async def __aiter__(self) -> AsyncIterator[Record]:
        """Every record from here on; ends with `close`."""
        while True:
            try:
                records = await self.poll(timeout_ms=None)
            except BrokerClosed:
                return
            for record in self._consumer.hand_out(records):
                yield record

    async def ack(self, records: Record | Sequence[Record] | None = None) -> None:
        """Acknowledge, durably on return; see `Consumer.ack`."""
        await self._run(partial(self._consumer.ack, records))

    async def run(self, handler: Handler, **settings: Any) -> Handled:
        """Hand every record to `handler`, a coroutine function, and acknowledge it.

        Takes the settings of `Consumer.run`, which documents them; `concurrency` counts
        tasks. ``on_retry``, ``on_dead_letter``, ``on_error`` and ``on_lag`` are called in the
        event loop. Cancelled, it lets running handlers finish within
        ``shutdown_timeout_ms``; those that do not are cancelled.
        """
        from seawall.broker.aio_runner import AsyncRunner
        from seawall.broker.running import options_of

        options = options_of(**settings)
        with translated():
            executor = self._executor if self._engine is None else self._engine.run_executor
        runner = AsyncRunner(
            self._consumer.place_to_run(),
            options,
            poll_in_turn=partial(self._run, executor=executor),
            execute=partial(in_executor, self._executor),
            changed=self._changed,
            wake=self._wake,
        )
        if self._runner is None:  # else it is refused
            self._runner = runner
        try:
            return await runner.run(handler)
        finally:
            if self._runner is runner:
                self._runner = None

    async def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read on from another offset; see `Consumer.seek`."""
        await self._run(partial(self._consumer.seek, topic, partition, offset))

    async def lag(self) -> Mapping[tuple[str, int], int]:
        """How far each partition's durable end is ahead; see `Consumer.lag`."""
        return await self._run(self._consumer.lag)

    def assignment(self) -> list[tuple[str, int]]:
        """The (topic, partition) pairs that this consumer reads."""
        return self._consumer.assignment()

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record that `poll` hands out."""
        return self._consumer.position(topic, partition)

    def committed(self, topic: str, partition: int) -> int | None:
        """The offset behind the last acknowledged record; None without a group."""
        return self._consumer.committed(topic, partition)

    async def close(self) -> None:
        """Stop reading and leave the group. Safe to call twice."""
        if not self._closed:
            self._closed = True
            if self._watcher is not None:
                self._watcher.unsubscribe(self._wake)
            runner = self._runner
            try:
                if runner is not None and runner.is_in_handler():
                    runner.expect_close()
                elif runner is not None:
                    # Here, because handlers may need the threads that would wait for them.
                    await runner.stop()
            finally:
                await self._close_in_thread()

    async def _close_in_thread(self) -> None:
        try:
            with contextlib.suppress(BrokerClosed):  # then the broker has closed it, too
                closing = submit(self._executor, self._close)
                try:
                    await asyncio.wrap_future(closing)
                except asyncio.CancelledError:
                    if closing.cancelled():  # no thread was free; one will be
                        submit(self._executor, self._close)
                    raise
        finally:
            self._changed.set()

    def _close(self) -> None:
        """In a thread of the executor."""
        self._take_back()
        self._consumer.close()

    def _take_back(self) -> None:
        """What polls have not handed out goes back before the consumer closes, whoever does
        that, or ``enable_auto_commit`` would acknowledge it."""
        if self._polls and self._turn.acquire(timeout=LONGEST_WAIT_S):
            try:
                self._give_back(self._polls.copy())
            finally:
                self._turn.release()

    async def _run(
        self, call: Callable[[], Result], *, executor: ThreadPoolExecutor | None = None
    ) -> Result:
        return await in_executor(executor or self._executor, partial(self._in_turn, call))

    def _in_turn(self, call: Callable[[], Result]) -> Result:
        """In a thread of the executor."""
        with self._turn:
            if self._polls:
                self._give_back([each for each in self._polls.copy() if each.given_up])
            return call()

    def _give_back(self, polls: Sequence[_Poll]) -> None:
        for each in reversed(polls):  # the earliest last, so that reading goes on there
            records, each.records = each.records, []
            self._consumer.give_back(records)
            if each.given_up:
                self._polls.remove(each)

    async def __aenter__(self) -> AsyncConsumer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _close_unwanted(opening: Future[AnyConsumer]) -> None:
    """Nobody waits any more for this consumer; it must not keep its group."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
