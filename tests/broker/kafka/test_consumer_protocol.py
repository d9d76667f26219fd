"""The bytes that consumers exchange, held against kio's and kafka-python's."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.consumer_protocol_assignment.v3.data import (
    ConsumerProtocolAssignment,
    TopicPartition,
)
from kio.schema.consumer_protocol_subscription.v3.data import ConsumerProtocolSubscription
from kio.serial import entity_writer

from seawall.broker.kafka.consumer_protocol import (
    assigned_partitions,
    encode_assignment,
    encode_subscription,
    subscribed_topics,
)

NAMES = st.text("abc.-_", min_size=1, max_size=9)
PLACES = st.lists(st.tuples(NAMES, st.integers(0, 2**31 - 1)), unique=True, max_size=9)


def written(version: int, kind: type, entity: object) -> bytes:
    buffer = io.BytesIO()
    buffer.write(version.to_bytes(2, "big"))
    entity_writer(kind)(buffer, entity)
    return buffer.getvalue()


@given(PLACES)
def test_an_assignment_comes_back(places: list[tuple[str, int]]) -> None:
    assert sorted(assigned_partitions(encode_assignment(places))) == sorted(places)


@given(st.lists(NAMES, unique=True))
def test_a_subscription_comes_back(topics: list[str]) -> None:
    assert list(subscribed_topics(encode_subscription(topics))) == sorted(topics)


def test_golden_bytes() -> None:
    """Written down from the description of the messages in Kafka's sources."""
    assignment = encode_assignment([("ab", 1), ("c", 0), ("ab", 2)])
    assert assignment.hex(" ", -4) == (
        "00000000 00020002 61620000 00020000 00010000 00020001 63000000 01000000 00ffffff ff"
    )
    assert encode_subscription(["ab"]).hex(" ", -4) == "00000000 00010002 6162ffff ffff"


def test_newer_versions_are_read_as_far_as_they_are_the_same() -> None:
    given_places = ConsumerProtocolAssignment(
        assigned_partitions=(
            TopicPartition(topic="t", partitions=(3, 1)),  # type: ignore[arg-type]
        ),
        user_data=b"x",
    )
    data = written(3, ConsumerProtocolAssignment, given_places)
    assert assigned_partitions(data) == [("t", 3), ("t", 1)]
    wanted = ConsumerProtocolSubscription(
        topics=("u", "t"),
        user_data=b"",
        owned_partitions=(),
        generation_id=7,  # type: ignore[arg-type]
        rack_id="r",
    )
    assert subscribed_topics(written(3, ConsumerProtocolSubscription, wanted)) == ("t", "u")


@pytest.mark.parametrize("read", [assigned_partitions, subscribed_topics])
def test_what_is_cut_off_says_nothing(read) -> None:  # type: ignore[no-untyped-def]
    whole = encode_assignment([("topic", 1), ("topic", 2), ("other", 0)])
    if read is subscribed_topics:
        whole = encode_subscription(["topic", "other"])
    needed = len(whole) - 4
    for size in range(needed):
        assert not read(whole[:size]), size
    assert read(whole[:needed])


@given(st.binary(max_size=80))
def test_garbage_says_nothing_or_little(data: bytes) -> None:
    assert len(assigned_partitions(data)) * 4 <= len(data)
    assert len(subscribed_topics(data)) * 2 <= len(data)


def test_an_array_that_cannot_be_is_not_allocated() -> None:
    assert assigned_partitions(b"\0\0" + b"\x7f\xff\xff\xff" + b"x" * 50) == []
    assert subscribed_topics(b"\0\0" + b"\xff\xff\xff\xff") == ()
