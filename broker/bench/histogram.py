"""Latencies, counted in buckets that are never wider than 1/128 of what is in them.

Values are whole microseconds. Below 256 each has a bucket of its own; above, each power of
two is divided into 128 buckets (as HdrHistogram does it). So a few thousand counters hold
microseconds and hours alike, and histograms of several processes are added up exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

SUB_BUCKETS = 128
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}
_SHIFT_BITS = SUB_BUCKETS.bit_length()


def bucket_of(value_us: int) -> int:
    """The number of the bucket that a value (0 or more) is counted in."""
    shift = max(0, value_us.bit_length() - _SHIFT_BITS)
    return shift * SUB_BUCKETS + (value_us >> shift)


def highest_of(bucket: int) -> int:
    """The highest value that is counted in a bucket."""
    shift = max(0, bucket // SUB_BUCKETS - 1)
    return ((bucket - shift * SUB_BUCKETS + 1) << shift) - 1


class Histogram:
    """How often each latency occurred."""

    def __init__(self, counts: Mapping[int, int] | None = None, max_us: int = 0) -> None:
        self._counts: Counter[int] = Counter(counts or {})
        self.max_us = max_us

    @classmethod
    def from_json(cls, counts: Iterable[tuple[int, int]], max_us: int) -> Histogram:
        """What `to_json` and ``max_us`` were."""
        return cls(dict(counts), max_us)

    def to_json(self) -> list[tuple[int, int]]:
        """Pairs of bucket and count."""
        return sorted(self._counts.items())

    def add(self, value_us: int) -> None:
        """Count a latency. A negative one, by a clock that differs, counts as none."""
        value_us = max(0, value_us)
        self._counts[bucket_of(value_us)] += 1
        self.max_us = max(self.max_us, value_us)

    def merge(self, other: Histogram) -> None:
        """Count all of another one, too."""
        self._counts.update(other._counts)
        self.max_us = max(self.max_us, other.max_us)

    @property
    def total(self) -> int:
        """How many latencies were counted."""
        return self._counts.total()

    def quantile(self, share: float) -> int:
        """The latency (us) that this share of all did not exceed; 0 if there is none.

        At the most 1/128 above the exact one, and never above the maximum.
        """
        wanted, seen = share * self.total, 0
        for bucket, count in self.to_json():
            seen += count
            if seen >= wanted:
                return min(highest_of(bucket), self.max_us)
        return self.max_us

    def summary_ms(self) -> dict[str, float]:
        """The usual quantiles and the maximum, in ms."""
        found = {name: self.quantile(share) / 1000 for name, share in QUANTILES.items()}
        return {**found, "max": self.max_us / 1000}

    def rows(self) -> list[tuple[int, int]]:
        """For a picture: upper bounds (us) in steps of 1, 2, 5, and how many are below each."""
        grouped: Counter[int] = Counter()
        for bucket, count in self._counts.items():
            grouped[_round_bound(highest_of(bucket))] += count
        if not grouped:
            return []
        bound, rows = min(grouped), []
        while bound <= max(grouped):
            rows.append((bound, grouped[bound]))
            bound = _round_bound(bound + 1)
        return rows


def _round_bound(value_us: int) -> int:
    """The next of 1, 2, 5, 10, 20, … that is not below a value."""
    power = 1
    while True:
        for step in (1, 2, 5):
            if value_us <= step * power:
                return step * power
        power *= 10
