"""Making a consumer: which partitions, from where, and in whose name."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from seawall.broker.catalog import PartitionInfo, TopicInfo
from seawall.broker.consumer import Consumer
from seawall.broker.errors import NoOffset, UnknownPartition
from seawall.broker.fetch import Fetcher
from seawall.broker.membership import Membership
from seawall.broker.names import check_group_name
from seawall.broker.offsets import Position, parse_position, resolve
from seawall.broker.translation import translated
from seawall.wal.log import Log

if TYPE_CHECKING:
    from seawall.broker.engine import Engine

Place = tuple[TopicInfo, PartitionInfo, Log]


def open_consumer(
    engine: Engine,
    topics: Sequence[str],
    *,
    group: str | None,
    partitions: Sequence[int] | None,
    start: int | str | Position | None,
    auto_offset_reset: str,
    group_wait_ms: float,
    fetch_bytes: int,
    release: Callable[[Consumer], None],
) -> Consumer:
    """Make a consumer as `Broker.consumer` documents it."""
    if not topics:
        raise ValueError("a consumer needs at least one topic")
    position = parse_position(start) if isinstance(start, (int, str)) else start
    places = [
        (info, partition, engine.log(partition.id))
        for info in (engine.topic(topic) for topic in dict.fromkeys(topics))
        for partition in _wanted(info, partitions)
    ]
    if group is None:
        membership = None
        begins = {place[1].id: _begin(place, position, auto_offset_reset) for place in places}
    else:
        check_group_name(group)
        membership = Membership.take(
            engine.files,
            engine.state,
            engine.opening.directory.join("run", "groups"),
            group,
            wait_ms=group_wait_ms,
        )
    with contextlib.ExitStack() as undo:
        if membership is not None:
            undo.callback(membership.leave)
            begins = _begin_group(engine, membership, places, position, auto_offset_reset)
        fetchers = {
            (info.name, partition.number): Fetcher(
                log,
                topic=info.name,
                partition=partition.number,
                partition_id=partition.id,
                position=begins[partition.id],
                auto_offset_reset=auto_offset_reset,
                fetch_bytes=fetch_bytes,
            )
            for info, partition, log in places
        }
        if membership is None and position is not None:
            for (topic, number), fetcher in fetchers.items():
                with translated(topic, number):
                    fetcher.check_offset(fetcher.position)
        undo.pop_all()
    return Consumer(engine, fetchers, membership=membership, release=release)


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


def _begin_group(
    engine: Engine,
    membership: Membership,
    places: Sequence[Place],
    position: Position | None,
    auto_offset_reset: str,
) -> dict[int, int]:
    """Where the group begins; stored before anything is read."""
    committed = engine.state.committed(membership.group)
    starts = {}
    for place in places:
        info, partition, log = place
        if partition.id in committed:
            starts[partition.id] = committed[partition.id].offset
        elif position is None and auto_offset_reset == "error":
            raise NoOffset(group=membership.group, topic=info.name, partition=partition.number)
        else:
            starts[partition.id] = _begin(place, position, auto_offset_reset)
            with translated(info.name, partition.number):
                log.check_offset(starts[partition.id])
    membership.begin(starts)
    return dict(membership.start_offsets)
