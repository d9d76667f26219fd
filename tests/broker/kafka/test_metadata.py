from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import pytest
from brokers import eventually
from wire import LONG_MS, Wire

from seawall.broker import Broker
from seawall.broker.kafka import metadata
from seawall.broker.kafka.threaded import ServerThread

KEY = 3


@pytest.mark.parametrize("version", range(14))
def test_it_describes_a_topic_in_every_version(
    wire: Wire, server: ServerThread, broker: Broker, version: int
) -> None:
    answer = wire.ask(
        KEY,
        version,
        topics=[{"name": "orders", "topic_id": None}],
        include_cluster_authorized_operations=False,
        include_topic_authorized_operations=False,
    )
    [node] = answer.brokers
    assert f"{node.host}:{node.port}" == server.address
    [topic] = answer.topics
    assert (topic.name, topic.error_code) == ("orders", 0)
    [partition] = topic.partitions
    assert (partition.partition_index, partition.leader_id) == (0, node.node_id)
    assert partition.isr_nodes == (node.node_id,)
    if version >= 2:
        assert answer.cluster_id == broker.cluster_id
    if version >= 10:
        assert topic.topic_id == broker.topic("orders").uuid


def ask(wire: Wire, version: int = 9, **fields: Any) -> Any:
    return wire.ask(
        KEY,
        version,
        **{
            "include_cluster_authorized_operations": False,
            "include_topic_authorized_operations": False,
            **fields,
        },
    )


def test_null_is_all_topics_and_an_empty_list_none(wire: Wire, broker: Broker) -> None:
    broker.create_topic("bills", 3)
    everything = ask(wire, topics=None)
    assert [(t.name, len(t.partitions)) for t in everything.topics] == [("bills", 3), ("orders", 1)]
    assert ask(wire, topics=()).topics == ()
    assert len(wire.ask(KEY, 0, topics=()).topics) == 2, "in version 0 an empty list is all"


def test_a_missing_topic_is_created_if_the_client_allows_it(wire: Wire, broker: Broker) -> None:
    named = [{"name": "new"}]
    [topic] = ask(wire, topics=named, allow_auto_topic_creation=False).topics
    assert (topic.error_code, topic.partitions) == (3, ())
    [topic] = ask(wire, topics=named, allow_auto_topic_creation=True).topics
    assert (topic.error_code, len(topic.partitions)) == (0, 1)
    assert broker.topic("new").settings.cleanup_policy == "delete"


def test_a_name_that_cannot_be_is_refused(wire: Wire) -> None:
    slash, empty = ask(wire, topics=[{"name": "no/slash"}, {"name": ""}]).topics
    assert (slash.error_code, empty.error_code) == (17, 17)


def test_a_name_that_collides_with_a_topic_is_not_created(wire: Wire, broker: Broker) -> None:
    broker.create_topic("a.b")
    there, refused = ask(wire, topics=[{"name": "a.b"}, {"name": "a_b"}]).topics
    assert (there.error_code, refused.name, refused.error_code) == (0, "a_b", 17)
    assert "a_b" not in {info.name for info in broker.topics()}


def test_one_request_creates_so_many_and_no_more(
    wire: Wire, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "MOST_CHANGES", 2)
    names = [{"name": name} for name in ("a", "orders", "b", "c", "a")]
    topics = ask(wire, topics=names).topics
    assert [topic.error_code for topic in topics] == [0, 0, 0, 3]
    assert [info.name for info in broker.topics()] == ["a", "b", "orders"]


def test_a_topic_that_takes_long_to_create_is_asked_for_again(
    wire: Wire, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "CREATION_TIMEOUT_MS", 50)
    named = [{"name": "new"}, {"name": "orders"}]
    with broker.engine.topics_lock:
        new, orders = ask(wire, topics=named).topics
    assert (new.error_code, orders.error_code) == (5, 0)  # LEADER_NOT_AVAILABLE
    monkeypatch.setattr(metadata, "CREATION_TIMEOUT_MS", LONG_MS)
    assert [topic.error_code for topic in ask(wire, topics=named).topics] == [0, 0]


def test_topics_by_id(wire: Wire, broker: Broker) -> None:
    known = broker.topic("orders").uuid
    [topic] = ask(wire, 12, topics=[{"topic_id": known, "name": None}]).topics
    assert topic.name == "orders"
    unknown = known.__class__(int=7)
    [topic] = ask(wire, 12, topics=[{"topic_id": unknown, "name": None}]).topics
    assert (topic.error_code, topic.topic_id) == (100, unknown)


def test_operations_only_when_asked_for(wire: Wire) -> None:
    named = [{"name": "orders"}]
    assert ask(wire, 8, topics=named).topics[0].topic_authorized_operations == -(2**31)
    answer = ask(
        wire,
        8,
        topics=named,
        include_cluster_authorized_operations=True,
        include_topic_authorized_operations=True,
    )
    assert answer.topics[0].topic_authorized_operations & (1 << 3)  # READ
    assert answer.cluster_authorized_operations & (1 << 5)  # CREATE


def test_each_topic_is_described_once(wire: Wire, broker: Broker) -> None:
    """However often it is named: no answer is larger than all topics together."""
    uuid = broker.topic("orders").uuid
    named = [{"name": "orders"}, {"name": "none"}] * 50
    answer = ask(wire, topics=named, allow_auto_topic_creation=False)
    assert [topic.name for topic in answer.topics] == ["orders", "none"]
    by_id = [{"name": None, "topic_id": uuid}] * 50
    answer = ask(wire, 12, topics=by_id, allow_auto_topic_creation=False)
    assert [topic.topic_id for topic in answer.topics] == [uuid]


def test_long_answers_share_the_memory_for_responses(
    serving: Callable[..., ServerThread], broker: Broker
) -> None:
    broker.create_topic("many", 40)
    size = 41 * metadata.PARTITION_BYTES
    server = serving(queued_max_response_bytes=size)
    node = server.server.node
    node.loop.call_soon_threadsafe(node.response_budget.reserve, 1, bool)
    long, short = Wire(server.address), Wire(server.address)
    long.send(KEY, 4, topics=None)
    orders = short.ask(KEY, 4, topics=[{"name": "orders"}]).topics
    assert [topic.name for topic in orders] == ["orders"], "a short answer waits for nobody"
    assert not select.select([long.socket], (), (), 0.05)[0]
    eventually(lambda: node.response_budget.used_bytes == 1)
    node.loop.call_soon_threadsafe(node.response_budget.release, 1)
    assert len(long.receive().topics) == 2
    eventually(lambda: node.response_budget.used_bytes == 0)
    for wire in (long, short):
        wire.close()


@pytest.mark.parametrize("version", [10, 11])
def test_ids_are_for_later_versions(wire: Wire, broker: Broker, version: int) -> None:
    """As Kafka: these have a field for the id, and no answer without a name."""
    uuid = broker.topic("orders").uuid
    for named in ({"name": None, "topic_id": None}, {"name": "orders", "topic_id": uuid}):
        [topic] = ask(wire, version, topics=[named], allow_auto_topic_creation=True).topics
        assert (topic.error_code, topic.name) == (42, named["name"] or "")
