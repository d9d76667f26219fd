"""Having librdkafka send what waits, and the end of a producer.

In a flush librdkafka makes its reports. In the main thread, a signal comes just there, and what
its handler raises (Ctrl-C) takes the place of the report: the outcome of that record would
never be known. So no thread of the user's flushes, but one that no signal meets; and an event
loop, which is not to wait, only leaves word.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from abc import abstractmethod
from typing import TYPE_CHECKING

from confluent_kafka import Producer as Client

from seawall.broker.closing import Closing
from seawall.broker.errors import BrokerClosed, BrokerError
from seawall.broker.remote.supervisor import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from seawall.broker.remote.asking import Asking
    from seawall.broker.remote.delivery import RemoteDelivery

logger = logging.getLogger("seawall.broker")

# How long a flush of librdkafka may take that only is to wake its threads.
_HURRY_S = 0.002
_LOOK_S = 0.1
# How long a program that just ends waits for its acknowledgements.
AT_EXIT_MS = 30_000
# After Ctrl-C: for so long, if servers answer; if none does, no more than that.
INTERRUPTED_MS = 30_000
AWAY_S = 2.0
# What closing waits for after it has given up.
_PURGE_S = 5.0

_living: weakref.WeakSet[Flushing] = weakref.WeakSet()


class Flusher:
    """Flushes one client. Safe to use from any thread. Its thread begins with the first use."""

    def __init__(self, client: Client) -> None:
        self._client: Client | None = client
        self._changed = threading.Condition()
        self._wanted_s = 0.0
        self._rounds = 0
        self._has_ended = False
        self._thread: threading.Thread | None = None

    def hurry(self) -> None:
        """Have what waits for company sent now. Waits for nothing."""
        with self._changed:
            self._ask(_HURRY_S)

    def flush(self, timeout_s: float) -> None:
        """Return once all outcomes are known, or some time has passed, but no more than this."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            self._ask(timeout_s)
            rounds = self._rounds
            while self._rounds == rounds and not self._has_ended:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)

    def end(self) -> None:
        """End the thread."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._client = None

    def _ask(self, timeout_s: float) -> None:
        self._wanted_s = max(self._wanted_s, timeout_s)
        if self._thread is None:
            if self._has_ended:
                return
            self._thread = threading.Thread(
                target=self._run, name="seawall-remote-flusher", daemon=True
            )
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        client = self._client
        while client is not None:
            with self._changed:
                while not self._wanted_s and not self._has_ended:
                    self._changed.wait()
                if self._has_ended:
                    return
                timeout_s, self._wanted_s = self._wanted_s, 0.0
            client.flush(timeout_s)
            with self._changed:
                self._rounds += 1
                self._changed.notify_all()


class Flushing(Closing):
    """The part of a `RemoteProducer` that waits for what is on its way, and ends."""

    _asking: Asking
    _client: Client | None
    _flusher: Flusher
    _closing: threading.Lock
    _unusable: BrokerError | None
    _failed: list[RemoteDelivery]
    _on_delivery: Callable[[RemoteDelivery], object] | None

    @abstractmethod
    def _usable(self) -> Client:
        """The client. Raises `BrokerClosed`, `ForkedBroker`."""

    @abstractmethod
    def _watch(self, client: Client) -> None:
        """See whether there is any use in waiting."""

    @abstractmethod
    def _let_go_of_all(self) -> None:
        """End what else there is."""

    def flush(self, timeout_ms: float | None = None) -> None:
        """Return once the outcome of everything sent so far is known. See `Producer.flush`."""
        self._flush(self._usable(), timeout_ms, None)

    def _flush(self, client: Client, timeout_ms: float | None, away_s: float | None) -> None:
        """`away_s`: for how long no server may answer meanwhile."""
        deadline_s = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        while len(client):
            began_s = time.monotonic()
            left_s = _LOOK_S if deadline_s is None else deadline_s - began_s
            if left_s <= 0 or (away_s is not None and away_s <= 0):
                raise TimeoutError(f"{_records(len(client))} not acknowledged in time")
            self._flusher.flush(min(_LOOK_S, left_s))
            self._watch(client)
            if away_s is not None and self._asking.supervisor.link is not Link.UP:
                away_s -= time.monotonic() - began_s
        failed, self._failed = self._failed, []
        if self._on_delivery is not None:
            return
        for delivery in failed:
            if delivery.error is not None and delivery.has_unasked_error:
                raise delivery.error

    def close(self, timeout_ms: float | None = None) -> None:
        """Flush, then end. Safe to call twice. Raises what `flush` raises.

        What is not acknowledged within ``timeout_ms`` is given up: `BrokerClosed` if it was
        never sent, `OutcomeUnknown` otherwise.
        """
        self._close(timeout_ms, None)

    def _close_interrupted(self, error: BaseException) -> None:
        """Like `close`, after Ctrl-C: nobody has to press it again because no server answers.
        What is not acknowledged is logged, and said by a note of `error`."""
        try:
            self._close(INTERRUPTED_MS, AWAY_S)
        except TimeoutError as left:
            _tell(str(left), error)
        except BrokerError as failure:
            _tell(f"closing a producer failed: {failure}", error)

    def _close(self, timeout_ms: float | None, away_s: float | None) -> None:
        with self._closing:
            if self._unusable is not None:
                return
            client = self._usable()
            try:
                self._flush(client, timeout_ms, away_s)
            except BaseException as error:
                if not isinstance(error, Exception) and len(client):
                    _tell(f"{_records(len(client))} not acknowledged", error)
                raise
            finally:
                self._end(client)

    def _end(self, client: Client) -> None:
        self._unusable = BrokerClosed(what="producer")
        if len(client):
            client.purge()
            deadline_s = time.monotonic() + _PURGE_S
            while len(client) and time.monotonic() < deadline_s:
                self._flusher.flush(_LOOK_S)
        self._flusher.end()
        self._let_go_of_all()
        self._client = None
        self.forget_at_exit()

    def close_at_exit(self) -> None:
        """Close it when the program ends, if nobody has by then."""
        _living.add(self)

    def forget_at_exit(self) -> None:
        """Do not."""
        _living.discard(self)


def _tell(what: str, error: BaseException) -> None:
    """Say something about the end of a program, in the log and in its last words."""
    logger.warning("%s", what)
    error.add_note(f"seawall: {what}")


def _records(number: int) -> str:
    return f"{number} record was" if number == 1 else f"{number} records were"


@atexit.register
def _close_living() -> None:
    """A program that ends without closing its producers still loses nothing it sent."""
    for producer in list(_living):
        try:
            producer.close(AT_EXIT_MS)
        except Exception:
            logger.exception("closing a producer at exit failed")
