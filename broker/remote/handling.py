"""What `run` needs of a member of a cluster's group; see `seawall.broker.handling_place`.

librdkafka has one queue for all partitions. What comes of one that `run` has enough of is
kept aside here, and from a certain amount on its fetching is paused: so it holds up no other,
and a member whose handlers are slow goes on polling, which is what keeps it in its group.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from confluent_kafka import KafkaException, TopicPartition

from seawall.broker.errors import (
    Away,
    BrokerError,
    ConnectionLost,
    PartitionRevoked,
    UnknownTopic,
)
from seawall.broker.group_running import GroupOptions
from seawall.broker.remote.carried import Carried, pack, unpack
from seawall.broker.remote.consumer import RemoteConsumer
from seawall.broker.remote.fetching import Place
from seawall.broker.remote.notes import RemoteNotes
from seawall.broker.remote.storing import PATIENCE_S, TURN_S, Storing, logger
from seawall.wal.records import Record

if TYPE_CHECKING:
    from uuid import UUID

    from confluent_kafka import Consumer as Client

    from seawall.broker.handling_place import DeadLetterSink, Notes, RunPlace
    from seawall.broker.remote.asking import Asking
    from seawall.broker.remote.topics import Topics

# How many records of a partition are kept aside before its fetching is paused.
MOST_KEPT = 1_000
# How soon a poll sees that there is room again, or something else to do.
RUN_SLICE_S = 0.02


class RemoteRunning(Storing):
    """The part of a `RemoteGroupConsumer` that `run` works with."""

    passing: ClassVar[tuple[type[Exception], ...]] = (Away,)
    outlives_loss: ClassVar[bool] = True
    idle_wait_ms: ClassVar[float] = 100
    attend_ms: ClassVar[float] = TURN_S * 1000
    _announced: set[Place]
    _open_dead_letters: Callable[[str], DeadLetterSink]

    def __init__(
        self,
        asking: Asking,
        topics: Topics,
        make: Callable[..., Client],
        *,
        uuids: Mapping[str, UUID],
        release: Callable[[RemoteConsumer], None],
    ) -> None:
        self._handle = threading.RLock()
        self._storing = threading.Condition()
        super().__init__(asking, topics, make, uuids=uuids, release=release)
        self.held_back: frozenset[Place] = frozenset()
        self.is_running = False
        # The thread that closes it.
        self._leaving_for: int | None = None
        # Fetched of partitions that were held back, in order; nothing comes before it.
        self._kept: dict[Place, deque[Record]] = {}
        self._paused: set[Place] = set()
        self._notes = {}
        # What is known of deliveries that others, or an earlier run, have made.
        self._found: dict[Place, Carried] = {}
        # Of partitions that were lost: where the group was, and what was done.
        self._was_at: dict[Place, int] = {}
        self._was_done: dict[Place, tuple[int, int]] = {}

    @property
    def topics(self) -> Collection[str]:
        """The topics that it reads."""
        return self._names

    @property
    def max_poll_interval_ms(self) -> float:
        """How long it may go without polling."""
        return self._member.max_poll_interval_ms

    @property
    def caller(self) -> int:
        """The thread that callbacks are called for: the one that closes, which waits meanwhile."""
        return self._leaving_for or threading.get_ident()

    @property
    def announced(self) -> set[Place]:
        """Those that `on_assigned` was told of."""
        return set(self._announced)

    def place_to_run(self) -> RunPlace:
        """What handlers are run with. Raises `BrokerClosed`."""
        self._check_usable()
        return self

    def swap_options(self, options: GroupOptions | None = None) -> GroupOptions:
        """What it does by itself; `run` puts callbacks of its own before the user's."""
        old = self._options
        self._options = options or old
        self._woken = False
        return old

    def interrupt(self) -> None:
        """Have a `poll` that is under way end soon."""
        self._woken = self.is_running

    def _slice_s(self) -> float:
        return RUN_SLICE_S if self.is_running else super()._slice_s()

    def _serve(self, count: int, wait_s: float) -> None:
        if self._turn.is_wanted and not self._is_calling_back:
            # confluent-kafka lets in one thread at a time, and not the one that waits longest.
            time.sleep(min(wait_s, TURN_S))
            return
        if not self.is_running:
            super()._serve(count, wait_s)
            return
        is_busy = self._under_way is not None or any(e.is_busy for e in self._notes.values())
        with self._handle:
            super()._serve(count, 0 if is_busy else wait_s)
        if is_busy and wait_s > 0 and not self._pending:
            # Others may want to commit: they can while this is not in librdkafka.
            time.sleep(min(wait_s, TURN_S))
            with self._handle:
                super()._serve(count, 0)
        if len(self._pending) >= MOST_KEPT:
            self._sort_out()

    def _callbacks(self) -> dict[str, Any]:
        return {"on_commit": self._on_commit}

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._leaving_for is not None or super().is_closed

    def lag(self) -> dict[Place, int]:
        """See `RemoteConsumer.lag`; while handlers are run, not without a bound."""
        if not self.is_running:
            return super().lag()
        try:
            return self._lag(time.monotonic() + PATIENCE_S)
        except ConnectionLost as error:
            raise self._away(error.reason) from error

    def rejoin(self) -> None:
        """Nothing: librdkafka sees to it, and `poll` tells."""

    # -- reading ---------------------------------------------------------------------

    def attend(self) -> None:
        """What `poll` does besides reading: partitions are given up and taken."""
        with self._turn:
            self._check_usable()
            self._attend()
            self._serve(1, 0)  # it calls back only when it is asked for records
            self._sort_out()
            self._raise_pending()
            self._watch()
            self._look_for_topics()

    def _take(self, count: int) -> None:
        if self.held_back or self._kept:
            self._sort_out()
        taken = self._taken
        held = self.held_back
        for place in [each for each in self._kept if each not in held]:
            kept = self._kept[place]
            while kept and len(taken) < count:
                taken.append(kept.popleft())
            if not kept:
                del self._kept[place]
                self._resume({place})
        super()._take(count)

    def _sort_out(self) -> None:
        """Put aside what is not to be handed out yet; all there is, if it came to be too much
        while a commit was waited for, whose report comes with more records."""
        pending = list(self._pending)
        self._pending.clear()
        held = self.held_back
        is_too_much = len(pending) >= MOST_KEPT
        for record in pending:
            place = record.topic, record.partition
            if is_too_much or place in held or place in self._kept:
                self._kept.setdefault(place, deque()).append(record)
            else:
                self._pending.append(record)
        full = {p for p, kept in self._kept.items() if len(kept) >= MOST_KEPT} - self._paused
        for place in full:
            with contextlib.suppress(KafkaException):
                self.client.pause([TopicPartition(*place)])
                self._paused.add(place)

    def _resume(self, places: Collection[Place]) -> None:
        for place in self._paused & set(places):
            self._paused.discard(place)
            with contextlib.suppress(KafkaException):
                self.client.resume([TopicPartition(*place)])

    def give_back(self, records: Sequence[Record]) -> None:
        """Hand these records out again; they are the last ones that were taken."""
        with self._turn:
            for place, kept in self._kept.items():
                kept.extendleft(
                    reversed([each for each in records if (each.topic, each.partition) == place])
                )
            super().give_back(
                [each for each in records if (each.topic, each.partition) not in self._kept]
            )

    def _fetched(self) -> Iterable[Record]:
        return itertools.chain(*self._kept.values(), self._pending)

    def _forget_pending(self, places: set[Place]) -> None:
        super()._forget_pending(places)
        self._resume(places)
        for place in places:
            self._kept.pop(place, None)

    def rewind(self, offsets: Mapping[Place, int]) -> None:
        """Hand out again from these offsets on, where the partition is read still."""
        with self._turn:
            for place, offset in offsets.items():
                if not self.is_closed and self._positions.get(place, offset) != offset:
                    self._go_to(place, offset)

    # -- acknowledging, and what goes with it ----------------------------------------

    def ack(self, records: Record | Sequence[Record] | None = None) -> None:
        """See `Acknowledging.ack`. While `run` is at work, which acknowledges by itself, it
        raises ValueError."""
        if self.is_running:
            self._check_usable()
            raise ValueError("run acknowledges what was handled by itself; ack is not for then")
        super().ack(records)

    def ack_offsets(self, wanted: Mapping[Place, int]) -> None:
        """Acknowledge all before an offset in each partition; raises like `ack`, and `Away`
        while handlers are run."""
        if not self.is_running:
            super().ack_offsets(wanted)
            return
        refusal: BrokerError | None = None
        ahead = {}
        for place, offset in wanted.items():
            if place not in self._positions:
                refusal = PartitionRevoked(group=self.group, topic=place[0], partition=place[1])
            elif offset > self._committed.get(place, -1):
                ahead[place] = offset
        if ahead:
            self._store(ahead, PATIENCE_S, may_serve=True)
        if any(topic == self._replaced for topic, _ in wanted):
            refusal = UnknownTopic(topic=self._replaced, is_another=True)
        if refusal is not None:
            raise refusal

    def keep_progress(self, offsets: Mapping[Place, int]) -> None:
        """These were lost. If they come back, and nobody has moved the group there, it goes
        on behind what was done."""
        for place, offset in offsets.items():
            if place in self._was_at:
                self._was_done[place] = self._was_at[place], offset

    def _done_before(self, place: Place, committed: int) -> int:
        """What this member has done of a partition that it lost, and is given again."""
        was_at, done = self._was_done.pop(place, (-1, 0))
        return done if was_at == committed else 0

    def _find(self, committed: Sequence[TopicPartition]) -> None:
        """What stands beside committed offsets."""
        for each in committed:
            self._found[each.topic, each.partition] = unpack(each.offset, each.metadata or "")

    def _said(self, place: Place, offset: int) -> Any:
        """What is to be committed, with what stood beside it before."""
        carried = self._found.get(place, Carried())
        return TopicPartition(*place, offset, pack(offset, carried))

    def open_notes(self, topic: str, partition: int) -> Notes:
        """How often records of a partition that it reads were delivered."""
        place = topic, partition
        notes = RemoteNotes(self, place, self._found.get(place, Carried()))
        with self._storing:
            self._notes[place] = notes
        return notes

    def close_notes(self, notes: Mapping[Place, Notes], owned: Collection[Place]) -> None:
        """Let go of notes; of those that are `owned`, whoever is next finds them."""
        for place, each in notes.items():
            each.close(is_owner=place in owned)
        mine = [each for place, each in self._notes.items() if place in notes]
        committed = self._committed
        told = {
            each.place: committed[each.place]
            for each in mine
            if each.place in owned and each.place in committed and each.says_something
        }
        try:
            if told:
                self._store(told, PATIENCE_S, may_serve=True)
        except BrokerError as error:
            logger.info(
                "group %s: what is known of deliveries was not stored: %s", self.group, error
            )
        with self._storing:
            for one in mine:
                self._notes.pop(one.place, None)
                if one.place in committed:
                    self._found[one.place], _ = one.to_store(committed[one.place], 0)

    def open_dead_letters(self) -> DeadLetterSink:
        """Where records go that cannot be handled."""
        return self._open_dead_letters(self.group)
