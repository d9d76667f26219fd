"""Groups as clients are shown them: those that clients are in, and those on disk.

A group that embedded consumers hold is shown as one of Kafka's consumer groups, so that the
tools that know those show it, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seawall.broker.engine import Engine
from seawall.broker.group_format import Group as StoredGroup
from seawall.broker.group_format import Member
from seawall.broker.groups import EMPTY, STABLE
from seawall.broker.kafka.consumer_protocol import (
    CONSUMER,
    encode_assignment,
    encode_subscription,
)
from seawall.broker.kafka.coordinator_group import Group
from seawall.broker.kafka.coordinator_states import State
from seawall.broker.names import check_group_name


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """``state`` is one of Kafka's words for classic groups."""

    name: str
    state: str
    protocol_type: str
    protocol: str
    members: tuple[MemberView, ...] = ()


def view_of(group: Group) -> GroupView:
    """A group that clients are in. What its members may read shows once that is settled."""
    is_stable = group.state is State.STABLE
    return GroupView(
        name=group.name,
        state=group.state.value,
        protocol_type=group.protocols.kind,
        protocol=group.protocols.name if is_stable else "",
        members=tuple(
            MemberView(
                member_id=each.member_id,
                instance_id=each.instance_id,
                client_id=each.client_id,
                client_host=_host(each.client_host),
                metadata=each.protocols.get(group.protocols.name, b"") if is_stable else b"",
                assignment=each.assignment if is_stable else b"",
            )
            for each in group.members.values()
        ),
    )


def _host(peer: str) -> str:
    """As Java prints an address without a name."""
    return "/" + peer.rpartition(":")[0].strip("[]")


def stored_views(engine: Engine) -> dict[str, GroupView]:
    """All groups on disk. Blocks."""
    return {
        found.name: _stored_view(engine, found, engine.groups.members(found.name)[1])
        for found in engine.groups.groups()
    }


def stored_view(engine: Engine, name: str) -> GroupView | None:
    """One group on disk. Blocks. Raises `InvalidGroupName`."""
    check_group_name(name)
    found = engine.groups.group(name)
    if found is None:
        return None
    return _stored_view(engine, found, engine.groups.members(name)[1])


def _stored_view(engine: Engine, found: StoredGroup, members: Sequence[Member]) -> GroupView:
    living = [each for each in members if not each.is_wire and not engine.lives.is_dead(each)]
    places = {
        partition_id: (topic, number)
        for topic, ids in (engine.layout() if living else {}).items()
        for number, partition_id in enumerate(ids)
    }
    return GroupView(
        name=found.name,
        state=STABLE if living else EMPTY,
        # What has never had a member has only been committed to.
        protocol_type=CONSUMER if living or found.assignor else "",
        protocol=found.assignor if living else "",
        members=tuple(_member_view(each, places) for each in living),
    )


def _member_view(member: Member, places: Mapping[int, tuple[str, int]]) -> MemberView:
    owned = sorted(places[each] for each in member.owned if each in places)
    return MemberView(
        member_id=member.member_id,
        instance_id=member.instance_id,
        client_id=member.client_id,
        client_host=f"/{member.host}",
        metadata=encode_subscription(member.topics),
        assignment=encode_assignment(owned),
    )
