"""Dividing partitions among the members of a group: who gets what, and nothing else.

The names and the results are Kafka's (``partition.assignment.strategy``): ``range``,
``roundrobin`` and ``cooperative-sticky``. Members are ordered as Kafka orders them, by
their instance id if they have one and otherwise, behind those, by their member id; topics
by name. No I/O, no clock: the same input always gives the same answer, so that it does
not matter which member works it out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from seawall.broker.assignor_sticky import assign_sticky

TopicPartition = tuple[str, int]
Assignment = dict[str, list[TopicPartition]]
"""Member id -> its partitions."""
DEFAULT_ASSIGNOR = "cooperative-sticky"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a member wants, and what it has: ``owned`` is for assignors that leave things
    where they are."""

    member_id: str
    topics: Sequence[str]
    instance_id: str | None = None
    owned: Sequence[TopicPartition] = ()


def in_order(members: Sequence[Subscription]) -> list[Subscription]:
    """As Kafka orders them (``AbstractPartitionAssignor.MemberInfo``)."""
    return sorted(
        members,
        key=lambda each: (each.instance_id is None, each.instance_id or "", each.member_id),
    )


def _range(members: Sequence[Subscription], partitions: Mapping[str, int]) -> Assignment:
    """Each topic by itself: stretches of partitions, the first members get one more."""
    found: Assignment = {each.member_id: [] for each in members}
    for topic in sorted({topic for each in members for topic in each.topics}):
        wanting = [each for each in members if topic in each.topics]
        share, more = divmod(partitions.get(topic, 0), len(wanting))
        start = 0
        for place, each in enumerate(wanting):
            end = start + share + (place < more)
            found[each.member_id] += [(topic, number) for number in range(start, end)]
            start = end
    return found


def _round_robin(members: Sequence[Subscription], partitions: Mapping[str, int]) -> Assignment:
    """All partitions of all topics, dealt out one by one to whoever wants that topic."""
    found: Assignment = {each.member_id: [] for each in members}
    turn = itertools.cycle(members)
    for topic in sorted({topic for each in members for topic in each.topics}):
        for number in range(partitions.get(topic, 0)):
            each = next(turn)
            while topic not in each.topics:
                each = next(turn)
            found[each.member_id].append((topic, number))
    return found


def _cooperative_sticky(
    members: Sequence[Subscription], partitions: Mapping[str, int]
) -> Assignment:
    """As even as can be, and as much as can be stays where it is."""
    wanted = {each.member_id: set(each.topics) for each in members}
    there = {
        each.member_id: [
            (topic, number)
            for topic, number in each.owned
            if topic in wanted[each.member_id] and number < partitions.get(topic, 0)
        ]
        for each in members
    }
    return assign_sticky(
        {each.member_id: sorted(each.topics) for each in members}, partitions, there
    )


ASSIGNORS: dict[str, Callable[[Sequence[Subscription], Mapping[str, int]], Assignment]] = {
    "range": _range,
    "roundrobin": _round_robin,
    "cooperative-sticky": _cooperative_sticky,
}


def assign(
    assignor: str, members: Sequence[Subscription], partitions: Mapping[str, int]
) -> Assignment:
    """Who gets which partitions: of topics by name, each with so many partitions.

    Every partition of a topic that anybody wants is given to exactly one of those who want
    it; topics without an entry in `partitions` do not exist. `assignor` is a key of
    `ASSIGNORS`.
    """
    return ASSIGNORS[assignor](in_order(members), partitions) if members else {}


def choose_assignor(preferences: Sequence[Sequence[str]]) -> str | None:
    """The one that all members know and most of them like best; None if there is none.

    Each votes for the first in its list that all know, as with Kafka's group coordinator;
    among equals the first by name.
    """
    common = set.intersection(*(set(each) for each in preferences)) if preferences else set()
    common &= ASSIGNORS.keys()
    if not common:
        return None
    votes = [next(name for name in each if name in common) for each in preferences]
    return min(common, key=lambda name: (-votes.count(name), name))
