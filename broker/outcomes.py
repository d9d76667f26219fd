"""What becomes of one record in a `run`: noted, handled, tried again, buried.

`Outcomes` is the half of `Handling` that knows single records. Its methods may be called from
any thread; those that do I/O say so.
"""

from __future__ import annotations

import logging
import random as random_module
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from seawall.broker.backoff import Schedule, monotonic_ms
from seawall.broker.dispatcher import Dispatcher, Entry, Place, State
from seawall.broker.errors import BrokerError, HandlerFailed
from seawall.broker.handling import (
    DEAD_LETTER,
    RETRY,
    SKIP,
    STOP,
    Action,
    DeliveredRecord,
    Failure,
    Handled,
    HandlingOptions,
    RetryLater,
    failure_of,
    said,
)
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.handling_place import Notes, RunPlace

logger = logging.getLogger("seawall.broker")

# Between tries of what passes by itself, or once somebody makes room.
TROUBLE = Schedule(base_ms=100, max_ms=10_000)
# An entry that waits for ever: nobody takes it in this run.
NEVER_MS = float("inf")
LOGGED_CHARACTERS = 200


class Outcomes:
    """The records of one `run`, under one lock."""

    def __init__(
        self,
        consumer: RunPlace,
        options: HandlingOptions,
        *,
        wake: Callable[[], object],
        random: Callable[[], float] = random_module.random,
        clock_ms: Callable[[], float] = monotonic_ms,
    ) -> None:
        """`wake` is called when the loop has to look: from any thread, the lock held."""
        self.consumer = consumer
        self.options = options
        self.clock_ms = clock_ms
        self.dispatcher = Dispatcher(
            ordering=options.ordering,
            max_pending=options.max_pending,
            max_deliveries=options.max_deliveries,
        )
        self.lock = threading.RLock()
        # Something finished, or something has to end.
        self.changed = threading.Condition(self.lock)
        self.is_stopping = False
        self.fatal: BaseException | None = None
        self._wake = wake
        self._random = random
        self._schedule = options.schedule()
        self._writer = consumer.open_dead_letters()
        self._dead_letter_topics: dict[str, str | None] = {}
        self._notes: dict[Place, Notes] = {}
        # Whether what `clear` has to write waits for `clear_deferred`: for event loops.
        self.defers_clearing = False
        self._to_clear: list[Entry] = []
        self._counts = {"handled": 0, "retries": 0, "skipped": 0, "dead_lettered": 0}
        self._buried_badly_ms = -NEVER_MS

    def stop(self, fatal: BaseException | None = None) -> None:
        """Start nothing more."""
        with self.lock:
            self.fatal = self.fatal or fatal
            self.is_stopping = True
            self.changed.notify_all()
            self._wake()

    def counts(self) -> Handled:
        """What was done so far."""
        with self.lock:
            return Handled(**self._counts)

    def _tell(self, callback: Callable[..., object], *what: object) -> None:
        try:
            callback(*what)
        except Exception:
            logger.exception("group %s: a callback failed", self.consumer.group)

    def take(self) -> Entry | None:
        """What is to be done next. The lock is held."""
        return None if self.is_stopping else self.dispatcher.take(self.clock_ms())

    def delivered(self, entry: Entry) -> DeliveredRecord:
        """The record of an entry that was taken, for its handler."""
        record = DeliveredRecord._make(entry.record or ())
        if entry.deliveries != 1:
            record.delivery_count = entry.deliveries
        return record

    def note(self, *entries: Entry, polls: bool = False) -> None:
        """Before handlers have them: remember that. Does I/O. `polls`: see `Notes.store`."""
        noted: dict[int, Notes] = {}
        for entry in entries:
            notes = entry.notes = entry.notes or self._notes.get(entry.partition.place)
            if notes is not None:
                entry.slot = notes.note(entry.slot, entry.offset, entry.deliveries)
                noted[id(notes)] = notes
        for each in noted.values():
            each.store(polls=polls)

    def clear(self, entry: Entry) -> None:
        """After it is done with: forget its deliveries. Does I/O, or defers it."""
        if self.defers_clearing:
            self._to_clear.append(entry)
        else:
            self._clear(entry)

    def clear_deferred(self) -> None:
        """Do what `clear` has deferred. Does I/O."""
        while self._to_clear:
            self._clear(self._to_clear.pop())

    def _clear(self, entry: Entry) -> None:
        notes = entry.notes
        if notes is None and not entry.partition.is_leaving:
            notes = self._notes.get(entry.partition.place)
        if notes is not None:
            notes.clear(entry.slot, entry.offset)

    def succeeded(self, entry: Entry, count: str = "handled") -> None:
        """It is done with."""
        with self.lock:
            self._counts[count] += 1
            has_room = self.dispatcher.succeed(entry)
            if has_room:
                # So that a poll that is under way sees it.
                self.consumer.held_back -= {entry.partition.place}
            if has_room or not self.dispatcher.unfinished:
                self._wake()
                self.changed.notify_all()
            elif self.is_stopping or entry.partition.is_leaving:
                self.changed.notify_all()

    def failed(self, entry: Entry, record: DeliveredRecord, error: Exception) -> None:
        """A handler raised: decide what becomes of the record."""
        options, now_ms = self.options, self.clock_ms()
        action: Action
        try:
            action = options.judge(record, error)
        except Exception:
            logger.exception("group %s: on_error failed", self.consumer.group)
            action = RETRY
        if action == SKIP:
            logger.warning("%s: skipped: %s", _named(record), said(error))
            self.clear(entry)
            self.succeeded(entry, "skipped")
        elif action == STOP:
            self._give_up(entry, record, error, "on_error said so")
        elif action == DEAD_LETTER or self.dispatcher.is_last(entry):
            if self._dead_letter_topics[record.topic] is None:
                self._give_up(entry, record, error, "there is no dead-letter topic for it")
            else:
                self._queue_burial(entry, failure_of(error), now_ms)
        else:
            delay_ms = error.delay_ms if isinstance(error, RetryLater) else None
            if delay_ms is None:
                delay_ms = self._schedule.delay_ms(entry.deliveries - 1, self._random())
            logger.debug("%s: %s; retry in %.0f ms", _named(record), said(error), delay_ms)
            with self.lock:
                self._counts["retries"] += 1
                self.dispatcher.retry(entry, now_ms + max(0.0, delay_ms))
                self.changed.notify_all()
            if options.on_retry is not None:
                self._tell(options.on_retry, record, error, delay_ms)

    def put_off(self, entry: Entry) -> None:
        """Its handler could not finish: it comes again, but not in this run."""
        with self.lock:
            self.dispatcher.retry(entry, NEVER_MS)
            self.changed.notify_all()

    def interrupted(self, entry: Entry, error: BaseException) -> None:
        """A handler raised what ends a program: so does `run`; the record comes again."""
        self.put_off(entry)
        self.stop(error)

    def broken(self, entry: Entry, error: BaseException) -> None:
        """What no handler raised, and nobody expected: it ends `run`, and nothing waits for
        the entry."""
        with self.lock:
            if entry.state is State.RUNNING:
                self.put_off(entry)
        self.stop(error)

    def _give_up(self, entry: Entry, record: Record, error: Exception | None, why: str) -> None:
        reason = why
        if error is not None:
            reason = f"{type(error).__name__}: {failure_of(error).message} ({why})"
        failed = HandlerFailed(
            group=self.consumer.group,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            deliveries=entry.deliveries,
            reason=reason,
        )
        failed.__cause__ = error
        # Whoever goes on does so on purpose, and has all the deliveries again.
        self.clear(entry)
        self.interrupted(entry, failed)

    def _queue_burial(self, entry: Entry, failure: Failure, due_ms: float) -> None:
        with self.lock:
            self.dispatcher.bury(entry, failure, due_ms)
            self.changed.notify_all()

    def bury(self, entry: Entry) -> list[Callable[[], None]]:
        """Write the dead letter that an entry is to become. Does I/O. Gives whom to tell.

        If that fails it is tried again later, for ever: the record is not acknowledged.
        """
        record, failure = entry.record, entry.failure
        if record is None or failure is None:
            raise ValueError(f"offset {entry.offset} is not to be buried")
        topic = self._dead_letter_topics[record.topic]
        if topic is None:
            self._give_up(entry, record, None, f"{failure.message}; no dead-letter topic")
            return []
        try:
            metadata = self._writer.write(record, failure, entry.deliveries, topic)
        except (BrokerError, ValueError) as error:
            now_ms = self.clock_ms()
            delay_ms = TROUBLE.delay_ms(entry.burials, self._random())
            self._queue_burial(entry, failure, now_ms + delay_ms)
            if now_ms >= self._buried_badly_ms + TROUBLE.max_ms:
                self._buried_badly_ms = now_ms
                logger.warning(
                    "%s: cannot become a dead letter: %s (next try in %.1f s)",
                    _named(record),
                    str(error),  # and not its frames, which hold what is open
                    delay_ms / 1000,
                )
            return []
        logger.warning(
            "%s: a dead letter (deliveries: %d), %s/%d offset %d: %s: %s",
            _named(record),
            entry.deliveries,
            topic,
            metadata.partition,
            metadata.offset,
            failure.error_class,
            " ".join(failure.message.split())[:LOGGED_CHARACTERS],
        )
        self.clear(entry)
        self.succeeded(entry, "dead_lettered")
        callback = self.options.on_dead_letter
        return (
            [] if callback is None else [partial(self._tell, callback, record, failure, metadata)]
        )


def _named(record: Record) -> str:
    return f"{record.topic}/{record.partition} offset {record.offset}"
