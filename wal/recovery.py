"""Finding out where a log ends when ``run/ends`` cannot say, and mending what may be.

Only the sole opener of a directory does this. Rolling syncs a segment before the next
one exists, so all segments but the newest are as they were acknowledged, and only the
newest one is judged. The *floor* is the offset below which everything was durable: the
greatest of the checkpoint, the log start, what any group has committed, and the name of
the newest segment. Scanning begins at the checkpoint. The verdicts::

    at this position         below the floor     above, a valid batch    above, nothing
                                                  follows                 valid follows
    a valid batch            KEEP                KEEP                    KEEP
    anything else            DAMAGE: left as it  HOLE: un-synced writes  TORN: copied to
                             is; readers stop    arrived out of order;   quarantine and
                             there, appends go   an empty batch takes    cut off
                             on                  the place of the gap

A hole moves what is behind it, so the segment is written anew beside the old one,
synced, and put in its place. The same is done when the bytes in the cache may never
have reached the disk (a sync failed, or nothing tells whether the machine was booted
since): a file that is written anew and synced is certain.

The next offset is the end of the scan or the floor, whichever is greater; if the scan
ended below the floor, appends go on in a new segment that is named by it.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field

from seawall.wal.context import LogContext
from seawall.wal.ends import EndsRow
from seawall.wal.errors import ValueDamaged
from seawall.wal.files import (
    CREATE,
    READ_WRITE,
    TRUNCATE,
    Descriptor,
    make_directory,
    read_fully,
    remove_file,
    write_fully,
)
from seawall.wal.index import Checkpoint
from seawall.wal.quarantine import BLOCK_BYTES, Quarantine
from seawall.wal.records import HEADER_BYTES, empty_batch
from seawall.wal.segment import Scan, ScanEnd, find_batch, list_segments

ASIDE_SUFFIX = ".rewrite"
# last_offset_delta is a signed 32-bit field, so a longer hole takes several batches.
MOST_OFFSETS_PER_HOLE = 1 << 31


class Verdict(enum.Enum):
    """What recovery decided about bytes that are not a valid batch."""

    DAMAGE = "damage"
    HOLE = "hole"
    TORN = "torn tail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One stretch of a segment that was not valid, and what became of it.

    ``offset`` up to, not with, ``next_offset`` are the offsets that it held; of a torn
    tail how many is not known, and both are equal.
    """

    verdict: Verdict
    path: str
    position: int
    end: int
    offset: int
    next_offset: int
    reason: str
    quarantined: str | None = None


@dataclass(slots=True)
class Recovered:
    """Where the log ends now, and what had to be decided."""

    row: EndsRow
    findings: list[Finding] = field(default_factory=list)


def recover(
    context: LogContext,
    quarantine: Quarantine,
    *,
    log_start: int,
    floor: int,
    cache_is_certain: bool,
) -> Recovered:
    """Judge the newest segment of a log, mend it, and say where the log ends.

    `floor` is what the caller knows to have been durable (committed offsets, a durable
    end that was published). With `cache_is_certain` false the newest segment is written
    anew. Raises `OSError` if the disk fails; it may then be called again.
    """
    files = context.files
    make_directory(files, context.folder)
    _remove_asides(context)
    try:
        checkpoint = context.index.checkpoint(context.partition_id)
    except ValueDamaged:
        checkpoint = None  # the index is a cache: without it more is scanned
    floor = max(floor, log_start, checkpoint.offset if checkpoint else 0)
    bases = list_segments(files, context.folder)
    if not bases or (checkpoint is not None and bases[-1] < checkpoint.segment):
        # Without any file and with floor 0 the log is simply new.
        row = _new_segment(context, log_start, max(floor, bases[-1] if bases else 0))
        missing = [] if floor == log_start else [_missing(context, bases, log_start, floor)]
        return Recovered(row, missing)
    return _Judge(context, quarantine, bases[-1], max(floor, bases[-1]), log_start).run(
        checkpoint, cache_is_certain
    )


