"""What a mirror is going to copy: topics, their partitions and settings."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from seawall.broker.config import ACKNOWLEDGED, DELETE
from seawall.broker.errors import (
    InvalidConfig,
    MirrorConflict,
    UnknownTopic,
    UnsupportedByLocation,
)
from seawall.broker.mirror_checkpoint import CHECKPOINT_TOPIC
from seawall.broker.topic_info import TopicInfo

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker

# Names that begin so are housekeeping, and are copied only if they are named in full.
INTERNAL_PREFIX: Final = "__"
# What is said in full, because the default is not the same everywhere.
_ALWAYS: Final = ("cleanup.policy", "retention.bytes", "retention.ms")
_TIMESTAMP_TYPE: Final = "message.timestamp.type"
_CREATE_TIME: Final = "CreateTime"
# Records keep the timestamps that they have at the source, and who follows which replica is
# the cluster's own.
_NEVER: Final = (_TIMESTAMP_TYPE, "replication.throttled.replicas")
_FOR_EVER: Final = {"cleanup.policy": DELETE, "retention.ms": "-1", "retention.bytes": "-1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTopic:
    """A topic, and what becomes of it.

    ``target_partitions`` is 0 where the target has no such topic yet. ``notes`` say, for
    people, what is not the same there.
    """

    name: str
    partitions: int
    target_partitions: int
    config: Mapping[str, str]
    notes: tuple[str, ...] = ()


def plan(
    source: AnyBroker, target: AnyBroker, topics: Sequence[str], exclude: Sequence[str]
) -> list[PlannedTopic]:
    """What is to be copied. Nothing is changed.

    Raises `UnknownTopic` for a name or pattern that fits no topic, and `MirrorConflict`.
    """
    if source.cluster_id == target.cluster_id:
        raise MirrorConflict(
            reason=f"{source.location} and {target.location} are the same broker; nothing is to "
            "be copied"
        )
    there = {each.name: each for each in target.topics()}
    chosen = select({each.name: each for each in source.topics()}, topics, exclude)
    return [_planned(each, there.get(each.name), is_remote=target.is_remote) for each in chosen]


def select(
    topics: Mapping[str, TopicInfo], wanted: Sequence[str], exclude: Sequence[str]
) -> list[TopicInfo]:
    """The topics that are named, or fit a pattern such as ``order*``; sorted by name."""
    names: set[str] = set()
    for pattern in wanted:
        if pattern in topics:
            fitting = [pattern]
        else:
            fitting = [
                name
                for name in fnmatch.filter(topics, pattern)
                if not name.startswith(INTERNAL_PREFIX)
            ]
            if not fitting and pattern != "*":
                raise UnknownTopic(topic=pattern)
        names.update(fitting)
    for pattern in exclude:
        names.difference_update(fnmatch.filter(names, pattern))
    names.discard(CHECKPOINT_TOPIC)
    return [topics[name] for name in sorted(names)]


def _planned(source: TopicInfo, target: TopicInfo | None, *, is_remote: bool) -> PlannedTopic:
    config = _config(source)
    partitions = len(source.partitions)
    notes: list[str] = []
    if target is None:
        present = 0
    else:
        present = len(target.partitions)
        if present > partitions:
            raise MirrorConflict(
                topic=source.name,
                reason=f"topic {source.name!r} has {present} partitions at the target, and "
                f"{partitions} at the source, so that keys would go elsewhere; give the source "
                f"as many, or delete it at the target, or leave it out with --exclude",
            )
        if is_remote and _has_times_of_its_own(target):
            raise MirrorConflict(
                topic=source.name,
                reason=f"topic {source.name!r} has {_TIMESTAMP_TYPE}=LogAppendTime at the target, "
                f"so that records would lose their timestamps; set {_CREATE_TIME} there first: "
                f"seawall -b TO topic alter {source.name} -c {_TIMESTAMP_TYPE}={_CREATE_TIME}",
            )
        for key, value in config.items():
            other = target.in_force.get(key)
            if other not in (None, value, _FOR_EVER.get(key)):
                notes.append(f"{key} is {other} at the target, {value} at the source")
    if _has_times_of_its_own(source):
        notes.append("message.timestamp.type stays CreateTime: records keep their timestamps")
    return PlannedTopic(
        name=source.name,
        partitions=partitions,
        target_partitions=present,
        config=config,
        notes=tuple(notes),
    )


def _has_times_of_its_own(topic: TopicInfo) -> bool:
    """Whether a server puts its own timestamps in the place of those that records come with."""
    return topic.in_force.get(_TIMESTAMP_TYPE, _CREATE_TIME) != _CREATE_TIME


def _config(source: TopicInfo) -> dict[str, str]:
    """The settings that the topic should have at the target."""
    in_force = source.in_force
    config = {key: in_force[key] for key in _ALWAYS if key in in_force}
    config |= source.config
    return {key: value for key, value in config.items() if not key.endswith(_NEVER)}


def prepare(target: AnyBroker, planned: PlannedTopic) -> list[str]:
    """Make the topic, or give it the partitions that it lacks; what was left out, for people."""
    if planned.target_partitions:
        if planned.target_partitions < planned.partitions:
            target.add_partitions(planned.name, planned.partitions)
        return []
    config = dict(planned.config)
    notes: list[str] = []
    while True:
        try:
            made = target.create_topic(planned.name, planned.partitions, config)
            if target.is_remote and _has_times_of_its_own(made):  # the cluster's default
                target.alter_topic(planned.name, {_TIMESTAMP_TYPE: _CREATE_TIME})
            return notes
        except UnsupportedByLocation:
            if config.get("cleanup.policy") != ACKNOWLEDGED:
                raise
            config |= _FOR_EVER
            notes.append(
                "cleanup.policy=acknowledged is not known there: it is delete, and "
                "retention.ms=-1, so that everything is kept until you say otherwise"
            )
        except InvalidConfig as error:
            if error.key not in config:
                raise
            value = config.pop(error.key)
            notes.append(f"{error.key}={value} is left out: the target does not take it")
