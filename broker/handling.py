"""What `consumer.run` is told, and what it tells: settings, outcomes, the record it hands out.

No threads, no clock, no I/O; `dispatcher` decides with these values, `runner` and
`aio_runner` do what was decided.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from seawall.broker.threads import bounded_s
from seawall.wal.backoff import Schedule
from seawall.wal.records import Record

# Which records of a partition wait for one another.
KEY = "key"
PARTITION = "partition"
UNORDERED = "unordered"
ORDERINGS = (KEY, PARTITION, UNORDERED)

MOST_WORKERS = 1_000
MAX_MESSAGE_CHARACTERS = 2_000
MAX_TRACE_CHARACTERS = 8_000

# What becomes of a record whose handler raised.
RETRY: Final = "retry"
DEAD_LETTER: Final = "dead_letter"
SKIP: Final = "skip"
STOP: Final = "stop"
Action = Literal["retry", "dead_letter", "skip", "stop"]
ACTIONS = (RETRY, DEAD_LETTER, SKIP, STOP)


class DeliveredRecord(Record):
    """A record as a handler gets it. `delivery_count`: the how manieth time this is for its
    group, 1 the first time."""

    delivery_count = 1


class Reject(Exception):
    """Raised by a handler: no repetition will help, the record is a dead letter at once."""


class RetryLater(Exception):
    """Raised by a handler: not now. The next delivery comes `delay_ms` later, or by the
    back-off if that is None; it counts as a delivery like any other."""

    def __init__(self, delay_ms: float | None = None) -> None:
        super().__init__("later" if delay_ms is None else f"in {delay_ms:g} ms")
        self.delay_ms = delay_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a record could not be handled: what a dead letter carries. Texts are bounded."""

    error_class: str
    message: str
    trace: str = ""
    error: BaseException | None = None


def failure_of(error: BaseException) -> Failure:
    """What a handler raised, as values."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a stranger's __str__
        message = f"(its message could not be had: {type(broken).__name__})"
    trace = "".join(traceback.format_exception(error))
    return Failure(
        error_class=name[:MAX_MESSAGE_CHARACTERS],
        message=message[:MAX_MESSAGE_CHARACTERS],
        trace=trace[-MAX_TRACE_CHARACTERS:],
        error=error,
    )


def said(error: BaseException) -> str:
    """An error for the log, whatever its class makes of that."""
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - a stranger's __repr__
        return type(error).__name__


def died(deliveries: int) -> Failure:
    """For a record whose handlers' processes died, or that came too often already."""
    return Failure(
        error_class="ProcessDied",
        message=f"the process ended while it was handling this record, or waited to handle it "
        f"again; {deliveries} deliveries",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """What `on_lag` is told. ``full_ms``: how long each partition has had no room for more
    (those that are full); ``lag``: how far each partition is behind, in records."""

    full_ms: Mapping[tuple[str, int], float]
    lag: Mapping[tuple[str, int], int]
    pending: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What `run` returns: counts of records (`retries`: of deliveries after the first)."""

    handled: int = 0
    retries: int = 0
    skipped: int = 0
    dead_lettered: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlingOptions:
    """The settings of `Consumer.run`, which documents them. Raises ValueError."""

    max_deliveries: int = 5
    retry_backoff_ms: float = 100
    retry_backoff_max_ms: float = 10_000
    retry_jitter: bool = True
    retryable: tuple[type[BaseException], ...] = (Exception,)
    not_retryable: tuple[type[BaseException], ...] = ()
    concurrency: int = 1
    ordering: str = KEY
    max_pending: int = 500
    dead_letter_topic: str | None = ""  # empty: each topic's own
    on_error: Callable[[DeliveredRecord, Exception], Action | None] | None = None
    on_retry: Callable[[DeliveredRecord, Exception, float], object] | None = None
    on_dead_letter: Callable[[Record, Failure, Any], object] | None = None
    on_lag: Callable[[Lag], object] | None = None
    lag_warning_ms: float = 10_000
    lag_warning_records: int | None = None
    ack_interval_ms: float = 100
    max_records: int | None = None
    timeout_ms: float | None = None
    stop: Any = None
    shutdown_timeout_ms: float = 30_000

    def __post_init__(self) -> None:
        if self.max_deliveries < 1:
            raise ValueError(f"max_deliveries is at least 1, not {self.max_deliveries}")
        if not 1 <= self.concurrency <= MOST_WORKERS:
            raise ValueError(f"concurrency is 1 to {MOST_WORKERS}, not {self.concurrency}")
        if self.ordering not in ORDERINGS:
            raise ValueError(f"ordering is one of {', '.join(ORDERINGS)}, not {self.ordering!r}")
        if self.max_pending < self.concurrency:
            raise ValueError(
                f"max_pending is at least concurrency ({self.concurrency}), not {self.max_pending}"
            )
        for name in ("lag_warning_ms", "ack_interval_ms", "shutdown_timeout_ms", "timeout_ms"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is not negative, but {value!r}")
        if self.max_records is not None and self.max_records < 1:
            raise ValueError(f"max_records is at least 1, not {self.max_records}")
        if self.stop is not None and not callable(getattr(self.stop, "is_set", None)):
            raise ValueError("stop is an event: something with is_set()")
        if not 0 <= self.retry_backoff_ms <= self.retry_backoff_max_ms < float("inf"):
            raise ValueError(
                "retry_backoff_ms is 0 to retry_backoff_max_ms "
                f"({self.retry_backoff_max_ms!r}), not {self.retry_backoff_ms!r}"
            )

    @property
    def shutdown_timeout_s(self) -> float:
        """How long to wait for handlers that run, as locks take it."""
        return bounded_s(self.shutdown_timeout_ms / 1000)

    def schedule(self) -> Schedule:
        """The waits between the deliveries of a record."""
        return Schedule(
            base_ms=self.retry_backoff_ms,
            max_ms=self.retry_backoff_max_ms,
            has_jitter=self.retry_jitter,
        )

    def judge(self, record: DeliveredRecord, error: Exception) -> Action:
        """What becomes of a record whose handler raised, while it has deliveries left.

        Raises what `on_error` raises, and ValueError if that gives no action.
        """
        if isinstance(error, Reject):
            return DEAD_LETTER
        if isinstance(error, RetryLater):
            return RETRY
        if self.on_error is not None:
            action = self.on_error(record, error)
            if action is not None:
                if action not in ACTIONS:
                    raise ValueError(f"on_error gives one of {ACTIONS} or None, not {action!r}")
                return action
        if isinstance(error, self.not_retryable) or not isinstance(error, self.retryable):
            return DEAD_LETTER
        return RETRY


def check_handler(handler: object) -> None:
    """Raise TypeError for what cannot be called: otherwise all records would be dead letters."""
    if not callable(handler):
        raise TypeError(f"a handler is a function that takes a record, not {handler!r}")


def classes(kinds: Any, name: str) -> tuple[type[BaseException], ...]:
    """One exception class or several, as a tuple. Raises ValueError."""
    found = tuple(kinds) if isinstance(kinds, (tuple, list, set, frozenset)) else (kinds,)
    for kind in found:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ValueError(f"{name} holds exception classes, not {kind!r}")
    return found
