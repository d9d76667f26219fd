"""Which segments of a partition may go, by which rule, and what keeps the others.

The rules, by the topic's ``cleanup.policy``. Segments go from the oldest on, and only whole
ones:

    any            what lies below the log start (records were deleted, or a process died
                   between raising it and removing the files)
    acknowledged   what every group has acknowledged that has a committed offset in the
                   partition; without any such group nothing
    delete         retention.ms: a segment whose greatest timestamp is older (one without
                   timestamps: that was last written before). retention.bytes: the oldest
                   ones, as long as the rest has at least so many bytes. As in Kafka
                   (UnifiedLog.deleteOldSegments)
    compact        nothing: it takes records out of segments, see `keys`

The active segment is appended to, so it stays; but it is sealed by a roll, and goes, if
retention.ms or retention.bytes asks for it (as in Kafka), and if it is older than segment.ms
by the two other rules: the next append would seal it anyway, and in a topic at rest
acknowledged records would stay for ever.

In order, so that a crash leaves nothing that a reader could take for damage: the log start
in ``state.lmdb``, the same in ``run/ends``, the files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.broker.config import ACKNOWLEDGED, COMPACT, TopicConfig
from seawall.broker.errors import UnknownPartition
from seawall.broker.pace import Pace
from seawall.broker.translation import translated
from seawall.wal.compaction import FENCE
from seawall.wal.errors import LogFenced, LogGone, OffsetOutOfRange
from seawall.wal.inventory import SegmentInfo

if TYPE_CHECKING:
    from seawall.broker.catalog import PartitionInfo, TopicInfo
    from seawall.broker.engine import Engine
    from seawall.wal.log import Log

# So many segments are removed before somebody is asked whether to go on: close() waits for
# no more than that.
SEGMENTS_PER_STEP = 200

BELOW_LOG_START = "log start"
RETENTION_MS = "retention.ms"
RETENTION_BYTES = "retention.bytes"
# What else may keep a segment.
GROUP = "group"
NO_GROUP = "no group"
NEWEST = "active segment"
NO_LIMIT = "no limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What goes, and the rule by which it does: whole segments, or (``"compact"``,
    ``"delete.retention.ms"``) so many ``records`` of those that stay, and then ``segments``
    are those that become part of others."""

    rule: str
    segments: int
    bytes: int
    records: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What keeps the oldest segment that stays.

    ``rule`` is ``"group"`` (one that has acknowledged less; then ``group`` is its name and
    ``offset`` the next one it reads), ``"no group"``, ``"active segment"``,
    ``"retention.ms"``, ``"retention.bytes"``, ``"no limit"`` or ``"compact"``; where keys are
    compacted, also what holds that up: ``"min.cleanable.dirty.ratio"``,
    ``"min.compaction.lag.ms"``, ``"log.cleaner.dedupe.buffer.size"``,
    ``"another compaction"``, ``"damage"``, ``"failed sync"``.
    """

    rule: str
    group: str | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """What was removed from a partition, or would be, and what keeps the rest.

    ``log_start`` is the first offset that readers may have afterwards. Of what is kept,
    ``kept_bytes`` have no room that is only allocated.
    """

    topic: str
    partition: int
    policy: str
    log_start: int
    removed: tuple[Removal, ...]
    kept_segments: int
    kept_bytes: int
    held_by: tuple[Hold, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a decision rests on. ``committed``: by group; ``newest_ms``: of a segment."""

    settings: TopicConfig
    segments: Sequence[SegmentInfo]
    log_start: int
    committed: Mapping[str, int]
    now_ms: int
    newest_ms: Callable[[SegmentInfo], int]


def decide(facts: Facts) -> tuple[list[tuple[SegmentInfo, str]], list[Hold]]:
    """The segments that go, from the oldest on, each with its rule; and what holds the rest.

    Pure, but for what ``newest_ms`` reads.
    """
    rule_of = _Rules(facts).rule_of
    going: list[tuple[SegmentInfo, str]] = []
    for segment in facts.segments:
        rule = rule_of(segment)
        if rule is None:
            return going, _holds(facts, segment)
        going.append((segment, rule))
    return going, []


