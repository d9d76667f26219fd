"""Who watches the connection: notices the loss, tries again with back-off, and says so.

librdkafka reconnects by itself, quickly and silently. What users are promised about waiting
is this: after a loss the supervisor probes the servers, waits ``2^n * reconnect_backoff_ms``
(with full jitter, and up to a maximum) between two rounds, tells about each, and gives up
after ``reconnect_attempts`` rounds, or never. Everyone who waits for a server waits here.

::

    UNKNOWN --probe ok--> UP <--probe ok-- DOWN
       \\------probe failed------------------^  `--too often--> GIVEN_UP
    UP --suspect, probe failed--> DOWN        GIVEN_UP --next use--> UNKNOWN

What was given up stays so until somebody wants something: librdkafka goes on trying, and
what it reports meanwhile begins nothing. And nobody is told of a verdict whose last look is
older than what they want: they are tried for as often again.

A server that answers, but does not let this client in, is no outage: no waiting changes its
password. From the beginning that is given up at once; once something has worked, only when
for `REFUSED_S` nothing else came of it, because it may be one server of several.
"""

from __future__ import annotations

import logging
import random as random_module
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from seawall.broker.backoff import Backoff, Schedule
from seawall.broker.errors import (
    AccessRefused,
    AuthenticationFailed,
    BrokerError,
    ConnectionLost,
    TlsFailed,
)
from seawall.broker.remote.probe import PLAIN, Security, WrongProtocol, probe
from seawall.broker.remote.probe_socket import Interruptible, NoAnswer

logger = logging.getLogger("seawall.broker")

# How long closing waits for the thread that probes. A probe that hangs is interrupted; a look-up
# of a name, and a callback of the user's, cannot be.
ENDING_S = 1.0
_INTERRUPT_INTERVAL_S = 0.05
# For so long what worked before may be refused, if nobody gets an answer meanwhile.
REFUSED_S = 5.0

# `on_reconnect(attempt, delay_s, error)`; `on_connected(away_s)`.
OnReconnect = Callable[[int, float, Exception], object]
OnConnected = Callable[[float], object]


