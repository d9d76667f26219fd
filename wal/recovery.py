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

What the disk does not give back is not valid either. But it cannot be copied to
quarantine, so it is never moved or cut off: where the table says HOLE or TORN, or nothing
valid follows, the verdict is UNREADABLE, nothing is changed, and the log takes no records
(its row is fenced, so that the next sole opener looks again) until the file can be read or
`repair` is told to give those bytes up. Below the floor it is DAMAGE. A log is left in the same
way (NO_ROOM) if there is no room to mend it: readers, and all other logs, may make some.

The next offset is the end of the scan or the floor, whichever is greater; if the scan
ended below the floor, appends go on in a new segment that is named by it.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field, replace

from seawall.wal.context import LogContext
from seawall.wal.ends import FENCED, EndsRow
from seawall.wal.errors import ValueDamaged
from seawall.wal.files import CREATE, NO_ROOM_ERRNOS, READ_WRITE, Descriptor, make_directory
from seawall.wal.index import Checkpoint, Found
from seawall.wal.quarantine import Quarantine
from seawall.wal.records import HEADER_BYTES
from seawall.wal.rewrite import Hole, remove_asides, write_anew
from seawall.wal.sectors import DAMAGE_ERRNOS, unreadable
from seawall.wal.segment import Scan, ScanEnd, Scanned, list_segments
from seawall.wal.walk import Gap, Walk


