from __future__ import annotations

from typing import Any

import pytest
from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka import codes

KEY = 44
TOPIC, BROKER = 2, 4
SET, DELETE, APPEND, SUBTRACT = range(4)

Operation = tuple[str, int, str | None]


def alter(
    wire: Wire,
    kind: int,
    name: str,
    *operations: Operation,
    version: int = 1,
    validate_only: bool = False,
) -> Any:
    resource = {
        "resource_type": kind,
        "resource_name": name,
        "configs": [
            {"name": key, "config_operation": operation, "value": value}
            for key, operation, value in operations
        ],
    }
    answer = wire.ask(KEY, version, resources=[resource], validate_only=validate_only)
    [response] = answer.responses
    return response


@pytest.mark.parametrize("version", range(2))
def test_it_changes_what_is_named_in_every_version(
    wire: Wire, broker: Broker, version: int
) -> None:
    broker.alter_topic("orders", {"retention.ms": 5, "segment.ms": 6})
    answer = alter(
        wire,
        TOPIC,
        "orders",
        ("segment.bytes", SET, "8192"),
        ("retention.ms", DELETE, None),
        ("flush.messages", SET, "1"),
        ("flush.ms", DELETE, None),
        version=version,
    )
    assert (answer.resource_type, answer.resource_name) == (TOPIC, "orders")
    assert (answer.error_code, answer.error_message) == (0, None)
    assert broker.topic("orders").config == {"segment.bytes": "8192", "segment.ms": "6"}


POLICIES: list[tuple[str, int, str | None, str | None]] = [
    ("delete", APPEND, "compact", "compact,delete"),
    ("compact", APPEND, "delete", "compact,delete"),
    ("delete", APPEND, "delete", "delete"),
    ("delete", APPEND, " compact , delete", "compact,delete"),
    ("delete", APPEND, "", "delete"),
    ("compact,delete", SUBTRACT, "compact", "delete"),
    ("compact,delete", SUBTRACT, "delete", "compact"),
    ("delete", SUBTRACT, "compact", "delete"),
    ("delete", SUBTRACT, "delete", None),
    ("acknowledged", APPEND, "compact", None),
    ("delete", APPEND, "nonsense", None),
    ("compact", DELETE, None, "delete"),
    ("acknowledged", DELETE, None, "delete"),
]


def test_the_list_of_policies(wire: Wire, broker: Broker) -> None:
    for before, operation, value, after in POLICIES:
        broker.alter_topic("orders", {"cleanup.policy": before})
        answer = alter(wire, TOPIC, "orders", ("cleanup.policy", operation, value))
        assert answer.error_code == (codes.INVALID_CONFIG if after is None else codes.NONE)
        assert broker.topic("orders").settings.cleanup_policy == (after or before)


def test_the_broker(wire: Wire, broker: Broker) -> None:
    before = broker.config()
    broker.set_config({"offsets.retention.minutes": 5})
    answer = alter(
        wire,
        BROKER,
        "",
        ("offsets.retention.minutes", DELETE, None),
        ("log.retention.check.interval.ms", SET, "60000"),
    )
    assert answer.error_code == 0
    assert broker.config() == {**before, "log.retention.check.interval.ms": "60000"}


BAD: list[tuple[list[Operation], int]] = [
    ([("retention.ms", 4, "1")], codes.INVALID_REQUEST),
    ([("retention.ms", -1, "1")], codes.INVALID_REQUEST),
    ([("retention.ms", SET, None)], codes.INVALID_REQUEST),
    ([("cleanup.policy", APPEND, None)], codes.INVALID_REQUEST),
    ([("retention.ms", APPEND, "1")], codes.INVALID_CONFIG),
    ([("retention.ms", SUBTRACT, "1")], codes.INVALID_CONFIG),
    ([("nonsense", SUBTRACT, "1")], codes.INVALID_CONFIG),
    ([("nonsense", DELETE, None)], codes.INVALID_CONFIG),
    ([("n" * 32_000, DELETE, None)], codes.INVALID_CONFIG),
    ([("offsets.retention.minutes", DELETE, None)], codes.INVALID_CONFIG),
    ([("segment.ms", SET, "7"), ("nonsense", SET, "1")], codes.INVALID_CONFIG),
    ([("segment.ms", SET, "7"), ("segment.ms", DELETE, None)], codes.INVALID_REQUEST),
]


def test_what_cannot_be_changes_nothing(wire: Wire, broker: Broker) -> None:
    broker.alter_topic("orders", {"retention.ms": 5})
    for operations, code in BAD:
        for validate_only in (True, False):
            answer = alter(wire, TOPIC, "orders", *operations, validate_only=validate_only)
            assert answer.error_code == code, operations[-1][0][:40]
            assert 10 < len(answer.error_message) < 1_100
    assert broker.topic("orders").config == {"retention.ms": "5"}


def test_what_the_server_was_started_with(wire: Wire) -> None:
    for operation in (SET, DELETE):
        answer = alter(wire, BROKER, "1", ("num.partitions", operation, "2"))
        assert answer.error_code == codes.INVALID_CONFIG
        assert "when the server starts" in answer.error_message


def test_validating_changes_nothing(wire: Wire, broker: Broker) -> None:
    answer = alter(wire, TOPIC, "orders", ("segment.ms", SET, "7"), validate_only=True)
    assert answer.error_code == 0
    assert broker.topic("orders").config == {}
