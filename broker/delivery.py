"""What a producer hands back for a record, and the batch that stands behind it.

A `Delivery` is three fields; everything that costs something (locks, events, callbacks)
belongs to the batch and is made when somebody asks for it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from seawall.broker.threads import bounded_s
from seawall.wal.records import RecordTuple

if TYPE_CHECKING:
    from seawall.broker.errors import BrokerError
    from seawall.broker.routes import TopicPartition

logger = logging.getLogger("seawall.broker")


class RecordMetadata(NamedTuple):
    """Where an acknowledged record stands. ``timestamp`` is in ms since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: int


class Batch:
    """Records on their way to one partition.

    It is *open* while records may be added, then *taken* by whoever writes it, and
    *done* once its outcome is known: `base_offset` or `error`.
    """

    __slots__ = (
        "_asked",
        "_callbacks",
        "_count",
        "_event",
        "append_time_ms",
        "base_offset",
        "done",
        "drive",
        "due_s",
        "error",
        "queue",
        "records",
        "size_bytes",
        "taken",
    )

    def __init__(
        self,
        queue: TopicPartition,
        due_s: float,
        drive: Callable[[Batch, float | None], None],
    ) -> None:
        self.queue = queue
        self.due_s = due_s
        self.drive = drive
        self.records: list[RecordTuple] = []
        self.size_bytes = 0
        self.taken = False
        self.done = False
        self.base_offset = -1
        self.append_time_ms: int | None = None
        self.error: BrokerError | None = None
        # For an error only: how many records met it, and which of them were asked for.
        self._count = 0
        self._asked: set[int] | None = None
        self._event: threading.Event | None = None
        self._callbacks: list[Callable[[], object]] | None = None

    def wait(self, timeout_s: float | None) -> bool:
        """Sleep until the outcome is known. False when time ran out."""
        with _lock:
            if self.done:
                return True
            if self._event is None:
                self._event = threading.Event()
            event = self._event
        return event.wait(timeout_s)

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call back once the outcome is known: at once, or in the thread that writes."""
        with _lock:
            if not self.done:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        _call(callback)

    def resolve(self, base_offset: int, error: BrokerError | None) -> None:
        """Settle the outcome, wake everyone who waits for it, call everyone back."""
        with _lock:
            self.base_offset = base_offset
            self.error = error
            self._count = len(self.records)
            self.done = True
            event, callbacks = self._event, self._callbacks
            self._callbacks = None
        if event is not None:
            event.set()
        for callback in callbacks or ():
            _call(callback)

    def asked_for(self, index: int) -> None:
        """Somebody got to know the error that befell a record."""
        if self._asked is None:
            self._asked = set()
        self._asked.add(index)

    @property
    def has_unasked_error(self) -> bool:
        """Whether an error befell records whose outcome nobody has asked for."""
        return self.error is not None and len(self._asked or ()) < self._count


def _call(callback: Callable[[], object]) -> None:
    """Call back; what a user's callback raises must not reach who happens to call it."""
    try:
        callback()
    except Exception:
        logger.exception("a delivery callback failed")


# Guards the hand-over between "not done, so wait" and "done, so wake" of every batch.
# It is held for a few instructions, so one lock for all is cheaper than one for each.
_lock = threading.Lock()


def _reset_lock() -> None:
    """A thread that held the lock when the process forked does not exist in the child."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_lock)


class Delivery:
    """The outcome of one `Producer.send`, now or later. Safe to use from any thread."""

    __slots__ = ("_index", "_timestamp", "batch")

    def __init__(self, batch: Batch, index: int, timestamp: int) -> None:
        # The batch that the record is in. An attribute, because a property costs a call.
        self.batch = batch
        self._index = index
        self._timestamp = timestamp

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self.batch.done

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Wait until the record is acknowledged, and say where it stands.

        `timeout` is in seconds. Raises the error that the record met, or `TimeoutError`
        (the record may still be acknowledged later). Asking does not wait for
        ``linger_ms``: the batch goes out at once.
        """
        batch = self.batch
        if not batch.done:
            self._wait(timeout)
        error = batch.error
        if error is not None:
            batch.asked_for(self._index)
            raise error
        return self.metadata()

    def exception(self, timeout: float | None = None) -> BrokerError | None:
        """Like `result`, but return the error; None if the record is acknowledged."""
        if not self.batch.done:
            self._wait(timeout)
        error = self.batch.error
        if error is not None:
            self.batch.asked_for(self._index)
        return error

    def add_done_callback(self, callback: Callable[[Delivery], object]) -> None:
        """Call `callback(delivery)` once the outcome is known.

        It runs at once if it is known already, else in the thread that writes the
        batch: it must be quick, and must not wait for another delivery.
        """
        self.batch.when_done(lambda: callback(self))

    def metadata(self) -> RecordMetadata:
        """What `result` returns; only once it is known that there is no error."""
        batch = self.batch
        queue = batch.queue
        timestamp = batch.append_time_ms
        if timestamp is None:
            timestamp = self._timestamp
        # RecordMetadata(…) is a function in Python around this, and twice as slow.
        return tuple.__new__(
            RecordMetadata,
            (queue.topic, queue.partition, batch.base_offset + self._index, timestamp),
        )

    def _wait(self, timeout: float | None) -> None:
        batch = self.batch
        deadline = None if timeout is None else time.monotonic() + timeout
        batch.drive(batch, deadline)
        if batch.done:
            return
        left = None if deadline is None else bounded_s(max(0.0, deadline - time.monotonic()))
        if not batch.wait(left):
            raise TimeoutError(
                f"the record for {batch.queue.topic!r} was not acknowledged within {timeout} s"
            )
