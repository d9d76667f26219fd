"""Reading everything below the durable end, and naming what is not valid.

Nothing is changed. Others may append, trim and read meanwhile: what has moved since it was
looked at is not damage.
"""

from __future__ import annotations

import bisect
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from seawall.wal.context import LogContext
from seawall.wal.ends import FENCED, EndsRow
from seawall.wal.files import Descriptor
from seawall.wal.lookup import readable_bytes
from seawall.wal.recovery import Verdict
from seawall.wal.sectors import unreadable
from seawall.wal.segment import Scan, list_segments
from seawall.wal.walk import Gap, Walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A stretch of a log that was durable and is not valid.

    ``position`` up to, not with, ``end`` are the bytes in the file ``path`` of
    ``segment``; ``offset`` up to, not with, ``next_offset`` what they held, None if that
    is not known. ``verdict`` is DAMAGE, UNREADABLE or MISSING.
    """

    verdict: Verdict
    segment: int
    path: str
    position: int
    end: int
    offset: int
    next_offset: int | None
    reason: str


def verify(context: LogContext) -> Iterator[Damage]:
    """Read everything below the durable end and yield what is not valid, in order."""
    row = context.row()
    bases = [base for base in list_segments(context.files, context.folder) if base <= row.segment]
    expected = row.log_start
    for at, base in enumerate(bases):
        after = bases[at + 1] if at + 1 < len(bases) else None
        if after is not None and after <= row.log_start:
            continue
        if base > expected and context.row().log_start < base:
            # Unless compaction has merged it with one before it, since the names were listed.
            expected = yield from _verify_merged(context, expected)
            if base > expected:
                yield _missing(context, expected, base, "the file is missing")
        try:
            descriptor = Descriptor(context.files, context.segment_path(base))
        except FileNotFoundError:
            continue  # dropped since the names were listed
        reached = yield from _verify_segment(context, descriptor, base, after)
        expected = max(expected, reached)
    if expected < row.durable_offset:
        yield _missing(context, expected, row.durable_offset, "what should follow is missing")
    yield from _verify_fenced(context, row)


def _verify_merged(context: LogContext, expected: int) -> Generator[Damage, None, int]:
    """Verify the segment that may hold `expected` now; give how far it reaches."""
    bases = list_segments(context.files, context.folder)
    at = bisect.bisect_right(bases, expected) - 1
    if at < 0:
        return expected
    try:
        descriptor = Descriptor(context.files, context.segment_path(bases[at]))
    except FileNotFoundError:
        return expected
    after = bases[at + 1] if at + 1 < len(bases) else None
    size = context.files.size(descriptor.number)
    scan = Scan(
        context.files,
        descriptor.number,
        position=0,
        limit=size,
        next_offset=bases[at],
        check_crc=False,
    )
    for _ in scan:
        pass
    if scan.result.next_offset <= expected:
        return expected
    return (yield from _verify_segment(context, descriptor, bases[at], after))


def _missing(context: LogContext, offset: int, next_offset: int, reason: str) -> Damage:
    return Damage(
        verdict=Verdict.MISSING,
        segment=offset,
        path=context.segment_path(offset),
        position=0,
        end=0,
        offset=offset,
        next_offset=next_offset,
        reason=reason,
    )


def _verify_segment(
    context: LogContext, descriptor: Descriptor, base: int, after: int | None
) -> Generator[Damage, None, int]:
    row = context.row()
    limit = readable_bytes(context, row, descriptor, base)
    walk = Walk(context, descriptor, base, limit=limit)
    for step in walk:
        if not isinstance(step, Gap):
            continue
        if step.offset == after:
            break  # the next segment's name ends this one, whatever is behind
        if step.behind is not None:
            next_offset = step.behind.header.base_offset
        else:
            next_offset = row.durable_offset if after is None else after
        yield Damage(
            verdict=Verdict.DAMAGE if step.is_readable else Verdict.UNREADABLE,
            segment=base,
            path=descriptor.path,
            position=step.position,
            end=step.end,
            offset=step.offset,
            next_offset=next_offset,
            reason=step.reason,
        )
        if step.behind is None:
            return next_offset
    return walk.result.next_offset


def _verify_fenced(context: LogContext, row: EndsRow) -> Iterator[Damage]:
    """What recovery has found unreadable behind the durable end, and would not cut off."""
    if not row.flags & FENCED:
        return
    try:
        descriptor = Descriptor(context.files, context.segment_path(row.segment))
    except FileNotFoundError:
        return
    size = context.files.size(descriptor.number)
    trouble = unreadable(context.files, descriptor.number, row.durable_position, size)
    if trouble:
        yield Damage(
            verdict=Verdict.UNREADABLE,
            segment=row.segment,
            path=descriptor.path,
            position=row.durable_position,
            end=size,
            offset=row.durable_offset,
            next_offset=None,
            reason=f"it cannot be read, so the partition takes no records: {trouble}",
        )
