"""Finding the batch that holds an offset, or the first record at or after a time.

The index brings the search near; the rest is scanning batch headers. The index is a
hint: a place that it names is believed only if a batch with that base offset stands
there, and otherwise the segment is scanned from its beginning.
"""

from __future__ import annotations

import bisect
from typing import NamedTuple

from seawall.wal.context import LogContext
from seawall.wal.ends import EndsRow
from seawall.wal.errors import LogDamaged, RecordsUnreadable, ValueDamaged
from seawall.wal.files import Descriptor, read_fully
from seawall.wal.index import Found
from seawall.wal.records import BatchHeader, decode_batch
from seawall.wal.segment import Scan, find_batch, list_segments


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
    path = context.segment_path(segment)
    try:
        return Descriptor(context.files, path)
    except FileNotFoundError:
        raise LogDamaged(
            path=path, position=0, offset=offset, reason="the file is missing"
        ) from None


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
    hint = _hint(context, segment, offset)
    if hint is not None and 0 < hint.position < limit:
        found = _walk(context, descriptor, hint, limit, offset)
        if isinstance(found, Found):
            return Location(segment, found.position, found.offset, descriptor)
    found = _walk(context, descriptor, Found(segment, 0), limit, offset)
    if isinstance(found, LogDamaged):
        raise found
    return Location(segment, found.position, found.offset, descriptor)


def _hint(context: LogContext, segment: int, offset: int) -> Found | None:
    try:
        return context.index.at_or_before(context.partition_id, segment, offset)
    except ValueDamaged:
        return None


def _walk(
    context: LogContext, descriptor: Descriptor, start: Found, limit: int, offset: int
) -> Found | LogDamaged:
    """Walk the batches from `start` to the one that holds `offset`, over any damage."""
    position, next_offset = start.position, start.offset
    while True:
        scan = Scan(
            context.files,
            descriptor.number,
            position=position,
            limit=limit,
            next_offset=next_offset,
            check_crc=False,
        )
        for found_position, header in scan:
            if header.next_offset > offset:
                return Found(header.base_offset, found_position)
        result = scan.result
        damaged = LogDamaged(
            path=descriptor.path,
            position=result.position,
            offset=offset,
            reason=result.reason or "the file ends too early",
        )
        if result.position >= limit:
            return damaged
        behind = find_batch(
            context.files,
            descriptor.number,
            position=result.position,
            limit=limit,
            after_offset=result.next_offset,
        )
        if behind is None or behind.header.base_offset > offset:
            return damaged
        position, next_offset = behind.position, behind.header.base_offset


def offset_for_time(context: LogContext, timestamp_ms: int) -> TimeFound | None:
    """The first record whose timestamp is at or after `timestamp_ms`.

    First by offset, as in Kafka's ListOffsets; None if there is none below the durable
    end. Batches that cannot be read are passed over.
    """
    row = context.row()
    bases = list_segments(context.files, context.folder)
    first = max(0, bisect.bisect_right(bases, row.log_start) - 1)
    for segment in bases[first:]:
        if segment >= row.durable_offset:
            break
        try:
            sealed = context.index.sealed(context.partition_id, segment)
            hint = context.index.before_time(context.partition_id, segment, timestamp_ms)
        except ValueDamaged:
            sealed = hint = None
        if sealed is not None and sealed.max_timestamp < timestamp_ms:
            continue
        descriptor = open_segment(context, segment, segment)
        limit = readable_bytes(context, row, descriptor, segment)
        for start in (hint, Found(segment, 0)):
            if start is None or start.position >= limit:
                continue
            found, scanned = _first_in_segment(
                context, row, descriptor, start, limit, timestamp_ms
            )
            if found is not None:
                return found
            if scanned:
                break
    return None


def _first_in_segment(
    context: LogContext,
    row: EndsRow,
    descriptor: Descriptor,
    start: Found,
    limit: int,
    timestamp_ms: int,
) -> tuple[TimeFound | None, bool]:
    """The record, and whether any batch stood at `start` at all."""
    scanned = False
    scan = Scan(
        context.files,
        descriptor.number,
        position=start.position,
        limit=limit,
        next_offset=start.offset,
        check_crc=False,
    )
    for position, header in scan:
        scanned = True
        if header.max_timestamp >= timestamp_ms and header.next_offset > row.log_start:
            found = _first_in_batch(context, row, descriptor, position, header, timestamp_ms)
            if found is not None:
                return found, True
    return None, scanned


def _first_in_batch(
    context: LogContext,
    row: EndsRow,
    descriptor: Descriptor,
    position: int,
    header: BatchHeader,
    timestamp_ms: int,
) -> TimeFound | None:
    batch = read_fully(context.files, descriptor.number, header.size_bytes, position)
    try:
        records = decode_batch(batch, 0, "", 0, min_offset=row.log_start)
    except RecordsUnreadable:
        return None
    for record in records:
        if record.timestamp >= timestamp_ms:
            return TimeFound(record.offset, record.timestamp)
    return None
