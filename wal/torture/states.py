"""Choosing what becomes of the changes that a power cut found pending.

A `Choice` decides everything that a disk leaves open: which changes to bytes are there, at
most two of them in part, and which changes to names. With the trace, the point and the
choice, a state can be built again; `seawall.wal.torture.materialise` builds it.

`enumerate_choices` goes through the plain ways to lose something, one after the other;
`random_choices` mixes them without end.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from seawall.wal.torture.disk import Disk
from seawall.wal.torture.trace import Kind, Operation

SECTOR_BYTES = 512
MOST_TORN = 2
# A write that crosses more sector edges is torn at the first, the middle and the last ones.
MOST_EDGES = 6


class Fill(StrEnum):
    """What is there of a torn write, which is cut in two."""

    SHORT = "short"  # its head; behind it nothing was written
    ZEROS = "zeros"  # its head, and zeros instead of its tail
    GARBAGE = "garbage"  # its head, and other bytes instead of its tail
    TAIL = "tail"  # its tail; where its head belongs, nothing was written


@dataclass(frozen=True, slots=True, order=True)
class Tear:
    """The pending write number `index`, cut behind its first `cut_bytes` bytes."""

    index: int
    cut_bytes: int
    fill: Fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What of a disk's pending changes is there after the power cut.

    ``kept`` and ``names``: bit n for the n-th of `Disk.pending` and `Disk.pending_names`.
    ``torn``: in order; each of them is kept as well.
    """

    kept: int = 0
    names: int = 0
    torn: tuple[Tear, ...] = ()

    def as_case(self) -> dict[str, int | str]:
        """The choice in words and numbers, for `from_case`."""
        torn = " ".join(f"{tear.index}:{tear.cut_bytes}:{tear.fill}" for tear in self.torn)
        return {"kept": f"{self.kept:x}", "names": f"{self.names:x}", "torn": torn}

    @classmethod
    def from_case(cls, case: Mapping[str, int | str]) -> Choice:
        """Raises `ValueError` or `KeyError` if a case is none of `as_case`."""
        torn = []
        for word in str(case["torn"]).split():
            index, cut_bytes, fill = word.split(":")
            torn.append(Tear(int(index), int(cut_bytes), Fill(fill)))
        return cls(kept=int(str(case["kept"]), 16), names=int(str(case["names"]), 16)).tear(*torn)

    def tear(self, *torn: Tear) -> Choice:
        """The same, with these writes and no others torn; at most `MOST_TORN`, each once."""
        kept = self.kept
        for tear in torn:
            if tear.index < 0 or tear.cut_bytes < 0:
                raise ValueError(f"no such tear: {tear}")
            kept |= 1 << tear.index
        if len(torn) > MOST_TORN or len({tear.index for tear in torn}) < len(torn):
            raise ValueError(f"{len(torn)} tears, or one write torn twice")
        return replace(self, kept=kept, torn=tuple(sorted(torn)))


def everything(disk: Disk) -> Choice:
    """All that was done reached the disk."""
    return Choice(kept=_all(len(disk.pending)), names=_all(len(disk.pending_names)))


NOTHING = Choice()
"""Only what was synced is there."""


def enumerate_choices(disk: Disk) -> Iterator[Choice]:
    """The plain ways to lose something, each once. Different choices may be the same state.

    All and none of it; all up to each change, all but each, and only each, for bytes and for
    names; each write torn at sector edges and at thirds, among all the others and alone.
    """
    seen: set[Choice] = set()
    for choice in _plain_choices(disk):
        if choice not in seen:
            seen.add(choice)
            yield choice


def _plain_choices(disk: Disk) -> Iterator[Choice]:
    all_data, all_names = _all(len(disk.pending)), _all(len(disk.pending_names))
    for names in (all_names, 0):
        for kept in (all_data, 0):
            yield Choice(kept=kept, names=names)
    for kept in _masks(len(disk.pending)):
        yield Choice(kept=kept, names=all_names)
    for names in _masks(len(disk.pending_names)):
        for kept in (all_data, 0):
            yield Choice(kept=kept, names=names)
    for index, operation in enumerate(disk.pending):
        for tear in _tears(index, operation):
            for kept in (all_data, 0):
                yield Choice(kept=kept, names=all_names).tear(tear)


