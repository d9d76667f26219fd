"""Key compaction of one partition by its topic's settings, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from seawall.broker.config import COMPACT
from seawall.broker.pace import Pace
from seawall.broker.trimming import Hold, Removal, Trimmed
from seawall.wal.compaction import Compacted, Rules

if TYPE_CHECKING:
    from seawall.broker.catalog import PartitionInfo, TopicInfo
    from seawall.broker.engine import Engine

SUPERSEDED = "compact"
EXPIRED = "delete.retention.ms"


def compact_keys(
    engine: Engine,
    info: TopicInfo,
    partition: PartitionInfo,
    pace: Pace,
    buffer_bytes: int,
    *,
    log_start: int = 0,
    dry_run: bool = False,
) -> Compacted:
    """Keep the last value of each key in a partition, if that is due.

    Raises `LogGone` if it was deleted, `Stopped`, and what the disk's trouble is called.
    """
    settings = info.settings
    rules = Rules(
        min_dirty_ratio=settings.min_cleanable_dirty_ratio,
        min_lag_ms=settings.min_compaction_lag_ms,
        max_lag_ms=settings.max_compaction_lag_ms,
        delete_retention_ms=settings.delete_retention_ms,
        dedupe_buffer_bytes=buffer_bytes,
    )
    log = engine.log(partition.id)
    return log.compact(rules, pace.spend, log_start=log_start, dry_run=dry_run)


def with_keys(
    engine: Engine,
    info: TopicInfo,
    partition: PartitionInfo,
    trimmed: Trimmed,
    buffer_bytes: int,
    *,
    dry_run: bool,
) -> Trimmed:
    """Compact a partition that was trimmed, at once, and say what became of it by both."""
    done = compact_keys(
        engine,
        info,
        partition,
        Pace(),
        buffer_bytes,
        log_start=trimmed.log_start,
        dry_run=dry_run,
    )
    removed = [
        Removal(rule=SUPERSEDED, segments=done.segments, records=done.superseded, bytes=size)
        for size in [done.superseded_bytes]
        if done.superseded or done.segments
    ]
    if done.expired:
        removed.append(
            Removal(rule=EXPIRED, segments=0, records=done.expired, bytes=done.expired_bytes)
        )
    held_by = [each for each in trimmed.held_by if each.rule != COMPACT]
    held_by += [Hold(rule=each) for each in done.held_by if trimmed.kept_segments]
    return replace(
        trimmed,
        removed=(*trimmed.removed, *removed),
        kept_segments=trimmed.kept_segments - done.segments,
        kept_bytes=trimmed.kept_bytes - done.superseded_bytes - done.expired_bytes,
        held_by=tuple(held_by),
    )
