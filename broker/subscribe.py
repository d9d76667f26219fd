"""Making a consumer: which partitions, from where, and in whose name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from seawall.broker.catalog import PartitionInfo, TopicInfo
from seawall.broker.consumer import Consumer
from seawall.broker.errors import NoOffset, UnknownPartition
from seawall.broker.fetch import Fetcher
from seawall.broker.group_consumer import GroupConsumer
from seawall.broker.group_running import GroupOptions, check_has_group
from seawall.broker.membership import MemberSettings, Membership
from seawall.broker.names import check_group_name
from seawall.broker.offsets import Position, parse_position, resolve
from seawall.broker.translation import translated
from seawall.wal.errors import LogGone
from seawall.wal.log import Log

if TYPE_CHECKING:
    from seawall.broker.engine import Engine

logger = logging.getLogger("seawall.broker")

Place = tuple[TopicInfo, PartitionInfo, Log]


def open_consumer(
    engine: Engine,
    topics: Sequence[str],
    *,
    group: str | None,
    partitions: Sequence[int] | None,
    start: int | str | Position | None,
    auto_offset_reset: str,
    fetch_bytes: int,
    member: MemberSettings,
    options: GroupOptions,
    release: Callable[[Consumer], None],
) -> Consumer:
    """Make a consumer as `Broker.consumer` documents it."""
    if not topics:
        raise ValueError("a consumer needs at least one topic")
    check_has_group(group, member, options)
    topics = list(dict.fromkeys(topics))
    position = parse_position(start) if isinstance(start, (int, str)) else start

    def fetcher_at(place: Place, offset: int) -> Fetcher:
        info, partition, log = place
        return Fetcher(
            log,
            topic=info.name,
            partition=partition.number,
            partition_id=partition.id,
            position=offset,
            auto_offset_reset=auto_offset_reset,
            fetch_bytes=fetch_bytes,
        )

    def places() -> list[Place]:
        return [
            (info, partition, engine.log(partition.id))
            for info in (engine.topic(topic) for topic in topics)
            for partition in _wanted(info, partitions)
        ]

    if group is None:
        fetchers = {}
        for place in places():
            fetcher = fetcher_at(place, _begin(place, position, auto_offset_reset))
            if position is not None:
                with translated(fetcher.topic, fetcher.partition):
                    fetcher.check_offset(fetcher.position)
            fetchers[fetcher.topic, fetcher.partition] = fetcher
        return Consumer(engine, fetchers, release=release)

    def find_starts() -> dict[int, int]:
        return _starts(engine, group, places(), position, auto_offset_reset)

    def open_fetcher(partition_id: int, offset: int) -> Fetcher | None:
        place = engine.place(partition_id)
        if place is None:
            return None
        try:
            return fetcher_at((*place, engine.log(partition_id)), offset)
        except LogGone:
            return None  # deleted a moment ago

    check_group_name(group)
    named = None if partitions is None else [partition.id for _, partition, _ in places()]
    membership = Membership(
        engine,
        group,
        member,
        topics=topics,
        partitions=named,
        find_starts=find_starts,
    )
    try:
        return GroupConsumer(
            engine, membership, options=options, open_fetcher=open_fetcher, release=release
        )
    except BaseException:
        membership.leave()
        raise


def _wanted(info: TopicInfo, partitions: Sequence[int] | None) -> list[PartitionInfo]:
    if partitions is None:
        return list(info.partitions)
    wanted = []
    for number in dict.fromkeys(partitions):
        if not 0 <= number < len(info.partitions):
            raise UnknownPartition(
                topic=info.name, partition=number, partitions=len(info.partitions)
            )
        wanted.append(info.partitions[number])
    return wanted


def _begin(place: Place, position: Position | None, auto_offset_reset: str) -> int:
    """Where to begin in a partition that nothing is known of."""
    info, partition, log = place
    with translated(info.name, partition.number):
        return resolve_in(log, position) if position else _reset(log, auto_offset_reset)


def _reset(log: Log, auto_offset_reset: str) -> int:
    ends = log.ends()
    return ends.durable_end if auto_offset_reset == "latest" else ends.log_start


def resolve_in(log: Log, position: Position) -> int:
    """The offset that an expression means in a log."""
    ends = log.ends()

    def offset_for_time(timestamp_ms: int) -> int | None:
        found = log.offset_for_time(timestamp_ms)
        return None if found is None else found.offset

    return resolve(
        position,
        log_start=ends.log_start,
        durable_end=ends.durable_end,
        now_ms=time.time_ns() // 1_000_000,
        offset_for_time=offset_for_time,
    )


def _starts(
    engine: Engine,
    group: str,
    places: Sequence[Place],
    position: Position | None,
    auto_offset_reset: str,
) -> dict[int, int]:
    """Where the group begins in those partitions in which it has committed nothing."""
    committed = engine.state.committed(group) if engine.groups.group(group) else {}
    starts = {}
    for place in places:
        info, partition, log = place
        if partition.id in committed:
            continue
        if position is None and auto_offset_reset == "error":
            raise NoOffset(group=group, topic=info.name, partition=partition.number)
        start = starts[partition.id] = _begin(place, position, auto_offset_reset)
        with translated(info.name, partition.number):
            log.check_offset(start)
        log_start = log.ends().log_start
        if start == log_start > 0:
            logger.warning(
                "group %s begins at offset %d of %s/%d: the %d before it were removed",
                group,
                start,
                info.name,
                partition.number,
                log_start,
            )
    return starts
