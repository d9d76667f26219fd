"""Making a consumer of a cluster: which partitions, from where, and in whose name."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from confluent_kafka import Consumer as Client

from seawall.broker.assignors import DEFAULT_ASSIGNOR
from seawall.broker.errors import NoOffset, UnsupportedByLocation
from seawall.broker.group_running import check_has_group
from seawall.broker.groups import STABLE
from seawall.broker.offsets import Position, resolve
from seawall.broker.remote.consumer import RemoteConsumer
from seawall.broker.remote.fetching import Place
from seawall.broker.remote.group_consumer import RemoteGroupConsumer

if TYPE_CHECKING:
    from uuid import UUID

    from seawall.broker.group_running import GroupOptions
    from seawall.broker.handling_place import DeadLetterSink
    from seawall.broker.membership import MemberSettings
    from seawall.broker.remote.asking import Asking
    from seawall.broker.remote.groups import Groups
    from seawall.broker.remote.topics import Topics


class Opening:
    """Makes consumers for one broker."""

    def __init__(
        self,
        asking: Asking,
        topics: Topics,
        groups: Groups,
        release: Callable[[RemoteConsumer], None],
        open_dead_letters: Callable[[str], DeadLetterSink],
    ) -> None:
        self._asking = asking
        self._topics = topics
        self._groups = groups
        self._release = release
        self._open_dead_letters = open_dead_letters

    def open(
        self,
        make: Callable[..., Client],
        names: Sequence[str],
        *,
        group: str | None,
        partitions: Sequence[int] | None,
        position: Position | None,
        auto_offset_reset: str,
        member: MemberSettings,
        options: GroupOptions,
    ) -> RemoteConsumer:
        """A consumer as `RemoteBroker.consumer` documents it."""
        check_has_group(group, member, options)
        if group is not None:
            self._check_member(member, partitions)
        uuids, places = self._places(names, partitions)
        if group is None:
            starts = self._starts(places, position, auto_offset_reset)
            consumer = RemoteConsumer(
                self._asking, self._topics, make, uuids=uuids, release=self._release
            )
            try:
                consumer.begin(starts)
            except BaseException:
                consumer.close()
                raise
            return consumer
        return RemoteGroupConsumer(
            self._asking,
            self._topics,
            make,
            group=group,
            uuids=uuids,
            member=member,
            options=options,
            starts=self._begin_group(group, places, position, auto_offset_reset),
            find_start=lambda topic, number: self._topics.ends(topic, [number])[number].log_start,
            is_settled=lambda: self._groups.describe(group).state == STABLE,
            open_dead_letters=self._open_dead_letters,
            release=self._release,
        )

    def _check_member(self, member: MemberSettings, partitions: Sequence[int] | None) -> None:
        if partitions is not None:
            raise UnsupportedByLocation(
                operation="keep partitions for one member of a group; leave out the group, or "
                "the partitions",
                location=self._asking.location,
            )
        kinds = {each == DEFAULT_ASSIGNOR for each in member.partition_assignment_strategy}
        if len(kinds) > 1:
            raise UnsupportedByLocation(
                operation="offer cooperative-sticky together with range or roundrobin",
                location=self._asking.location,
            )

    def _places(
        self, names: Sequence[str], partitions: Sequence[int] | None
    ) -> tuple[dict[str, UUID], list[Place]]:
        """The topics with their ids, and their partitions or those of them that are wanted."""
        uuids, places = {}, []
        for name in names:
            info = self._topics.check_partitions(name, partitions or ())
            uuids[name] = info.uuid
            numbers = [each.number for each in info.partitions]
            places += [(name, n) for n in (dict.fromkeys(partitions) if partitions else numbers)]
        return uuids, places

    def _starts(
        self, places: Sequence[Place], position: Position | None, auto_offset_reset: str
    ) -> dict[Place, int]:
        """Where to begin in partitions that nothing is known of."""
        starts = {}
        now_ms = time.time_ns() // 1_000_000
        for topic in dict.fromkeys(topic for topic, _ in places):
            numbers = [number for name, number in places if name == topic]
            for number, ends in self._topics.ends(topic, numbers).items():

                def offset_for_time(
                    timestamp_ms: int, topic: str = topic, number: int = number
                ) -> int | None:
                    found = self._topics.offset_for_time(topic, number, timestamp_ms)
                    return None if found is None else found.offset

                if position is None:
                    at = ends.durable_end if auto_offset_reset == "latest" else ends.log_start
                else:
                    at = resolve(
                        position,
                        log_start=ends.log_start,
                        durable_end=ends.durable_end,
                        now_ms=now_ms,
                        offset_for_time=offset_for_time,
                    )
                    self._topics.check_offset(topic, number, at, ends)
                starts[topic, number] = at
        return starts

    def _begin_group(
        self,
        group: str,
        places: Sequence[Place],
        position: Position | None,
        auto_offset_reset: str,
    ) -> dict[Place, int]:
        """Store where the group begins, where it is nowhere yet. If it has members, that is
        for whoever is given the partition: then this gives the offsets."""
        committed = self._groups.committed(group)
        missing = [place for place in places if place not in committed]
        if missing and position is None and auto_offset_reset == "error":
            raise NoOffset(group=group, topic=missing[0][0], partition=missing[0][1])
        starts = self._starts(missing, position, auto_offset_reset)
        for topic in dict.fromkeys(topic for topic, _ in missing):
            offsets = {number: at for (name, number), at in starts.items() if name == topic}
            if not self._groups.begin(group, topic, offsets):
                break
        return starts
