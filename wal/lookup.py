"""Finding the batch that holds an offset, or the first record at or after a time.

The index brings the search near; the rest is scanning batch headers. The index is a
hint: a place that it names is believed only if a batch with that base offset stands
there, and otherwise the segment is scanned from its beginning.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterable
from typing import NamedTuple

from seawall.wal.context import LogContext
from seawall.wal.ends import EndsRow
from seawall.wal.errors import BatchInvalid, LogDamaged, RecordsUnreadable, ValueDamaged
from seawall.wal.files import Descriptor
from seawall.wal.index import NO_TIMESTAMP, Found
from seawall.wal.inventory import sealed_row
from seawall.wal.records import BatchHeader, check_batch, decode_batch
from seawall.wal.sectors import read_anyway
from seawall.wal.segment import FoundBatch, Scan, ScanEnd, list_segments
from seawall.wal.walk import Gap, Walk, batch_behind

LAST_TIMESTAMP = (1 << 63) - 1
# How often a search by time looks again because segments went while it did.
MOST_LOOKS = 4


class Location(NamedTuple):
    """Where a batch begins: the base offset that stands at `position` of `segment`."""

    segment: int
    position: int
    base_offset: int
    descriptor: Descriptor


class TimeFound(NamedTuple):
    """The first record at or after a time."""

    offset: int
    timestamp: int


def open_segment(context: LogContext, segment: int, offset: int) -> Descriptor:
    """Open a segment for reading; `offset` is what the reader wants from it."""
    try:
        return Descriptor(context.files, context.segment_path(segment))
    except FileNotFoundError:
        raise damage(context, segment, 0, offset, "the file is missing") from None


def damage(
    context: LogContext,
    segment: int,
    position: int,
    offset: int,
    reason: str,
    *,
    expected_offset: int | None = None,
) -> LogDamaged:
    """The error for a place where `offset` should be read and cannot be.

    `expected_offset` is what should have stood at `position`, if that is another one.
    The error says where reading can go on: at the next valid batch of the segment, else at the
    next segment, else at the durable end.
    """
    row = context.row()
    path = context.segment_path(segment)
    next_offset = None
    with contextlib.suppress(FileNotFoundError):
        descriptor = Descriptor(context.files, path)
        behind = batch_behind(
            context,
            descriptor,
            segment,
            position=position,
            limit=readable_bytes(context, row, descriptor, segment),
            after_offset=offset if expected_offset is None else expected_offset,
        )
        if behind is not None and behind.header.base_offset > offset:
            next_offset = behind.header.base_offset
    if next_offset is None:
        bases = list_segments(context.files, context.folder)
        later = bases[bisect.bisect_right(bases, offset) :]
        next_offset = min(later[0], row.durable_offset) if later else row.durable_offset
    return LogDamaged(
        path=path, position=position, offset=offset, next_offset=next_offset, reason=reason
    )


def readable_bytes(context: LogContext, row: EndsRow, descriptor: Descriptor, segment: int) -> int:
    """Up to which position a segment may be read: the durable end, or all of it."""
    size = context.files.size(descriptor.number)
    return min(size, row.durable_position) if segment == row.segment else size


def locate(context: LogContext, row: EndsRow, offset: int) -> Location:
    """The place of the batch that holds `offset`, or of the first one behind it in its
    segment if there is a hole.

    `offset` is at or above the log start and below the durable end. Raises `LogDamaged`
    if what held it is gone.
    """
    bases = list_segments(context.files, context.folder)
    at = bisect.bisect_right(bases, offset) - 1
    if at < 0:
        return Location(offset, 0, offset, open_segment(context, row.log_start, offset))
    segment = bases[at]
    descriptor = open_segment(context, segment, offset)
    limit = readable_bytes(context, row, descriptor, segment)
    found = None
    hint = _hint(context, segment, offset)
    if hint is not None and 0 < hint.position < limit:
        found = _walk(context, descriptor, hint, limit, offset)
    if found is None:
        found = _walk(context, descriptor, Found(segment, 0), limit, offset)
    if found is None:
        found = _walk_over_damage(context, descriptor, segment, limit, offset)
    return Location(segment, found.position, found.offset, descriptor)


def _hint(context: LogContext, segment: int, offset: int) -> Found | None:
    try:
        return context.index.at_or_before(context.partition_id, segment, offset)
    except ValueDamaged:
        return None


def _walk(
    context: LogContext, descriptor: Descriptor, start: Found, limit: int, offset: int
) -> Found | None:
    """Walk the headers from `start` to the batch that holds `offset`; None on any doubt."""
    scan = Scan(
        context.files,
        descriptor.number,
        position=start.position,
        limit=limit,
        next_offset=start.offset,
        check_crc=False,
    )
    for position, header in scan:
        if header.next_offset > offset:
            # A damaged header may seem to hold offsets that are another batch's.
            if _read_batch(context, descriptor, position, header) is None:
                return None
            return Found(header.base_offset, position)
    return None


def _read_batch(
    context: LogContext, descriptor: Descriptor, position: int, header: BatchHeader
) -> bytes | None:
    """The bytes of a batch, None if they are not valid."""
    batch = read_anyway(context.files, descriptor.number, header.size_bytes, position)
    try:
        check_batch(batch, 0, len(batch))
    except BatchInvalid:
        return None
    return batch


def _walk_over_damage(
    context: LogContext, descriptor: Descriptor, segment: int, limit: int, offset: int
) -> Found:
    """Walk the valid batches of a segment to the one that holds `offset`."""
    walk = Walk(context, descriptor, segment, limit=limit)
    reason = "the file ends too early"
    for step in walk:
        if isinstance(step, Gap):
            if step.behind is None or step.behind.header.base_offset > offset:
                reason = step.reason
                break
        elif step.header.next_offset > offset:
            return Found(step.header.base_offset, step.position)
    raise damage(
        context,
        segment,
        walk.result.position,
        offset,
        reason,
        expected_offset=walk.result.next_offset,
    )


def offset_for_time(context: LogContext, timestamp_ms: int) -> TimeFound | None:
    """The first record whose timestamp is at or after `timestamp_ms`.

    First by offset, as in Kafka's ListOffsets; None if there is none below the durable
    end. Batches that cannot be read are passed over.
    """
    if timestamp_ms > LAST_TIMESTAMP:
        return None
    timestamp_ms = max(timestamp_ms, NO_TIMESTAMP)
    for look in range(MOST_LOOKS):
        with contextlib.suppress(_Moved):
            return _offset_for_time(context, timestamp_ms, is_last=look + 1 == MOST_LOOKS)
    return None


class _Moved(Exception):
    """A segment is gone that was there just now. It may have become part of another one."""


def _offset_for_time(context: LogContext, timestamp_ms: int, *, is_last: bool) -> TimeFound | None:
    row = context.row()
    bases = list_segments(context.files, context.folder)
    first = max(0, bisect.bisect_right(bases, row.log_start) - 1)
    ends = [*bases[first + 1 :], row.segment]
    for segment, after in zip(bases[first:], ends, strict=False):
        if segment >= row.durable_offset:
            break
        try:
            hint = context.index.before_time(context.partition_id, segment, timestamp_ms)
        except ValueDamaged:
            hint = None
        sealed = sealed_row(context, segment, after)
        if sealed is not None and sealed.max_timestamp < timestamp_ms:
            continue
        try:
            descriptor = open_segment(context, segment, segment)
        except LogDamaged:
            if not is_last:
                raise _Moved from None
            continue  # lost
        limit = readable_bytes(context, row, descriptor, segment)
        search = _TimeSearch(context, row, descriptor, segment, limit, timestamp_ms)
        found = search.run(hint)
        if found is not None:
            return found
    return None


class _TimeSearch:
    """Looks for the first record at or after a time in one segment."""

    def __init__(
        self,
        context: LogContext,
        row: EndsRow,
        descriptor: Descriptor,
        segment: int,
        limit: int,
        timestamp_ms: int,
    ) -> None:
        self._context = context
        self._row = row
        self._descriptor = descriptor
        self._segment = segment
        self._limit = limit
        self._timestamp_ms = timestamp_ms

    def run(self, hint: Found | None) -> TimeFound | None:
        """From `hint`, if batches follow one another from there; else over any damage."""
        beginning = Found(self._segment, 0)
        for start in (hint or beginning, beginning):
            if start.position < self._limit:
                scan = Scan(
                    self._context.files,
                    self._descriptor.number,
                    position=start.position,
                    limit=self._limit,
                    next_offset=start.offset,
                    check_crc=False,
                )
                found = self._first_in(scan)
                if found is not None or scan.result.end is ScanEnd.CLEAN:
                    return found
        walk = Walk(self._context, self._descriptor, self._segment, limit=self._limit)
        return self._first_in(step for step in walk if not isinstance(step, Gap))

    def _first_in(self, batches: Iterable[FoundBatch]) -> TimeFound | None:
        for position, header in batches:
            if (
                header.max_timestamp >= self._timestamp_ms
                and header.next_offset > self._row.log_start
            ):
                found = self._first_in_batch(position, header)
                if found is not None:
                    return found
        return None

    def _first_in_batch(self, position: int, header: BatchHeader) -> TimeFound | None:
        batch = _read_batch(self._context, self._descriptor, position, header)
        if batch is None:
            return None
        try:
            records = decode_batch(batch, 0, "", 0, min_offset=self._row.log_start)
        except RecordsUnreadable:
            return None
        for record in records:
            if record.timestamp >= self._timestamp_ms:
                return TimeFound(record.offset, record.timestamp)
        return None
