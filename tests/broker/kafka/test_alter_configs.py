from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka import codes

KEY = 33
TOPIC, BROKER = 2, 4


def alter(
    wire: Wire,
    *resources: tuple[int, str, Mapping[str, str | None]],
    version: int = 2,
    validate_only: bool = False,
) -> list[Any]:
    wanted = [
        {
            "resource_type": kind,
            "resource_name": name,
            "configs": [{"name": key, "value": value} for key, value in configs.items()],
        }
        for kind, name, configs in resources
    ]
    answer = wire.ask(KEY, version, resources=wanted, validate_only=validate_only)
    return list(answer.responses)


@pytest.fixture
def wired(broker: Broker) -> str:
    """A topic as Kafka clients create it."""
    config = {"cleanup.policy": "delete", "retention.ms": 5}
    return broker.create_topic("wired", config=config).name


@pytest.mark.parametrize("version", range(3))
def test_all_else_goes_back_in_every_version(
    wire: Wire, broker: Broker, wired: str, version: int
) -> None:
    given = {"segment.bytes": "8192", "min.insync.replicas": "1"}
    [answer] = alter(wire, (TOPIC, wired, given), version=version)
    assert (answer.resource_type, answer.resource_name) == (TOPIC, wired)
    assert (answer.error_code, answer.error_message) == (0, None)
    assert broker.topic(wired).config == {"cleanup.policy": "delete", "segment.bytes": "8192"}


def test_nothing_given_is_all_defaults(wire: Wire, broker: Broker, wired: str) -> None:
    broker.alter_topic(wired, {"cleanup.policy": "compact"})
    assert alter(wire, (TOPIC, wired, {}))[0].error_code == 0
    assert broker.topic(wired).config == {"cleanup.policy": "delete"}, "Kafka's default"


@pytest.mark.parametrize("stored", [{}, {"cleanup.policy": "acknowledged"}])
def test_what_waits_for_groups_goes_on_waiting(
    wire: Wire, broker: Broker, stored: dict[str, str]
) -> None:
    """No client that does not know of it can have records removed by age that way."""
    broker.alter_topic("orders", stored)
    assert alter(wire, (TOPIC, "orders", {"retention.ms": "1"}))[0].error_code == 0
    assert broker.topic("orders").settings.cleanup_policy == "acknowledged"
    assert alter(wire, (TOPIC, "orders", {"cleanup.policy": "delete"}))[0].error_code == 0
    assert broker.topic("orders").settings.cleanup_policy == "delete"


def test_the_broker(wire: Wire, broker: Broker) -> None:
    before = broker.config()
    broker.set_config({"offsets.retention.minutes": 5})
    given = {"log.retention.check.interval.ms": "60000"}
    for name in ("1", ""):
        assert alter(wire, (BROKER, name, given))[0].error_code == 0
        assert broker.config() == {**before, **given}


BAD: dict[str, tuple[tuple[int, str, Mapping[str, str | None]], int]] = {
    "unknown topic": ((TOPIC, "nothing", {}), codes.UNKNOWN_TOPIC_OR_PARTITION),
    "all topics": ((TOPIC, "", {}), codes.INVALID_REQUEST),
    "another broker": ((BROKER, "2", {}), codes.INVALID_REQUEST),
    "a logger": ((8, "1", {"root": "DEBUG"}), codes.INVALID_REQUEST),
    "unknown": ((TOPIC, "wired", {"retention": "1"}), codes.INVALID_CONFIG),
    "bad value": ((TOPIC, "wired", {"retention.ms": "-2"}), codes.INVALID_CONFIG),
    "no value": ((TOPIC, "wired", {"retention.ms": None}), codes.INVALID_REQUEST),
    "two in sync": ((TOPIC, "wired", {"min.insync.replicas": "2"}), codes.INVALID_CONFIG),
    "the server's": ((BROKER, "1", {"num.partitions": "2"}), codes.INVALID_CONFIG),
    "unknown to the broker": ((BROKER, "1", {"retention.ms": "2"}), codes.INVALID_CONFIG),
    "long": ((TOPIC, "wired", {"x" * 32_000: "1"}), codes.INVALID_CONFIG),
}


def test_what_cannot_be_changes_nothing(wire: Wire, broker: Broker, wired: str) -> None:
    before = broker.config(), broker.topic(wired).config
    good = TOPIC, "orders", {"min.insync.replicas": "1"}
    for case, (resource, code) in BAD.items():
        for version, validate_only in ((0, True), (0, False), (2, False)):
            answers = alter(wire, resource, good, version=version, validate_only=validate_only)
            assert [each.error_code for each in answers] == [code, 0], case
            assert 10 < len(answers[0].error_message) < 1_100, case
    assert (broker.config(), broker.topic(wired).config) == before


def test_validating_changes_nothing(wire: Wire, broker: Broker, wired: str) -> None:
    before = broker.config(), broker.topic(wired).config
    answers = alter(
        wire,
        (TOPIC, wired, {"retention.ms": "9"}),
        (BROKER, "1", {"offsets.retention.minutes": "9"}),
        validate_only=True,
    )
    assert [each.error_code for each in answers] == [0, 0]
    assert (broker.config(), broker.topic(wired).config) == before


def test_a_resource_named_twice_stays_as_it_is(wire: Wire, broker: Broker, wired: str) -> None:
    before = broker.topic(wired).config
    answers = alter(wire, (TOPIC, wired, {}), (TOPIC, wired, {"retention.ms": "1"}))
    assert [each.error_code for each in answers] == [codes.INVALID_REQUEST] * 2
    assert broker.topic(wired).config == before


def test_too_many_at_once(wire: Wire) -> None:
    answers = alter(wire, *((TOPIC, f"t{number}", {}) for number in range(1_001)))
    assert {each.error_code for each in answers} == {codes.POLICY_VIOLATION}