class Verdict(enum.Enum):
    """What was decided about bytes that are not a valid batch."""

    DAMAGE = "damage"
    HOLE = "hole"
    TORN = "torn tail"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    NO_ROOM = "no room"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One stretch of a log that was not valid, and what became of it.

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
    gives_up_unreadable: bool = False,
) -> Recovered:
    """Judge the newest segment of a log, mend it, and say where the log ends.

    `floor` is what the caller knows to have been durable (committed offsets, a durable
    end that was published). With `cache_is_certain` false the newest segment is written
    anew. With `gives_up_unreadable`, which only a user decides, what cannot be read is
    taken for lost. Raises `OSError` if the disk fails; it may then be called again.
    """
    files = context.files
    make_directory(files, context.folder)
    remove_asides(context)
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
    newest, floor = bases[-1], max(floor, bases[-1])
    judge = _Judge(
        context, quarantine, newest, floor, log_start, gives_up_unreadable=gives_up_unreadable
    )
    return judge.run(checkpoint, cache_is_certain=cache_is_certain)


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
    try:
        if not files.pread(descriptor.number, HEADER_BYTES, row.position).strip(b"\0"):
            return row
    except OSError as error:
        if error.errno not in DAMAGE_ERRNOS:
            raise
        return None
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
        *,
        gives_up_unreadable: bool,
    ) -> None:
        self._context = context
        self._files = context.files
        self._quarantine = quarantine
        self._segment = segment
        self._floor = floor
        self._log_start = log_start
        self._gives_up_unreadable = gives_up_unreadable
        self._descriptor = Descriptor(context.files, context.segment_path(segment), READ_WRITE)
        self._size = context.files.size(self._descriptor.number)
        self._identity = context.files.identity(self._descriptor.number)

    def run(self, checkpoint: Checkpoint | None, *, cache_is_certain: bool) -> Recovered:
        walk = Walk(
            self._context,
            self._descriptor,
            self._segment,
            limit=self._size,
            start=self._start(checkpoint),
        )
        gaps: list[Gap] = []
        durable = Found(walk.result.next_offset, walk.result.position)
        for step in walk:
            if isinstance(step, Gap):
                gaps.append(step)
            elif step.header.base_offset < self._floor:
                durable = Found(step.header.next_offset, step.position + step.header.size_bytes)
        findings = [self._judged(gap) for gap in gaps if not gap.is_zero]
        end = walk.result
        is_too_early = end.next_offset < self._floor
        if is_too_early and end.end is ScanEnd.CLEAN:
            reason = "the segment ends too early"
            rest = Gap(end.position, self._size, end.next_offset, None, reason, True, True)
            findings.append(self._judged(rest))
        verdicts = {finding.verdict for finding in findings}
        # Below the floor nothing is cut off, but what was given up because it is unreadable.
        is_kept_whole = is_too_early and Verdict.TORN not in verdicts
        kept_bytes = self._size if is_kept_whole else end.position
        writes_anew = not cache_is_certain or Verdict.HOLE in verdicts
        refusal = self._refusal(findings, kept_bytes if writes_anew else 0)
        if refusal is not None:
            return Recovered(self._fenced_row(gaps, end), [refusal])
        copied: list[Finding] = []
        try:
            for finding in findings:
                copied.append(self._with_copy(finding))
            position = self._mend(copied, kept_bytes, writes_anew=writes_anew)
        except OSError as error:
            is_replaced = self._files.path_identity(self._descriptor.path) != self._identity
            if is_replaced or error.errno not in NO_ROOM_ERRNOS or self._gives_up_unreadable:
                raise
            if self._files.size(self._descriptor.number) == self._size:  # each opening makes some
                self._quarantine.discard(each.quarantined for each in copied)
            row = self._fenced_row(gaps, end)
            if not cache_is_certain and self._floor <= durable.offset < row.next_offset:
                # What lies behind may be nowhere but in the cache.
                row = self._row(*durable, flags=FENCED)
            reason = f"there is no room to mend it ({error.strerror or error})"
            return Recovered(row, [self._of_all(Verdict.NO_ROOM, self._size, reason)])
        if is_too_early:
            row = _new_segment(self._context, self._log_start, self._floor)
        else:
            row = self._row(end.next_offset, position)
        return Recovered(row, copied)

    def _start(self, checkpoint: Checkpoint | None) -> Found:
        """Where to begin: at the checkpoint, if a batch is seen to end just there."""
        beginning = Found(self._segment, 0)
        if checkpoint is None or checkpoint.segment != self._segment:
            return beginning
        # What cannot be read is in the way of writing anew, wherever it is.
        if self._gives_up_unreadable or not 0 < checkpoint.position <= self._size:
            return beginning
        try:
            before = self._context.index.at_or_before(
                self._context.partition_id, self._segment, checkpoint.offset - 1
            )
        except ValueDamaged:
            return beginning
        offset, position = before or beginning
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
            return Found(checkpoint.offset, checkpoint.position)
        return beginning

    def _judged(self, gap: Gap) -> Finding:
        """The table: what is to be done about bytes that are not valid."""
        is_given_up = self._gives_up_unreadable and not gap.is_readable
        if gap.offset < self._floor and not is_given_up:
            verdict = Verdict.DAMAGE
        else:
            verdict = Verdict.TORN if gap.behind is None else Verdict.HOLE
        is_moved = gap.behind is None or verdict is Verdict.HOLE
        if is_moved and not gap.is_readable and not is_given_up:
            verdict = Verdict.UNREADABLE
        next_offset = gap.behind.header.base_offset if gap.behind else max(gap.offset, self._floor)
        return Finding(
            verdict=verdict,
            path=self._descriptor.path,
            position=gap.position,
            end=gap.end,
            offset=gap.offset,
            next_offset=next_offset,
            reason=gap.reason,
        )

    # -- refusing --------------------------------------------------------------------

    def _refusal(self, findings: list[Finding], copied_bytes: int) -> Finding | None:
        """What keeps this log from being mended: bytes that have to move and cannot be read."""
        for finding in findings:
            if finding.verdict is Verdict.UNREADABLE:
                return finding
        if self._gives_up_unreadable:
            return None
        trouble = unreadable(self._files, self._descriptor.number, 0, copied_bytes)
        if not trouble:
            return None
        reason = f"it must be written anew, and part of it cannot be read: {trouble}"
        return self._of_all(Verdict.UNREADABLE, copied_bytes, reason)

    def _of_all(self, verdict: Verdict, end: int, reason: str) -> Finding:
        return Finding(
            verdict=verdict,
            path=self._descriptor.path,
            position=0,
            end=end,
            offset=self._segment,
            next_offset=self._floor,
            reason=reason,
        )

    def _fenced_row(self, gaps: list[Gap], end: Scanned) -> EndsRow:
        """Readers get what lies below the floor, and what is valid just behind it."""
        offset, position = self._floor, self._size
        if end.next_offset >= self._floor:
            offset, position = end.next_offset, end.position
        for gap in gaps:
            if gap.offset >= self._floor:
                offset, position = gap.offset, gap.position
                break
        return self._row(offset, position, flags=FENCED)

    # -- mending ---------------------------------------------------------------------

    def _with_copy(self, finding: Finding) -> Finding:
        """The same, once what will be taken away is in quarantine."""
        if finding.verdict is Verdict.DAMAGE:
            return finding
        quarantined = self._quarantine.keep(
            self._descriptor.number,
            folder=self._context.folder,
            segment=self._segment,
            position=finding.position,
            end=finding.end,
            now_ms=self._context.now_ms(),
        )
        return replace(finding, quarantined=quarantined)

    def _mend(self, findings: list[Finding], kept_bytes: int, *, writes_anew: bool) -> int:
        """Bring the segment to disk as it was judged; return where it ends."""
        if writes_anew:
            holes = [
                Hole(each.position, each.end, each.offset, each.next_offset)
                for each in findings
                if each.verdict is Verdict.HOLE
            ]
            return write_anew(
                self._context, self._descriptor.path, self._descriptor, holes, kept_bytes
            )
        if kept_bytes < self._size:
            self._files.truncate(self._descriptor.number, kept_bytes)
        self._files.sync(self._descriptor.number)
        self._files.sync_directory(self._context.folder)
        return kept_bytes

    def _row(self, next_offset: int, position: int, flags: int = 0) -> EndsRow:
        return EndsRow(
            log_start=self._log_start,
            next_offset=next_offset,
            segment=self._segment,
            position=position,
            durable_offset=next_offset,
            durable_position=position,
            created_ms=self._context.now_ms(),
            flags=flags,
        )


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
        verdict=Verdict.MISSING,
        path=context.folder,
        position=0,
        end=0,
        offset=bases[-1] if bases else log_start,
        next_offset=floor,
        reason="segments are missing",
    )