def random_choices(disk: Disk, randomness: random.Random) -> Iterator[Choice]:
    """Choices without end, more or less of everything lost."""
    writes = [i for i, operation in enumerate(disk.pending) if operation.kind is Kind.WRITE]
    while True:
        choice = Choice(
            kept=_random_mask(len(disk.pending), randomness),
            names=_random_mask(len(disk.pending_names), randomness),
        )
        count = min(randomness.choice((0, 1, 1, MOST_TORN)), len(writes))
        torn = []
        for index in randomness.sample(writes, count):
            cuts = _cuts(disk.pending[index])
            if not cuts or randomness.random() < 0.5:
                cuts = [randomness.randrange(len(disk.pending[index].data or b"."))]
            torn.append(Tear(index, randomness.choice(cuts), randomness.choice(list(Fill))))
        yield choice.tear(*torn)


def simpler_choices(disk: Disk, choice: Choice) -> Iterator[Choice]:
    """Choices that lose less than `choice`, the simplest first: one that fails says more."""
    whole = everything(disk)
    lost, unnamed = whole.kept & ~choice.kept, whole.names & ~choice.names
    simpler = [whole, replace(whole, names=choice.names)]
    # One thing alone, then one thing less.
    simpler += [whole.tear(tear) for tear in choice.torn]
    simpler += [replace(whole, kept=whole.kept & ~(1 << bit)) for bit in _bits(lost)]
    simpler += [replace(whole, names=whole.names & ~(1 << bit)) for bit in _bits(unnamed)]
    simpler += [replace(choice, names=whole.names), replace(choice, torn=())]
    simpler += [choice.tear(*(t for t in choice.torn if t != tear)) for tear in choice.torn]
    simpler += [replace(choice, kept=choice.kept | 1 << bit) for bit in _bits(lost)]
    simpler += [replace(choice, names=choice.names | 1 << bit) for bit in _bits(unnamed)]
    seen = {choice}
    for each in simpler:
        if each not in seen:
            seen.add(each)
            yield each


def _all(count: int) -> int:
    return (1 << count) - 1


def _bits(mask: int) -> Iterable[int]:
    return (bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def _masks(count: int) -> Iterator[int]:
    """For each of so many: all before it, all but it, only it."""
    for bit in range(count):
        yield _all(bit)
        yield _all(count) & ~(1 << bit)
        yield 1 << bit


def _random_mask(count: int, randomness: random.Random) -> int:
    odds = randomness.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    return sum(1 << bit for bit in range(count) if randomness.random() < odds)


def _cuts(operation: Operation) -> list[int]:
    """Where a write may be cut: at sector edges of its file, and at thirds."""
    size = len(operation.data or b"")
    first = SECTOR_BYTES - operation.position % SECTOR_BYTES
    edges = list(range(first, size, SECTOR_BYTES))
    if len(edges) > MOST_EDGES:
        middle, some = len(edges) // 2, MOST_EDGES // 3
        edges = edges[:some] + edges[middle : middle + some] + edges[-some:]
    return sorted({cut for cut in (*edges, size // 3, 2 * size // 3) if 0 < cut < size})


def _tears(index: int, operation: Operation) -> Iterator[Tear]:
    if operation.kind is not Kind.WRITE or not operation.data:
        return
    yield Tear(index, 0, Fill.GARBAGE)
    if not operation.data.strip(b"\0"):
        # Zeros ahead of the end: to lack some of them is to be shorter, or nothing.
        for cut in _cuts(operation)[::2]:
            yield Tear(index, cut, Fill.GARBAGE)
        return
    yield Tear(index, 0, Fill.ZEROS)
    for cut in _cuts(operation):
        for fill in Fill:
            yield Tear(index, cut, fill)
