from __future__ import annotations

import pytest
from wire import Wire, batch

from seawall.broker import Broker


def ask(
    wire: Wire, timestamp: int, version: int = 9, partition: int = 0, **more: int
) -> tuple[int, ...]:
    asked = {"partition_index": partition, "timestamp": timestamp, **more}
    answer = wire.ask(
        2,
        version,
        replica_id=-1,
        isolation_level=0,
        topics=[{"name": "orders", "partitions": [asked]}],
    )
    [found] = answer.topics[0].partitions
    return found.error_code, found.offset, found.timestamp


@pytest.fixture(autouse=True)
def records(wire: Wire) -> None:
    for timestamp in (100, 300, 200):
        wire.produce("orders", batch(b"a", b"b", timestamp=timestamp))


@pytest.mark.parametrize("version", range(1, 10))
def test_names_and_times(wire: Wire, version: int) -> None:
    assert ask(wire, -1, version) == (0, 6, -1)
    assert ask(wire, -2, version) == (0, 0, -1)
    assert ask(wire, 0, version) == (0, 0, 100)
    assert ask(wire, 150, version) == (0, 2, 300)
    assert ask(wire, 301, version) == (0, -1, -1)


def test_special_times_by_version(wire: Wire) -> None:
    assert ask(wire, -3, 7) == (0, 2, 300)
    assert ask(wire, -4, 8) == (0, 0, -1)
    assert ask(wire, -5, 9) == (0, -1, -1)
    for timestamp, version in ((-3, 6), (-4, 7), (-5, 8), (-6, 9)):
        assert ask(wire, timestamp, version)[0] == 35


def test_the_log_start_hides_what_is_below(wire: Wire, broker: Broker) -> None:
    broker.delete_records("orders", {0: 3})
    assert ask(wire, -2) == (0, 3, -1)
    assert ask(wire, -3) == (0, 3, 300), "the rest of its batch"
    broker.delete_records("orders", {0: 4})
    assert ask(wire, -3) == (0, 4, 200)
    broker.delete_records("orders", {0: 6})
    assert ask(wire, -3) == (0, -1, -1)


def test_what_does_not_exist(wire: Wire) -> None:
    assert ask(wire, -1, partition=1)[0] == 3
    assert ask(wire, -1, current_leader_epoch=1)[0] == 75


@pytest.mark.parametrize("version", range(2, 5))
def test_the_one_epoch_ends_at_the_durable_end(wire: Wire, version: int) -> None:
    def epoch(leader_epoch: int, current: int = -1, partition: int = 0) -> tuple[int, ...]:
        asked = {
            "partition": partition,
            "current_leader_epoch": current,
            "leader_epoch": leader_epoch,
        }
        answer = wire.ask(23, version, topics=[{"topic": "orders", "partitions": [asked]}])
        [found] = answer.topics[0].partitions
        return found.error_code, found.leader_epoch, found.end_offset

    assert epoch(0) == (0, 0, 6)
    assert epoch(1) == (0, -1, -1)
    assert epoch(0, current=2)[0] == 75
    assert epoch(0, partition=1)[0] == 3


@pytest.mark.parametrize("version", range(6))
def test_producer_ids_are_never_the_same(wire: Wire, version: int) -> None:
    answers = [
        wire.ask(22, version, transactional_id=None, transaction_timeout=1000) for _ in range(5)
    ]
    assert {(each.error_code, each.producer_epoch) for each in answers} == {(0, 0)}
    assert len({each.producer_id for each in answers}) == 5
    refused = wire.ask(22, version, transactional_id="t", transaction_timeout=1000)
    assert refused.error_code == 53


def test_a_producer_goes_on_in_the_next_epoch(wire: Wire) -> None:
    known = {"transactional_id": None, "transaction_timeout": 1000}
    answer = wire.ask(22, 4, **known, producer_id=77, producer_epoch=3)
    assert (answer.producer_id, answer.producer_epoch) == (77, 4)


@pytest.mark.parametrize("version", [1, 9])
def test_a_partition_that_is_there_twice(wire: Wire, version: int) -> None:
    """As Kafka, which looks up none of them: each may mean reading a whole segment."""
    twice = [{"partition_index": 0, "timestamp": -1}] * 2
    topics = [
        {"name": "orders", "partitions": twice},
        {"name": "none", "partitions": twice[:1]},
    ]
    answer = wire.ask(2, version, replica_id=-1, isolation_level=0, topics=topics)
    orders, none = answer.topics
    assert [each.error_code for each in orders.partitions] == [42, 42]
    assert [each.error_code for each in none.partitions] == [3]
