"""Waiting longer each time: the back-off of everything in the broker that tries again.

`Schedule` is the rule (see `wal.backoff`), `Backoff` follows it: it counts the attempts and
says when the next one is due, so that whoever waits can also say so ("retry 3 in 0.8 s").
It never sleeps. With a random source and a clock of the caller's it is deterministic.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from seawall.wal.backoff import Schedule

__all__ = ["Backoff", "Retry", "Schedule", "monotonic_ms"]


def monotonic_ms() -> float:
    """A clock that nobody sets back, in ms."""
    return time.monotonic() * 1000


class Retry(NamedTuple):
    """The next attempt: its number (1 for the first repetition), how long to wait for it,
    and when it is due by the back-off's clock."""

    attempt: int
    delay_ms: float
    due_ms: float

    def __str__(self) -> str:
        return f"retry {self.attempt} in {self.delay_ms / 1000:.1f} s"


class Backoff:
    """Counts failures in a row, and says how long to wait after each. For one thread."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        random: Callable[[], float] = random.random,
        clock_ms: Callable[[], float] = monotonic_ms,
    ) -> None:
        self.schedule = schedule
        self._random = random
        self._clock_ms = clock_ms
        # What `next` gave last; None while all is well.
        self.pending: Retry | None = None

    @property
    def attempts(self) -> int:
        """How many repetitions were asked for since the last `reset`."""
        return self.pending.attempt if self.pending is not None else 0

    def next(self) -> Retry:
        """It failed (again): when to try next."""
        attempts = self.attempts
        delay_ms = self.schedule.delay_ms(attempts, self._random())
        self.pending = Retry(attempts + 1, delay_ms, self._clock_ms() + delay_ms)
        return self.pending

    def is_due(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.pending is None or self._clock_ms() >= self.pending.due_ms

    def reset(self) -> None:
        """It worked: the next failure is the first one again."""
        self.pending = None
