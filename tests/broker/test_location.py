"""Locations: what is one, what is none, and what is said about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.errors import InvalidLocation
from seawall.broker.location import is_cluster, parse_cluster


@pytest.mark.parametrize(
    ("location", "servers", "settings"),
    [
        ("kafka://host", [("host", 9092)], {}),
        ("kafka://host:19092/", [("host", 19092)], {}),
        ("kafka://a:1,b:2,c", [("a", 1), ("b", 2), ("c", 9092)], {}),
        ("kafka://[::1]:9093", [("[::1]", 9093)], {}),
        (
            "kafka://h:1?client.id=me&security.protocol=sasl_ssl&sasl.password=a%26b",
            [("h", 1)],
            {"client.id": "me", "security.protocol": "sasl_ssl", "sasl.password": "a&b"},
        ),
    ],
)
def test_clusters(location: str, servers: list[tuple[str, int]], settings: dict[str, str]) -> None:
    assert is_cluster(location)
    found = parse_cluster(location)
    assert list(found.servers) == servers
    assert dict(found.settings) == settings


@pytest.mark.parametrize("location", ["data", "/srv/data", "kafka", "./kafka:/x", "kafka:", "a:9"])
def test_directories(location: str) -> None:
    assert not is_cluster(location)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("kafka://", "a server is missing"),
        ("kafka://a:1,", "a server is missing"),
        ("kafka://a:0", "0 is no port"),
        ("kafka://a:65536", "65536 is no port"),
        ("kafka://a:b", "'a:b' is not HOST:PORT"),
        ("kafka://a/topic", "is not HOST:PORT"),
        ("http://a", "only kafka:// is known"),
        ("Kafka://a", "only kafka:// is known"),
        ("kafka:/a:9092", "only kafka:// is known"),
        ("kafka://a?x", "SETTING=VALUE"),
        ("kafka://a?client.id=a&client.id=b", "client.id is there twice"),
        ("kafka://a?Client=1", "no setting's name"),
        ("kafka://a?acks=1", "acknowledged by all replicas"),
        ("kafka://a?group.id=g", "an argument of consumer()"),
        ("kafka://a?enable.idempotence=false", "an argument of producer()"),
        ("kafka://" + ",".join(["a"] * 1001), "1001 servers"),
    ],
)
def test_what_is_no_location(location: str, reason: str) -> None:
    assert is_cluster(location)
    with pytest.raises(InvalidLocation) as caught:
        parse_cluster(location)
    assert reason in caught.value.reason
    assert caught.value.location == location.partition("?")[0]


def test_passwords_are_not_shown() -> None:
    found = parse_cluster("kafka://h:1?sasl.password=secret")
    assert str(found) == "kafka://h:1"
    with pytest.raises(InvalidLocation) as caught:
        parse_cluster("kafka://h:b?sasl.password=secret")
    assert "secret" not in str(caught.value)


def test_a_password_in_the_wrong_place_is_not_shown() -> None:
    with pytest.raises(InvalidLocation) as caught:
        parse_cluster("kafka://me:geheim@h:1?sasl.password=geheim")
    assert "geheim" not in str(caught.value)
    assert caught.value.location == "kafka://…@h:1"
    assert "a name and a password are settings behind the ?" in caught.value.reason


@given(st.text(max_size=40))
def test_whatever_stands_behind_the_scheme_is_a_cluster_or_refused(rest: str) -> None:
    try:
        found = parse_cluster(f"kafka://{rest}")
    except InvalidLocation:
        return
    assert found.servers
    assert parse_cluster(str(found)).servers == found.servers
