"""What an operator asks of a group: who is in it, where it is, set it elsewhere, forget it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.broker.errors import UnknownGroup, UnknownPartition
from seawall.broker.group_format import Member
from seawall.broker.names import REDRIVE_GROUP, check_group_name
from seawall.broker.translation import translated
from seawall.wal.errors import LogDamaged, LogGone, OffsetOutOfRange, RecordsUnreadable
from seawall.wal.log import Log
from seawall.wal.records import decode_batch

if TYPE_CHECKING:
    from seawall.broker.engine import Engine
    from seawall.broker.state import Committed

EMPTY = "Empty"
STABLE = "Stable"
RECONCILING = "Reconciling"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMember:
    """A member, and which partitions it reads: (topic, partition) pairs."""

    member_id: str
    client_id: str
    group_instance_id: str | None
    pid: int
    host: str
    joined_ms: int
    assignment: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOffset:
    """A group's place in one partition. ``lag`` is ``durable_end - committed``.

    ``lag_ms``: how long ago the first record was published that is not acknowledged; 0
    without any, None if it cannot be read. ``member_id``: who reads it. ``holds_back``:
    no group is further behind, so that what was removed by acknowledgement ends here.
    """

    topic: str
    partition: int
    committed: int
    log_start: int
    durable_end: int
    lag: int
    lag_ms: int | None
    committed_ms: int
    member_id: str | None
    holds_back: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInfo:
    """A group. ``state`` is ``Empty``, ``Stable``, or ``Reconciling`` while partitions are
    on their way from one member to another (the words of KIP-848)."""

    name: str
    state: str
    generation: int
    assignor: str
    members: tuple[GroupMember, ...]
    offsets: tuple[GroupOffset, ...]


def describe(engine: Engine, name: str) -> GroupInfo:
    """Who is in a group, and its place in every partition."""
    check_group_name(name)
    registered = engine.groups.group(name)
    if registered is None:
        raise UnknownGroup(group=name)
    generation, members = engine.groups.members(name)
    members = [each for each in members if not engine.lives.is_dead(each)]
    owners = {partition: each.member_id for each in members for partition in each.owned}
    offsets = []
    for partition_id, committed in engine.state.committed(name).items():
        offset = _offset(engine, partition_id, committed, owners.get(partition_id))
        if offset is not None:
            offsets.append(offset)
    return GroupInfo(
        name=name,
        state=_state(members),
        generation=generation,
        assignor=registered.assignor,
        members=tuple(_member(engine, each) for each in members),
        offsets=tuple(sorted(offsets, key=lambda each: (each.topic, each.partition))),
    )


def committed(engine: Engine, name: str) -> dict[tuple[str, int], int]:
    """A group's place in every partition, without all else that `describe` looks up."""
    check_group_name(name)
    found = {}
    for partition_id, each in engine.state.committed(name).items():
        place = engine.place(partition_id)
        if place is not None:
            found[place[0].name, place[1].number] = each.offset
    return dict(sorted(found.items()))


def _state(members: Sequence[Member]) -> str:
    if not members:
        return EMPTY
    return STABLE if all(set(each.owned) == set(each.target) for each in members) else RECONCILING


def _member(engine: Engine, member: Member) -> GroupMember:
    places = [engine.place(partition) for partition in member.owned]
    return GroupMember(
        member_id=member.member_id,
        client_id=member.client_id,
        group_instance_id=member.instance_id,
        pid=member.pid,
        host=member.host,
        joined_ms=member.joined_ms,
        assignment=tuple(sorted((each[0].name, each[1].number) for each in places if each)),
    )


def _offset(
    engine: Engine, partition_id: int, committed: Committed, member_id: str | None
) -> GroupOffset | None:
    """A group's place in a partition, None if that is being deleted."""
    place = engine.place(partition_id)
    if place is None:
        return None
    try:
        log = engine.log(partition_id)
        ends = log.ends()
        lag_ms = _lag_ms(log, committed.offset)
    except LogGone:
        return None
    info, partition = place
    return GroupOffset(
        topic=info.name,
        partition=partition.number,
        committed=committed.offset,
        log_start=ends.log_start,
        durable_end=ends.durable_end,
        lag=max(0, ends.durable_end - committed.offset),
        lag_ms=lag_ms,
        committed_ms=committed.timestamp_ms,
        member_id=member_id,
        holds_back=(
            committed.offset < ends.durable_end
            and engine.state.is_lowest(partition_id, committed.offset)
        ),
    )


def _lag_ms(log: Log, offset: int) -> int | None:
    """How long ago the first record at or behind an offset was published."""
    reader = log.reader(max(offset, log.ends().log_start))
    try:
        while True:
            chunk = reader.read(1)
            if not chunk.batches:
                return 0
            for position, header in chunk.batches:
                if not header.is_control:
                    for record in decode_batch(chunk.data, position, "", 0, min_offset=offset):
                        return max(0, time.time_ns() // 1_000_000 - record.timestamp)
    except (LogDamaged, RecordsUnreadable, OffsetOutOfRange):
        return None
    finally:
        reader.close()


def reset(engine: Engine, name: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Set a group's place in a topic, forwards or backwards, while it has no members."""
    check_group_name(name)
    info = engine.topic(topic)
    wanted = {}
    for number, offset in offsets.items():
        if not 0 <= number < len(info.partitions):
            raise UnknownPartition(topic=topic, partition=number, partitions=len(info.partitions))
        partition = info.partitions[number]
        with translated(topic, number):
            engine.log(partition.id).check_offset(offset)
        wanted[partition.id] = offset
    trimmed = engine.groups.reset(name, wanted, engine.lives.is_dead)
    if not trimmed:
        engine.notes.forget(name, wanted)
    for partition_id, log_start in trimmed.items():  # since the look above
        [number] = [each.number for each in info.partitions if each.id == partition_id]
        with translated(topic, number):
            durable_end = engine.log(partition_id).ends().durable_end
            raise OffsetOutOfRange(
                offset=wanted[partition_id], log_start=log_start, durable_end=durable_end
            )


def delete(engine: Engine, name: str) -> None:
    """Forget a group, while it has no members."""
    check_group_name(name)
    noted = engine.state.committed(name) if engine.groups.group(name) else ()
    if not engine.groups.delete(name, engine.lives.is_dead):
        raise UnknownGroup(group=name)
    engine.notes.forget(name, noted)


def expire(engine: Engine, retention_ms: int) -> list[str]:
    """Forget the groups that have had no member, and have acknowledged nothing, for so long.

    Returns their names. They hold back nothing any more.
    """
    expired = []
    for group in engine.groups.groups():
        if group.name == REDRIVE_GROUP:
            continue  # or what was redriven once would be so again
        for member in engine.groups.refresh(group.name, engine.layout(), engine.lives.is_dead):
            engine.lives.clear(member)
        before_ms = time.time_ns() // 1_000_000 - retention_ms
        if engine.groups.expire(group.name, before_ms, engine.lives.is_dead):
            expired.append(group.name)
    return expired
