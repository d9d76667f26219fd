"""Who is to have which partitions of a group, as a decision without any I/O.

A rebalance is incremental, whatever the assignor: the decision sets each member's
*target*; a member gives up what is no longer in its target when it polls next, and takes
what is once nobody else has it. So those who keep a partition are never interrupted
(KIP-429), nobody waits for everybody, and a partition has one owner or none at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seawall.broker.assignors import Subscription, assign, choose_assignor
from seawall.broker.group_format import Member

Layout = Mapping[str, Sequence[int]]
"""Topic -> the ids of its partitions, in the order of their numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Which partitions each member is to have (by id), and which assignor said so."""

    assignor: str
    targets: Mapping[str, tuple[int, ...]]


def divide(members: Sequence[Member], layout: Layout) -> Division | None:
    """Divide what the members want among them; None if they know no assignor in common.

    Partitions that a member named by number are its own, and nobody else's.
    """
    named = {each.member_id: each.partitions for each in members if each.partitions is not None}
    taken = {partition for ids in named.values() for partition in ids}
    sharing = [each for each in members if each.partitions is None]
    assignor = choose_assignor([each.assignors for each in sharing])
    if assignor is None and sharing:
        return None
    places = {
        partition: (topic, number)
        for topic, ids in layout.items()
        for number, partition in enumerate(ids)
    }
    shares = assign(
        assignor or "",
        [
            Subscription(
                member_id=each.member_id,
                instance_id=each.instance_id,
                topics=each.topics,
                owned=[places[partition] for partition in each.target if partition in places],
            )
            for each in sharing
        ],
        {topic: len(ids) for topic, ids in layout.items()},
    )
    targets = {
        member: tuple(partition for partition in ids if partition in places)
        for member, ids in named.items()
    }
    for member, share in shares.items():
        ids = (layout[topic][number] for topic, number in share)
        targets[member] = tuple(sorted(each for each in ids if each not in taken))
    return Division(assignor=assignor or "", targets=targets)


def takeable(member: Member, others: Sequence[Member]) -> set[int]:
    """What a member is to have and does not have, and nobody else has."""
    theirs = {partition for each in others for partition in each.owned}
    return set(member.target) - set(member.owned) - theirs
