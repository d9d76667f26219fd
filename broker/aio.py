"""Producers and consumers for asyncio, with the same names.

They never block the event loop: a record that fits in the buffer is taken at once, all
disk work runs on the broker's executor or the producer's thread, and a consumer that
waits is woken by the watcher. One object belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from seawall.broker.broker import Broker
from seawall.broker.consumer import DEFAULT_MAX_RECORDS, Consumer
from seawall.broker.delivery import Batch, Delivery, RecordMetadata
from seawall.broker.errors import BrokerClosed
from seawall.broker.producer import Headers, Producer
from seawall.wal.records import Record

Result = TypeVar("Result")


class AsyncProducer:
    """Publishes records from an event loop; takes the settings of `Broker.producer`."""

    def __init__(self, broker: Broker, **settings: Any) -> None:
        self._producer: Producer = broker.producer(**settings)
        self._executor = broker.engine.executor
        self._waiting: dict[Batch, list[tuple[asyncio.Future[RecordMetadata], Delivery]]] = {}

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        """Publish a record; await what this returns for its acknowledgement.

        Raises (when awaited) what `Producer.send` and `Delivery.result` raise. While the
        buffer is full, awaiting takes that much longer; the loop goes on.
        """
        send = partial(
            self._producer.send,
            topic,
            value,
            key=key,
            headers=headers,
            partition=partition,
            timestamp=timestamp,
        )
        size = len(value) if value is not None else 0
        if self._producer.can_take_at_once(topic, size):
            return self._follow(send())
        return asyncio.ensure_future(self._send_slowly(send))

    async def _send_slowly(self, send: Callable[[], Delivery]) -> RecordMetadata:
        loop = asyncio.get_running_loop()
        return await self._follow(await loop.run_in_executor(self._executor, send))

    def _follow(self, delivery: Delivery) -> asyncio.Future[RecordMetadata]:
        """A future for a delivery; one call-back per batch serves all its records."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[RecordMetadata] = loop.create_future()
        batch = delivery.batch
        followers = self._waiting.get(batch)
        if followers is not None:
            followers.append((future, delivery))
            return future
        self._waiting[batch] = [(future, delivery)]
        batch.when_done(partial(self._call_loop, loop, batch))
        self._producer.hurry(batch)
        return future

    def _call_loop(self, loop: asyncio.AbstractEventLoop, batch: Batch) -> None:
        # In the thread that wrote the batch. A loop that is closed has no one waiting.
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._settle, batch)

    def _settle(self, batch: Batch) -> None:
        for future, delivery in self._waiting.pop(batch, ()):
            if future.done():
                continue
            error = delivery.exception()
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(delivery.metadata())

    async def flush(self, timeout_ms: float | None = None) -> None:
        """Return once the outcome of everything sent so far is known."""
        await self._run(partial(self._producer.flush, timeout_ms))

    async def close(self) -> None:
        """Flush, then close. Safe to call twice."""
        await self._run(self._producer.close)

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncConsumer:
    """Reads records in an event loop. Make it with `AsyncConsumer.open`."""

    def __init__(self, broker: Broker, consumer: Consumer) -> None:
        self._consumer = consumer
        self._executor = broker.engine.executor
        self._watcher = broker.engine.watcher
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._closed = False
        self._watcher.subscribe(self._wake)

    @classmethod
    async def open(
        cls, broker: Broker, topics: str | Sequence[str], **settings: Any
    ) -> AsyncConsumer:
        """A consumer; takes the settings of `Broker.consumer`."""
        loop = asyncio.get_running_loop()
        consumer = await loop.run_in_executor(
            broker.engine.executor, partial(broker.consumer, topics, **settings)
        )
        return cls(broker, consumer)

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
            records = await self._run(partial(self._consumer.poll, max_records))
            if records:
                return records
            left_s = None if deadline_s is None else deadline_s - loop.time()
            if left_s is not None and left_s <= 0:
                return []
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                return []

    async def __aiter__(self) -> AsyncIterator[Record]:
        """Every record from here on; ends with `close`."""
        while True:
            try:
                records = await self.poll(timeout_ms=None)
            except BrokerClosed:
                return
            handed_out = 0
            try:
                for record in records:
                    handed_out += 1
                    yield record
            finally:
                if handed_out < len(records):
                    self._consumer.give_back(records[handed_out:])

    async def ack(self, records: Record | Sequence[Record] | None = None) -> None:
        """Acknowledge, durably on return; see `Consumer.ack`."""
        await self._run(partial(self._consumer.ack, records))

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
            self._watcher.unsubscribe(self._wake)
            await self._run(self._consumer.close)
            self._changed.set()

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await self._loop.run_in_executor(self._executor, call)

    async def __aenter__(self) -> AsyncConsumer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
