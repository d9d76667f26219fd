"""Keeping the last value of each key: what of a log is compacted, and when.

As Kafka's cleaner does it. The sealed part of a log is *clean* up to the first dirty offset,
and *dirty* behind it. One pass

1. reads the dirty part and notes the last offset of each key (`keymap`), until all is read or
   the map is full;
2. goes through the log from its beginning up to there, leaves out what `filtering` says, and
   swaps each segment in that changes; small neighbours become one (`swap`);
3. stores where it got to.

Offsets stay: a batch that loses records keeps its first and last offset, and where whole
batches go, holes take their place (`records.empty_batch`), one for many neighbours. So a batch
still begins where the one before it ends, and whatever reads a log needs to know nothing of
this.

Never compacted are the active segment, and the newest sealed one until something in the active
one is durable: recovery judges the newest file, and takes for granted that nobody but those
who append has written it. Nor is a log with damage in that part: what is damaged may be the
last value of any key, or an older one that would come back once its tombstone is gone.

A pass that is cut off is begun again: what has been swapped is then compacted once more,
which changes nothing. A segment that is not the file that the index knows is dirty, and so is
what follows it: somebody may have put it back from a copy.

Segments are swapped from the oldest on, so when a tombstone gets its delete horizon, all older
values of its key are gone from the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seawall.wal.checkpoint import checkpoint
from seawall.wal.context import LogContext, write_error
from seawall.wal.ends import FENCED, EndsRow
from seawall.wal.errors import BatchInvalid, LogDamaged, LogGone, ValueDamaged
from seawall.wal.files import Descriptor
from seawall.wal.filtering import NEVER, Dirty, Filter
from seawall.wal.folder_lock import lock_folder
from seawall.wal.index import Cleaned
from seawall.wal.inventory import SegmentInfo, inventory, newest_ms, sealed_row
from seawall.wal.keymap import KeyMap
from seawall.wal.lookup import damage
from seawall.wal.producer_state import last_batches
from seawall.wal.records import HEADER_BYTES, BatchHeader, check_batch, parse_header
from seawall.wal.rewrite import remove_asides
from seawall.wal.sectors import read_anyway
from seawall.wal.swap import Aside, Hands, merged_segments, remove_merged, swap

BLOCK_BYTES = 1 << 20
# Who removes segments holds the folder's lock for a moment; who compacts, for minutes.
LOCK_TIMEOUT_MS = 1_000

# What keeps records from being compacted, by the name of the rule.
CLEAN = "compact"
ACTIVE = "active segment"
DIRTY_RATIO = "min.cleanable.dirty.ratio"
MIN_LAG = "min.compaction.lag.ms"
BUFFER = "log.cleaner.dedupe.buffer.size"
BUSY = "another compaction"
DAMAGE = "damage"
FENCE = "failed sync"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings by which a log is compacted, with Kafka's meanings."""

    min_dirty_ratio: float = 0.5
    min_lag_ms: int = 0
    max_lag_ms: int = NEVER
    delete_retention_ms: int = 86_400_000
    dedupe_buffer_bytes: int = 128 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What a compaction took out of a log, or would, and what keeps the rest.

    ``superseded`` records had a later value of their key, ``expired`` ones none for long.
    ``segments``: so many files less. ``held_by`` has names of rules, see the constants.
    """

    superseded: int = 0
    superseded_bytes: int = 0
    expired: int = 0
    expired_bytes: int = 0
    segments: int = 0
    held_by: tuple[str, ...] = ()


class _Plan(NamedTuple):
    """What is to be read: `segments` from the log's beginning, of which from `dirty_offset` on
    nothing was compacted yet. `end_offset` is behind the last one."""

    segments: list[SegmentInfo]
    dirty_offset: int
    end_offset: int
    is_due: bool
    held_by: list[str]


def compact(
    context: LogContext,
    rules: Rules,
    hands: Hands,
    *,
    log_start: int = 0,
    dry_run: bool = False,
) -> Compacted:
    """Compact a log if that is due; with `dry_run` only read, and say what would be done.

    Segments below `log_start` are left out, and those below the log's own one.

    Raises `LogGone`, `LogFenced`, `StorageFull`, `WriteFailed`, what `hands.spend` raises, and
    what the index raises. Nothing is lost then, and it may be called again.
    """
    with lock_folder(context, exclusive=not dry_run, timeout_ms=LOCK_TIMEOUT_MS) as is_held:
        if not is_held:
            return Compacted(held_by=(BUSY,))
        row = context.row()
        if row.flags & FENCED:
            return Compacted(held_by=(FENCE,))
        try:
            if not dry_run:
                remove_asides(context)
                checkpoint(context)
                remove_merged(context, hands)
            row = row._replace(log_start=max(row.log_start, log_start))
            plan = _plan(context, row, rules)
            if not plan.is_due:
                return Compacted(held_by=tuple(plan.held_by))
            return _Pass(context, plan, rules, hands, dry_run=dry_run).run()
        except LogDamaged:
            return Compacted(held_by=(DAMAGE,))
        except FileNotFoundError as error:
            if not context.files.exists(context.folder):
                raise LogGone(path=context.folder) from None
            raise write_error(error, context.folder) from error
        except OSError as error:
            raise write_error(error, context.folder) from error


# -- what is due -------------------------------------------------------------------------------


def _plan(context: LogContext, row: EndsRow, rules: Rules) -> _Plan:
    now_ms = context.now_ms()
    segments = _segments(context, row)
    held_by = [ACTIVE] if row.next_offset > (segments[-1].end_offset if segments else -1) else []
    cleaned = _cleaned(context, row)
    dirty_offset = max(cleaned.dirty_offset, segments[0].base_offset if segments else 0)
    for segment in segments:
        if segment.base_offset < dirty_offset and not _is_known(context, segment):
            # Put back from a copy, perhaps: what was compacted is another file.
            dirty_offset = max(segment.base_offset, row.log_start)
    clean = [each for each in segments if each.end_offset <= dirty_offset]
    dirty: list[SegmentInfo] = []
    for segment in segments[len(clean) :]:
        if rules.min_lag_ms and newest_ms(context, segment) > now_ms - rules.min_lag_ms:
            held_by.append(MIN_LAG)
            break
        dirty.append(segment)
    dirty_bytes = sum(each.size_bytes for each in dirty)
    total_bytes = dirty_bytes + sum(each.size_bytes for each in clean)
    is_due = now_ms >= cleaned.horizon_ms and bool(clean)
    if dirty:
        is_due |= dirty_bytes > rules.min_dirty_ratio * total_bytes
        is_due |= now_ms - _oldest_ms(context, dirty[0]) > rules.max_lag_ms
        if not is_due:
            held_by.append(DIRTY_RATIO)
    both = [*clean, *dirty]
    if clean or (dirty and is_due):
        held_by.insert(0, CLEAN)
    end_offset = both[-1].end_offset if both else dirty_offset
    return _Plan(both, dirty_offset, end_offset, is_due, held_by)


def _segments(context: LogContext, row: EndsRow) -> list[SegmentInfo]:
    """The segments that may be compacted at all, from the log start on."""
    merged = {base for bases in merged_segments(context).values() for base in bases}
    sealed = [
        each
        for each in inventory(context)
        if each.base_offset < row.segment and each.base_offset not in merged
    ]
    bases = [*(each.base_offset for each in sealed), row.segment]
    sealed = [
        each._replace(end_offset=end)
        for each, end in zip(sealed, bases[1:], strict=True)
        if end > row.log_start
    ]
    return sealed if row.durable_position else sealed[:-1]


def _cleaned(context: LogContext, row: EndsRow) -> Cleaned:
    """How far the log is compacted; what cannot be is not believed."""
    try:
        cleaned = context.index.cleaned(context.partition_id)
    except ValueDamaged:
        cleaned = None
    if cleaned is None or cleaned.dirty_offset > row.segment:
        return Cleaned(row.log_start, NEVER)
    return cleaned._replace(dirty_offset=max(cleaned.dirty_offset, row.log_start))


def _is_known(context: LogContext, segment: SegmentInfo) -> bool:
    """Whether the index has seen the file that is there now. It has not if a swap was cut off."""
    return sealed_row(context, segment.base_offset, segment.end_offset) is not None


def _oldest_ms(context: LogContext, segment: SegmentInfo) -> int:
    """The timestamp of a segment's first records."""
    descriptor = Descriptor(context.files, context.segment_path(segment.base_offset))
    try:
        prefix = read_anyway(context.files, descriptor.number, HEADER_BYTES, 0)
        return parse_header(prefix).max_timestamp
    except BatchInvalid:
        return NEVER


