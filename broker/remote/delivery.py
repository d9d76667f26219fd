"""What a producer over the network hands back for a record."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seawall.broker.delivery import RecordMetadata

if TYPE_CHECKING:
    from seawall.broker.errors import BrokerError
    from seawall.broker.remote.producer import RemoteProducer

logger = logging.getLogger("seawall.broker")

# How often a record that somebody waits for is hurried, and the connection looked at.
HURRY_INTERVAL_S = 0.05
SUSPICIOUS_S = 5.0

# Guards "not done, so wait" against "done, so wake", for a few instructions.
_lock = threading.Lock()


class RemoteDelivery:
    """The outcome of one `send`. Has what `Delivery` has; safe to use from any thread.

    It is its own ``batch``, so that the asyncio producer can follow either kind.
    """

    __slots__ = (
        "_asked",
        "_callbacks",
        "_event",
        "_outcome",
        "_producer",
        "error",
        "size_bytes",
        "timestamp",
        "topic",
    )

    def __init__(
        self, producer: RemoteProducer, topic: str, timestamp: int, size_bytes: int
    ) -> None:
        self._producer = producer
        self.topic = topic
        self.timestamp = timestamp
        self.size_bytes = size_bytes
        self.error: BrokerError | None = None
        self._outcome: RecordMetadata | None = None
        self._asked = False
        self._event: threading.Event | None = None
        self._callbacks: list[Callable[[], object]] | None = None

    @property
    def batch(self) -> RemoteDelivery:
        """What settles together with it: itself."""
        return self

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._outcome is not None or self.error is not None

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Wait until the record is acknowledged, and say where it stands.

        `timeout` is in seconds. Raises the error that the record met, or `TimeoutError`
        (the record may still be acknowledged later). Does not wait for ``linger_ms``.
        """
        self._wait(timeout)
        if self.error is not None:
            self._asked = True
            raise self.error
        return self.metadata()

    def exception(self, timeout: float | None = None) -> BrokerError | None:
        """Like `result`, but return the error; None if the record is acknowledged."""
        self._wait(timeout)
        if self.error is not None:
            self._asked = True
        return self.error

    def metadata(self) -> RecordMetadata:
        """What `result` returns; only once it is known that there is no error."""
        if self._outcome is None:
            raise RuntimeError("the outcome is not known yet")
        return self._outcome

    def add_done_callback(self, callback: Callable[[RemoteDelivery], object]) -> None:
        """Call `callback(delivery)` once the outcome is known: at once if it is, else in the
        producer's thread, where it must be quick and wait for no other delivery."""
        self.when_done(lambda: callback(self))

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call back once the outcome is known."""
        with _lock:
            if not self.done():
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        _call(callback)

    @property
    def has_unasked_error(self) -> bool:
        """Whether it failed, and nobody has asked."""
        return self.error is not None and not self._asked

    def settle(self, outcome: RecordMetadata | None, error: BrokerError | None) -> None:
        """The outcome: a place, or an error. Wakes and calls back whoever waits."""
        with _lock:
            self._outcome, self.error = outcome, error
            event, callbacks = self._event, self._callbacks
            self._callbacks = None
        if event is not None:
            event.set()
        for callback in callbacks or ():
            try:
                callback()
            except BaseException:  # also `sys.exit`: it would end the thread that makes reports
                logger.exception("a delivery callback failed")

    def report(self, error: Any, message: Any) -> None:
        """librdkafka's report; in whatever thread polls."""
        self._producer.settle(self, error, message)

    def _wait(self, timeout: float | None) -> None:
        if self.done():
            return
        with _lock:
            if self._event is None:
                self._event = threading.Event()
            event = self._event
        began_s = time.monotonic()
        while not self.done():
            self._producer.hurry(self)
            waited_s = time.monotonic() - began_s
            left_s = HURRY_INTERVAL_S if timeout is None else timeout - waited_s
            if left_s <= 0 and not self.done():
                raise TimeoutError(
                    f"the record for {self.topic!r} was not acknowledged within {timeout} s"
                )
            event.wait(min(HURRY_INTERVAL_S, max(0.0, left_s)))


def _call(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("a delivery callback failed")
