"""Who gets which partitions: Kafka's results, against an independent implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.assignors import (
    ASSIGNORS,
    Assignment,
    Subscription,
    assign,
    choose_assignor,
    in_order,
)

TOPICS = ["t0", "t1", "t2", "t3"]
MEMBERS = ["c0", "c1", "c2", "c3", "c4"]


def members(**topics: Sequence[str]) -> list[Subscription]:
    return [Subscription(member_id=name, topics=each) for name, each in topics.items()]


def short(assignment: Assignment) -> dict[str, str]:
    return {name: " ".join(f"{t}p{p}" for t, p in each) for name, each in assignment.items()}


def test_range_gives_the_first_members_one_more() -> None:
    # The example of the documentation of Kafka's RangeAssignor.
    found = assign("range", members(c0=["t0", "t1"], c1=["t0", "t1"]), {"t0": 3, "t1": 3})
    assert short(found) == {"c0": "t0p0 t0p1 t1p0 t1p1", "c1": "t0p2 t1p2"}


def test_roundrobin_deals_out_over_topics() -> None:
    # The examples of the documentation of Kafka's RoundRobinAssignor.
    found = assign("roundrobin", members(c0=["t0", "t1"], c1=["t0", "t1"]), {"t0": 3, "t1": 3})
    assert short(found) == {"c0": "t0p0 t0p2 t1p1", "c1": "t0p1 t1p0 t1p2"}
    found = assign(
        "roundrobin",
        members(c0=["t0"], c1=["t0", "t1"], c2=["t0", "t1", "t2"]),
        {"t0": 1, "t1": 2, "t2": 3},
    )
    assert short(found) == {"c0": "t0p0", "c1": "t1p0", "c2": "t1p1 t2p0 t2p1 t2p2"}


def test_sticky_begins_like_roundrobin_and_then_keeps() -> None:
    # The first example of the documentation of Kafka's StickyAssignor (KIP-54).
    three = members(c0=TOPICS, c1=TOPICS, c2=TOPICS)
    partitions = dict.fromkeys(TOPICS, 2)
    first = assign("cooperative-sticky", three, partitions)
    assert short(first) == {"c0": "t0p0 t1p1 t3p0", "c1": "t0p1 t2p0 t3p1", "c2": "t1p0 t2p1"}
    left = [Subscription(member_id=name, topics=TOPICS, owned=first[name]) for name in ("c0", "c2")]
    second = assign("cooperative-sticky", left, partitions)
    assert all(set(first[name]) <= set(second[name]) for name in second)
    assert sorted(map(len, second.values())) == [4, 4]


def test_sticky_with_different_topics() -> None:
    # The second example there: c0 has t0, c1 t0 and t1, c2 all of 1, 2 and 3 partitions.
    found = assign(
        "cooperative-sticky",
        members(c0=["t0"], c1=["t0", "t1"], c2=["t0", "t1", "t2"]),
        {"t0": 1, "t1": 2, "t2": 3},
    )
    assert short(found) == {"c0": "t0p0", "c1": "t1p0 t1p1", "c2": "t2p0 t2p1 t2p2"}


def test_static_members_come_first_by_their_instance() -> None:
    some = [
        Subscription(member_id="a", topics=["t0"]),
        Subscription(member_id="z", topics=["t0"], instance_id="i1"),
        Subscription(member_id="y", topics=["t0"], instance_id="i2"),
    ]
    assert [each.member_id for each in in_order(some[::-1])] == ["z", "y", "a"]
    assert short(assign("range", some, {"t0": 2})) == {"z": "t0p0", "y": "t0p1", "a": ""}


@pytest.mark.parametrize(
    ("preferences", "chosen"),
    [
        ([["range", "roundrobin"], ["roundrobin", "range"], ["range"]], "range"),
        ([["range", "roundrobin"], ["roundrobin"]], "roundrobin"),
        ([["cooperative-sticky", "range"], ["range", "cooperative-sticky"]], "cooperative-sticky"),
        ([["range"], ["roundrobin"]], None),
        ([["unknown"], ["unknown"]], None),
        ([], None),
    ],
)
def test_the_assignor_that_all_know(preferences: list[list[str]], chosen: str | None) -> None:
    assert choose_assignor(preferences) == chosen


def test_nobody_gets_nothing() -> None:
    for name in ASSIGNORS:
        assert assign(name, [], {"t0": 3}) == {}
        assert assign(name, members(c0=["t0"]), {}) == {"c0": []}


subscriptions = st.dictionaries(
    st.sampled_from(MEMBERS), st.sets(st.sampled_from(TOPICS)).map(sorted), min_size=1
)
sizes = st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 7))


@given(subscriptions, sizes, st.sampled_from(sorted(ASSIGNORS)))
def test_every_partition_has_one_owner_who_wants_it(
    wanted: dict[str, list[str]], partitions: dict[str, int], assignor: str
) -> None:
    found = assign(assignor, members(**wanted), partitions)
    given_out = [each for claims in found.values() for each in claims]
    assert found.keys() == wanted.keys()
    assert len(given_out) == len(set(given_out))
    assert set(given_out) == {
        (topic, number)
        for topic, count in partitions.items()
        if any(topic in each for each in wanted.values())
        for number in range(count)
    }
    for name, claims in found.items():
        assert {topic for topic, _ in claims} <= set(wanted[name])


@given(subscriptions, sizes, st.sampled_from(["range", "roundrobin"]))
def test_results_are_those_of_another_implementation(
    wanted: dict[str, list[str]], partitions: dict[str, int], assignor: str
) -> None:
    from aiokafka.coordinator.assignors.range import RangePartitionAssignor
    from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
    from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata

    class Cluster:
        def partitions_for_topic(self, topic: str) -> set[int] | None:
            return set(range(partitions[topic])) if topic in partitions else None

    theirs = RangePartitionAssignor if assignor == "range" else RoundRobinPartitionAssignor
    answer = theirs.assign(
        Cluster(),
        {name: ConsumerProtocolMemberMetadata(0, topics, b"") for name, topics in wanted.items()},
    )
    expected = {
        name: sorted((topic, number) for topic, numbers in each.assignment for number in numbers)
        for name, each in answer.items()
    }
    found = assign(assignor, members(**wanted), partitions)
    assert {name: sorted(claims) for name, claims in found.items()} == expected


def sticky_elsewhere(
    wanted: Mapping[str, Sequence[str]],
    partitions: Mapping[str, int],
    owned: Mapping[str, Sequence[tuple[str, int]]],
) -> Assignment:
    """What another implementation of Kafka's StickyAssignor (KIP-54) makes of it."""
    from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
    from aiokafka.structs import TopicPartition

    class Cluster:
        def partitions_for_topic(self, topic: str) -> set[int] | None:
            return set(range(partitions[topic])) if topic in partitions else None

        def topics(self) -> set[str]:
            return set(partitions)

    answer = StickyPartitionAssignor.assign(
        Cluster(),
        {
            name: StickyPartitionAssignor._metadata(
                topics, [TopicPartition(*each) for each in owned.get(name, ())] or None, 1
            )
            for name, topics in wanted.items()
        },
    )
    return {
        name: sorted((topic, number) for topic, numbers in each.assignment for number in numbers)
        for name, each in answer.items()
    }


