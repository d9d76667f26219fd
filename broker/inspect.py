"""What an operator asks of a directory: what is in it, and is it whole."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from seawall.wal import records
from seawall.wal.directory import FORMAT_LINE
from seawall.wal.errors import LogGone

if TYPE_CHECKING:
    from seawall.broker.catalog import PartitionInfo, TopicInfo
    from seawall.broker.engine import Engine
    from seawall.broker.opening import Opening
    from seawall.wal.recovery import Finding as Judged
    from seawall.wal.verify import Damage


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerInfo:
    """What a directory is and holds. Sizes without what is allocated ahead."""

    path: str
    cluster_id: str
    format: str
    seawall_version: str
    python_version: str
    is_codec_compiled: bool
    topics: int
    partitions: int
    groups: int
    records: int
    log_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is damaged.

    ``verdict`` is ``"damage"``, ``"unreadable"`` or ``"missing"`` for a stretch of a log,
    and ``"catalog"``, ``"state"`` or ``"index"`` for what else there is
    (docs/operations.md says what each means, and what to do). ``offset`` is the first that
    cannot be read because of it; ``next_offset`` is where reading can go on, None if
    nowhere.
    """

    verdict: str
    path: str
    position: int | None
    problem: str
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    next_offset: int | None = None


def seawall_version() -> str:
    """The version of the installed package."""
    try:
        return version("seawall")
    except PackageNotFoundError:
        return "unknown"


def info(engine: Engine) -> BrokerInfo:
    """What the directory is and holds."""
    topics = engine.topics()
    partitions = [each for topic in topics for each in topic.partitions]
    record_count = log_bytes = 0
    for partition in partitions:
        try:
            log = engine.log(partition.id)
            ends = log.ends()
            log_bytes += log.size_bytes()
        except LogGone:
            continue
        record_count += ends.durable_end - ends.log_start
    return BrokerInfo(
        path=engine.path,
        cluster_id=engine.cluster_id,
        format=FORMAT_LINE,
        seawall_version=seawall_version(),
        python_version=platform.python_version(),
        is_codec_compiled=records.IS_COMPILED,
        topics=len(topics),
        partitions=len(partitions),
        groups=len(engine.groups.groups()),
        records=record_count,
        log_bytes=log_bytes,
    )


RESTORE = "restore it from a backup"
REBUILD = "it is only a cache: run `seawall repair`, or remove it while nothing has it open"


def verify(engine: Engine, topic: str | None) -> Iterator[Finding]:
    """Read everything there is and yield what is damaged."""
    topics = [engine.topic(topic)] if topic is not None else engine.topics()
    if topic is None:
        yield from verify_truths(engine.opening)
        yield from verify_index(engine.opening)
    for each in topics:
        for partition in each.partitions:
            try:
                for damage in engine.log(partition.id).verify():
                    yield finding(damage, each, partition)
            except LogGone:
                continue


def verify_truths(opening: Opening) -> Iterator[Finding]:
    """What is damaged in the catalogue and in the state."""
    for problem in opening.catalog.integrity_check():
        yield Finding(
            verdict="catalog",
            path=opening.catalog.path,
            position=None,
            problem=f"{problem}; {RESTORE}",
        )
    for problem in opening.state_environment.verify():
        yield Finding(
            verdict="state",
            path=opening.state_environment.path,
            position=None,
            problem=f"{problem}; {RESTORE}",
        )


def verify_index(opening: Opening) -> Iterator[Finding]:
    """What is damaged in the index."""
    for problem in opening.index_environment.verify():
        yield Finding(
            verdict="index",
            path=opening.index_environment.path,
            position=None,
            problem=f"{problem}; {REBUILD}",
        )


def finding(damage: Damage | Judged, topic: TopicInfo, partition: PartitionInfo) -> Finding:
    """A log's damage, with the partition that it is in."""
    return Finding(
        verdict=damage.verdict.value,
        path=damage.path,
        position=damage.position,
        problem=damage.reason,
        topic=topic.name,
        partition=partition.number,
        offset=damage.offset,
        next_offset=damage.next_offset,
    )
