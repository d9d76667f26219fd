"""Members of groups, for tests of what is stored about them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from seawall.broker.group_format import Member
from seawall.broker.group_state import Commit, GroupState
from seawall.broker.state import State

_numbers = itertools.count()


def member(
    name: str = "c",
    *,
    topics: Sequence[str] = ("t",),
    partitions: Sequence[int] | None = None,
    instance_id: str | None = None,
    assignors: Sequence[str] = ("range",),
    target: Sequence[int] = (),
    owned: Sequence[int] = (),
) -> Member:
    """A member of a new id that begins with a name."""
    return Member(
        member_id=f"{name}-{next(_numbers):04}",
        client_id=name,
        instance_id=instance_id,
        pid=42,
        host="here",
        boot="b00t",
        joined_ms=17,
        session_timeout_ms=1_000,
        topics=tuple(topics),
        partitions=None if partitions is None else tuple(partitions),
        assignors=tuple(assignors),
        target=tuple(target),
        owned=tuple(owned),
    )


def all_alive(member: Member) -> bool:
    """Nobody is dead."""
    return False


def put_offsets(state: State, group: str, offsets: Mapping[int, int], metadata: str = "") -> None:
    """Have a group commit, as a member that comes and goes."""
    groups, who = GroupState(state), member()
    groups.join(group, who, {}, {}, all_alive)
    commit = Commit(group=group, member_id=who.member_id, offsets=offsets, metadata=metadata)
    assert groups.commit([commit]) == [None]
    groups.leave(group, who.member_id, {}, all_alive)
