"""One round of background work on a directory: what there is to do, and when.

Each round is a list of jobs, which are independent of one another. A round is *timed* if
the check interval has passed; the rounds in between follow a change in ``state.lmdb`` or
in the catalogue, and look only at what such a change may set free.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.broker import groups
from seawall.broker.config import ACKNOWLEDGED, BrokerConfig, parse_broker_config
from seawall.broker.errors import BrokerError
from seawall.broker.keys import compact_keys, with_keys
from seawall.broker.pace import Pace, Stopped
from seawall.broker.translation import translated
from seawall.broker.trimming import Trimmed, trim
from seawall.wal.compaction import DAMAGE
from seawall.wal.errors import LogGone, WalError

if TYPE_CHECKING:
    from seawall.broker.engine import Engine

logger = logging.getLogger("seawall.broker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What the jobs of one round are given."""

    engine: Engine
    config: BrokerConfig
    pace: Pace
    is_timed: bool


Job = Callable[[Round], None]


def trim_partitions(now: Round) -> None:
    """Remove what may go; between timed rounds, only what is acknowledged."""
    for info in now.engine.topics():
        if not now.is_timed and info.settings.cleanup_policy != ACKNOWLEDGED:
            continue
        for partition in info.partitions:
            now.pace.check()
            try:
                done = trim(now.engine, info, partition, now.pace)
            except LogGone:
                continue
            except (BrokerError, WalError, OSError) as error:
                # One partition's trouble is not the others'; it is tried again.
                logger.warning("%s/%d: not trimmed: %s", info.name, partition.number, error)
                continue
            for removal in done.removed:
                logger.info(
                    "%s/%d: removed %d segments, %d bytes (%s); it starts at %d now",
                    done.topic,
                    done.partition,
                    removal.segments,
                    removal.bytes,
                    removal.rule,
                    done.log_start,
                )


def compact_partitions(now: Round) -> None:
    """Keep the last value of each key, where that is wanted and due."""
    for info in now.engine.topics():
        if not now.is_timed or not info.settings.compacts:
            continue
        for partition in info.partitions:
            now.pace.check()
            try:
                done = compact_keys(
                    now.engine, info, partition, now.pace, now.config.dedupe_buffer_bytes
                )
            except LogGone:
                continue
            except (BrokerError, WalError, OSError) as error:
                logger.warning("%s/%d: not compacted: %s", info.name, partition.number, error)
                continue
            if DAMAGE in done.held_by:
                logger.warning(
                    "%s/%d: not compacted, because it is damaged; see `seawall verify`",
                    info.name,
                    partition.number,
                )
            if done.superseded or done.expired or done.segments:
                logger.info(
                    "%s/%d: removed %d superseded records and %d tombstones, %d bytes",
                    info.name,
                    partition.number,
                    done.superseded,
                    done.expired,
                    done.superseded_bytes + done.expired_bytes,
                )


def expire_groups(now: Round) -> None:
    """Forget groups that nobody has been in for ``offsets.retention.minutes``."""
    if now.is_timed:
        for group in groups.expire(now.engine, now.config.offsets_retention_minutes * 60_000):
            logger.info("group %s: forgotten, because nobody was in it for long", group)


def sync_partitions(now: Round) -> None:
    """Have brought to disk what is not yet.

    A process that was killed may have acknowledged it with ``durability="os"``: nobody else
    would, and so no consumer see it, before somebody appends there. Whoever is alive does it
    sooner, and then nothing is left to do.
    """
    engine = now.engine
    for info in engine.topics():
        for partition in info.partitions:
            row = engine.opening.ends.read(partition.id)
            # Of one that is fenced or deleted nothing more is synced.
            if row is not None and not row.flags and row.durable_offset < row.next_offset:
                with contextlib.suppress(LogGone):
                    engine.housekeeper.needs_sync(engine.log(partition.id))


# Groups first: they hold back what the others remove.
JOBS: Sequence[Job] = (expire_groups, sync_partitions, trim_partitions, compact_partitions)


def clean(engine: Engine, wait: Callable[[float], bool], *, is_timed: bool) -> float:
    """Do one round; return after how many seconds the next timed one is due.

    ``wait`` as for `Pace`. Raises `Stopped`, and whatever befalls the catalogue; what
    befalls a job is a warning.
    """
    config = parse_broker_config(engine.catalog.broker_config())
    pace = Pace(config.io_max_bytes_per_second, wait)
    now = Round(engine=engine, config=config, pace=pace, is_timed=is_timed)
    for job in JOBS:
        try:
            job(now)
        except (BrokerError, WalError, OSError) as error:
            if pace.should_stop():
                raise Stopped from error
            logger.warning("%s: %s", job.__name__, error)
    return config.retention_check_interval_ms / 1000


def compact(engine: Engine, topic: str | None, *, dry_run: bool) -> list[Trimmed]:
    """Do on demand, and at once, what rounds do; say what was done in each partition."""
    topics = engine.topics() if topic is None else [engine.topic(topic)]
    config = parse_broker_config(engine.catalog.broker_config())
    found = []
    for info in topics:
        for partition in info.partitions:
            try:
                with translated(info.name, partition.number):
                    trimmed = trim(engine, info, partition, Pace(), dry_run=dry_run)
                    if info.settings.compacts:
                        buffer_bytes = config.dedupe_buffer_bytes
                        trimmed = with_keys(
                            engine, info, partition, trimmed, buffer_bytes, dry_run=dry_run
                        )
                    found.append(trimmed)
            except BrokerError as error:
                if not isinstance(error.__cause__, LogGone):
                    raise
    return found
