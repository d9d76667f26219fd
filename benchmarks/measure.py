"""What the rows have in common: their results, their rounds, their records.

A disk's speed changes from one second to the next, and so does a shared machine's. So
nothing is compared with a figure from another run: seawall and what it is held against
take turns, in short rounds, and each round gives one ratio. What counts is the median
of the ratios; the lowest and the highest show how far to trust it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seawall.broker.broker import Broker
from seawall.wal.files import Files
from seawall.wal.records import IS_COMPILED

TOPIC = "benchmark"
VALUE_BYTES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a row may write (an empty folder, removed afterwards), and how long it may take."""

    folder: Path
    is_quick: bool

    @property
    def core(self) -> str:
        """Which record codec this process uses."""
        return "compiled" if IS_COMPILED else "pure"

    def pick(self, full: int, quick: int) -> int:
        """A size for a real run, or one for a trial."""
        return quick if self.is_quick else full


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of the table. ``values`` has one figure per round, in ``unit``."""

    what: str
    against: str
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"
    detail: str = ""

    @property
    def median(self) -> float:
        """The figure that is held against the target."""
        return statistics.median(self.values)

    @property
    def is_missed(self) -> bool:
        """Whether the median is on the wrong side of its target."""
        too_low = self.at_least is not None and self.median < self.at_least
        too_high = self.at_most is not None and self.median > self.at_most
        return too_low or too_high


def take_turns(
    rounds: int, first: Callable[[], float], second: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """What two measurements return, round by round, each leading every other round.

    One round more is done before, for nothing: caches are warm and files allocated then.
    """
    firsts, seconds = [], []
    for turn in range(-1, rounds):
        if turn % 2:
            a, b = first(), second()
        else:
            b, a = second(), first()
        if turn >= 0:
            firsts.append(a)
            seconds.append(b)
    return firsts, seconds


def ratios(tops: Sequence[float], bottoms: Sequence[float]) -> list[float]:
    """Round by round."""
    return [top / bottom for top, bottom in zip(tops, bottoms, strict=True)]


def seconds_for(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rate(per_s: Sequence[float]) -> str:
    """The median of rates, for a person."""
    return f"{statistics.median(per_s):,.0f}/s"


def distinct_values(count: int) -> list[bytes]:
    """`count` different values of 100 bytes."""
    return [b"%0*d" % (VALUE_BYTES, number) for number in range(count)]


@contextmanager
def broker_with_topic(folder: Path) -> Iterator[Broker]:
    """A broker with one topic of one partition."""
    with Broker.open(folder) as broker:
        broker.create_topic(TOPIC, if_not_exists=True)
        yield broker


class Calls:
    """How often, and with how many bytes, `Files` was asked for something."""

    def __init__(self) -> None:
        self.syncs = 0
        self.bytes_read = 0


@contextmanager
def counted_calls() -> Iterator[Calls]:
    """Count what this process does through `Files` meanwhile."""
    calls = Calls()
    sync, pread = Files.sync, Files.pread

    def counted_sync(self: Files, descriptor: int) -> None:
        calls.syncs += 1
        sync(self, descriptor)

    def counted_pread(self: Files, descriptor: int, size_bytes: int, position: int) -> bytes:
        data = pread(self, descriptor, size_bytes, position)
        calls.bytes_read += len(data)
        return data

    Files.sync, Files.pread = counted_sync, counted_pread  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        Files.sync, Files.pread = sync, pread  # type: ignore[method-assign]
