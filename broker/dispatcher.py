"""Which record is handled next, and how far a group has come: decisions without any I/O.

The records that were fetched of a partition stand in *lanes*. In a lane one is handled after
the other, in the order of their offsets, also while the first waits to be tried again; the
lanes go on independently. Which records share a lane is the `ordering`:

    key         those of one key; null is a key like any other
    partition   all of a partition
    unordered   each has a lane of its own

A record (an *entry*) is in one of these states, and nothing else happens to it::

    state      event            becomes
    QUEUED     taken            RUNNING     a worker has it
    RUNNING    succeeded        DONE
    RUNNING    retried          WAITING     until it is due
    RUNNING    buried           WAITING     due at once, as a dead letter to be written
    WAITING    due, taken       RUNNING

*Progress* in a partition is the offset behind the records from the first one on that are
DONE: only that may be acknowledged. What is DONE behind a gap still counts as pending, and
a partition has no more than its share of `max_pending`: so a record that waits holds up
neither other partitions nor, up to that, other keys.

Nothing here knows threads or the time: `now_ms` is an argument, and a lock is the caller's.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from seawall.broker.handling import KEY, PARTITION, UNORDERED, Failure, died
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.handling_place import Notes

Place = tuple[str, int]


class State(Enum):
    """Where an entry is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"


class Entry:
    """A fetched record. `deliveries`: how often a handler had it, this time included."""

    __slots__ = (
        "burials",
        "deliveries",
        "due_ms",
        "failure",
        "lane",
        "notes",
        "offset",
        "partition",
        "record",
        "slot",
        "state",
    )

    def __init__(self, record: Record, partition: Partition, lane: Lane, deliveries: int) -> None:
        self.record: Record | None = record  # None once it is done: nobody needs it
        self.offset = record.offset
        self.partition = partition
        self.lane = lane
        self.deliveries = deliveries
        self.state = State.QUEUED
        # Set once it is to become a dead letter.
        self.failure: Failure | None = None
        self.burials = 0
        self.due_ms = 0.0
        # Where its deliveries are noted; see `delivery_notes`.
        self.notes: Notes | None = None
        self.slot = -1


class Lane:
    """Entries that are handled one after the other."""

    __slots__ = ("entries", "key")

    def __init__(self, key: object) -> None:
        self.key = key
        self.entries: deque[Entry] = deque()


class Partition:
    """What was fetched of a partition and is not acknowledged."""

    __slots__ = (
        "acknowledged",
        "entries",
        "full_since_ms",
        "is_leaving",
        "lanes",
        "place",
        "progress",
        "ready",
        "running",
    )

    def __init__(self, place: Place) -> None:
        self.place = place
        # From the first one on that is not done.
        self.entries: deque[Entry] = deque()
        self.lanes: dict[object, Lane] = {}
        # Lanes whose first entry can be taken.
        self.ready: deque[Lane] = deque()
        self.running = 0
        # The offset behind what is done without a gap, and what of it is on disk.
        self.progress = -1
        self.acknowledged = -1
        self.is_leaving = False
        self.full_since_ms: float | None = None


