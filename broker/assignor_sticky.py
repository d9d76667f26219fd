"""The ``cooperative-sticky`` assignor: even first, then as little moved as possible.

Even means: nobody has a partition that somebody who has at least two fewer would take
(KIP-54). If all want the same topics it is worked out as Kafka does it in that case: each
keeps what it has up to its share, and the rest is dealt out in order. Otherwise
partitions are moved one at a time, from those who have most to those who have least, for
as long as that makes it more even.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

TopicPartition = tuple[str, int]


def assign_sticky(
    topics: Mapping[str, Sequence[str]],
    partitions: Mapping[str, int],
    owned: Mapping[str, Sequence[TopicPartition]],
) -> dict[str, list[TopicPartition]]:
    """Member id -> partitions, for members with these topics who have these partitions.

    What is owned exists and is wanted. Two members may claim the same partition (one of
    them was away): the first one's claim counts.
    """
    claimed: set[TopicPartition] = set()
    kept: dict[str, list[TopicPartition]] = {}
    for member, claims in owned.items():
        kept[member] = [each for each in sorted(claims) if each not in claimed]
        claimed.update(kept[member])
    everything = [
        (topic, number)
        for topic in sorted({topic for each in topics.values() for topic in each})
        for number in range(partitions.get(topic, 0))
    ]
    wanted = [sorted({t for t in each if partitions.get(t)}) for each in topics.values()]
    if all(each == wanted[0] for each in wanted):
        return _among_equals(kept, everything)
    return _in_general(topics, kept, everything)


def _among_equals(
    kept: Mapping[str, list[TopicPartition]], everything: Sequence[TopicPartition]
) -> dict[str, list[TopicPartition]]:
    share, with_one_more = divmod(len(everything), len(kept))
    found: dict[str, list[TopicPartition]] = {}
    for member, claims in kept.items():
        # As long as there are larger shares, whoever fills one keeps it.
        if len(claims) > share and with_one_more:
            found[member] = claims[: share + 1]
            with_one_more -= 1
        else:
            found[member] = claims[:share]
    taken = {each for claims in found.values() for each in claims}
    below = deque(member for member, claims in found.items() if len(claims) < share)
    exactly = deque(member for member, claims in found.items() if len(claims) == share)
    for each in everything:
        if each in taken:
            continue
        if below:
            member = below.popleft()
            found[member].append(each)
            (below if len(found[member]) < share else exactly).append(member)
        else:
            found[exactly.popleft()].append(each)
    return {member: sorted(claims) for member, claims in found.items()}


def _in_general(
    topics: Mapping[str, Sequence[str]],
    kept: Mapping[str, list[TopicPartition]],
    everything: Sequence[TopicPartition],
) -> dict[str, list[TopicPartition]]:
    found = {member: list(claims) for member, claims in kept.items()}
    takers: dict[str, list[str]] = {}
    for member, wanted in topics.items():
        for topic in wanted:
            takers.setdefault(topic, []).append(member)
    taken = {each for claims in found.values() for each in claims}
    # Those that few want come first: they leave the least choice.
    for each in sorted(everything, key=lambda each: (len(takers[each[0]]), each)):
        if each not in taken:
            found[min(takers[each[0]], key=lambda member: len(found[member]))].append(each)
    # Each move makes the sum of the squares of the shares smaller, so it ends.
    while _move_one(found, takers, kept):
        pass
    return {member: sorted(claims) for member, claims in found.items()}


def _move_one(
    found: Mapping[str, list[TopicPartition]],
    takers: Mapping[str, Sequence[str]],
    kept: Mapping[str, Sequence[TopicPartition]],
) -> bool:
    """Give one partition of somebody to one who has at least two fewer, if there is any."""
    for member in sorted(found, key=lambda each: -len(found[each])):
        # What it did not have before goes first.
        for each in sorted(found[member], key=lambda one: (one in kept[member], one)):
            taker = min(takers[each[0]], key=lambda one: len(found[one]))
            if len(found[taker]) + 2 <= len(found[member]):
                found[member].remove(each)
                found[taker].append(each)
                return True
    return False
