"""What both kinds of `run` do between a decision and the disk.

`Handling` holds the dispatcher under a lock, and fetches, notes deliveries, acknowledges,
buries and warns. All of its methods may be called from any thread; those that do I/O say so,
and an event loop has them done by its executor. `runner` and `aio_runner` say when.
"""

from __future__ import annotations

import logging
import random as random_module
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from seawall.broker.backoff import Backoff, monotonic_ms
from seawall.broker.dead_letter_format import dead_letter_topic
from seawall.broker.dispatcher import Place
from seawall.broker.errors import (
    BrokerClosed,
    GroupFenced,
    LockTimeout,
    PartitionRevoked,
    StorageFull,
)
from seawall.broker.handling import HandlingOptions, Lag
from seawall.broker.names import check_topic_name
from seawall.broker.outcomes import NEVER_MS, TROUBLE, Outcomes
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.group_running import Callback, GroupOptions
    from seawall.broker.handling_place import RunPlace

logger = logging.getLogger("seawall.broker")

# What passes by itself, or once somebody makes room.
TRANSIENT = (StorageFull, LockTimeout)
# The loop looks at everything at least so often.
LONGEST_WAIT_MS = 5_000.0
SHORTEST_WAIT_MS = 10.0
STOP_INTERVAL_MS = 200.0
FULL_INTERVAL_MS = 250.0
LAG_INTERVAL_MS = 1_000.0
LAG_REPEAT_MS = 60_000.0


