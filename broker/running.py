"""`run`: the settings of a consumer that hands its records to a handler."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from seawall.broker.delivery import RecordMetadata
    from seawall.broker.handling import (
        Action,
        DeliveredRecord,
        Failure,
        Handled,
        HandlingOptions,
        Lag,
    )
    from seawall.broker.handling_place import RunPlace
    from seawall.wal.records import Record

    Kinds = type[BaseException] | Collection[type[BaseException]]


class HasIsSet(Protocol):
    """An event, such as `threading.Event`."""

    def is_set(self) -> bool: ...


# What stands for "the topic's own dead-letter topic".
DEFAULT_DEAD_LETTER_TOPIC = ""


class Running:
    """The part of a consumer that runs handlers."""

    def run(
        self,
        handler: Callable[[DeliveredRecord], object],
        *,
        max_deliveries: int = 5,
        retry_backoff_ms: float = 100,
        retry_backoff_max_ms: float = 10_000,
        retry_jitter: bool = True,
        retryable: Kinds = Exception,
        not_retryable: Kinds = (),
        concurrency: int = 1,
        ordering: str = "key",
        max_pending: int = 500,
        dead_letter_topic: str | None = DEFAULT_DEAD_LETTER_TOPIC,
        on_error: Callable[[DeliveredRecord, Exception], Action | None] | None = None,
        on_retry: Callable[[DeliveredRecord, Exception, float], object] | None = None,
        on_dead_letter: Callable[[Record, Failure, RecordMetadata], object] | None = None,
        on_lag: Callable[[Lag], object] | None = None,
        lag_warning_ms: float = 10_000,
        lag_warning_records: int | None = None,
        ack_interval_ms: float = 100,
        max_records: int | None = None,
        timeout_ms: float | None = None,
        stop: HasIsSet | None = None,
        shutdown_timeout_ms: float = 30_000,
    ) -> Handled:
        """Hand every record to `handler`, and acknowledge those that it returns from.

        It returns when `close` is called, from any thread, or by one of the stop
        conditions below; running handlers finish first, and what they did is acknowledged.
        It begins at the consumer's position. Only the part of a partition is acknowledged
        that is done without a gap, so a record may come again, but none is lost. What
        a handler raises is a failure: the record is delivered again after a back-off, and
        goes to the dead-letter topic after `max_deliveries`, or at once if the handler
        raises `Reject`. `RetryLater(delay_ms)` asks for a certain delay. ``KeyboardInterrupt``
        and the like end `run`, which raises them. Records have a `delivery_count`.

        ``max_deliveries`` (5): how often a handler gets a record at the most, counted across
        processes, also those that died over it.
        ``retry_backoff_ms`` (100), ``retry_backoff_max_ms`` (10,000), ``retry_jitter`` (True):
        the wait before retry n is drawn from 0 to ``min(max, base * 2^(n-1))``; without
        jitter it is that.
        ``retryable`` (Exception), ``not_retryable`` (none): exception classes; what is not
        retryable makes a dead letter at once. ``on_error``: called with record and error,
        decides instead: ``"retry"``, ``"dead_letter"``, ``"skip"`` (acknowledge it as if it
        had been handled), ``"stop"``, or None for what would happen otherwise.
        ``concurrency`` (1): how many records are handled at a time, in threads of its own
        (tasks for asyncio). ``ordering``: ``"key"`` handles the records of a key (of a
        partition) one after the other, null being a key like any other; ``"partition"`` all
        of a partition; ``"unordered"`` none. ``max_pending`` (500): how many records are
        fetched and not done; each partition has an equal share, one record at least.
        ``dead_letter_topic``: instead of ``TOPIC.dlq``; None, or a topic whose name ends
        with ``.dlq`` being read: `run` stops with `HandlerFailed`.
        ``on_retry(record, error, delay_ms)``, ``on_dead_letter(record, failure, metadata)``:
        called after the decision, in the thread that ran the handler.
        ``on_lag``: called with a `Lag`, as the log is, when a partition has had no room for
        ``lag_warning_ms`` (10,000), or is more than ``lag_warning_records`` (None) behind; at
        most once a minute.
        ``ack_interval_ms`` (100; 10 at least count): how long what is done may wait for its
        acknowledgement, which is written before partitions go and at the end in any case.
        ``max_records``, ``timeout_ms``, ``stop`` (an event that is looked at 5 times a
        second): stop conditions. ``shutdown_timeout_ms`` (30,000): how long running handlers
        may take to finish, also before their partition is given up.

        Raises `NotInGroup`; `HandlerFailed`; what `poll` and `ack` raise; ValueError; TypeError
        for a handler that cannot be called, or would have to be awaited (see `AsyncConsumer`).
        """
        options = options_of(
            max_deliveries=max_deliveries,
            retry_backoff_ms=retry_backoff_ms,
            retry_backoff_max_ms=retry_backoff_max_ms,
            retry_jitter=retry_jitter,
            retryable=retryable,
            not_retryable=not_retryable,
            concurrency=concurrency,
            ordering=ordering,
            max_pending=max_pending,
            dead_letter_topic=dead_letter_topic,
            on_error=on_error,
            on_retry=on_retry,
            on_dead_letter=on_dead_letter,
            on_lag=on_lag,
            lag_warning_ms=lag_warning_ms,
            lag_warning_records=lag_warning_records,
            ack_interval_ms=ack_interval_ms,
            max_records=max_records,
            timeout_ms=timeout_ms,
            stop=stop,
            shutdown_timeout_ms=shutdown_timeout_ms,
        )
        from seawall.broker.runner import Runner  # most programs have loops of their own

        return Runner(self.place_to_run(), options).run(handler)

    def place_to_run(self) -> RunPlace:
        """What handlers are run with. Raises `NotInGroup`, and `BrokerClosed`."""
        raise NotImplementedError


def options_of(**settings: Any) -> HandlingOptions:
    """The settings of `Consumer.run` as values. Raises ValueError, and TypeError for a name
    that is none."""
    from seawall.broker.handling import HandlingOptions, classes

    for name in ("retryable", "not_retryable"):
        if name in settings:
            settings[name] = classes(settings[name], name)
    return HandlingOptions(**settings)
