"""Publishing records: gather, write, sync, tell.

`Producer.send` puts a record into the open batch of its partition and returns. What
happens next depends on who is interested:

* Somebody asks for the result: if nobody is writing, the asking thread writes and
  syncs by itself, at once, so that one publish at a time costs no hand-over.
* Otherwise the producer's own thread writes: what is asked for at once, full batches
  soon, the others once they are ``linger_ms`` old.

One thread at a time writes for a producer (it holds the *drain lock*), so records of one
partition keep the order in which they were sent. What gathers meanwhile goes out
together in the next round, with one sync for each partition.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from seawall.broker.closing import Closing
from seawall.broker.delivery import Batch, Delivery
from seawall.broker.errors import (
    BrokerClosed,
    ForkedBroker,
    InvalidRecord,
    RecordTooLarge,
    UnknownTopic,
)
from seawall.broker.routes import Route, as_header_tuple, check_bytes, check_timestamp
from seawall.broker.sender import Sender
from seawall.broker.translation import translated
from seawall.wal import forks
from seawall.wal.records import COMPRESSION_CODES

if TYPE_CHECKING:
    from seawall.broker.engine import Engine

logger = logging.getLogger("seawall.broker")

Headers = Mapping[str, bytes | None] | Sequence[tuple[str, bytes | None]]

# The most that a record takes besides key, value and headers: length, timestamp, offset,
# lengths of key and value, count of headers (varints) and attributes.
RECORD_OVERHEAD_BYTES = 36
NO_KEY = "its topic keeps the last value of each key (cleanup.policy), and it has none; send a key"


class MustWait(Exception):
    """A record cannot be taken at once, and whoever brings it must not wait."""


_living: weakref.WeakSet[Producer] = weakref.WeakSet()


class Producer(Closing):
    """Publishes records to the topics of one broker. Safe to use from any thread.

    Made by `Broker.producer`, which documents the settings.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        linger_ms: float = 5.0,
        batch_bytes: int = 65_536,
        buffer_bytes: int = 32 << 20,
        max_block_ms: float = 60_000,
        compression: str = "none",
        durability: str = "fsync",
        idempotent: bool = False,
        delivery_timeout_ms: float = 120_000,
        on_delivery: Callable[[Delivery], object] | None = None,
        partitioner: Callable[[str, bytes | None, int], int] | None = None,
        release: Callable[[Producer], None] = lambda producer: None,
    ) -> None:
        if compression not in COMPRESSION_CODES:
            raise ValueError(
                f"unknown compression {compression!r}; use one of {', '.join(COMPRESSION_CODES)}"
            )
        if durability not in ("fsync", "os"):
            raise ValueError(f"durability is 'fsync' or 'os', not {durability!r}")
        if linger_ms < 0 or batch_bytes < 1 or buffer_bytes < 1 or max_block_ms < 0:
            raise ValueError("linger_ms, batch_bytes, buffer_bytes, max_block_ms: too small")
        if delivery_timeout_ms < 0:
            raise ValueError(f"delivery_timeout_ms is not negative, but {delivery_timeout_ms}")
        self._engine = engine
        self._batch_bytes = batch_bytes
        self._on_delivery = on_delivery
        self._partitioner = partitioner
        self._release = release
        self._routes: dict[str, Route] = {}
        self._sender = Sender(
            engine,
            linger_s=linger_ms / 1000,
            buffer_bytes=buffer_bytes,
            max_block_ms=max_block_ms,
            compression=compression,
            waits_for_sync=durability == "fsync",
            delivery_timeout_ms=delivery_timeout_ms if idempotent else None,
            on_gone=self._forget_route,
            on_change=self._update_routes,
        )
        _living.add(self)
        forks.register(self)

    # -- sending ---------------------------------------------------------------------

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> Delivery:
        """Publish a record; returns as soon as it is in the buffer.

        `timestamp` is in ms since the epoch, now if it is left out. Without `partition`
        the key decides (Kafka's murmur2, so that every client agrees); without a key,
        batches go to the partitions in turn.

        Raises `UnknownTopic`, `UnknownPartition`, `RecordTooLarge`, `InvalidRecord` for a record
        without a key in a topic whose ``cleanup.policy`` has compact, and `BufferFull` if
        there is no room in the buffer for ``max_block_ms``; `TypeError` or `ValueError`
        for what no record can hold.
        """
        return self.put(topic, value, key, headers, partition, timestamp, may_wait=True)

    def put(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers | None,
        partition: int | None,
        timestamp: int | None,
        *,
        may_wait: bool,
    ) -> Delivery:
        """Like `send`, but raises `MustWait` first if it may not wait for a disk or for room.

        That holds if no other thread is sending at the same time.
        """
        sender = self._sender
        if sender.unusable is not None:
            raise sender.unusable
        route = self._routes.get(topic)
        if route is None:
            if not may_wait:
                raise MustWait
            route = self._find_route(topic)
        size = RECORD_OVERHEAD_BYTES
        if value is not None:
            if type(value) is not bytes:
                value = check_bytes(value, "value")
            size += len(value)
        if key is not None:
            if type(key) is not bytes:
                key = check_bytes(key, "key")
            size += len(key)
        header_tuple: tuple[tuple[str, bytes | None], ...] = ()
        if headers:
            header_tuple, header_bytes = as_header_tuple(headers)
            size += header_bytes
        if (
            size > route.max_record_bytes
            or (key is None and route.needs_keys)
            or (partition is not None and partition >= len(route.queues))
        ):
            if not may_wait:
                raise MustWait
            route = self._updated(topic, route)  # the topic may have been changed
        if size > route.max_record_bytes:
            raise RecordTooLarge(topic=topic, size_bytes=size, max_bytes=route.max_record_bytes)
        if key is None and route.needs_keys:
            raise InvalidRecord(reason=NO_KEY, topic=topic, partition=partition)
        if timestamp is None:
            timestamp = time.time_ns() // 1_000_000
        else:
            check_timestamp(timestamp)
        if not may_wait and sender.buffered_bytes + size > sender.buffer_bytes:
            # Before the partitioner is asked, so that it is asked once for each record.
            raise MustWait
        partitioner = self._partitioner
        is_sticky = key is None and partition is None and partitioner is None
        queue = route.sticky if is_sticky else route.choose(key, partition, partitioner)
        with sender.lock:
            if sender.buffered_bytes + size > sender.buffer_bytes and sender.buffered_bytes:
                sender.wait_for_room(size)
            batch = queue.open
            if batch is None or batch.size_bytes + size > route.batch_bytes:
                if is_sticky:
                    if batch is not None:
                        sender.batch_is_full(queue)
                    queue = route.turn()
                    batch = queue.open
                if batch is None or batch.size_bytes + size > route.batch_bytes:
                    batch = sender.new_batch(queue)
            records = batch.records
            index = len(records)
            records.append((timestamp, key, value, header_tuple))
            batch.size_bytes += size
            sender.buffered_bytes += size
        delivery = Delivery(batch, index, timestamp)
        if self._on_delivery is not None:
            delivery.add_done_callback(self._on_delivery)
        return delivery

    def _find_route(self, topic: str) -> Route:
        with translated(topic):
            route = Route(self._engine.topic(topic), self._batch_bytes)
        with self._sender.lock:
            return self._routes.setdefault(topic, route)

    def _updated(self, topic: str, route: Route) -> Route:
        """The route as the topic is now."""
        with translated(topic):
            info = self._engine.topic(topic)
        with self._sender.lock:
            if not route.update(info):
                route = self._routes[topic] = Route(info, self._batch_bytes)
        return route

    def _update_routes(self) -> None:
        """Some topic was changed."""
        for topic, route in list(self._routes.items()):
            # One that was deleted is forgotten when its log is found to be gone.
            with contextlib.suppress(UnknownTopic):
                info = self._engine.topic(topic)
                with self._sender.lock:
                    route.update(info)

    def _forget_route(self, topic: str) -> None:
        with self._sender.lock:
            self._routes.pop(topic, None)

    def hurry(self, batch: Batch) -> None:
        """Have a batch written now, in the background."""
        self._sender.hurry(batch)

    # -- ending ----------------------------------------------------------------------

    def flush(self, timeout_ms: float | None = None) -> None:
        """Return once the outcome of everything sent so far is known.

        Raises the first error that befell a record whose outcome nobody has asked for
        (with an ``on_delivery`` callback it is the callback that gets to know), and
        `TimeoutError`.
        """
        sender = self._sender
        if sender.unusable is not None:
            raise sender.unusable
        sender.drain_all(timeout_ms)
        failed, sender.failed = sender.failed, []
        if self._on_delivery is not None:
            return
        for batch in failed:
            if batch.error is not None and batch.has_unasked_error:
                raise batch.error

    def close(self, timeout_ms: float | None = None) -> None:
        """Flush, then end the producer's thread. Safe to call twice.

        Raises what `flush` raises, after everything is closed.
        """
        if self._sender.unusable is not None:
            return
        try:
            self.flush(timeout_ms)
        finally:
            self._sender.stop(BrokerClosed(what="producer"))
            _living.discard(self)
            self._release(self)

    def abandon(self) -> None:
        """In a forked child: refuse everything."""
        self._sender.abandon(ForkedBroker(what="producer", opened_by_pid=self._engine.pid))
        _living.discard(self)


@atexit.register
def _close_living() -> None:
    """A program that ends without closing its producers still loses nothing it sent."""
    for producer in list(_living):
        try:
            producer.close()
        except Exception:
            logger.exception("closing a producer at exit failed")