def caught_up(context: LogContext, row: EndsRow) -> EndsRow | None:
    """A row of this boot as it is true of the newest segment; None: `recover` must judge.

    Usually that is the row itself, after a look at 61 bytes. Whole batches may stand right
    behind its end: their writer died before it wrote its row, or the file system was lost
    and mounted again without a boot (a disk that was pulled out, a forced unmount) and the
    row is older than the log. That cannot be told apart, so the row that is returned has
    them, not yet durable; otherwise the next append would overwrite what may have been
    acknowledged.
    """
    files = context.files
    bases = list_segments(files, context.folder)
    if not bases or bases[-1] < row.segment:
        return row if row.position == 0 else None
    if bases[-1] > row.segment:
        return None
    descriptor = Descriptor(files, context.segment_path(row.segment))
    size = files.size(descriptor.number)
    if size < row.position:
        return None
    if not files.pread(descriptor.number, HEADER_BYTES, row.position).strip(b"\0"):
        return row
    scan = Scan(
        files,
        descriptor.number,
        position=row.position,
        limit=size,
        next_offset=row.next_offset,
    )
    for _ in scan:
        pass
    return row.appended(scan.result.next_offset, scan.result.position)


class _Judge:
    """Works through one segment and applies the table above."""

    def __init__(
        self,
        context: LogContext,
        quarantine: Quarantine,
        segment: int,
        floor: int,
        log_start: int,
    ) -> None:
        self._context = context
        self._files = context.files
        self._quarantine = quarantine
        self._segment = segment
        self._floor = floor
        self._log_start = log_start
        self._descriptor = Descriptor(context.files, context.segment_path(segment), READ_WRITE)
        self._size = context.files.size(self._descriptor.number)
        self._findings: list[Finding] = []

    def run(self, checkpoint: Checkpoint | None, cache_is_certain: bool) -> Recovered:
        position, offset = self._start(checkpoint)
        while True:
            scan = self._scan(position, offset)
            for _ in scan:
                pass
            end = scan.result
            behind = None
            if end.position < self._size and end.end is not ScanEnd.CLEAN:
                behind = find_batch(
                    self._files,
                    self._descriptor.number,
                    position=end.position,
                    limit=self._size,
                    after_offset=end.next_offset,
                )
            if behind is None:
                break
            position, offset = behind.position, behind.header.base_offset
            verdict = Verdict.DAMAGE if end.next_offset < self._floor else Verdict.HOLE
            self._find(verdict, end.position, position, end.next_offset, offset, end.reason)
        if end.end is ScanEnd.CLEAN and end.next_offset < self._floor:
            self._find(
                Verdict.DAMAGE,
                end.position,
                self._size,
                end.next_offset,
                self._floor,
                "the segment ends too early",
            )
        elif end.end is not ScanEnd.CLEAN:
            if end.next_offset < self._floor:
                verdict, last = Verdict.DAMAGE, self._floor
            else:
                verdict, last = Verdict.TORN, end.next_offset
            self._find(verdict, end.position, self._size, end.next_offset, last, end.reason)
        return self._mend(end.position, end.next_offset, cache_is_certain)

    def _start(self, checkpoint: Checkpoint | None) -> tuple[int, int]:
        """Where to begin: at the checkpoint, if a batch is seen to end just there."""
        beginning = (0, self._segment)
        if checkpoint is None or checkpoint.segment != self._segment:
            return beginning
        if not 0 < checkpoint.position <= self._size:
            return beginning
        try:
            before = self._context.index.at_or_before(
                self._context.partition_id, self._segment, checkpoint.offset - 1
            )
        except ValueDamaged:
            return beginning
        position, offset = (before.position, before.offset) if before else beginning
        scan = Scan(
            self._files,
            self._descriptor.number,
            position=position,
            limit=checkpoint.position,
            next_offset=offset,
        )
        for _ in scan:
            pass
        if scan.result[:3] == (ScanEnd.CLEAN, checkpoint.position, checkpoint.offset):
            return checkpoint.position, checkpoint.offset
        return beginning

    def _scan(self, position: int, offset: int) -> Scan:
        return Scan(
            self._files,
            self._descriptor.number,
            position=position,
            limit=self._size,
            next_offset=offset,
        )

    def _find(
        self,
        verdict: Verdict,
        position: int,
        end: int,
        offset: int,
        next_offset: int,
        reason: str,
    ) -> None:
        quarantined = None
        if verdict is not Verdict.DAMAGE:
            quarantined = self._quarantine.keep(
                self._descriptor.number,
                folder=self._context.folder,
                segment=self._segment,
                position=position,
                end=end,
                now_ms=self._context.now_ms(),
            )
        self._findings.append(
            Finding(
                verdict=verdict,
                path=self._descriptor.path,
                position=position,
                end=end,
                offset=offset,
                next_offset=next_offset,
                reason=reason,
                quarantined=quarantined,
            )
        )

    def _mend(self, position: int, next_offset: int, cache_is_certain: bool) -> Recovered:
        holes = [each for each in self._findings if each.verdict is Verdict.HOLE]
        below_floor = next_offset < self._floor
        end = self._size if below_floor else position
        if holes or not cache_is_certain:
            position = self._write_anew(holes, end)
        else:
            if end < self._size:
                self._files.truncate(self._descriptor.number, end)
            self._files.sync(self._descriptor.number)
            self._files.sync_directory(self._context.folder)
        if below_floor:
            return Recovered(
                _new_segment(self._context, self._log_start, self._floor), self._findings
            )
        row = EndsRow(
            log_start=self._log_start,
            next_offset=next_offset,
            segment=self._segment,
            position=position,
            durable_offset=next_offset,
            durable_position=position,
            created_ms=self._context.now_ms(),
            flags=0,
        )
        return Recovered(row, self._findings)

    def _write_anew(self, holes: list[Finding], end: int) -> int:
        """Copy the segment with its holes closed, swap it in, and return its length."""
        path = self._descriptor.path
        target = self._files.open(path + ASIDE_SUFFIX, READ_WRITE | CREATE | TRUNCATE)
        try:
            copied = written = 0
            for hole in holes:
                written = self._copy(target, copied, hole.position, written)
                for batch in _hole_batches(hole, self._context.now_ms()):
                    write_fully(self._files, target, batch, written)
                    written += len(batch)
                copied = hole.end
            written = self._copy(target, copied, end, written)
            self._files.sync(target)
        finally:
            self._files.close(target)
        self._files.rename(path + ASIDE_SUFFIX, path)
        self._files.sync_directory(self._context.folder)
        return written

    def _copy(self, target: int, start: int, end: int, written: int) -> int:
        while start < end:
            block = read_fully(
                self._files, self._descriptor.number, min(BLOCK_BYTES, end - start), start
            )
            if not block:
                break
            write_fully(self._files, target, block, written)
            start += len(block)
            written += len(block)
        return written