class Handling(Outcomes):
    """One `run` of one consumer."""

    def __init__(
        self,
        consumer: RunPlace,
        options: HandlingOptions,
        *,
        wake: Callable[[], object],
        random: Callable[[], float] = random_module.random,
        clock_ms: Callable[[], float] = monotonic_ms,
    ) -> None:
        """See `Outcomes`."""
        super().__init__(consumer, options, wake=wake, random=random, clock_ms=clock_ms)
        self._given: GroupOptions | None = None
        # Up to where each partition was taken in.
        self._positions: dict[Place, int] = {}
        # What passes by itself here.
        self._passing: tuple[type[Exception], ...] = (*TRANSIENT, *consumer.passing)
        # What keeps what was handled from being acknowledged, when partitions go.
        self._too_late: tuple[type[Exception], ...] = (
            *(GroupFenced, PartitionRevoked),
            *consumer.passing,
        )
        # How often some (topic, partition, offset) came to processes before this one.
        self._came_before: dict[tuple[str, int, int], int] = {}
        self._fetching = Backoff(TROUBLE, random=random, clock_ms=clock_ms)
        self._acknowledging = Backoff(TROUBLE, random=random, clock_ms=clock_ms)
        self._began_ms = self._acked_ms = self._lag_seen_ms = clock_ms()
        self._lag_told_ms = -NEVER_MS
        # Threads that run handlers: one of them that closes the consumer waits for the others.
        self.workers: set[int] = set()
        # The same for tasks.
        self.closers = 0

    # -- beginning and ending --------------------------------------------------------

    def begin(self) -> None:
        """Take the consumer over, unless it was stopped before: `end` may have been faster."""
        if self.is_stopping:
            return
        consumer, options = self.consumer, self.options
        given = consumer.swap_options()
        if consumer.is_running:
            raise ValueError("this consumer is running a handler already")
        if given.enable_auto_commit:
            raise ValueError(
                "run acknowledges what was handled; open the consumer without enable_auto_commit"
            )
        for topic in consumer.topics:
            target = options.dead_letter_topic
            target = dead_letter_topic(topic) if target == "" else target
            if target is not None:
                check_topic_name(target)
                if target in consumer.topics:
                    raise ValueError(f"{target!r} is read here, so no dead letters can go there")
            self._dead_letter_topics[topic] = target
        self._given = given  # from here on `end` gives it back
        consumer.is_running = True
        consumer.swap_options(
            replace(
                given,
                on_assigned=_first(self._assigned, given.on_assigned),
                on_revoked=_first(self._revoked, given.on_revoked),
                on_lost=_first(self._lost, given.on_lost or given.on_revoked),
            )
        )
        # Of the others the next poll tells.
        self._assigned(sorted(consumer.announced))

    def should_end(self) -> bool:
        """Whether a stop condition holds."""
        options = self.options
        if self.is_stopping or (options.stop is not None and options.stop.is_set()):
            return True
        late_ms = self.clock_ms() - self._began_ms
        if options.timeout_ms is not None and late_ms >= options.timeout_ms:
            return True
        return self._budget() == 0 and self.dispatcher.unfinished == 0

    def _budget(self) -> int | None:
        """How many records may still be fetched; None: any number."""
        most = self.options.max_records
        if most is None:
            return None
        return max(0, most - self.dispatcher.finished - self.dispatcher.unfinished)

    def wait_for_running(self) -> int:
        """Wait until nothing runs any more, as long as that may take; give what still does."""
        with self.lock:
            self.changed.wait_for(
                lambda: self.dispatcher.running == 0, self.options.shutdown_timeout_s
            )
            return self.dispatcher.running

    def end(self) -> None:
        """Acknowledge what is done, and give the consumer back. Does I/O."""
        consumer, given = self.consumer, self._given
        if given is None:
            return  # it never began
        self.clear_deferred()
        try:
            self._acknowledge_last()
        except BrokerClosed:
            pass  # `close` has acknowledged it
        except (GroupFenced, PartitionRevoked) as error:
            logger.warning("%s", str(error))
        finally:
            with self.lock:
                places = self.dispatcher.places()
                # Also what an interrupt kept between `poll` and `add` is read again.
                begins = self._positions | self.dispatcher.begins()
                self.dispatcher.forget(places)
            consumer.rewind(begins)
            consumer.held_back = frozenset()
            consumer.swap_options(given)
            owned = set(consumer.assignment())
            self._close_notes(places, owned & set(places))
            consumer.is_running = False
            self._writer.close()

    def _acknowledge_last(self) -> None:
        """Acknowledge what is done. What passes by itself is waited for, within bounds."""
        deadline_ms = self.clock_ms() + self.options.shutdown_timeout_ms
        while True:
            try:
                self.acknowledge()
                return
            except self.consumer.passing as error:
                if self.clock_ms() >= deadline_ms:
                    logger.warning(
                        "group %s: cannot acknowledge what was handled last, which comes again: %s",
                        self.consumer.group,
                        str(error),
                    )
                    return
            time.sleep(SHORTEST_WAIT_MS / 1000)

    # -- partitions come and go ------------------------------------------------------

    def _assigned(self, places: Sequence[Place]) -> None:
        consumer = self.consumer
        for topic, partition in places:
            if (topic, partition) not in self._notes:
                notes = consumer.open_notes(topic, partition)
                self._notes[topic, partition] = notes
                self._positions[topic, partition] = consumer.position(topic, partition)
                for offset, count in notes.deliveries.items():
                    self._came_before[topic, partition, offset] = count
        with self.lock:
            self.dispatcher.assign(places)

    def _revoked(self, places: Sequence[Place]) -> None:
        """Before they go: let what runs finish, and acknowledge."""
        self._let_finish(places)
        try:
            self.acknowledge(places)
        except self._too_late as error:
            logger.warning("%s", str(error))
        finally:
            self._forget(places, is_owner=True)

    def _let_finish(self, places: Sequence[Place]) -> None:
        own = self.closers + (self.consumer.caller in self.workers)
        with self.lock:
            self.dispatcher.revoke(places)
            self.changed.wait_for(
                lambda: self.dispatcher.running_in(places) <= own,
                self.options.shutdown_timeout_s,
            )
            left = self.dispatcher.running_in(places) - own
        if left > 0:
            logger.warning(
                "group %s: %d handlers did not finish within %g ms (shutdown_timeout_ms); their "
                "records go to whoever reads the partition next",
                self.consumer.group,
                left,
                self.options.shutdown_timeout_ms,
            )

    def _lost(self, places: Sequence[Place]) -> None:
        """They are gone: nothing can be acknowledged, unless they come back."""
        if self.consumer.outlives_loss:
            self._let_finish(places)
            with self.lock:
                progress = self.dispatcher.progress()
            self.consumer.keep_progress({p: at for p, at in progress.items() if p in places})
        self._forget(places, is_owner=False)

    def _forget(self, places: Sequence[Place], *, is_owner: bool) -> None:
        with self.lock:
            self.dispatcher.forget(places)
            self.changed.notify_all()
        self._close_notes(places, places if is_owner else ())
        for place in places:
            self._positions.pop(place, None)
        gone = [each for each in self._came_before if each[:2] in places]
        for each in gone:
            del self._came_before[each]

    def _close_notes(self, places: Collection[Place], owned: Collection[Place]) -> None:
        notes = {place: self._notes.pop(place) for place in places if place in self._notes}
        if notes:
            self.consumer.close_notes(notes, owned)

    # -- the loop's work -------------------------------------------------------------

    def wait_ms(self) -> float:
        """How long the loop may sleep, if nothing wakes it."""
        options, now_ms = self.options, self.clock_ms()
        wait_ms = min(LONGEST_WAIT_MS, self.consumer.max_poll_interval_ms / 3)
        if options.timeout_ms is not None:
            wait_ms = min(wait_ms, self._began_ms + options.timeout_ms - now_ms)
        if options.stop is not None:
            wait_ms = min(wait_ms, STOP_INTERVAL_MS)
        with self.lock:
            if self.dispatcher.pending:
                wait_ms = min(wait_ms, FULL_INTERVAL_MS)
            if self.dispatcher.unfinished or self.dispatcher.progress():
                wait_ms = min(wait_ms, self._ack_due_ms() - now_ms)
        return max(0.0, wait_ms)

    def _ack_due_ms(self) -> float:
        due_ms = self._acked_ms + max(SHORTEST_WAIT_MS, self.options.ack_interval_ms)
        trouble = self._acknowledging.pending
        return due_ms if trouble is None else max(due_ms, trouble.due_ms)

    def room(self) -> int:
        """How many records to fetch now; holds back the partitions that have no room."""
        with self.lock:
            if not self._fetching.is_due():
                return 0
            full = self.dispatcher.full(self.clock_ms())
            self.consumer.held_back = frozenset(full)
            if len(full) == len(self.dispatcher.places()) and full:
                return 0
            step, budget = self.dispatcher.step, self._budget()
            return step if budget is None else min(step, budget)

    def add(self, records: Sequence[Record]) -> int:
        """Have these handled."""
        with self.lock:
            taken = self.dispatcher.add(records, self._came_before)
            for record in records:
                self._positions[record.topic, record.partition] = record.offset + 1
        return taken

    def fetch(self, room: int, timeout_ms: float) -> int:
        """Poll for at most `room` records, and give how many came. Does I/O, and waits.

        With no room, partitions are given up and taken all the same.
        """
        if not self._fetching.is_due():
            return 0
        records: list[Record] = []
        try:
            if room:
                records = self.consumer.poll(room, timeout_ms)
            else:
                self.consumer.attend()
            self._fetching.reset()
        except self._passing as error:
            logger.warning(
                "group %s: %s (%s)", self.consumer.group, str(error), self._fetching.next()
            )
        return self.add(records)

    def acknowledge_if_due(self) -> None:
        """Acknowledge what is done, every `ack_interval_ms`. Does I/O."""
        now_ms = self.clock_ms()
        if now_ms < self._ack_due_ms():
            return
        self._acked_ms = now_ms
        group = self.consumer.group
        try:
            self.acknowledge()
            self._acknowledging.reset()
        except self._passing as error:
            pending = self._acknowledging.next()
            logger.warning("group %s: cannot acknowledge: %s (%s)", group, str(error), pending)
        except GroupFenced as error:
            # The next poll joins anew.
            logger.warning("%s", str(error))
            self._forget(self.dispatcher.places(), is_owner=False)
            self.consumer.rejoin()
        except PartitionRevoked as error:
            logger.warning("%s", str(error))
            kept = self.consumer.assignment()
            gone = [place for place in self.dispatcher.places() if place not in kept]
            self._forget(gone, is_owner=False)

    def acknowledge(self, places: Collection[Place] | None = None) -> None:
        """Acknowledge what is done, without a gap. Does I/O; raises like `Consumer.ack`."""
        with self.lock:
            offsets = {
                place: offset
                for place, offset in self.dispatcher.progress().items()
                if places is None or place in places
            }
        if offsets:
            self.consumer.ack_offsets(offsets)
            with self.lock:
                self.dispatcher.acknowledged(offsets)

    def watch_lag(self) -> list[Lag]:
        """Log it if a partition has been full for long, or is far behind. Does I/O.

        Gives what `on_lag` is to be told.
        """
        options, now_ms = self.options, self.clock_ms()
        if now_ms < self._lag_seen_ms + min(LAG_INTERVAL_MS, options.lag_warning_ms):
            return []
        self._lag_seen_ms = now_ms
        with self.lock:
            full_ms = self.dispatcher.full_ms(now_ms)
            pending, running = self.dispatcher.pending, self.dispatcher.running
        full_ms = {p: ms for p, ms in full_ms.items() if ms >= options.lag_warning_ms}
        if not full_ms and options.lag_warning_records is None:
            return []
        try:
            lag = self.consumer.lag()
        except self._passing:
            return []
        most = options.lag_warning_records
        behind = {p: count for p, count in lag.items() if most is not None and count > most}
        if not (full_ms or behind) or now_ms < self._lag_told_ms + LAG_REPEAT_MS:
            return []
        self._lag_told_ms = now_ms
        logger.warning(
            "group %s: the handlers are slow: %d records pending, %d being handled, lag %d%s",
            self.consumer.group,
            pending,
            running,
            sum(lag.values()),
            "".join(f"; no room for {t}/{p} for {ms:.0f} ms" for (t, p), ms in full_ms.items()),
        )
        return [Lag(full_ms=full_ms, lag=lag, pending=pending, running=running)]

    def tell_lag(self, lag: Lag) -> None:
        """Call `on_lag`."""
        if self.options.on_lag is not None:
            self._tell(self.options.on_lag, lag)


def _first(own: Callback, given: Callback | None) -> Callback:
    def both(places: list[Place]) -> None:
        own(places)
        if given is not None:
            given(places)

    return both
