"""How often records were delivered, kept beside what a group has committed in a cluster.

A commit for each record would make every handler wait for the servers. So handlers are let
have records up to some way ahead (a *lease*), which is stored beforehand, once for many of
them. What is stored before the record is handed over, each time, is the count of one that

* was delivered before, or
* stands below the end of a lease that somebody did not give back: he may have died over it.

So a process that dies over a record counts, from the second time on at the latest. Whatever
is committed for another reason has all counts with it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from seawall.broker.remote.carried import Carried

if TYPE_CHECKING:
    from seawall.broker.remote.handling import RemoteRunning

# How far ahead of what was fetched handlers may be given records, in offsets.
LEASE_OFFSETS = 500


class RemoteNotes:
    """The notes of the member that reads a partition. Safe to use from any thread."""

    def __init__(self, consumer: RemoteRunning, place: tuple[str, int], found: Carried) -> None:
        self._consumer = consumer
        self.place = place
        self.deliveries = dict(found.deliveries)
        self._suspected_until = found.until
        self._lock = threading.Lock()
        self._counts = dict(found.deliveries)
        self._leased_until = 0
        # How many notes there were; up to which one they have to be stored, and are.
        self._noted = self._needed = self._stored = 0
        self._is_closed = False

    def note(self, slot: int, offset: int, deliveries: int) -> int:
        """A handler is about to get a record. Nothing here has slots."""
        with self._lock:
            self._counts[offset] = deliveries
            self._noted += 1
            if deliveries > 1 or not self._suspected_until <= offset < self._leased_until:
                self._needed = self._noted
        return slot

    def store(self, *, polls: bool) -> None:
        """Return once what has to be stored is, or cannot be for the moment."""
        if self.has_to_be_stored:
            self._consumer.store_notes(self, polls=polls)

    @property
    def has_to_be_stored(self) -> bool:
        """Whether a handler must not go on yet."""
        with self._lock:
            return self._stored < self._needed and not self._is_closed

    @property
    def is_busy(self) -> bool:
        """Whether a handler has a record, or is to have it again."""
        return bool(self._counts)

    @property
    def says_something(self) -> bool:
        """Whether anything of it stands beside the committed offset."""
        with self._lock:
            return bool(self._leased_until or self._suspected_until or self.deliveries)

    def clear(self, slot: int, offset: int) -> None:
        """The record is done with."""
        with self._lock:
            self._counts.pop(offset, None)

    def to_store(self, committed: int, position: int) -> tuple[Carried, int]:
        """What a commit is to carry, and the number to give `stored` once it has.

        `position` is the offset behind what was fetched."""
        with self._lock:
            until = 0 if self._is_closed else position + LEASE_OFFSETS
            if committed < self._suspected_until:
                # What nobody gave back is passed on, until all of it is done.
                until = max(until, self._suspected_until)
            return Carried(until=until, deliveries=dict(self._counts)), self._noted

    def stored(self, carried: Carried, number: int) -> None:
        """So much of it is with the servers."""
        with self._lock:
            self._stored = max(self._stored, number)
            self._leased_until = max(self._leased_until, carried.until)

    def close(self, *, is_owner: bool) -> None:
        """Nothing more is noted; an owner gives the lease back with the next commit."""
        with self._lock:
            self._is_closed = True
