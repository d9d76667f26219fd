"""What an operator asks of a group: who holds it, where it is, set it elsewhere, forget it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.broker.errors import UnknownGroup, UnknownPartition
from seawall.broker.membership import hold, is_held
from seawall.broker.names import check_group_name
from seawall.broker.state import Holder
from seawall.broker.translation import translated
from seawall.wal.errors import LogGone, OffsetOutOfRange

if TYPE_CHECKING:
    from seawall.broker.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOffset:
    """A group's place in one partition. ``lag`` is ``durable_end - committed``."""

    topic: str
    partition: int
    committed: int
    log_start: int
    durable_end: int
    lag: int
    committed_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInfo:
    """A group. ``holder`` is None while nobody holds it."""

    name: str
    holder: Holder | None
    offsets: tuple[GroupOffset, ...]


def groups_folder(engine: Engine) -> str:
    """Where the groups' locks are."""
    return engine.opening.directory.join("run", "groups")


def describe(engine: Engine, name: str) -> GroupInfo:
    """Who holds a group, and its place in every partition."""
    check_group_name(name)
    registered = engine.state.group(name)
    if registered is None:
        raise UnknownGroup(group=name)
    offsets = []
    for partition_id, committed in engine.state.committed(name).items():
        place = engine.place(partition_id)
        if place is None:
            continue  # being deleted
        info, partition = place
        try:
            ends = engine.log(partition_id).ends()
        except LogGone:
            continue
        offsets.append(
            GroupOffset(
                topic=info.name,
                partition=partition.number,
                committed=committed.offset,
                log_start=ends.log_start,
                durable_end=ends.durable_end,
                lag=max(0, ends.durable_end - committed.offset),
                committed_ms=committed.timestamp_ms,
            )
        )
    held = is_held(engine.files, groups_folder(engine), name)
    return GroupInfo(
        name=name,
        holder=registered.holder if held else None,
        offsets=tuple(sorted(offsets, key=lambda each: (each.topic, each.partition))),
    )


def reset(engine: Engine, name: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Set a group's place in a topic, forwards or backwards, while nobody holds it."""
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
    with _held(engine, name):
        trimmed = engine.state.reset(name, wanted)
    for partition_id, log_start in trimmed.items():  # since the look above
        [number] = [each.number for each in info.partitions if each.id == partition_id]
        with translated(topic, number):
            durable_end = engine.log(partition_id).ends().durable_end
            raise OffsetOutOfRange(
                offset=wanted[partition_id], log_start=log_start, durable_end=durable_end
            )


def delete(engine: Engine, name: str) -> None:
    """Forget a group, while nobody holds it."""
    check_group_name(name)
    with _held(engine, name):
        if not engine.state.delete_group(name):
            raise UnknownGroup(group=name)


@contextlib.contextmanager
def _held(engine: Engine, name: str) -> Iterator[None]:
    """Keep everyone else out of the group meanwhile; raises `GroupBusy`."""
    descriptor = hold(engine.files, engine.state, groups_folder(engine), name, wait_ms=0)
    try:
        yield
    finally:
        engine.files.close(descriptor)