# -- doing it ----------------------------------------------------------------------------------


class _Pass:
    """One pass over a log."""

    def __init__(
        self, context: LogContext, plan: _Plan, rules: Rules, hands: Hands, *, dry_run: bool
    ) -> None:
        self._context = context
        self._plan = plan
        self._rules = rules
        self._hands = hands
        self._dry_run = dry_run
        self._before_bytes = self._after_bytes = self._fewer = 0

    def run(self) -> Compacted:
        plan, rules, context = self._plan, self._rules, self._context
        span = plan.end_offset - plan.dirty_offset
        dirty = Dirty(KeyMap(rules.dedupe_buffer_bytes, plan.dirty_offset, span), plan.dirty_offset)
        end = self._gather(dirty)
        held_by = list(plan.held_by)
        if end < plan.end_offset:
            held_by.append(BUFFER)
        filtered = Filter(
            dirty,
            end=end,
            now_ms=context.now_ms(),
            delete_retention_ms=rules.delete_retention_ms,
            last_batches=last_batches(context, context.row()),
        )
        segments = [each for each in plan.segments if each.base_offset < end]
        while segments:
            del segments[: self._rewrite(segments, filtered)]
        if not self._dry_run:
            context.index.set_cleaned(context.partition_id, Cleaned(end, filtered.horizon_ms))
        return self._result(filtered, held_by)

    def _gather(self, dirty: Dirty) -> int:
        """Note the keys of the dirty part; give the offset up to which they were."""
        for segment in self._plan.segments:
            if segment.end_offset <= dirty.start:
                continue
            for header, batch in self._batches(segment):
                no_room = dirty.take(header, batch) if header.next_offset > dirty.start else None
                if no_room is not None:
                    return no_room
        return self._plan.end_offset

    def _rewrite(self, segments: Sequence[SegmentInfo], filtered: Filter) -> int:
        """Put what stays of the first segment in its place, if that changes it; so too of those
        behind it, as long as all fits in one. Give how many they were."""
        base, most_bytes = segments[0].base_offset, self._context.config.segment_bytes
        group: list[SegmentInfo] = []
        aside = Aside(
            self._context,
            base,
            Descriptor(self._context.files, self._context.segment_path(base)),
            self._hands,
            writes=not self._dry_run,
        )
        try:
            if not _is_known(self._context, segments[0]):
                # The sync of its name may have failed, and then no later one says so (A5).
                aside.change()
            for segment in segments:
                if group:
                    if aside.size_bytes + segment.size_bytes > most_bytes:
                        break
                    aside.change()
                group.append(segment)
                for header, batch in self._batches(segment):
                    left = filtered.pass_on(header, batch)
                    if left is batch:
                        aside.copy(batch)
                    elif left is None:
                        aside.leave_out(header, batch)
                    else:
                        aside.replace(left)
            aside.finish()
            if aside.is_changed and not self._dry_run:
                swap(self._context, aside, [each.base_offset for each in group], self._hands)
        finally:
            aside.discard()
        self._before_bytes += sum(each.size_bytes for each in group)
        self._after_bytes += aside.size_bytes
        self._fewer += len(group) - 1
        return len(group)

    def _batches(self, segment: SegmentInfo) -> Iterator[tuple[BatchHeader, bytes]]:
        """The batches of a segment. Raises `LogDamaged` for what is not valid."""
        context, base = self._context, segment.base_offset
        descriptor = Descriptor(context.files, context.segment_path(base))
        position, expected, size = 0, base, context.files.size(descriptor.number)
        block, inside = b"", 0
        while position < size:
            try:
                if len(block) - inside < HEADER_BYTES:
                    block, inside = self._read(descriptor, position, size), 0
                need = parse_header(block, inside).size_bytes
                if len(block) - inside < need <= size - position:
                    block, inside = self._read(descriptor, position, size, need), 0
                header = check_batch(block, inside, size - position)
                if header.base_offset != expected:
                    reason = f"its base offset is {header.base_offset}, not {expected}"
                    raise BatchInvalid(reason=reason)
            except BatchInvalid as error:
                raise damage(context, base, position, expected, error.reason) from error
            yield header, block[inside : inside + need]
            inside, position = inside + need, position + need
            expected = header.next_offset
        if expected != segment.end_offset:
            raise damage(context, base, position, expected, "the file ends too early")

    def _read(self, descriptor: Descriptor, position: int, end: int, least_bytes: int = 0) -> bytes:
        size_bytes = min(max(BLOCK_BYTES, least_bytes), end - position)
        self._hands.spend(size_bytes)
        return read_anyway(self._context.files, descriptor.number, size_bytes, position)

    def _result(self, filtered: Filter, held_by: list[str]) -> Compacted:
        """The bytes that went, shared among the rules as the records' sizes were."""
        total = max(0, self._before_bytes - self._after_bytes)
        parts = filtered.superseded_bytes + filtered.expired_bytes
        expired_bytes = total * filtered.expired_bytes // parts if parts else 0
        return Compacted(
            superseded=filtered.superseded,
            superseded_bytes=total - expired_bytes,
            expired=filtered.expired,
            expired_bytes=expired_bytes,
            segments=self._fewer,
            held_by=tuple(held_by),
        )