class _Rules:
    """Applies the rules to one segment after the other, from the oldest on."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        settings = facts.settings
        self._is_acknowledged = settings.cleanup_policy == ACKNOWLEDGED
        self._deletes = settings.cleanup_policy not in (ACKNOWLEDGED, COMPACT)
        self._floor = min(facts.committed.values(), default=-1)
        self._excess_bytes = sum(each.size_bytes for each in facts.segments)
        self._excess_bytes -= max(0, settings.retention_bytes)

    def rule_of(self, segment: SegmentInfo) -> str | None:
        """The rule by which a segment goes, if those before it do; None if it stays."""
        facts, settings = self._facts, self._facts.settings
        self._excess_bytes -= segment.size_bytes
        if not segment.is_durable:
            return None
        if self._is_sealed(segment):
            if segment.end_offset <= facts.log_start:
                return BELOW_LOG_START
            if self._is_acknowledged and segment.end_offset <= self._floor:
                return ACKNOWLEDGED
        if self._deletes:
            if settings.retention_bytes >= 0 and self._excess_bytes >= 0:
                return RETENTION_BYTES
            if settings.retention_ms >= 0 and self._age_ms(segment) > settings.retention_ms:
                return RETENTION_MS
        return None

    def _age_ms(self, segment: SegmentInfo) -> int:
        return self._facts.now_ms - self._facts.newest_ms(segment)

    def _is_sealed(self, segment: SegmentInfo) -> bool:
        """Whether it takes no more records, or the next append would see to it that it
        does not."""
        age_ms = self._facts.now_ms - segment.begun_ms
        return not segment.is_active or age_ms >= self._facts.settings.segment_ms


def _holds(facts: Facts, oldest: SegmentInfo) -> list[Hold]:
    """What keeps the oldest segment that stays."""
    settings = facts.settings
    if settings.cleanup_policy == COMPACT:
        return [Hold(rule=COMPACT)]
    if settings.cleanup_policy == ACKNOWLEDGED:
        behind = [
            Hold(rule=GROUP, group=group, offset=offset)
            for group, offset in sorted(facts.committed.items())
            if offset < oldest.end_offset
        ]
        if not facts.committed:
            return [Hold(rule=NO_GROUP)]
        return behind or [Hold(rule=NEWEST)]
    limits = {RETENTION_MS: settings.retention_ms, RETENTION_BYTES: settings.retention_bytes}
    rules = [rule for rule, limit in limits.items() if limit >= 0]
    return [Hold(rule=rule) for rule in rules or [NO_LIMIT]]


def trim(
    engine: Engine,
    info: TopicInfo,
    partition: PartitionInfo,
    pace: Pace,
    *,
    dry_run: bool = False,
) -> Trimmed:
    """Remove from a partition what may go; with `dry_run` only say what.

    Raises `LogGone` if it was deleted, `Stopped`, and what the disk's trouble is called.
    """
    log = engine.log(partition.id)
    facts = _facts(engine, info, log, pace)
    going, holds = decide(facts)
    log_start = going[-1][0].end_offset if going else facts.log_start
    if not dry_run:
        if going and going[-1][0].is_active:
            try:
                log.roll()
            except LogFenced:
                # It stays until the log is opened afresh; those before it need not.
                going = [each for each in going if not each[0].is_active]
                holds = [Hold(rule=FENCE)]
            else:
                # Something may have been appended to it just before.
                facts = _facts(engine, info, log, pace)
                going, holds = decide(facts)
        log_start = _remove(engine, log, facts, going, pace)
        if going and going[-1][0].end_offset > log_start:
            # A group came in between, and what it has not acknowledged stays.
            going = [each for each in going if each[0].end_offset <= log_start]
            holds = decide(_facts(engine, info, log, pace))[1]
    kept = facts.segments[len(going) :]
    return Trimmed(
        topic=info.name,
        partition=partition.number,
        policy=facts.settings.cleanup_policy,
        log_start=max(log_start, facts.log_start),
        removed=_summed(going),
        kept_segments=len(kept),
        kept_bytes=sum(each.size_bytes for each in kept),
        held_by=tuple(holds),
    )


def _facts(engine: Engine, info: TopicInfo, log: Log, pace: Pace) -> Facts:
    partition_id = log.context.partition_id
    committed = engine.state.committed_in(partition_id)
    return Facts(
        settings=info.settings,
        segments=log.segments(),
        log_start=engine.state.log_start(partition_id),
        committed={group: entry.offset for group, entry in committed.items()},
        now_ms=time.time_ns() // 1_000_000,
        newest_ms=lambda segment: log.newest_ms(segment, pace.spend),
    )


def _remove(
    engine: Engine,
    log: Log,
    facts: Facts,
    going: Sequence[tuple[SegmentInfo, str]],
    pace: Pace,
) -> int:
    """Raise the log start and remove what lies below it; give the log start in force."""
    partition_id = log.context.partition_id
    log_start = facts.log_start
    if going and (ceiling := going[-1][0].end_offset) > log_start:
        if going[-1][1] == ACKNOWLEDGED:
            log_start = engine.state.trim(partition_id, ceiling)
        else:
            engine.state.set_log_start(partition_id, ceiling)
            log_start = ceiling
    ends = [segment.end_offset for segment, _ in going if segment.end_offset <= log_start]
    drop(engine, log, log_start, ends, pace)
    return log_start


def drop(engine: Engine, log: Log, log_start: int, ends: Sequence[int], pace: Pace) -> None:
    """Remove the segments below a log start that is stored, which end at `ends`."""
    try:
        if log.ends().log_start < log_start and not ends:
            log.drop_segments(log_start)  # whoever stored it died before this
        for first in range(0, len(ends), SEGMENTS_PER_STEP):
            is_last = first + SEGMENTS_PER_STEP >= len(ends)
            step = ends[first : first + SEGMENTS_PER_STEP]
            log.drop_segments(log_start if is_last else step[-1])
            pace.check()
    except LogGone:
        # Deleted in the meantime; the log start may have been stored after that.
        if engine.place(log.context.partition_id) is None:
            engine.state.delete_partition(log.context.partition_id)
        raise


def delete_records(engine: Engine, info: TopicInfo, offsets: Mapping[int, int]) -> dict[int, int]:
    """Raise the log starts of some partitions (by number) to these offsets.

    As Kafka's DeleteRecords (KIP-107): -1 is the durable end, an offset below the log start
    changes nothing. Gives the log starts afterwards. Raises `UnknownPartition` and
    `OffsetOutOfRange` before anything is changed.
    """
    wanted = {}
    for number, offset in offsets.items():
        if not 0 <= number < len(info.partitions):
            raise UnknownPartition(
                topic=info.name, partition=number, partitions=len(info.partitions)
            )
        log = engine.log(info.partitions[number].id)
        ends = log.ends()
        if not -1 <= offset <= ends.durable_end:
            with translated(info.name, number):
                raise OffsetOutOfRange(
                    offset=offset, log_start=ends.log_start, durable_end=ends.durable_end
                )
        wanted[number] = log, ends.durable_end if offset == -1 else offset
    starts = {}
    for number, (log, offset) in wanted.items():
        partition_id = log.context.partition_id
        with translated(info.name, number):
            engine.state.set_log_start(partition_id, offset)
            starts[number] = engine.state.log_start(partition_id)
            segments = [each for each in log.segments() if not each.is_active]
            ends_below = [each.end_offset for each in segments if each.end_offset <= offset]
            drop(engine, log, starts[number], ends_below, Pace())
    return starts


def _summed(going: Iterable[tuple[SegmentInfo, str]]) -> tuple[Removal, ...]:
    """The segments that go, counted by their rules, in the order of the rules' first."""
    sums: dict[str, tuple[int, int]] = {}
    for segment, rule in going:
        count, size = sums.get(rule, (0, 0))
        sums[rule] = count + 1, size + segment.size_bytes
    return tuple(
        Removal(rule=rule, segments=count, bytes=size) for rule, (count, size) in sums.items()
    )
