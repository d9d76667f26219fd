"""Comparing both sides, record by record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from seawall.broker.config import COMPACT
from seawall.broker.mirror_read import PROVENANCE_PREFIX, Side, difference, read

if TYPE_CHECKING:
    from seawall.broker.mirror_checkpoint import OffsetMap, Pair
    from seawall.wal.records import Record


# After so many records it is said how far it is.
COUNT_RECORDS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first difference of a partition. An offset is None where that side has no record."""

    topic: str
    partition: int
    source_offset: int | None
    target_offset: int | None
    what: str

    def __str__(self) -> str:
        offsets = "/".join(
            "-" if each is None else str(each) for each in (self.source_offset, self.target_offset)
        )
        return f"{self.topic}/{self.partition} offset {offsets}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How a comparison ended. ``removed``: offsets that the source has, but the target has
    removed by its own settings, or the other way round, and that were not compared."""

    records: int
    removed: int
    difference: Difference | None


def compare(
    source: Side,
    target: Side,
    mapping: OffsetMap,
    stops: Pair,
    *,
    is_compacted: bool,
    keeps_offsets: bool,
    on_count: Callable[[int], object] = lambda count: None,
) -> Compared:
    """Compare a partition up to `stops`, an offset of the source and one of the target.

    `on_count` hears now and then how many records of the source were read, and may raise.

    With `is_compacted` either side may lack what has a newer value: then the last values of
    the keys are compared.
    """
    source_stop, target_stop = stops
    source_first, target_first, removed = _aligned(source, target, mapping, source_stop)
    originals = _counted(read(source, source_first, source_stop), on_count)
    copies = read(target, target_first, target_stop)
    may_round = target.broker.is_remote
    if is_compacted:
        return _compare_keys(source, target, originals, copies, may_round, removed)
    count = 0
    while True:
        original, copied = next(originals, None), next(copies, None)
        if original is None and copied is None:
            return Compared(records=count, removed=removed, difference=None)
        if original is None:
            what = "the source has no such record"
        elif copied is None:
            what = "the target has no such record"
        else:
            what = difference(original, copied, may_round=may_round)
            if keeps_offsets and original.offset != copied.offset:
                what = ", ".join(filter(None, ("the offsets are not the same", what)))
        if what:
            return Compared(
                records=count,
                removed=removed,
                difference=Difference(
                    topic=source.topic,
                    partition=source.partition,
                    source_offset=None if original is None else original.offset,
                    target_offset=None if copied is None else copied.offset,
                    what=what,
                ),
            )
        count += 1


def _counted(records: Iterator[Record], on_count: Callable[[int], object]) -> Iterator[Record]:
    for count, record in enumerate(records, 1):
        if count % COUNT_RECORDS == 0:
            on_count(count)
        yield record


def _aligned(
    source: Side, target: Side, mapping: OffsetMap, source_stop: int
) -> tuple[int, int, int]:
    """Offsets of both sides that belong together, the first that both still have; and how
    many are left out."""
    first: Pair = mapping.pairs[0]
    source_start = source.broker.ends(source.topic, source.partition).log_start
    target_start = target.broker.ends(target.topic, target.partition).log_start
    source_at, target_at = first
    if source_start > source_at:
        target_at = mapping.translate(
            source_start,
            lambda begin, stop: sum(1 for _ in read(source, begin, stop)),
            log_start=source_start,
        )
        source_at = source_start
    if target_start > target_at:
        pair = mapping.copied_before(target_start)
        source_at = max(pair[0], source_at)
        behind = target_start - max(pair[1], target_at)
        for record in islice(read(source, source_at, source_stop), behind):
            source_at = record.offset + 1
        target_at = target_start
    return source_at, target_at, max(0, source_at - first[0])


def _compare_keys(
    source: Side,
    target: Side,
    originals: Iterator[Record],
    copies: Iterator[Record],
    may_round: bool,
    removed: int,
) -> Compared:
    """The last value of each key; a key that was deleted counts as not there."""
    wanted, found = _last_values(originals, may_round), _last_values(copies, may_round)
    differing = sorted(
        (
            key
            for key in wanted.keys() | found.keys()
            if _digest(wanted, key) != _digest(found, key)
        ),
        key=lambda key: (wanted.get(key) or found[key])[0],
    )
    at = None
    if differing:
        original, copied = wanted.get(differing[0]), found.get(differing[0])
        at = Difference(
            topic=source.topic,
            partition=target.partition,
            source_offset=original and original[0],
            target_offset=copied and copied[0],
            what=f"the last value of key {differing[0]!r} is not the same",
        )
    return Compared(records=len(wanted), removed=removed, difference=at)


Last = dict[bytes, tuple[int, bytes]]


def _last_values(records: Iterator[Record], may_round: bool) -> Last:
    last: Last = {}
    for record in records:
        if record.key is None:
            continue
        if record.value is None:
            last.pop(record.key, None)
            continue
        timestamp = max(record.timestamp, 1) if may_round else record.timestamp
        headers = [each for each in record.headers if not each[0].startswith(PROVENANCE_PREFIX)]
        text = repr((record.value, timestamp, headers)).encode()
        last[record.key] = record.offset, hashlib.sha256(text).digest()
    return last


def _digest(last: Last, key: bytes) -> bytes | None:
    return last[key][1] if key in last else None


def is_compacted(*policies: str) -> bool:
    """Whether one of these values of ``cleanup.policy`` compacts by key."""
    return any(COMPACT in each for each in policies)
