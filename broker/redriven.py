"""Which dead letters of a partition were redriven: all before an offset, and ranges beyond.

Pure values; as text, the ranges are ``12-15,17-18`` (from, up to but without).
"""

from __future__ import annotations

import bisect
import re

# A partition that was redriven in more pieces has to be redriven, or purged, from its start.
MOST_RANGES = 10_000
_RANGES = re.compile(r"\d{1,19}-\d{1,19}(,\d{1,19}-\d{1,19})*", re.ASCII)


class Redriven:
    """A set of offsets that is all below `committed`, and sorted, separate ranges above."""

    def __init__(self, committed: int = 0, text: str = "") -> None:
        """From what is stored; a text that is none of ours stands for no ranges."""
        self.committed = committed
        self.ranges: list[tuple[int, int]] = []
        if _RANGES.fullmatch(text):
            for each in text.split(","):
                start, _, stop = each.partition("-")
                self.add(int(start), int(stop))

    def add(self, start: int, stop: int) -> None:
        """Take in the offsets from `start` up to but without `stop`."""
        start = max(start, self.committed)
        if start >= stop:
            return
        ranges = self.ranges
        first = bisect.bisect_left(ranges, start, key=lambda each: each[1])
        last = bisect.bisect_right(ranges, stop, key=lambda each: each[0])
        if first < last:
            start = min(start, ranges[first][0])
            stop = max(stop, ranges[last - 1][1])
        ranges[first:last] = [(start, stop)]
        while ranges and ranges[0][0] <= self.committed:
            self.committed = max(self.committed, ranges.pop(0)[1])

    def __contains__(self, offset: int) -> bool:
        if offset < self.committed:
            return True
        index = bisect.bisect_right(self.ranges, offset, key=lambda each: each[0]) - 1
        return index >= 0 and offset < self.ranges[index][1]

    def count(self, start: int, end: int) -> int:
        """How many of the offsets from `start` up to `end` it holds."""
        count = max(0, min(self.committed, end) - start)
        return count + sum(max(0, min(b, end) - max(a, start)) for a, b in self.ranges)

    def __str__(self) -> str:
        return ",".join(f"{start}-{stop}" for start, stop in self.ranges)
