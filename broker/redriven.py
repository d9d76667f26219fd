"""Which dead letters of a partition were redriven: all before an offset, and ranges beyond.

Pure values. As text, ranges are ``3:5,1:2``: behind that offset 3 are not redriven and 5 are,
then 1 is not and 2 are. So a thousand pieces fit into the metadata of an offset.
"""

from __future__ import annotations

import bisect
import re

_RANGES = re.compile(r"\d{1,19}:\d{1,19}(,\d{1,19}:\d{1,19})*", re.ASCII)


class Redriven:
    """A set of offsets that is all below `committed`, and sorted, separate ranges above."""

    def __init__(self, committed: int = 0, text: str = "") -> None:
        """From what is stored; a text that is none of ours stands for no ranges."""
        self.committed = committed
        self.ranges: list[tuple[int, int]] = []
        if _RANGES.fullmatch(text):
            at = committed
            for each in text.split(","):
                gap, _, length = each.partition(":")
                start, at = at + int(gap), at + int(gap) + int(length)
                self.add(start, at)

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
        at, pieces = self.committed, []
        for start, stop in self.ranges:
            pieces.append(f"{start - at}:{stop - start}")
            at = stop
        return ",".join(pieces)
