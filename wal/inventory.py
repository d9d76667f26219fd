"""What segments a log has: their offsets and sizes, and how new what is in them is.

For whoever decides which of them may go. A segment that another process removes in the
meantime is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

from seawall.wal.context import LogContext
from seawall.wal.errors import ValueDamaged
from seawall.wal.files import Descriptor
from seawall.wal.index import NO_TIMESTAMP, Sealed
from seawall.wal.segment import Scan, ScanEnd, list_segments

NEWEST = (1 << 63) - 1


class SegmentInfo(NamedTuple):
    """One segment. ``begun_ms`` is known of the active one only, else 0.

    ``end_offset`` is the offset behind its last record. The active segment counts as
    durable if everything that was appended to it is.
    """

    base_offset: int
    end_offset: int
    size_bytes: int
    is_active: bool = False
    is_durable: bool = True
    begun_ms: int = 0


def inventory(context: LogContext) -> list[SegmentInfo]:
    """The segments of a log, in order; the last one is the active one, unless it has no
    file yet. Raises `LogGone`, `OSError`."""
    row = context.row()
    bases = [each for each in list_segments(context.files, context.folder) if each < row.segment]
    found = []
    for base, end in itertools.pairwise([*bases, row.segment]):
        size = context.files.path_size(context.segment_path(base))
        if size is not None:
            found.append(SegmentInfo(base, end, size))
    if row.position:
        found.append(
            SegmentInfo(
                row.segment,
                row.next_offset,
                row.position,
                is_active=True,
                is_durable=row.next_offset == row.durable_offset,
                begun_ms=row.created_ms,
            )
        )
    return found


def newest_ms(
    context: LogContext, segment: SegmentInfo, spend: Callable[[int], object] = lambda _: None
) -> int:
    """The greatest timestamp in a segment, in ms since the epoch.

    That of a segment without any is when its file was last written, as Kafka has it. Most
    are known to the index; `spend` is called with the bytes that have to be read for others.
    Bytes that are not valid may hide a timestamp, so then the file's time counts as well.
    """
    try:
        return _newest_ms(context, segment, spend)
    except FileNotFoundError:
        return NEWEST  # another process has removed it, or it is lost: nothing is known


def _newest_ms(context: LogContext, segment: SegmentInfo, spend: Callable[[int], object]) -> int:
    path = context.segment_path(segment.base_offset)
    greatest, is_whole = _indexed_ms(context, segment), True
    if greatest is None:
        spend(segment.size_bytes)
        descriptor = Descriptor(context.files, path)
        scan = Scan(
            context.files,
            descriptor.number,
            position=0,
            limit=segment.size_bytes,
            next_offset=segment.base_offset,
            check_crc=False,
        )
        greatest = max(
            (header.max_timestamp for _, header in scan if header.record_count),
            default=NO_TIMESTAMP,
        )
        is_whole = scan.result.end is ScanEnd.CLEAN
    if greatest < 0 or not is_whole:
        greatest = max(greatest, context.files.modified_ms(path))
    return greatest


def _indexed_ms(context: LogContext, segment: SegmentInfo) -> int | None:
    sealed = sealed_row(context, segment.base_offset, segment.end_offset)
    return None if sealed is None else sealed.max_timestamp


def sealed_row(context: LogContext, segment: int, end_offset: int) -> Sealed | None:
    """What the index knows of a sealed segment, if it is of the file that stands there now.

    An index that is older than the file (it may have been copied) says another length, or
    another end.
    """
    try:
        sealed = context.index.sealed(context.partition_id, segment)
    except ValueDamaged:
        return None
    if sealed is None or sealed.end_offset != end_offset:
        return None
    size_bytes = context.files.path_size(context.segment_path(segment))
    return sealed if size_bytes == sealed.size_bytes else None
