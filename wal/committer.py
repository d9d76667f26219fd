"""Group commit: one sync for everyone who waits.

Whoever finds no sync under way leads: it syncs by itself, at once. Whoever comes while
one is under way waits for its end; if that sync began too early to cover its records,
one of the waiting leads the next. So a lone waiter loses no time to a hand-over, and
under load the batch of each sync is what gathered during the one before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

# How long a follower sleeps at the most before it looks whether anybody leads.
LOOK_INTERVAL_S = 1.0


class Committer:
    """Waits for durability of one log, for any number of threads.

    `sync` is given an offset, brings to disk at least what is below it, publishes that,
    and returns the durable end; it raises if it cannot.
    """

    def __init__(self, sync: Callable[[int], int]) -> None:
        self._sync = sync
        # Entered by itself: a Condition's own methods are Python's, and an interrupt at their
        # first step would leave it locked.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._syncing = False
        self._durable_end = 0

    def commit(self, next_offset: int) -> int:
        """Return the durable end, once it is at `next_offset` or beyond.

        Raises what `sync` raises. A follower whose leader failed syncs for itself, so
        each waiter gets the error that holds for its own records. Only if the log ends
        before `next_offset`, the durable end is below it.
        """
        durable_end = 0
        leads = False
        try:
            with self._lock:
                while self._durable_end < next_offset and self._syncing:
                    # It looks by itself, should the leader be interrupted before it tells.
                    self._changed.wait(LOOK_INTERVAL_S)
                if self._durable_end >= next_offset:
                    return self._durable_end
                # Inside the try: an interrupt at any later moment hands the lead back.
                leads = self._syncing = True
            durable_end = self._sync(next_offset)
        finally:
            if leads:
                # Without a call, at which a signal's handler could raise.
                if durable_end > self._durable_end:
                    self._durable_end = durable_end
                self._syncing = False
                with self._lock:
                    self._changed.notify_all()
        return durable_end
