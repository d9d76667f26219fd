from __future__ import annotations

from typing import Any

import pytest
from brokers import put
from wire import Wire
from wire_groups import WireMember

from seawall.broker import Broker
from seawall.broker.errors import LockTimeout, StorageFull
from seawall.broker.kafka import codes
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.coordinator_store import CoordinatorStore


def fetched(topics: Any) -> dict[tuple[str, int], tuple[int, str]]:
    return {
        (topic.name, each.partition_index): (each.committed_offset, each.metadata)
        for topic in topics
        for each in topic.partitions
        if each.error_code == 0
    }


@pytest.fixture
def committed(wire: Wire, broker: Broker) -> Wire:
    put(broker, b"a", b"b")
    WireMember(wire).enter(("orders", 0)).commit({("orders", 0): 2}, metadata="note")
    return wire


@pytest.mark.parametrize("version", range(1, 8))
def test_one_group(committed: Wire, version: int) -> None:
    wanted = [
        {"name": "orders", "partition_indexes": (0, 7)},
        {"name": "x", "partition_indexes": (0,)},
    ]
    answer = committed.ask(9, version, group_id="g", topics=wanted, require_stable=True)
    nothing = (-1, "")
    expected = {("orders", 0): (2, "note"), ("orders", 7): nothing, ("x", 0): nothing}
    assert fetched(answer.topics) == expected
    if version >= 2:
        answer = committed.ask(9, version, group_id="g", topics=None, require_stable=False)
        assert (answer.error_code, fetched(answer.topics)) == (0, {("orders", 0): (2, "note")})
    unknown = committed.ask(9, version, group_id="h", topics=wanted[:1], require_stable=False)
    assert fetched(unknown.topics) == {("orders", 0): nothing, ("orders", 7): nothing}
    bad = committed.ask(9, version, group_id="", topics=wanted[1:], require_stable=False)
    assert [each.error_code for topic in bad.topics for each in topic.partitions] == [24]
    if version >= 2:
        assert bad.error_code == 24


@pytest.mark.parametrize("version", [8, 9])
def test_several_groups(committed: Wire, version: int) -> None:
    wanted = [{"name": "orders", "partition_indexes": (0,)}]
    groups = [
        {"group_id": "g", "member_id": None, "member_epoch": -1, "topics": None},
        {"group_id": "", "member_id": None, "member_epoch": -1, "topics": wanted},
        {"group_id": "h", "member_id": None, "member_epoch": -1, "topics": wanted},
    ]
    answer = committed.ask(9, version, groups=groups, require_stable=True)
    assert [(each.group_id, each.error_code) for each in answer.groups] == [
        ("g", 0),
        ("", 24),
        ("h", 0),
    ]
    assert fetched(answer.groups[0].topics) == {("orders", 0): (2, "note")}
    assert fetched(answer.groups[2].topics) == {("orders", 0): (-1, "")}


def test_what_embedded_consumers_have_acknowledged(wire: Wire, broker: Broker) -> None:
    put(broker, b"a", b"b")
    with broker.consumer("orders", group="e") as consumer:
        consumer.ack(consumer.poll(timeout_ms=60_000))
    answer = wire.ask(9, 7, group_id="e", topics=None, require_stable=False)
    assert fetched(answer.topics) == {("orders", 0): (2, "")}


def test_offsets_of_a_topic_that_was_deleted(committed: Wire, broker: Broker) -> None:
    broker.delete_topic("orders")
    answer = committed.ask(9, 7, group_id="g", topics=None, require_stable=False)
    assert answer.topics == ()


def test_each_group_is_answered_for_once(committed: Wire) -> None:
    """However often it is named: no answer is larger than all offsets together."""
    wanted = [{"group_id": "g", "topics": None}, {"group_id": "h", "topics": None}] * 50
    answer = committed.ask(9, 8, groups=wanted, require_stable=False)
    assert [each.group_id for each in answer.groups] == ["g", "h"]


@pytest.mark.parametrize(
    "error",
    [
        StorageFull(path="state.lmdb", reason="No space left on device"),
        LockTimeout(path="state.lock", holder_pid=1, timeout_ms=1),
        KafkaError(codes.NOT_COORDINATOR, "the server is stopping"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["store", "fetch"])
def test_what_goes_by_has_a_code_at_which_clients_ask_again(
    committed: Wire, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    """At NOT_COORDINATOR, librdkafka's consumers keep the partition and never read it."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(Coordinator if where == "store" else CoordinatorStore, where, fails)
    wanted = [{"name": "orders", "partition_indexes": (0,)}]
    for version in 1, 7:
        answer = committed.ask(9, version, group_id="g", topics=wanted, require_stable=False)
        assert answer.topics[0].partitions[0].error_code == 14
    assert answer.error_code == 14
    groups = [{"group_id": "g", "member_id": None, "member_epoch": -1, "topics": wanted}]
    [group] = committed.ask(9, 9, groups=groups, require_stable=False).groups
    assert group.error_code == 14
