"""What an operator asks of a directory: what is in it, and is it whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.wal import records
from seawall.wal.directory import FORMAT_LINE
from seawall.wal.errors import LogGone

if TYPE_CHECKING:
    from seawall.broker.engine import Engine


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
    """Something that is damaged. ``offset`` is the first that cannot be read because of
    it; ``next_offset`` is where reading can go on, None if nowhere."""

    path: str
    position: int | None
    problem: str
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    next_offset: int | None = None


def seawall_version() -> str:
    """The version of the installed package."""
    # Imported here, as is `platform` below, because every command imports this module.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("seawall")
    except PackageNotFoundError:
        return "unknown"


def info(engine: Engine) -> BrokerInfo:
    """What the directory is and holds."""
    import platform

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
        groups=len(engine.state.groups()),
        records=record_count,
        log_bytes=log_bytes,
    )


def verify(engine: Engine, topic: str | None) -> Iterator[Finding]:
    """Read everything there is and yield what is damaged."""
    topics = [engine.topic(topic)] if topic is not None else engine.topics()
    if topic is None:
        for problem in engine.catalog.integrity_check():
            yield Finding(path=engine.catalog.path, position=None, problem=problem)
        for environment in (
            engine.opening.state_environment,
            engine.opening.index_environment,
        ):
            for problem in environment.verify():
                yield Finding(path=environment.path, position=None, problem=problem)
    for each in topics:
        for partition in each.partitions:
            try:
                log = engine.log(partition.id)
                for damage in log.verify():
                    yield Finding(
                        path=damage.path,
                        position=damage.position,
                        problem=damage.reason,
                        topic=each.name,
                        partition=partition.number,
                        offset=damage.offset,
                        next_offset=damage.next_offset,
                    )
            except LogGone:
                continue
