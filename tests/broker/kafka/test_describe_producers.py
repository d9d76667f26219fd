from __future__ import annotations

from typing import Any

from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka import codes

KEY = 61


def ask(wire: Wire, *topics: tuple[str, tuple[int, ...]]) -> Any:
    wanted = [{"name": name, "partition_indexes": numbers} for name, numbers in topics]
    return wire.ask(KEY, 0, topics=wanted).topics


def test_it_names_idempotent_producers(wire: Wire, broker: Broker) -> None:
    [topic] = ask(wire, ("orders", (0,)))
    [partition] = topic.partitions
    assert (partition.error_code, partition.active_producers) == (0, ())
    with broker.producer(idempotent=True) as producer:
        producer.send("orders", b"one", timestamp=5_000).result(10)
        producer.send("orders", b"two", timestamp=6_000).result(10)
    [topic] = ask(wire, ("orders", (0,)))
    [found] = topic.partitions[0].active_producers
    [known] = broker.producers("orders", 0)
    assert (found.producer_id, found.producer_epoch) == (known.producer_id, known.epoch)
    assert (found.last_sequence, found.last_timestamp) == (1, 6_000)
    assert (found.coordinator_epoch, found.current_txn_start_offset) == (-1, -1)


def test_unknown_places(wire: Wire) -> None:
    orders, nothing = ask(wire, ("orders", (0, 1)), ("nothing", (0,)), ("orders", (0, -1)))
    assert [(each.partition_index, each.error_code) for each in orders.partitions] == [
        (0, codes.NONE),
        (1, codes.UNKNOWN_TOPIC_OR_PARTITION),
        (-1, codes.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    assert "no partition 1" in orders.partitions[1].error_message
    assert nothing.partitions[0].error_code == codes.UNKNOWN_TOPIC_OR_PARTITION


def test_too_many_at_once(wire: Wire) -> None:
    [topic] = ask(wire, ("orders", tuple(range(10_001))))
    assert {each.error_code for each in topic.partitions} == {codes.POLICY_VIOLATION}
