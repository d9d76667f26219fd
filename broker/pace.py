"""How fast background work may go, and when it has to end."""

from __future__ import annotations

import time
from collections.abc import Callable

# So much may be read and written at once before a pause has to be made for it.
BURST_S = 0.25
# How much of a core the work between two pauses may take: what else the process does waits for
# the interpreter meanwhile.
CORE_SHARE = 0.25


class Stopped(Exception):
    """Background work was told to end; it goes on another time."""


class Pace:
    """Keeps work below so many bytes a second, and below a share of a core. For one thread at a
    time.

    ``wait`` sleeps for so many seconds and says whether the work has to end; without one
    there is no limit, and nobody who would end it.
    """

    def __init__(
        self,
        bytes_per_second: float = 0,
        wait: Callable[[float], bool] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bytes_per_second = bytes_per_second
        self._wait = wait
        self._clock = clock
        self._free_s = 0.0
        self._resumed_s: float | None = None

    def should_stop(self) -> bool:
        """Whether the work has to end."""
        return self._wait is not None and self._wait(0)

    def check(self) -> None:
        """Raise `Stopped` if the work has to end."""
        if self.should_stop():
            raise Stopped

    def spend(self, size_bytes: int) -> None:
        """Before or after so many bytes are read or written: sleep as long as it takes, and as the
        work since the last time has to rest. Longer than a burst nobody works.

        Raises `Stopped`.
        """
        if self._wait is None:
            return
        now_s = self._clock()
        self._free_s = max(self._free_s, now_s) + size_bytes / self._bytes_per_second
        ahead_s = self._free_s - now_s - BURST_S
        worked_s = 0.0 if self._resumed_s is None else min(now_s - self._resumed_s, BURST_S)
        if self._wait(max(ahead_s, worked_s * (1 / CORE_SHARE - 1))):
            raise Stopped
        self._resumed_s = self._clock()
