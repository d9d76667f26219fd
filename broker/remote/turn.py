"""Whose turn it is to call librdkafka's consumer.

confluent-kafka lets one thread at a time into a consumer, and not the one that has waited
longest; in a poll it stays there while the user's callbacks run. So a thread that commits must
not be inside while another one polls, nor hold a lock that a callback may want.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

# How long who polls makes way for who waits to commit.
_WAY_S = 0.002
# How often who waits looks whether there is any use.
_LOOK_S = 0.1


class Turn:
    """A lock that a thread may take several times, and that knows whose it is."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner = 0
        self._depth = 0
        self._counting = threading.Lock()
        self._hurried = 0

    @property
    def is_mine(self) -> bool:
        """Whether this thread has it."""
        return self._owner == threading.get_ident()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it who is in a hurry, or has it."""
        return self._hurried > 0

    def acquire(self, timeout_s: float = -1) -> bool:
        """Take it; -1 waits for as long as that takes."""
        if not self._lock.acquire(timeout=timeout_s):
            return False
        self._owner = threading.get_ident()
        self._depth += 1
        return True

    def release(self) -> None:
        """Give it back, as often as it was taken."""
        self._depth -= 1
        if self._depth == 0:
            self._owner = 0
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Have it, before those who `take` it."""
        with self._counting:
            self._hurried += 1
        try:
            with self:
                yield
        finally:
            with self._counting:
                self._hurried -= 1

    def take(self, deadline_s: float | None, check: Callable[[], object]) -> bool:
        """Take it, after those who are in a hurry; whether that came about in time (of
        `time.monotonic`). While it waits it calls `check`, which may raise."""
        if self._hurried and not self.is_mine:
            time.sleep(_WAY_S)
        while True:
            left_s = _LOOK_S if deadline_s is None else deadline_s - time.monotonic()
            if self.acquire(max(0.0, min(_LOOK_S, left_s))):
                return True
            check()
            if left_s <= 0:
                return False
