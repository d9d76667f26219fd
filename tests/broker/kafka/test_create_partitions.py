from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka import codes

KEY = 37


def add(
    wire: Wire,
    *topics: tuple[str, int, Sequence[Sequence[int]] | None],
    version: int = 3,
    validate_only: bool = False,
) -> list[Any]:
    wanted = [
        {
            "name": name,
            "count": count,
            "assignments": None if ids is None else [{"broker_ids": each} for each in ids],
        }
        for name, count, ids in topics
    ]
    answer = wire.ask(KEY, version, topics=wanted, timeout=10_000, validate_only=validate_only)
    return list(answer.results)


@pytest.mark.parametrize("version", range(4))
def test_it_adds_partitions_in_every_version(wire: Wire, broker: Broker, version: int) -> None:
    [answer] = add(wire, ("orders", 3, None), version=version)
    assert (answer.name, answer.error_code, answer.error_message) == ("orders", 0, None)
    assert len(broker.topic("orders").partitions) == 3


def test_assignments_to_the_one_broker(wire: Wire, broker: Broker) -> None:
    assert add(wire, ("orders", 3, [[1], [1]]))[0].error_code == 0
    assert len(broker.topic("orders").partitions) == 3


BAD: list[tuple[tuple[str, int, Sequence[Sequence[int]] | None], int]] = [
    (("nothing", 3, None), codes.UNKNOWN_TOPIC_OR_PARTITION),
    (("orders", 2, None), codes.INVALID_PARTITIONS),
    (("orders", 1, None), codes.INVALID_PARTITIONS),
    (("orders", 0, None), codes.INVALID_PARTITIONS),
    (("orders", -1, None), codes.INVALID_PARTITIONS),
    (("orders", 10_001, None), codes.INVALID_PARTITIONS),
    (("orders", 4, [[1]]), codes.INVALID_REPLICA_ASSIGNMENT),
    (("orders", 4, []), codes.INVALID_REPLICA_ASSIGNMENT),
    (("orders", 4, [[1], [2]]), codes.INVALID_REPLICA_ASSIGNMENT),
    (("orders", 4, [[1], [1, 1]]), codes.INVALID_REPLICA_ASSIGNMENT),
]


def test_what_cannot_be_is_refused(wire: Wire, broker: Broker) -> None:
    broker.add_partitions("orders", 2)
    for topic, code in BAD:
        [answer] = add(wire, topic)
        assert answer.error_code == code, topic
        assert answer.error_message
        [checked] = add(wire, topic, validate_only=True)
        assert (checked.error_code, checked.error_message) == (code, answer.error_message)
    assert len(broker.topic("orders").partitions) == 2


def test_validating_adds_nothing(wire: Wire, broker: Broker) -> None:
    assert add(wire, ("orders", 3, None), validate_only=True)[0].error_code == 0
    assert len(broker.topic("orders").partitions) == 1


def test_a_topic_named_twice_stays_as_it_is(wire: Wire, broker: Broker) -> None:
    [answer] = add(wire, ("orders", 3, None), ("orders", 4, None))
    assert answer.error_code == codes.INVALID_REQUEST
    assert len(broker.topic("orders").partitions) == 1


def test_too_many_at_once(wire: Wire) -> None:
    answers = add(wire, *((f"t{number}", 2, None) for number in range(1_001)))
    assert {each.error_code for each in answers} == {codes.POLICY_VIOLATION}