def _hole_batches(hole: Finding, now_ms: int) -> list[bytearray]:
    batches = []
    offset = hole.offset
    while offset < hole.next_offset:
        count = min(hole.next_offset - offset, MOST_OFFSETS_PER_HOLE)
        batches.append(empty_batch(offset, count - 1, now_ms))
        offset += count
    return batches


def _new_segment(context: LogContext, log_start: int, offset: int) -> EndsRow:
    descriptor = Descriptor(context.files, context.segment_path(offset), READ_WRITE | CREATE)
    context.files.sync(descriptor.number)
    context.files.sync_directory(context.folder)
    context.files.sync_directory(os.path.dirname(context.folder))
    return EndsRow(
        log_start=log_start,
        next_offset=offset,
        segment=offset,
        position=0,
        durable_offset=offset,
        durable_position=0,
        created_ms=context.now_ms(),
        flags=0,
    )


def _missing(context: LogContext, bases: list[int], log_start: int, floor: int) -> Finding:
    return Finding(
        verdict=Verdict.DAMAGE,
        path=context.folder,
        position=0,
        end=0,
        offset=bases[-1] if bases else log_start,
        next_offset=floor,
        reason="segments are missing",
    )


def _remove_asides(context: LogContext) -> None:
    """Remove what an interrupted rewrite left; it is never the only copy."""
    for name in context.files.list(context.folder):
        if name.endswith(ASIDE_SUFFIX):
            remove_file(context.files, os.path.join(context.folder, name))
