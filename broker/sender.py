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
from seawall.broker.errors import BrokerError, BufferFull
from seawall.broker.rounds import NumberedRound, Round
from seawall.broker.routes import TopicPartition
from seawall.broker.threads import bounded_s, is_running
from seawall.broker.writing import new_writer
from seawall.wal.errors import WalError

if TYPE_CHECKING:
    from seawall.broker.engine import Engine

logger = logging.getLogger("seawall.broker")

# How many failed batches are kept for `Producer.flush` to raise the first of.
MOST_FAILED = 1000
# For so long after the last record the thread looks by itself whether there is work,
# instead of being woken for each.
IDLE_AFTER_S = 1.0
# How often `Producer.flush` looks whether something is to be written again.
RESEND_LOOK_S = 0.005


class Sender:
    """The batches of one producer, and the thread that writes them.

    With ``delivery_timeout_ms`` it is idempotent, and tries again for so long (`idempotence`).
    ``on_gone`` is called with a topic's name when its partitions are no longer there, and
    ``on_change`` when some topic was changed.
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
        delivery_timeout_ms: float | None,
        on_gone: Callable[[str], None],
        on_change: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._linger_s = linger_s
        self._max_block_ms = max_block_ms
        self._writer = new_writer(
            engine,
            delivery_timeout_ms,
            self._send_again,
            compression=compression,
            waits_for_sync=waits_for_sync,
            settle=self._settle,
            on_gone=on_gone,
        )
        self._on_change = on_change
        self._changes = engine.changes
        self._drain_lock = threading.RLock()  # only its owner can release it: see `drive`
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
        # The batches that failed since `Producer.flush` last asked, the first ones.
        self.failed: list[Batch] = []
        # What was taken and may not have an outcome yet. Whoever holds the drain lock owns it.
        self._rounds: list[Round] = []
        self._drainer = 0
        self._forked: BrokerError | None = None

    # -- gathering -------------------------------------------------------------------

    def new_batch(self, queue: TopicPartition) -> Batch:
        """Begin a batch. Holds the lock."""
        if self.unusable is not None:
            raise self.unusable
        if queue.open is not None:
            self.batch_is_full(queue)
        if self._thread is None:
            self._start()
        if self._parked:
            self._wake_thread()
        batch = Batch(queue, time.monotonic() + self._linger_s, self.drive)
        queue.batches.append(batch)
        queue.open = batch
        self._pending[queue] = None
        return batch

    def batch_is_full(self, queue: TopicPartition) -> None:
        """Have a partition's batches written soon. Holds the lock."""
        if queue not in self._urgent:
            self._urgent.add(queue)
            self._wake_thread()

    def _wake_thread(self) -> None:
        """Holds the lock."""
        if self._parked or self._napping:
            self._wake.notify()  # first: should a signal interrupt it, the next one does it
            self._parked = self._napping = False

    def wait_for_room(self, size: int) -> None:
        """Have room for `size` more bytes. Holds the lock."""
        deadline_s = time.monotonic() + self._max_block_ms / 1000
        self._blocked += 1
        try:
            while self.buffered_bytes and self.buffered_bytes + size > self.buffer_bytes:
                self._urgent.update(self._pending)
                self._wake_thread()
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not self._room.wait(bounded_s(left_s)):
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
        if self._forked is not None:
            raise self._forked  # nobody in this process will write it
        if self._drainer != threading.get_ident():
            try:  # a signal's handler may raise just after it was taken
                if self._drain_lock.acquire(blocking=False):
                    while not batch.taken and self.unusable is None and batch.queue.resend is None:
                        self._drain([batch.queue])
            finally:
                try:
                    self._drain_lock.release()
                except RuntimeError:
                    pass  # another thread has it
        if not batch.done:
            self.hurry(batch)

    def hurry(self, batch: Batch) -> None:
        """Have the producer's thread write a batch without waiting for ``linger_ms``."""
        with self.lock:
            if not batch.taken and self.unusable is None:
                self._urgent.add(batch.queue)
                self._wake_thread()

    def _drain(self, queues: Sequence[TopicPartition]) -> None:
        """Write one round of what gathered in `queues`. Holds the drain lock. Whatever is
        raised in here (a signal's exception too), every batch that was taken gets an outcome,
        because nobody else knows of it any more.
        """
        self._drainer = threading.get_ident()
        try:
            self._settle_interrupted()  # only if another signal hit the line below
            self._look_for_changes()
            for queue in queues:
                if queue.resend is not None and time.monotonic() < queue.resend_s:
                    continue
                each = self._take(queue)
                if each.batches:
                    self._writer.append(each)
            for each in self._rounds:
                if each.log is not None:
                    self._writer.commit(each, each.log)
        finally:
            try:
                self._settle_interrupted()
            finally:
                self._drainer = 0

    def _look_for_changes(self) -> None:
        try:
            changes = self._engine.look_for_changes()
            if changes != self._changes:
                self._on_change()
                self._changes = changes
        except (BrokerError, WalError) as error:
            # It is no reason not to write; whoever needs the catalogue will meet it.
            logger.warning("cannot look whether a topic was changed: %s", error)

    def _settle_interrupted(self) -> None:
        """Give an outcome to whatever a round that did not come to its end has taken."""
        for each in self._rounds:
            left = [batch for batch in each.batches if not batch.done]
            if left and each.queue.resend is not each:
                self._writer.interrupted(each, left)
        self._rounds = []

    def _take(self, queue: TopicPartition) -> Round:
        """Take what gathered in one partition. Holds the drain lock.

        The steps are in such an order that a signal's exception between any two of them
        loses no batch: one that is still in the queue, but taken, was being moved.
        """
        each: Round = self._writer.new_round(queue)
        self._rounds.append(each)
        with self.lock:
            if queue.resend is not None:
                each = self._rounds[-1] = queue.resend
                queue.resend = None
                return each
            queue.open = None
            size = 0
            while queue.batches:
                batch = queue.batches[0]
                size += batch.size_bytes
                if size > queue.route.round_bytes and each.batches:
                    return each
                batch.taken = True
                if not batch.records:
                    batch.done = True  # `send` was interrupted
                elif not batch.done:
                    each.batches.append(batch)
                queue.batches.popleft()
            self._pending.pop(queue, None)
            self._urgent.discard(queue)
        return each

    def _settle(
        self, batches: Sequence[Batch], base_offset: int, error: BrokerError | None
    ) -> None:
        with self.lock:
            for batch in batches:
                self.buffered_bytes -= batch.size_bytes
                batch.size_bytes = 0
            if self._blocked:
                self._room.notify_all()
        for batch in batches:
            if error is not None and len(self.failed) < MOST_FAILED:
                self.failed.append(batch)
            count = len(batch.records)
            batch.resolve(base_offset, error)
            if error is None:
                base_offset += count
            batch.records = []

    def _send_again(self, each: NumberedRound, at_s: float) -> bool:
        """Have a round written again, before anything else of its partition; False if no
        more is written at all."""
        queue = each.queue
        with self.lock:
            if self.unusable is not None:
                return False
            queue.resend, queue.resend_s = each, at_s
            self._pending[queue] = None
            self._wake_thread()
        return True

    # -- the thread ------------------------------------------------------------------

    def _start(self) -> None:
        """Start the thread. Holds the lock."""
        self._thread = threading.Thread(target=self._run, name="seawall-producer", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            if not is_running(self._thread):
                self._thread = None  # the next record tries again
            raise

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
            due = [queue for queue in self._pending if self._due_s(queue) <= now_s]
            if due:
                return due
            timeout_s: float | None = None
            if self._pending:
                timeout_s = min(map(self._due_s, self._pending)) - now_s
            elif self._linger_s and now_s - idle_since_s < IDLE_AFTER_S:
                # Records will probably follow; looking for them every so often is
                # cheaper than having each of them wake this thread.
                timeout_s = self._linger_s
            self._parked, self._napping = timeout_s is None, timeout_s is not None
            self._wake.wait(None if timeout_s is None else bounded_s(timeout_s))
            self._parked = self._napping = False
            if timeout_s is None:
                idle_since_s = time.monotonic()
        return []

    def _due_s(self, queue: TopicPartition) -> float:
        """When a partition's thread has work in it. Holds the lock."""
        if queue.resend is not None:
            return queue.resend_s
        if queue in self._urgent or not queue.batches:
            return 0.0
        return queue.batches[0].due_s

    # -- ending ----------------------------------------------------------------------

    def drain_all(self, timeout_ms: float | None) -> None:
        """Write what waits now, not what others send meanwhile. Raises `TimeoutError`."""
        if self._drainer == threading.get_ident():
            raise RuntimeError("a delivery callback cannot wait for other deliveries")
        timeout_s = -1.0 if timeout_ms is None else bounded_s(timeout_ms / 1000)
        deadline_s = time.monotonic() + timeout_s
        late = TimeoutError(f"records are still on their way after {timeout_ms} ms")
        with self.lock:
            last = [queue.batches[-1] for queue in self._pending if queue.batches]
        try:
            if not self._drain_lock.acquire(timeout=timeout_s):
                raise late
            with self.lock:  # now that nobody is writing any of it
                last += [each.batches[-1] for queue in self._pending if (each := queue.resend)]
            while self._rounds or not all(batch.done for batch in last):
                if timeout_ms is not None and time.monotonic() > deadline_s:
                    raise late
                with self.lock:
                    queues = list(self._pending)
                self._drain(queues)
                if any(queue.resend is not None for queue in queues):
                    time.sleep(RESEND_LOOK_S)
                    if self.unusable is not None:
                        raise self.unusable
        finally:
            try:
                self._drain_lock.release()
            except RuntimeError:
                pass  # another thread has it still

    def stop(self, reason: BrokerError) -> None:
        """Accept nothing more, end the thread, fail what was not written."""
        with self.lock:
            self.unusable = reason
            self._stop = True
            self._wake.notify_all()
            self._room.notify_all()
            thread, self._thread = self._thread, None
        if self._drainer == threading.get_ident():
            self._refuse(reason)
            return
        if thread is not None:
            thread.join()
        # Others may be writing for their own sake; what they use is closed after this.
        with self._drain_lock:
            self._refuse(reason)

    def _refuse(self, reason: BrokerError) -> None:
        """Fail what nobody has taken."""
        with self.lock:
            batches = [batch for queue in self._pending for batch in queue.batches]
            rounds = [queue.resend for queue in self._pending if queue.resend is not None]
            for queue in self._pending:
                queue.batches.clear()
                queue.open = queue.resend = None
            self._pending.clear()
            self._urgent.clear()
            for batch in batches:
                batch.taken = True
        for each in rounds:
            self._writer.give_up(each, reason)
        self._settle(batches, -1, reason)

    def abandon(self, reason: BrokerError) -> None:
        """In a forked child: refuse everything, settle nothing (it is the parent's)."""
        if self.unusable is None:
            self.unusable = reason
        self._forked = reason
        self._stop = True
        self._thread = None
        self._drain_lock = threading.RLock()
        self.lock = threading.Lock()
        self._wake = self._room = threading.Condition(self.lock)
