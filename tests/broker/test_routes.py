"""From a topic's name to a partition, and what a record may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker import Broker
from seawall.broker.errors import UnknownPartition
from seawall.broker.partitioner import partition_for_key
from seawall.broker.routes import (
    MOST_BYTES_PER_ROUND,
    MOST_HEADERS,
    Route,
    as_header_tuple,
    check_bytes,
)
from seawall.wal.records import encode_batch


@pytest.fixture
def route(broker: Broker) -> Route:
    return Route(broker.create_topic("three", partitions=3), 1000)


def test_choice(route: Route) -> None:
    for number in range(20):
        key = b"%d" % number
        assert route.choose(key, None, None).partition == partition_for_key(key, 3)
    assert route.choose(b"k", 2, None).partition == 2
    assert route.choose(b"k", None, lambda topic, key, count: count - 1).partition == 2
    for bad in (-1, 3):
        with pytest.raises(UnknownPartition):
            route.choose(None, bad, None)
        with pytest.raises(UnknownPartition):
            route.choose(None, None, lambda topic, key, count, bad=bad: bad)


def test_records_without_a_key_stay_until_the_turn(route: Route) -> None:
    first = route.choose(None, None, None)
    assert route.choose(None, None, None) is first
    seen = [route.turn().partition for _ in range(3)]
    assert sorted(seen) == [0, 1, 2]
    assert route.choose(None, None, None) is first


def test_limits_come_from_the_topic(broker: Broker) -> None:
    info = broker.create_topic("small", config={"max.message.bytes": 500, "segment.bytes": 4096})
    route = Route(info, 65_536)
    assert route.max_record_bytes == route.batch_bytes == 500 - 61
    assert route.round_bytes == 4096
    assert Route(broker.topic("orders"), 10).batch_bytes == 10
    assert Route(broker.topic("orders"), 10).round_bytes == MOST_BYTES_PER_ROUND


def test_bytes_only() -> None:
    assert check_bytes(bytearray(b"a"), "value") == b"a"
    assert check_bytes(memoryview(b"abc")[::2], "value") == b"ac"
    with pytest.raises(TypeError, match="value is bytes or None, not str"):
        check_bytes("a", "value")


def test_headers() -> None:
    assert as_header_tuple({"a": b"1"})[0] == (("a", b"1"),)
    assert as_header_tuple([("a", None), ("a", bytearray(b"x"))])[0] == (("a", None), ("a", b"x"))
    with pytest.raises(TypeError):
        as_header_tuple({1: b""})  # type: ignore[dict-item]
    with pytest.raises(ValueError):
        as_header_tuple([("a", b"")] * (MOST_HEADERS + 1))


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=("Cs",)), max_size=50),
            st.none() | st.binary(max_size=200),
        ),
        max_size=20,
    ),
    st.none() | st.binary(max_size=300),
    st.none() | st.binary(max_size=300),
    st.integers(-(1 << 61), (1 << 61) - 1),
)
def test_the_estimate_is_an_upper_bound(
    headers: list[tuple[str, bytes | None]], key: bytes | None, value: bytes | None, stamp: int
) -> None:
    from seawall.broker.producer import RECORD_OVERHEAD_BYTES

    pairs, header_bytes = as_header_tuple(headers)
    estimate = RECORD_OVERHEAD_BYTES + header_bytes + len(key or b"") + len(value or b"")
    first = (0, None, None, ())
    alone = len(encode_batch([first]))
    assert len(encode_batch([first, (stamp, key, value, pairs)])) - alone <= estimate