class Link(Enum):
    """What is known of the connection."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectSettings:
    """How long to wait, how often, and whom to tell. See `connect`."""

    reconnect_backoff_ms: float = 100
    reconnect_backoff_max_ms: float = 10_000
    reconnect_attempts: int | None = None
    probe_timeout_ms: float = 5_000
    on_reconnect: OnReconnect | None = None
    on_connected: OnConnected | None = None

    def __post_init__(self) -> None:
        if self.reconnect_attempts is not None and self.reconnect_attempts < 0:
            raise ValueError(f"reconnect_attempts is not negative, but {self.reconnect_attempts}")
        if self.probe_timeout_ms <= 0:
            raise ValueError(f"probe_timeout_ms is above 0, not {self.probe_timeout_ms}")
        self.schedule()

    def schedule(self) -> Schedule:
        return Schedule(base_ms=self.reconnect_backoff_ms, max_ms=self.reconnect_backoff_max_ms)


class Supervisor:
    """The connection of one broker. Safe to use from any thread.

    `servers` gives those to probe. `look`, `random`, `clock_s` and `sleep` (which is given
    seconds, and may return early) are there to be replaced by tests.
    """

    def __init__(
        self,
        location: str,
        servers: Callable[[], list[tuple[str, int]]],
        settings: ReconnectSettings,
        *,
        security: Security = PLAIN,
        look: Callable[[str, int], None] | None = None,
        random: Callable[[], float] = random_module.random,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.location = location
        self.settings = settings
        self._servers = servers
        self._security = security
        self._look = look or self._probe
        self._probing = Interruptible()
        self._clock_s = clock_s
        self._ended = threading.Event()
        self._sleep = sleep or self._ended.wait
        self._backoff = Backoff(
            settings.schedule(), random=random, clock_ms=lambda: clock_s() * 1000
        )
        self._changed = threading.Condition()
        self._link = Link.UNKNOWN
        self._is_suspected = False
        self._epoch = 0
        # How many rounds of probes were begun.
        self._rounds = 0
        # How often it gave up; after which round the last time; and why, until one answers.
        self.failures = 0
        self._given_up_in = 0
        self._given_up: ConnectionLost | AccessRefused | None = None
        self._unusable: BrokerError | None = None
        # The last round's, if that failed.
        self._failure: ConnectionLost | None = None
        # Whether anybody ever got what was asked for; what was refused since, and when first.
        self._has_worked = False
        self._refusal: AccessRefused | None = None
        self._refused_s = 0.0
        self._thread: threading.Thread | None = None
        # Called when it gave up: whoever has something on its way lets go of it.
        self.on_given_up: list[Callable[[BrokerError], object]] = []

    @property
    def link(self) -> Link:
        """What is known of the connection."""
        return self._link

    @property
    def epoch(self) -> int:
        """How often the connection came back; another number means that it was lost since."""
        return self._epoch

    # -- for those who use the connection --------------------------------------------

    def suspect(self, *, is_use: bool = True) -> None:
        """Something points to a loss: look, in the background. Until then nothing is known.

        What was given up is tried again if somebody wants something (`is_use`) only.
        """
        with self._changed:
            if self._link is Link.GIVEN_UP and not is_use:
                return
            if self._link in (Link.UP, Link.GIVEN_UP):
                self._link = Link.UNKNOWN
            self._is_suspected = True
            self._begin()

    def require(self, timeout_s: float | None = None) -> bool:
        """Wait until a server answers; False when time ran out.

        Returns at once while nothing points to a loss. Raises `ConnectionLost` or
        `AccessRefused` when it gave up, and what `end` was given once the broker is closed.
        """
        if self._link is Link.UP and self._unusable is None:
            return True
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            failures, rounds = self.failures, self._rounds
            while True:
                if self._unusable is not None:
                    raise self._unusable
                if self._link is Link.UP:
                    return True
                if (verdict := self.given_up(failures)) is not None and (
                    self._given_up_in > rounds or isinstance(verdict, AccessRefused)
                ):
                    raise verdict
                failures = self.failures
                if self._link is Link.GIVEN_UP:
                    self._link = Link.UNKNOWN  # it is tried as often again
                self._begin()
                left_s = None if deadline_s is None else deadline_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return False
                self._changed.wait(left_s)

    def lost(self) -> ConnectionLost:
        """The error for those who waited long enough."""
        with self._changed:
            return self._copy(self._failure)

    def given_up(self, failures: int) -> ConnectionLost | AccessRefused | None:
        """The error for those who began when it had given up `failures` times; None if it has
        not since, or what it gave up for is over."""
        with self._changed:
            verdict = self._given_up
            if self.failures == failures or verdict is None:
                return None
            if isinstance(verdict, AccessRefused):
                kind = TlsFailed if isinstance(verdict, TlsFailed) else AuthenticationFailed
                return kind(location=self.location, reason=verdict.reason, hint=verdict.hint)
            return self._copy(verdict)

    def _copy(self, failure: ConnectionLost | None) -> ConnectionLost:
        """One for each thread that raises it."""
        reason = failure.reason if failure else "it does not do what it was asked for in time"
        attempts = failure.attempts if failure else 0
        return ConnectionLost(location=self.location, attempts=attempts, reason=reason)

    def worked(self) -> None:
        """Somebody got what was asked for: what was refused was not all."""
        self._has_worked = True
        self._refusal = None
        if isinstance(self._given_up, AccessRefused):
            self._given_up = None

    def refuse(self, error: AccessRefused) -> None:
        """A server said that it does not let this client in; see `refused`."""
        with self._changed:
            if self._refusal is None:
                self._refused_s = self._clock_s()
            self._refusal = error

    def refused(self) -> AccessRefused | None:
        """Gives up, and gives the reason, if waiting has no use. Asked by those who wait."""
        with self._changed:
            refusal = self._refusal
            is_lasting = self._clock_s() - self._refused_s >= REFUSED_S
            if refusal is None or (self._has_worked and not is_lasting):
                return None
            self._refusal, self._has_worked = None, False
        self._give_up(refusal)
        return refusal

    def end(self, error: BrokerError) -> None:
        """Stop probing; whoever waits gets `error`."""
        with self._changed:
            self._unusable = self._unusable or error
            thread = self._thread
            self._changed.notify_all()
        self._ended.set()
        if thread is not None and thread is not threading.current_thread():
            deadline_s = time.monotonic() + ENDING_S
            while thread.is_alive() and time.monotonic() < deadline_s:
                self._probing.interrupt()  # again, if it was just about to connect
                thread.join(_INTERRUPT_INTERVAL_S)

    def abandon(self, error: BrokerError) -> None:
        """In a forked child."""
        self._changed = threading.Condition()
        self._unusable = error
        self._thread = None

    # -- the thread that looks -------------------------------------------------------

    def _begin(self) -> None:
        """With the lock: have a thread look, if none does and there is any use."""
        if self._thread is None and self._unusable is None:
            self._thread = threading.Thread(
                target=self._run, name="seawall-supervisor", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        try:
            while not self._is_settled():
                self.watch()
        except BaseException:
            with self._changed:
                self._thread = None
                self._changed.notify_all()
            raise

    def _is_settled(self) -> bool:
        """Whether the thread has nothing more to do; then it is none of ours any more. Judged
        in one step: what is suspected before is looked at here, and after it by the next."""
        with self._changed:
            if self._link in (Link.UNKNOWN, Link.DOWN) and not self._ended.is_set():
                return False
            self._thread = None
            self._changed.notify_all()
            return True

    def watch(self) -> None:
        """Look until a server answers, it is given up, or the broker is closed."""
        away_since_s = self._clock_s()
        settings = self.settings
        self._backoff.reset()
        while True:
            error = self._look_around()
            if self._ended.is_set():
                return
            if error is None:
                self._is_up(away_since_s)
                return
            attempts = self._backoff.attempts
            failure = ConnectionLost(location=self.location, attempts=attempts, reason=str(error))
            most = settings.reconnect_attempts
            if isinstance(error, WrongProtocol):
                kind = TlsFailed if error.is_about_tls else AuthenticationFailed
                self.refuse(kind(location=self.location, reason=str(error), hint=error.hint))
                if self.refused() is not None:
                    return
            if most is not None and attempts >= most:
                self._give_up(failure)
                return
            with self._changed:
                self._failure = failure
                self._link = Link.DOWN
                self._changed.notify_all()
            retry = self._backoff.next()
            logger.warning("connection lost; %s (%s)", retry, error)
            self._tell(settings.on_reconnect, retry.attempt, retry.delay_ms / 1000, failure)
            self._sleep(retry.delay_ms / 1000)
            if self._ended.is_set():
                return

    def _give_up(self, verdict: ConnectionLost | AccessRefused) -> None:
        for let_go in list(self.on_given_up):
            self._tell(let_go, verdict)
        with self._changed:
            self._given_up, self._given_up_in = verdict, self._rounds
            self._link = Link.GIVEN_UP
            self.failures += 1
            if isinstance(verdict, ConnectionLost):
                self._failure = verdict
            self._changed.notify_all()
        if isinstance(verdict, ConnectionLost):
            logger.error("%s", verdict)

    def _look_around(self) -> NoAnswer | None:
        """A round of probes. What is suspected while a server answers may be newer than its
        answer, so it is asked once more; and no more than that, lest nobody gets to use it."""
        error = None
        for _ in range(2):
            with self._changed:
                self._rounds += 1
                self._is_suspected = False
            error = self._look_at_all()
            if error is not None or not self._is_suspected:
                break
        return error

    def _look_at_all(self) -> NoAnswer | None:
        """None as soon as one server answers."""
        failed = NoAnswer("no server is named")
        for host, port in self._servers():
            if self._ended.is_set():
                break
            try:
                self._look(host, port)
            except NoAnswer as error:
                if not isinstance(failed, WrongProtocol):
                    failed = error
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of something
                failed = NoAnswer(f"{host}:{port}: {error!r}")
            else:
                return None
        return failed

    def _probe(self, host: str, port: int) -> None:
        timeout_s = self.settings.probe_timeout_ms / 1000
        probe(host, port, timeout_s, self._security, self._probing)

    def _is_up(self, away_since_s: float) -> None:
        was_away = self._backoff.attempts > 0
        with self._changed:
            self._link = Link.UP
            self._failure = None
            if isinstance(self._given_up, ConnectionLost):  # a refusal stands, see `worked`
                self._given_up = None
            if was_away:
                self._epoch += 1
            self._changed.notify_all()
        if was_away:
            away_s = self._clock_s() - away_since_s
            logger.warning("connected again after %.1f s", away_s)
            self._tell(self.settings.on_connected, away_s)

    def _tell(self, callback: Callable[..., object] | None, *facts: object) -> None:
        if callback is None:
            return
        try:
            callback(*facts)
        except Exception:
            logger.exception("a reconnect callback failed")
