"""Where to go on: what the target holds beyond the checkpoint is compared with the source.

A mirror that is killed leaves records in the target that no checkpoint speaks of yet. They are
the first ones behind the checkpoint, in order, because that is how they were sent. Each is
compared with the source's record and taken for copied if it is the same; anything else was not
written by the mirror.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from seawall.broker.config import COMPACT
from seawall.broker.errors import ForeignRecord, MirrorConflict
from seawall.broker.mirror_checkpoint import Checkpoint, OffsetMap
from seawall.broker.mirror_copy import durable_end
from seawall.broker.mirror_read import Side, difference, read

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker
    from seawall.broker.topic_info import TopicInfo
    from seawall.wal.records import Record


class Resumed(NamedTuple):
    """Copying goes on at these offsets. ``lost``: so many offsets went from the source before
    they were copied. ``found``: so many records were beyond the checkpoint."""

    checkpoint: Checkpoint
    source_next: int
    target_end: int
    lost: int
    found: int


def resume(
    source: AnyBroker,
    target: AnyBroker,
    topics: tuple[TopicInfo, TopicInfo],
    partition: int,
    checkpoint: Checkpoint | None,
    *,
    keeps_offsets: bool,
) -> Resumed:
    """Where copying a partition goes on. Raises `ForeignRecord` and `MirrorConflict`.

    `topics`: the topic at the source and at the target.
    """
    here, there = topics
    name = here.name
    source_ends = source.ends(name, partition)
    ids = str(here.uuid), str(there.uuid)
    target_end = durable_end(target, (name, partition))
    if checkpoint is None or (checkpoint.source, checkpoint.target) != ids:
        if target_end == 0:
            first = source_ends.log_start, source_ends.log_start if keeps_offsets else 0
        else:
            target_start = target.ends(name, partition).log_start
            first = (target_start if keeps_offsets else source_ends.log_start), target_start
        checkpoint = Checkpoint(*ids, OffsetMap([first]))
    source_next, target_next = checkpoint.mapping.last
    is_new = len(checkpoint.mapping.pairs) == 1 and target_end == 0  # not even its first hole
    if target_end < target_next and not is_new:
        raise MirrorConflict(
            topic=name,
            reason=f"partition {partition} of topic {name!r} ends at offset {target_end} at the "
            f"target, but was copied up to {target_next} already: the target has lost records; "
            "delete the topic there to copy it anew",
        )
    if source_ends.durable_end < source_next:
        raise MirrorConflict(
            topic=name,
            reason=f"partition {partition} of topic {name!r} ends at offset "
            f"{source_ends.durable_end} at the source, but was copied up to {source_next} "
            "already: the source has lost records; delete the topic at the target to copy it anew",
        )
    # What the source has removed since cannot be compared. Its offsets ran on one by one.
    removed = max(0, source_ends.log_start - source_next)
    uncompared = min(removed, max(0, target_end - target_next))
    at = source_next + removed, target_next + uncompared
    if at[1] < target_end:
        sides = Side(source, name, partition), Side(target, name, partition)
        compacts, may_lose = (
            COMPACT in each.in_force.get("cleanup.policy", "") for each in (here, there)
        )
        ends = target_end, source_ends.durable_end
        tail = _Tail(*sides, *at, *ends, target.is_remote, may_lose)
        if keeps_offsets:
            going_on = tail.by_offset(may_lack=compacts)
        elif compacts:
            going_on = tail.by_order()
        else:
            going_on = tail.by_count()
    else:
        going_on = at[0]
    if not keeps_offsets:
        checkpoint.mapping.add(going_on, target_end)
    elif target_end > target_next:  # a hole follows if copying goes on behind it
        checkpoint.mapping.add(target_end, target_end)
    return Resumed(
        checkpoint, going_on, target_end, removed - uncompared, max(0, target_end - target_next)
    )


class _Tail(NamedTuple):
    """What the target holds from `target_next` to `target_end`, and the source behind
    `source_next`. Each method gives the source's offset behind what was copied."""

    source: Side
    target: Side
    source_next: int
    target_next: int
    target_end: int
    source_end: int
    may_round: bool
    target_compacts: bool

    def _copied(self) -> Iterator[Record]:
        return read(self.target, self.target_next, self.target_end)

    def by_offset(self, *, may_lack: bool) -> int:
        """Both sides have the same offsets. `may_lack`: the source may have lost some since."""
        if self.target_end > self.source_end:
            raise self._foreign(self.source_end, None, "the source ends before")
        originals = read(self.source, self.source_next, self.target_end)
        original = next(originals, None)
        for copied in self._copied():
            while original is not None and original.offset < copied.offset:
                self._check_removed(original.offset)
                original = next(originals, None)
            if original is None or original.offset > copied.offset:
                if not may_lack and copied.offset >= self._source_start():
                    raise self._foreign(copied.offset, None, "the source has no record there")
                continue
            self._check(original, copied)
            original = next(originals, None)
        if original is not None:
            self._check_removed(original.offset)
        return self.target_end

    def by_count(self) -> int:
        """The n-th record here is the n-th there; the target's own settings may have removed
        some, which its offsets tell."""
        originals = read(self.source, self.source_next, self.source_end)
        expected, going_on = self.target_next, self.source_next
        for copied in self._copied():
            passed = copied.offset - expected + 1
            if passed > 1:
                self._check_removed(copied.offset - 1)
            expected += passed
            original = next(islice(originals, passed - 1, None), None)
            if original is None:
                raise self._foreign(copied.offset, None, "the source has no more records")
            self._check(original, copied)
            going_on = original.offset + 1
        if expected < self.target_end:
            self._check_removed(self.target_end - 1)
        for original in islice(originals, self.target_end - expected):
            going_on = original.offset + 1
        return going_on

    def by_order(self) -> int:
        """Either side may have been compacted since: what both have is in the same order."""
        count = self.target_end - self.target_next
        originals = list(islice(read(self.source, self.source_next, self.source_end), count))
        at = 0
        for copied in self._copied():
            for number in range(at, len(originals)):
                if not difference(originals[number], copied, may_round=self.may_round):
                    at = number + 1
                    break
            else:
                if all(each.key != copied.key for each in originals[at:]) and not self._is_later(
                    copied
                ):
                    raise self._foreign(copied.offset, None, "the source knows no such key")
        return originals[at - 1].offset + 1 if at else self.source_next

    def _is_later(self, copied: Record) -> bool:
        """Whether a key has a newer value at the source, which took the old one's place."""
        rest = read(self.source, self.source_next, self.source_end)
        return any(each.key == copied.key for each in rest)

    def _check(self, original: Record, copied: Record) -> None:
        differs = difference(original, copied, may_round=self.may_round)
        if differs:
            raise self._foreign(copied.offset, original.offset, f"{differs} (source / target)")

    def _check_removed(self, offset: int) -> None:
        """The target has no record there. Its own settings may have removed that; else it was
        lost, as what was not durable yet may be when the power fails, and can't be put back."""
        name, partition = self.target.topic, self.target.partition
        if self.target_compacts or offset < self.target.broker.ends(name, partition).log_start:
            return
        raise MirrorConflict(
            topic=name,
            reason=f"partition {partition} of topic {name!r} has no record at offset {offset} at "
            "the target, where one of the source's should be: the target has lost records; "
            "delete the topic there to copy it anew",
        )

    def _source_start(self) -> int:
        return self.source.broker.ends(self.source.topic, self.source.partition).log_start

    def _foreign(self, offset: int, source_offset: int | None, reason: str) -> ForeignRecord:
        return ForeignRecord(
            topic=self.target.topic,
            partition=self.target.partition,
            offset=offset,
            source_offset=source_offset,
            reason=reason,
        )
