"""How long to wait before trying again: the one rule of the whole project.

Before attempt n (0 for the first repetition) the *ceiling* is ``base * 2^n``, but no more
than a maximum. With jitter the wait is drawn evenly from 0 to the ceiling ("full jitter",
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/): of many who
failed at the same moment, no two come back together. Without, it is the ceiling.

Everything here is pure: the random number comes from the caller, and nobody sleeps.
`broker/backoff.py` counts attempts and knows the time.
"""

from __future__ import annotations

from dataclasses import dataclass

# 2.0 to this power is far above any maximum, and still a float.
_MOST_DOUBLINGS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Waits that double, as values. Times are in ms; raises ValueError for what is none."""

    base_ms: float
    max_ms: float
    has_jitter: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.base_ms <= self.max_ms < float("inf"):
            raise ValueError(
                "a back-off has 0 <= base_ms <= max_ms, "
                f"not base_ms={self.base_ms!r} and max_ms={self.max_ms!r}"
            )

    def ceiling_ms(self, attempt: int) -> float:
        """The longest wait before repetition `attempt`, which counts from 0."""
        if attempt < 0:
            raise ValueError(f"attempts count from 0, not {attempt}")
        return min(self.max_ms, self.base_ms * 2.0 ** min(attempt, _MOST_DOUBLINGS))

    def delay_ms(self, attempt: int, fraction: float) -> float:
        """The wait before repetition `attempt`; `fraction` is a random number in [0, 1)."""
        ceiling_ms = self.ceiling_ms(attempt)
        return ceiling_ms * fraction if self.has_jitter else ceiling_ms
