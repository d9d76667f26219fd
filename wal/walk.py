"""Walking the batches of a segment, over whatever damage there is.

Where a batch is not valid, its own length is no guide to the next one. Two things are:
the index, which knows where batches began when it was written, and what the bytes behind
look like (`salvage`). The index is only a hint: a place that it names counts if a valid
batch with just that base offset stands there. As far as the index reaches, a flipped bit
therefore hides at most what lies before the index's next entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from seawall.wal.context import LogContext
from seawall.wal.errors import BatchInvalid, EnvironmentDamaged, ValueDamaged
from seawall.wal.files import Descriptor
from seawall.wal.index import Found
from seawall.wal.records import HEADER_BYTES, check_batch, parse_header
from seawall.wal.salvage import MOST_OFFSETS_PER_BYTE, find_batch
from seawall.wal.sectors import read_anyway, unreadable
from seawall.wal.segment import FoundBatch, Scan, ScanEnd, Scanned


class Gap(NamedTuple):
    """Bytes that are no valid batches, from `position` up to, not with, `end`.

    ``offset`` should have stood there; ``behind`` is the batch at ``end``, None if
    nothing valid follows. ``is_readable`` is False if the disk did not give back all of
    them. ``is_zero``: there are only zeros up to the limit.
    """

    position: int
    end: int
    offset: int
    behind: FoundBatch | None
    reason: str
    is_readable: bool
    is_zero: bool


class Walk:
    """The valid batches of a segment up to `limit`, and the gaps between them.

    Begins at `start`, or at the beginning. Afterwards ``result`` says where the last scan
    ended: at the limit, or where the last gap begins, behind which nothing is valid.
    """

    def __init__(
        self,
        context: LogContext,
        descriptor: Descriptor,
        segment: int,
        *,
        limit: int,
        start: Found | None = None,
    ) -> None:
        self._context = context
        self._descriptor = descriptor
        self._segment = segment
        self._limit = limit
        next_offset, position = start or (segment, 0)
        self.result = Scanned(ScanEnd.CLEAN, position, next_offset, "")

    def __iter__(self) -> Iterator[FoundBatch | Gap]:
        while True:
            scan = Scan(
                self._context.files,
                self._descriptor.number,
                position=self.result.position,
                limit=self._limit,
                next_offset=self.result.next_offset,
            )
            yield from scan
            self.result = scan.result
            if self.result.position >= self._limit:
                return
            gap = self._gap()
            yield gap
            if gap.behind is None:
                return
            # The scan begins with it, and so yields it.
            self.result = Scanned(ScanEnd.CLEAN, gap.end, gap.behind.header.base_offset, "")

    def _gap(self) -> Gap:
        end, position, offset, reason = self.result
        behind = None
        if end is not ScanEnd.CLEAN:
            behind = batch_behind(
                self._context,
                self._descriptor,
                self._segment,
                position=position,
                limit=self._limit,
                after_offset=offset,
            )
        gap_end = self._limit if behind is None else behind.position
        trouble = unreadable(self._context.files, self._descriptor.number, position, gap_end)
        return Gap(
            position=position,
            end=gap_end,
            offset=offset,
            behind=behind,
            reason=f"it cannot be read: {trouble}" if trouble else reason,
            is_readable=not trouble,
            is_zero=end is ScanEnd.CLEAN,
        )


def batch_behind(
    context: LogContext,
    descriptor: Descriptor,
    segment: int,
    *,
    position: int,
    limit: int,
    after_offset: int,
) -> FoundBatch | None:
    """The first valid batch behind damage at `position`, where `after_offset` should stand."""
    restart = _restart(context, descriptor, segment, position, limit, after_offset)
    if restart is None:
        return find_batch(
            context.files,
            descriptor.number,
            position=position,
            limit=limit,
            after_offset=after_offset,
        )
    before = find_batch(
        context.files,
        descriptor.number,
        position=position,
        limit=restart.position,
        after_offset=after_offset,
        before_offset=restart.header.base_offset,
    )
    return before or restart


def _restart(
    context: LogContext,
    descriptor: Descriptor,
    segment: int,
    position: int,
    limit: int,
    after_offset: int,
) -> FoundBatch | None:
    """The first place behind `position` that the index names rightly."""
    offset = after_offset
    while True:
        try:
            hint = context.index.first_after(context.partition_id, segment, offset)
        except (ValueDamaged, EnvironmentDamaged):
            return None
        if hint is None:
            return None
        offset, at = hint
        jump = offset - after_offset
        if position < at < limit and jump <= (at - position) * MOST_OFFSETS_PER_BYTE:
            try:
                prefix = read_anyway(context.files, descriptor.number, HEADER_BYTES, at)
                header = parse_header(prefix)
                if header.base_offset == offset and header.size_bytes <= limit - at:
                    batch = read_anyway(context.files, descriptor.number, header.size_bytes, at)
                    return FoundBatch(at, check_batch(batch, 0, len(batch)))
            except BatchInvalid:
                pass
