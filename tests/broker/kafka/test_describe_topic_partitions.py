from __future__ import annotations

from typing import Any

import pytest
from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka import codes

KEY = 75


def ask(wire: Wire, *names: str, limit: int = 2000, cursor: tuple[str, int] | None = None) -> Any:
    return wire.ask(
        KEY,
        0,
        topics=[{"name": name} for name in names],
        response_partition_limit=limit,
        cursor=None if cursor is None else {"topic_name": cursor[0], "partition_index": cursor[1]},
    )


def listed(answer: Any) -> list[tuple[str, list[int]]]:
    return [
        (topic.name, [each.partition_index for each in topic.partitions]) for topic in answer.topics
    ]


def next_of(answer: Any) -> tuple[str, int] | None:
    cursor = answer.next_cursor
    return None if cursor is None else (cursor.topic_name, cursor.partition_index)


def test_it_describes_topics(wire: Wire, broker: Broker) -> None:
    answer = ask(wire, "orders", "nothing", "no/name")
    assert [(topic.name, topic.error_code) for topic in answer.topics] == [
        ("no/name", codes.INVALID_TOPIC_EXCEPTION),
        ("nothing", codes.UNKNOWN_TOPIC_OR_PARTITION),
        ("orders", codes.NONE),
    ]
    topic = answer.topics[2]
    assert topic.topic_id == broker.topic("orders").uuid
    [partition] = topic.partitions
    assert (partition.leader_id, partition.isr_nodes, partition.error_code) == (1, (1,), 0)
    assert partition.eligible_leader_replicas == ()
    assert answer.next_cursor is None


@pytest.fixture
def four(broker: Broker) -> None:
    for name, count in {"a": 3, "b": 1, "c": 2}.items():
        broker.create_topic(name, count)


@pytest.mark.usefixtures("four")
def test_pages(wire: Wire) -> None:
    answer = ask(wire, limit=2)
    assert (listed(answer), next_of(answer)) == ([("a", [0, 1])], ("a", 2))
    answer = ask(wire, limit=2, cursor=("a", 2))
    assert (listed(answer), next_of(answer)) == ([("a", [2]), ("b", [0])], ("c", 0))
    answer = ask(wire, limit=2, cursor=("c", 0))
    assert (listed(answer), next_of(answer)) == ([("c", [0, 1])], ("orders", 0))
    answer = ask(wire, limit=2, cursor=("orders", 0))
    assert (listed(answer), next_of(answer)) == ([("orders", [0])], None)


@pytest.mark.usefixtures("four")
def test_a_cursor_at_what_is_gone_goes_on_behind_it(wire: Wire) -> None:
    assert listed(ask(wire, cursor=("bb", 5))) == [("c", [0, 1]), ("orders", [0])]
    assert listed(ask(wire, "a", "c", cursor=("b", 0))) == [("c", [0, 1])]
    assert listed(ask(wire, cursor=("z", 0))) == []


@pytest.mark.usefixtures("four")
def test_pages_together_are_everything(wire: Wire) -> None:
    whole = listed(ask(wire))
    assert whole == [("a", [0, 1, 2]), ("b", [0]), ("c", [0, 1]), ("orders", [0])]

    for limit in range(-1, 9):
        found: dict[str, list[int]] = {}
        cursor = None
        for _ in range(20):
            answer = ask(wire, limit=limit, cursor=cursor)
            page = listed(answer)
            assert 0 < sum(len(numbers) for _, numbers in page) <= max(1, limit)
            for name, numbers in page:
                found.setdefault(name, []).extend(numbers)
            cursor = next_of(answer)
            if cursor is None:
                break
        assert list(found.items()) == whole


def test_a_negative_cursor_is_refused(wire: Wire) -> None:
    [topic] = ask(wire, "orders", cursor=("orders", -1)).topics
    assert topic.error_code == codes.INVALID_REQUEST


def test_too_many_at_once(wire: Wire) -> None:
    answer = ask(wire, *(f"t{number}" for number in range(10_001)))
    assert {topic.error_code for topic in answer.topics} == {codes.POLICY_VIOLATION}
