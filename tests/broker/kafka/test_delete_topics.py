from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka import codes

KEY = 20


def delete(wire: Wire, *topics: str | UUID | None, version: int = 6) -> list[Any]:
    fields: dict[str, Any] = {"topic_names": topics}
    if version >= 6:
        named = [
            {"name": None if isinstance(each, UUID) else each, "topic_id": each}
            if isinstance(each, UUID | None)
            else {"name": each, "topic_id": None}
            for each in topics
        ]
        fields = {"topics": named}
    return list(wire.ask(KEY, version, timeout=10_000, **fields).responses)


@pytest.mark.parametrize("version", range(1, 7))
def test_it_deletes_by_name_in_every_version(wire: Wire, broker: Broker, version: int) -> None:
    uuid = broker.topic("orders").uuid
    gone, unknown = delete(wire, "orders", "nothing", version=version)
    assert (gone.name, gone.error_code) == ("orders", codes.NONE)
    assert (unknown.name, unknown.error_code) == ("nothing", codes.UNKNOWN_TOPIC_OR_PARTITION)
    if version >= 5:
        assert gone.error_message is None
        assert "'nothing'" in unknown.error_message
    if version >= 6:
        assert (gone.topic_id, unknown.topic_id) == (uuid, None)
    assert broker.topics() == []


def test_it_deletes_by_id(wire: Wire, broker: Broker) -> None:
    uuid, other = broker.topic("orders").uuid, UUID(int=7)
    gone, unknown = delete(wire, uuid, other)
    assert (gone.name, gone.topic_id, gone.error_code) == ("orders", uuid, codes.NONE)
    assert (unknown.name, unknown.topic_id) == (None, other)
    assert unknown.error_code == codes.UNKNOWN_TOPIC_ID
    assert broker.topics() == []


def test_an_id_is_not_the_topic_that_has_its_name_by_now(broker: Broker) -> None:
    old = broker.topic("orders").uuid
    broker.delete_topic("orders", uuid=old)
    new = broker.create_topic("orders")
    with pytest.raises(Exception, match="orders") as caught:
        broker.delete_topic("orders", uuid=old)
    assert type(caught.value).__name__ == "UnknownTopic"
    assert broker.topic("orders") == new


def test_a_topic_named_twice_stays(wire: Wire, broker: Broker) -> None:
    uuid = broker.topic("orders").uuid
    [answer] = delete(wire, "orders", "orders")
    assert answer.error_code == codes.INVALID_REQUEST
    [answer] = delete(wire, "orders", uuid)
    assert answer.error_code == codes.INVALID_REQUEST
    assert [info.uuid for info in broker.topics()] == [uuid]


def test_neither_name_nor_id_and_both(wire: Wire, broker: Broker) -> None:
    [answer] = delete(wire, None)
    assert (answer.name, answer.error_code) == (None, codes.INVALID_REQUEST)
    both = [{"name": "orders", "topic_id": broker.topic("orders").uuid}]
    [answer] = wire.ask(KEY, 6, topics=both, timeout=1000).responses
    assert answer.error_code == codes.INVALID_REQUEST
    assert len(broker.topics()) == 1


def test_too_many_at_once(wire: Wire) -> None:
    answers = delete(wire, *(f"t{number}" for number in range(1_001)), version=5)
    assert {each.error_code for each in answers} == {codes.POLICY_VIOLATION}


def test_a_name_that_cannot_be(wire: Wire) -> None:
    [answer] = delete(wire, "x" * 32_000, version=5)
    assert answer.error_code == codes.UNKNOWN_TOPIC_OR_PARTITION
    assert len(answer.error_message) < 1_100