def spread(found: Assignment) -> list[int]:
    return sorted(len(claims) for claims in found.values())


def kept(found: Assignment, owned: Mapping[str, Sequence[tuple[str, int]]]) -> int:
    return sum(len(set(claims) & set(owned.get(name, ()))) for name, claims in found.items())


@given(st.sets(st.sampled_from(MEMBERS), min_size=1), st.sets(st.sampled_from(MEMBERS)), sizes)
def test_sticky_is_as_even_and_as_sticky_as_another_implementation(
    before: set[str], after: set[str], partitions: dict[str, int]
) -> None:
    """Members that want the same: the same shares, and as much stays where it was."""
    first = dict.fromkeys(sorted(before), TOPICS)
    owned = assign("cooperative-sticky", members(**first), partitions)
    assert spread(owned) == spread(sticky_elsewhere(first, partitions, {}))
    later = dict.fromkeys(sorted(after), TOPICS)
    if later:
        ours = assign(
            "cooperative-sticky",
            [
                Subscription(member_id=name, topics=TOPICS, owned=owned.get(name, ()))
                for name in later
            ],
            partitions,
        )
        theirs = sticky_elsewhere(later, partitions, owned)
        assert spread(ours) == spread(theirs)
        assert kept(ours, owned) >= kept(theirs, owned)


@given(subscriptions, sizes)
def test_sticky_is_as_even_when_members_want_different_topics(
    wanted: dict[str, list[str]], partitions: dict[str, int]
) -> None:
    ours = assign("cooperative-sticky", members(**wanted), partitions)
    theirs = sticky_elsewhere(wanted, partitions, {})
    # The more even, the smaller; the total is the same.
    assert sum(n * n for n in spread(ours)) <= sum(n * n for n in spread(theirs))


def is_even(found: Assignment, wanted: Mapping[str, Sequence[str]]) -> bool:
    return not any(
        topic in wanted[taker] and len(found[taker]) + 2 <= len(claims)
        for claims in found.values()
        for topic, _ in claims
        for taker in found
    )


@given(subscriptions, sizes, subscriptions, sizes)
def test_sticky_is_even_and_keeps_what_it_can(
    wanted: dict[str, list[str]],
    partitions: dict[str, int],
    later: dict[str, list[str]],
    later_partitions: dict[str, int],
) -> None:
    before = assign("cooperative-sticky", members(**wanted), partitions)
    assert is_even(before, wanted)
    after = assign(
        "cooperative-sticky",
        [
            Subscription(member_id=name, topics=topics, owned=before.get(name, []))
            for name, topics in later.items()
        ],
        later_partitions,
    )
    assert is_even(after, later)
    same = assign(
        "cooperative-sticky",
        [
            Subscription(member_id=name, topics=topics, owned=after[name])
            for name, topics in later.items()
        ],
        later_partitions,
    )
    assert same == after


@given(st.sets(st.sampled_from(MEMBERS), min_size=2), sizes, st.data())
def test_sticky_moves_no_more_than_it_must(
    names: set[str], partitions: dict[str, int], data: st.DataObject
) -> None:
    """When a member goes, the others lose nothing; when it comes, nobody else gets more."""
    before = assign(
        "cooperative-sticky", members(**dict.fromkeys(sorted(names), TOPICS)), partitions
    )
    gone = data.draw(st.sampled_from(sorted(names)))
    left = assign(
        "cooperative-sticky",
        [
            Subscription(member_id=name, topics=TOPICS, owned=before[name])
            for name in names - {gone}
        ],
        partitions,
    )
    for name, claims in left.items():
        assert set(before[name]) <= set(claims)
    back = assign(
        "cooperative-sticky",
        [Subscription(member_id=name, topics=TOPICS, owned=left.get(name, [])) for name in names],
        partitions,
    )
    for name, claims in back.items():
        if name != gone:
            assert set(claims) <= set(left[name])
