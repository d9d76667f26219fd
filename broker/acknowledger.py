"""Acknowledging together: one transaction, and so one sync, for everyone who waits.

As with the committer of a log: whoever finds no transaction under way leads, at once; what
comes while one is under way gathers, and one of those who wait leads the next with all of
it. A lone consumer loses no time; sixteen of them share.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from seawall.broker.errors import GroupFenced
from seawall.broker.group_state import Commit


class _Waiting:
    __slots__ = ("commit", "is_done", "refusal")

    def __init__(self, commit: Commit) -> None:
        self.commit = commit
        self.is_done = False
        self.refusal: GroupFenced | None = None


class Acknowledger:
    """Brings acknowledgements to disk, for any number of threads.

    `store` stores some of them in one transaction, and says of each what kept it from
    being stored; if it raises, nothing was stored.
    """

    def __init__(self, store: Callable[[Sequence[Commit]], Sequence[GroupFenced | None]]) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._is_storing = False
        self._gathered: list[_Waiting] = []

    def commit(self, commit: Commit) -> None:
        """Return once it is on disk. Raises `GroupFenced`, and what `store` raises.

        If a transaction fails, each of those who waited for it tries by itself: so each
        gets the error that holds for its own.
        """
        waiting = _Waiting(commit)
        taken: list[_Waiting] = []
        try:
            with self._changed:
                self._gathered.append(waiting)
                while self._is_storing and not waiting.is_done:
                    self._changed.wait()
                if not waiting.is_done:
                    # Inside the try: an interrupt at any later moment hands the lead back.
                    self._is_storing = True
                    taken, self._gathered = self._gathered, []
            if taken:
                refusals = self._store([each.commit for each in taken])
                for each, refusal in zip(taken, refusals, strict=True):
                    each.refusal, each.is_done = refusal, True
        finally:
            try:
                self._hand_back(waiting, taken)
            except BaseException:
                # A Ctrl-C just here must not leave the others waiting for ever.
                self._hand_back(waiting, taken)
                raise
        if waiting.refusal is not None:
            raise waiting.refusal

    def _hand_back(self, waiting: _Waiting, taken: list[_Waiting]) -> None:
        """End the lead, and let the others have what was not stored. Safe to call twice."""
        with self._changed:
            if taken:
                self._is_storing = False
                self._gathered[:0] = [each for each in taken if not each.is_done]
                taken.clear()
            if not waiting.is_done and waiting in self._gathered:
                self._gathered.remove(waiting)
            self._changed.notify_all()

    def abandon(self) -> None:
        """In a forked child, where nobody leads."""
        self._changed = threading.Condition()
        self._is_storing = False
        self._gathered = []