class Dispatcher:
    """The state machine of `run`."""

    def __init__(self, *, ordering: str, max_pending: int, max_deliveries: int) -> None:
        self._ordering = ordering
        self._max_pending = max_pending
        self._max_deliveries = max_deliveries
        # In the order in which they get their turn.
        self._partitions: dict[Place, Partition] = {}
        self._turns: deque[Partition] = deque()
        self._due: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count()
        # Entries that are there, those of them that are not done, and those being handled.
        self.pending = 0
        self.unfinished = 0
        self.running = 0
        # Entries that are done, ever.
        self.finished = 0

    # -- partitions ------------------------------------------------------------------

    def assign(self, places: Iterable[Place]) -> None:
        """Records of these may come from now on."""
        for place in places:
            if place not in self._partitions:
                partition = self._partitions[place] = Partition(place)
                self._turns.append(partition)

    def revoke(self, places: Iterable[Place]) -> None:
        """Start nothing more of these, and drop what waits; what runs may still succeed."""
        for place in places:
            partition = self._partitions.get(place)
            if partition is None or partition.is_leaving:
                continue
            # Without a turn nothing of it is taken any more.
            partition.is_leaving = True
            self._turns.remove(partition)
            # What waits behind the last that runs can add nothing to the progress.
            entries = partition.entries
            while entries and entries[-1].state is not State.RUNNING:
                self._drop(entries.pop())

    def forget(self, places: Iterable[Place]) -> None:
        """They are gone: nothing of them counts any more."""
        places = list(places)
        self.revoke(places)
        for place in places:
            partition = self._partitions.pop(place, None)
            if partition is not None:
                while partition.entries:
                    self._drop(partition.entries.pop())
                self.running -= partition.running
                partition.running = 0

    def _drop(self, entry: Entry) -> None:
        self.pending -= 1
        if entry.state is not State.DONE:
            self.unfinished -= 1

    def places(self) -> list[Place]:
        """The partitions that there are."""
        return list(self._partitions)

    def running_in(self, places: Collection[Place]) -> int:
        """How many entries of these partitions are being handled."""
        return sum(each.running for place, each in self._partitions.items() if place in places)

    # -- room ------------------------------------------------------------------------

    @property
    def share(self) -> int:
        """How many records of one partition may be pending."""
        return max(1, self._max_pending // max(1, len(self._turns)))

    @property
    def step(self) -> int:
        """How many records to fetch at once, so that no partition exceeds its share."""
        return max(1, self.share // 2)

    def full(self, now_ms: float) -> list[Place]:
        """The partitions that have no room for a `step`: fetch nothing of these."""
        room_for = self.share - self.step
        found = []
        for partition in self._turns:
            if len(partition.entries) > room_for:
                found.append(partition.place)
                if partition.full_since_ms is None:
                    partition.full_since_ms = now_ms
            else:
                partition.full_since_ms = None
        return found

    def full_ms(self, now_ms: float) -> dict[Place, float]:
        """How long each full partition has been so, as of the last call of `full`."""
        return {
            each.place: now_ms - each.full_since_ms
            for each in self._turns
            if each.full_since_ms is not None
        }

    # -- entries ---------------------------------------------------------------------

    def add(self, records: Sequence[Record], deliveries: Mapping[tuple[str, int, int], int]) -> int:
        """Take records that were fetched, in order; of partitions that are not assigned,
        none. `deliveries`: how often some (topic, partition, offset) came before.

        Returns how many were taken.
        """
        taken = 0
        for record in records:
            partition = self._partitions.get((record.topic, record.partition))
            if partition is None or partition.is_leaving:
                continue
            key = self._lane_key(record)
            lane = partition.lanes.get(key)
            if lane is None:
                lane = partition.lanes[key] = Lane(key)
            before = deliveries.get((record.topic, record.partition, record.offset), 0)
            entry = Entry(record, partition, lane, before)
            if before >= self._max_deliveries:
                entry.failure = died(before)
            partition.entries.append(entry)
            lane.entries.append(entry)
            if len(lane.entries) == 1:
                partition.ready.append(lane)
            taken += 1
        self.pending += taken
        self.unfinished += taken
        return taken

    def _lane_key(self, record: Record) -> object:
        if self._ordering == KEY:
            return record.key
        return record.offset if self._ordering == UNORDERED else PARTITION

    def take(self, now_ms: float) -> Entry | None:
        """The entry that is to be handled (or buried, if it has a `failure`) next.

        The partitions take turns. None: there is nothing to do before `due_ms`.
        """
        self._wake(now_ms)
        for _ in range(len(self._turns)):
            partition = self._turns[0]
            self._turns.rotate(-1)
            if partition.ready:
                entry = partition.ready.popleft().entries[0]
                entry.state = State.RUNNING
                if entry.failure is None:
                    entry.deliveries += 1
                partition.running += 1
                self.running += 1
                return entry
        return None

    def _wake(self, now_ms: float) -> None:
        while self._due and self._due[0][0] <= now_ms:
            entry = heapq.heappop(self._due)[2]
            entry.partition.ready.append(entry.lane)

    def due_ms(self) -> float | None:
        """When the next entry that waits can be taken; None if none waits."""
        while self._due and self._due[0][2].partition.is_leaving:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def succeed(self, entry: Entry) -> bool:
        """An entry that was taken is done with: handled, skipped, or in the dead-letter topic.

        Whether there is room now in a partition that was full. Without any effect if the
        partition is gone.
        """
        if not self._stops_running(entry):
            return False
        entry.state = State.DONE
        entry.record = entry.failure = None
        self.finished += 1
        self.unfinished -= 1
        partition, lane = entry.partition, entry.lane
        lane.entries.popleft()
        if lane.entries:
            partition.ready.append(lane)
        else:
            del partition.lanes[lane.key]
        entries = partition.entries
        while entries and entries[0].state is State.DONE:
            partition.progress = entries.popleft().offset + 1
            self.pending -= 1
        if partition.full_since_ms is None or len(entries) > self.share - self.step:
            return False
        partition.full_since_ms = None
        return True

    def is_last(self, entry: Entry) -> bool:
        """Whether an entry has had all the deliveries that it gets."""
        return entry.deliveries >= self._max_deliveries

    def retry(self, entry: Entry, due_ms: float) -> None:
        """An entry that was taken is to be taken again at a time."""
        if not self._stops_running(entry):
            return
        entry.state = State.WAITING
        entry.due_ms = due_ms
        heapq.heappush(self._due, (due_ms, next(self._numbers), entry))

    def bury(self, entry: Entry, failure: Failure, due_ms: float) -> None:
        """An entry that was taken is to be a dead letter: whoever takes it next writes that."""
        if entry.failure is not None:
            entry.burials += 1
        entry.failure = failure
        self.retry(entry, due_ms)

    def _stops_running(self, entry: Entry) -> bool:
        """False if its partition is gone; raises for an entry that nobody took."""
        if entry.state is not State.RUNNING:
            raise ValueError(f"offset {entry.offset} is {entry.state.value}, not running")
        partition = entry.partition
        if self._partitions.get(partition.place) is not partition:
            return False
        partition.running -= 1
        self.running -= 1
        return True

    # -- progress --------------------------------------------------------------------

    def progress(self) -> dict[Place, int]:
        """What may be acknowledged and is not: the next offset to read of each partition."""
        return {
            place: each.progress
            for place, each in self._partitions.items()
            if each.progress > each.acknowledged
        }

    def acknowledged(self, offsets: Mapping[Place, int]) -> None:
        """So much is on disk."""
        for place, offset in offsets.items():
            partition = self._partitions.get(place)
            if partition is not None:
                partition.acknowledged = max(partition.acknowledged, offset)

    def begins(self) -> dict[Place, int]:
        """The first offset of each partition that was fetched and is not done."""
        return {
            place: each.entries[0].offset
            for place, each in self._partitions.items()
            if each.entries
        }
