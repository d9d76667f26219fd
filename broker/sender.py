"""Writing a producer's batches: who does it, in what order, and what if it fails.

A `Sender` holds the batches that wait and the one thread that writes them in the
background. Writing is done by one thread at a time, which holds the *drain lock*: that
one, or a caller who wants a result now and finds nobody writing. So records of one
partition keep the order in which they were sent, and what gathers during one round
goes out together in the next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from seawall.broker.delivery import Batch
from seawall.broker.errors import (
    BrokerError,
    BufferFull,
    OutcomeUnknown,
    UnknownPartition,
)
from seawall.broker.routes import TopicPartition
from seawall.broker.translation import translate
from seawall.wal.appender import Appended
from seawall.wal.errors import LogGone, WalError
from seawall.wal.log import Log
from seawall.wal.records import encode_batch

if TYPE_CHECKING:
    from seawall.broker.engine import Engine

logger = logging.getLogger("seawall.broker")

# How much one round takes from one partition; bounds what is encoded at once.
MOST_BYTES_PER_ROUND = 8 << 20
# For so long after the last record the thread looks by itself whether there is work,
# instead of being woken for each.
IDLE_AFTER_S = 1.0


class _Round:
    """What one round takes from one partition, and how far it came."""

    __slots__ = ("appended", "batches", "log", "queue")

    def __init__(self, queue: TopicPartition, batches: list[Batch]) -> None:
        self.queue = queue
        self.batches = batches
        self.log: Log | None = None
        self.appended = Appended(-1, -1)


class Sender:
    """The batches of one producer, and the thread that writes them.

    ``on_gone`` is called with a topic's name when its partitions are no longer there.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        linger_s: float,
        buffer_bytes: int,
        max_block_ms: float,
        compression: str,
        waits_for_sync: bool,
        on_gone: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._linger_s = linger_s
        self._max_block_ms = max_block_ms
        self._compression = compression
        self._waits_for_sync = waits_for_sync
        self._on_gone = on_gone
        self._drain_lock = threading.Lock()
        # Partitions with batches that nobody has taken yet, in the order they got them.
        self._pending: dict[TopicPartition, None] = {}
        self._urgent: set[TopicPartition] = set()
        self._blocked = 0
        self._parked = False
        self._napping = False
        self._thread: threading.Thread | None = None
        self._stop = False
        # Guards all of this and every TopicPartition; `Producer.send` holds it, too.
        self.lock = threading.Lock()
        self._wake = threading.Condition(self.lock)
        self._room = threading.Condition(self.lock)
        self.buffer_bytes = buffer_bytes
        self.buffered_bytes = 0
        # Why nothing more is accepted, once that is so.
        self.unusable: BrokerError | None = None
        # The first batch that failed since `Producer.flush` last asked.
        self.failed: Batch | None = None

    # -- gathering -------------------------------------------------------------------

    def new_batch(self, queue: TopicPartition) -> Batch:
        """Begin a batch. Holds the lock."""
        if self.unusable is not None:
            raise self.unusable
        if queue.open is not None:
            self.batch_is_full(queue)
        batch = Batch(queue, time.monotonic() + self._linger_s, self.drive)
        queue.batches.append(batch)
        queue.open = batch
        self._pending[queue] = None
        if self._thread is None:
            self._start()
        elif self._parked:
            self._wake_thread()
        return batch

    def batch_is_full(self, queue: TopicPartition) -> None:
        """Have a partition's batches written soon. Holds the lock."""
        if queue not in self._urgent:
            self._urgent.add(queue)
            self._wake_thread()

    def _wake_thread(self) -> None:
        """Holds the lock."""
        if self._parked or self._napping:
            self._parked = self._napping = False
            self._wake.notify()

    def wait_for_room(self, size: int) -> None:
        """Have room for `size` more bytes. Holds the lock."""
        deadline_s = time.monotonic() + self._max_block_ms / 1000
        self._blocked += 1
        try:
            while self.buffered_bytes and self.buffered_bytes + size > self.buffer_bytes:
                self._urgent.update(self._pending)
                self._wake_thread()
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not self._room.wait(left_s):
                    raise BufferFull(
                        buffer_bytes=self.buffer_bytes, max_block_ms=int(self._max_block_ms)
                    )
                if self.unusable is not None:
                    raise self.unusable
        finally:
            self._blocked -= 1

    # -- writing ---------------------------------------------------------------------

    def drive(self, batch: Batch, deadline_s: float | None) -> None:
        """Somebody wants this batch's outcome: write it now, or have it written."""
        if self._drain_lock.acquire(blocking=False):
            try:
                while not batch.taken and self.unusable is None:
                    self._drain([batch.queue])
            finally:
                self._drain_lock.release()
        if not batch.done:
            self.hurry(batch)

    def hurry(self, batch: Batch) -> None:
        """Have the producer's thread write a batch without waiting for ``linger_ms``."""
        with self.lock:
            if not batch.taken and self.unusable is None:
                self._urgent.add(batch.queue)
                self._wake_thread()

    def _drain(self, queues: Sequence[TopicPartition]) -> None:
        """Write one round of what gathered in `queues`. Holds the drain lock.

        Whatever is raised in here (a signal's exception too), every batch that was taken
        gets an outcome, because nobody else knows of it any more.
        """
        taken: list[_Round] = []
        try:
            for queue in queues:
                batches = self._take(queue)
                if batches:
                    taken.append(_Round(queue, batches))
                    self._append(taken[-1])
            for each in taken:
                if each.log is not None:
                    self._commit(each, each.log)
        finally:
            for each in taken:
                if not each.batches[0].done:
                    self._settle(each.batches, -1, _interrupted(each.queue))

    def _take(self, queue: TopicPartition) -> list[Batch]:
        with self.lock:
            size = 0
            taken: list[Batch] = []
            while queue.batches and (size < MOST_BYTES_PER_ROUND or not taken):
                batch = queue.batches.popleft()
                batch.taken = True
                size += batch.size_bytes
                taken.append(batch)
            if not queue.batches:
                queue.open = None
                self._pending.pop(queue, None)
                self._urgent.discard(queue)
            return taken

    def _append(self, each: _Round) -> None:
        """Encode and append; sets what `_commit` needs, or settles the batches."""
        try:
            encoded = self._encode(each)
            partition_id = each.queue.partition_id
            try:
                log = self._engine.log(partition_id)
                appended = log.append(encoded)
            except LogGone:
                # Deleted; perhaps there is a new topic of that name already.
                partition_id = self._new_partition_id(each.queue)
                log = self._engine.log(partition_id)
                appended = log.append(encoded)
        except Exception as error:  # noqa: BLE001 - whoever waits gets to know, whatever it is
            self._settle(each.batches, -1, self._named(error, each.queue))
            return
        if self._waits_for_sync:
            each.log, each.appended = log, appended
        else:
            self._engine.housekeeper.needs_sync(log)
            self._settle(each.batches, appended.base_offset, None)

    def _encode(self, each: _Round) -> list[bytearray]:
        is_log_append_time = each.queue.route.is_log_append_time
        now_ms = time.time_ns() // 1_000_000 if is_log_append_time else None
        encoded = []
        for batch in each.batches:
            batch.append_time_ms = now_ms
            encoded.append(
                encode_batch(
                    batch.records, compression=self._compression, log_append_time_ms=now_ms
                )
            )
        return encoded

    def _new_partition_id(self, queue: TopicPartition) -> int:
        self._on_gone(queue.topic)
        info = self._engine.topic(queue.topic)
        if queue.partition >= len(info.partitions):
            raise UnknownPartition(
                topic=queue.topic, partition=queue.partition, partitions=len(info.partitions)
            )
        return info.partitions[queue.partition].id

    def _commit(self, each: _Round, log: Log) -> None:
        try:
            log.commit(each.appended.next_offset)
        except Exception as error:  # noqa: BLE001 - as above
            self._settle(each.batches, -1, self._named(error, each.queue))
        else:
            self._settle(each.batches, each.appended.base_offset, None)

    def _named(self, error: Exception, queue: TopicPartition) -> BrokerError:
        if isinstance(error, BrokerError):
            return error
        if isinstance(error, WalError):
            return translate(error, topic=queue.topic, partition=queue.partition)
        logger.exception("an unexpected error while writing to %s", queue.topic)
        unexpected = BrokerError(f"{type(error).__name__}: {error}")
        unexpected.__cause__ = error
        return unexpected

    def _settle(self, batches: list[Batch], base_offset: int, error: BrokerError | None) -> None:
        size = 0
        for batch in batches:
            size += batch.size_bytes
            if error is not None:
                self.failed = self.failed or batch
            batch.resolve(base_offset, error)
            if error is None:
                base_offset += len(batch.records)
            batch.records = []
        with self.lock:
            self.buffered_bytes -= size
            if self._blocked:
                self._room.notify_all()

    # -- the thread ------------------------------------------------------------------

    def _start(self) -> None:
        """Start the thread. Holds the lock."""
        self._thread = threading.Thread(target=self._run, name="seawall-producer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            with self.lock:
                due = self._wait_for_due()
                if self._stop:
                    return
            with self._drain_lock:
                self._drain(due)

    def _wait_for_due(self) -> list[TopicPartition]:
        """Sleep until a batch is due. Holds the lock."""
        idle_since_s = time.monotonic()
        while not self._stop:
            now_s = time.monotonic()
            due = [
                queue
                for queue in self._pending
                if queue in self._urgent or queue.batches[0].due_s <= now_s
            ]
            if due:
                return due
            timeout_s: float | None
            if self._pending:
                timeout_s = min(queue.batches[0].due_s for queue in self._pending) - now_s
            elif self._linger_s and now_s - idle_since_s < IDLE_AFTER_S:
                # Records will probably follow; looking for them every so often is
                # cheaper than having each of them wake this thread.
                timeout_s = self._linger_s
            else:
                timeout_s = None
            self._parked, self._napping = timeout_s is None, timeout_s is not None
            self._wake.wait(timeout_s)
            self._parked = self._napping = False
            if timeout_s is None:
                idle_since_s = time.monotonic()
        return []

    # -- ending ----------------------------------------------------------------------

    def drain_all(self, timeout_ms: float | None) -> None:
        """Write whatever waits; raises `TimeoutError`."""
        timeout_s = -1.0 if timeout_ms is None else timeout_ms / 1000
        deadline_s = time.monotonic() + timeout_s
        late = TimeoutError(f"records are still on their way after {timeout_ms} ms")
        if not self._drain_lock.acquire(timeout=timeout_s):
            raise late
        try:
            while self._pending:
                if timeout_ms is not None and time.monotonic() > deadline_s:
                    raise late
                with self.lock:
                    queues = list(self._pending)
                self._drain(queues)
        finally:
            self._drain_lock.release()

    def stop(self, reason: BrokerError) -> None:
        """Accept nothing more, end the thread, fail what was not written."""
        with self.lock:
            self.unusable = reason
            self._stop = True
            self._wake.notify_all()
            self._room.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        while self._pending:
            for queue in list(self._pending):
                self._settle(self._take(queue), -1, reason)

    def abandon(self, reason: BrokerError) -> None:
        """In a forked child: refuse everything, settle nothing (it is the parent's)."""
        if self.unusable is None:
            self.unusable = reason
        self._stop = True
        self._thread = None
        self._drain_lock = threading.Lock()
        self.lock = threading.Lock()
        self._wake = self._room = threading.Condition(self.lock)


def _interrupted(queue: TopicPartition) -> OutcomeUnknown:
    return OutcomeUnknown(
        path=queue.topic,
        reason="writing it was interrupted",
        topic=queue.topic,
        partition=queue.partition,
    )
