from __future__ import annotations

from typing import Any

import pytest
from wire import Wire, batch

from seawall.broker import Broker
from seawall.broker.kafka import codes

KEY = 19
VERSIONS = range(2, 8)


def wanted(name: str, partitions: int = 1, replicas: int = 1, **fields: Any) -> dict[str, Any]:
    settings = fields.pop("configs", {})
    return {
        "name": name,
        "num_partitions": partitions,
        "replication_factor": replicas,
        "assignments": (),
        "configs": [{"name": key, "value": value} for key, value in settings.items()],
        **fields,
    }


def assigned(*replicas: tuple[int, tuple[int, ...]]) -> dict[str, Any]:
    return {
        "assignments": [{"partition_index": number, "broker_ids": ids} for number, ids in replicas],
        "num_partitions": -1,
        "replication_factor": -1,
    }


def create(
    wire: Wire,
    *topics: dict[str, Any],
    version: int = 7,
    validate_only: bool = False,
    timeout: int = 10_000,
) -> list[Any]:
    answer = wire.ask(KEY, version, topics=topics, timeout=timeout, validate_only=validate_only)
    return list(answer.topics)


@pytest.mark.parametrize("version", VERSIONS)
def test_it_creates_topics_in_every_version(wire: Wire, broker: Broker, version: int) -> None:
    [one, two] = create(
        wire,
        wanted("one", 3, configs={"retention.ms": "1000", "min.insync.replicas": "1"}),
        wanted("two"),
        version=version,
    )
    assert [(each.name, each.error_code, each.error_message) for each in (one, two)] == [
        ("one", 0, None),
        ("two", 0, None),
    ]
    info = broker.topic("one")
    assert len(info.partitions) == 3
    assert info.config == {"cleanup.policy": "delete", "retention.ms": "1000"}
    assert info.settings.retention_ms == 1000
    assert broker.topic("two").settings.retention_ms == 7 * 86_400_000
    if version >= 5:
        assert (one.num_partitions, one.replication_factor) == (3, 1)
        told = {each.name: (each.value, each.config_source) for each in one.configs}
        assert told["retention.ms"] == ("1000", 1)
        assert told["cleanup.policy"] == ("delete", 5)
        assert told["min.insync.replicas"] == ("1", 5)
    if version >= 7:
        assert one.topic_id == info.uuid


def test_defaults(serving: Any, broker: Broker) -> None:
    wire = Wire(serving(num_partitions=3).address)
    [topic] = create(wire, wanted("new", -1, -1))
    wire.close()
    assert (topic.error_code, topic.num_partitions, topic.replication_factor) == (0, 3, 1)
    assert len(broker.topic("new").partitions) == 3


def test_another_policy_is_taken(wire: Wire, broker: Broker) -> None:
    create(wire, wanted("kept", configs={"cleanup.policy": "compact, delete"}))
    create(wire, wanted("own", configs={"cleanup.policy": "acknowledged"}))
    assert broker.topic("kept").settings.cleanup_policy == "compact,delete"
    assert broker.topic("own").settings.cleanup_policy == "acknowledged"


@pytest.mark.parametrize("version", [2, 7])
def test_validating_creates_nothing(wire: Wire, broker: Broker, version: int) -> None:
    good, bad, taken = create(
        wire,
        wanted("good", 4),
        wanted("bad", 0),
        wanted("orders"),
        version=version,
        validate_only=True,
    )
    assert [each.error_code for each in (good, bad, taken)] == [
        codes.NONE,
        codes.INVALID_PARTITIONS,
        codes.TOPIC_ALREADY_EXISTS,
    ]
    if version >= 7:
        assert (good.topic_id, good.num_partitions) == (None, 4)
        assert good.configs
    assert [info.name for info in broker.topics()] == ["orders"]


BAD = {
    "exists": (wanted("orders", 0, 7), codes.TOPIC_ALREADY_EXISTS),
    "empty": (wanted(""), codes.INVALID_TOPIC_EXCEPTION),
    "slash": (wanted("a/b"), codes.INVALID_TOPIC_EXCEPTION),
    "dots": (wanted(".."), codes.INVALID_TOPIC_EXCEPTION),
    "long": (wanted("x" * 250), codes.INVALID_TOPIC_EXCEPTION),
    "very long": (wanted("x" * 32_000), codes.INVALID_TOPIC_EXCEPTION),
    "no partitions": (wanted("new", 0), codes.INVALID_PARTITIONS),
    "fewer": (wanted("new", -2), codes.INVALID_PARTITIONS),
    "too many": (wanted("new", 10_001), codes.INVALID_PARTITIONS),
    "no replicas": (wanted("new", 1, 0), codes.INVALID_REPLICATION_FACTOR),
    "three replicas": (wanted("new", 1, 3), codes.INVALID_REPLICATION_FACTOR),
    "unknown setting": (wanted("new", configs={"retention": "1"}), codes.INVALID_CONFIG),
    "bad value": (wanted("new", configs={"retention.ms": "x"}), codes.INVALID_CONFIG),
    "no value": (wanted("new", configs={"retention.ms": None}), codes.INVALID_CONFIG),
    "two in sync": (wanted("new", configs={"min.insync.replicas": "2"}), codes.INVALID_CONFIG),
    "lz4": (wanted("new", configs={"compression.type": "lz4"}), codes.INVALID_CONFIG),
    "long key": (wanted("new", configs={"k" * 30_000: "1"}), codes.INVALID_CONFIG),
    "long value": (wanted("new", configs={"retention.ms": "1" * 32_000}), codes.INVALID_CONFIG),
    "assigned and counted": (
        {**wanted("new"), "assignments": assigned((0, (1,)))["assignments"]},
        codes.INVALID_REQUEST,
    ),
    "assigned elsewhere": (
        {**wanted("new"), **assigned((0, (2,)))},
        codes.INVALID_REPLICA_ASSIGNMENT,
    ),
    "assigned twice": (
        {**wanted("new"), **assigned((0, (1, 1)))},
        codes.INVALID_REPLICA_ASSIGNMENT,
    ),
    "assigned to nobody": (
        {**wanted("new"), **assigned((0, ()))},
        codes.INVALID_REPLICA_ASSIGNMENT,
    ),
    "assigned with a gap": (
        {**wanted("new"), **assigned((0, (1,)), (2, (1,)))},
        codes.INVALID_REPLICA_ASSIGNMENT,
    ),
    "the same partition": (
        {**wanted("new"), **assigned((0, (1,)), (0, (1,)))},
        codes.INVALID_REPLICA_ASSIGNMENT,
    ),
}


@pytest.mark.parametrize("version", [2, 7])
def test_what_cannot_be_is_refused_and_said(wire: Wire, broker: Broker, version: int) -> None:
    for case, (topic, code) in BAD.items():
        answered, good = create(wire, topic, wanted("good"), version=version)
        assert (answered.name, answered.error_code) == (topic["name"], code), case
        assert 10 < len(answered.error_message) < 1_100, case
        assert good.error_code == 0
        broker.delete_topic("good")
    assert [info.name for info in broker.topics()] == ["orders"]


def test_messages_say_what_to_do(wire: Wire) -> None:
    told = {
        each.name: each.error_message
        for each in create(
            wire,
            wanted("a", 1, 3),
            wanted("b", configs={"compression.type": "gzip"}),
            wanted("c", configs={"retention.sm": "1"}),
        )
    }
    assert "give 1, or -1" in told["a"]
    assert "compression.type of the producers" in told["b"]
    assert "did you mean 'retention.ms'?" in told["c"]


def test_assignments_to_the_one_broker(wire: Wire, broker: Broker) -> None:
    topic = {**wanted("new"), **assigned((1, (1,)), (0, (1,)))}
    assert create(wire, topic)[0].error_code == 0
    assert len(broker.topic("new").partitions) == 2


def test_a_topic_named_twice_is_not_created(wire: Wire, broker: Broker) -> None:
    twice, once = create(wire, wanted("twice"), wanted("once"), wanted("twice", 3))
    assert (twice.name, twice.error_code) == ("twice", codes.INVALID_REQUEST)
    assert once.error_code == 0
    assert {info.name for info in broker.topics()} == {"orders", "once"}


def test_too_many_at_once(wire: Wire, broker: Broker) -> None:
    answers = create(wire, *(wanted(f"t{number}") for number in range(1_001)))
    assert {each.error_code for each in answers} == {codes.POLICY_VIOLATION}
    answers = create(wire, wanted("a", 6_000), wanted("b", 6_000))
    assert [each.error_code for each in answers] == [codes.POLICY_VIOLATION] * 2
    assert "12000 partitions" in answers[0].error_message
    assert len(broker.topics()) == 1


def test_no_time_to_wait_is_time_enough(wire: Wire, broker: Broker) -> None:
    """librdkafka sends 0 for "do not wait"."""
    assert create(wire, wanted("zero"), timeout=0)[0].error_code == 0
    assert create(wire, wanted("minus"), timeout=-1)[0].error_code == 0
    assert len(broker.topics()) == 3


def test_no_topics(wire: Wire) -> None:
    assert create(wire) == []


@pytest.mark.parametrize(("there", "asked"), [("a.b_c", "a_b.c"), ("a_b", "a.b"), ("a.b", "a_b")])
@pytest.mark.parametrize("validate_only", [True, False])
def test_a_name_that_differs_in_dots_and_underscores_alone_is_refused(
    wire: Wire, broker: Broker, there: str, asked: str, validate_only: bool
) -> None:
    broker.create_topic(there)
    [refused, other] = create(
        wire, wanted(asked), wanted("a-b"), version=7, validate_only=validate_only
    )
    assert (refused.name, refused.error_code) == (asked, codes.INVALID_TOPIC_EXCEPTION)
    assert repr(there) in refused.error_message
    assert other.error_code == 0
    assert asked not in {info.name for info in broker.topics()}
    # The library has no such rule, and what it has made is there over the wire as well.
    broker.create_topic(asked)
    [exists] = create(wire, wanted(asked))
    assert exists.error_code == codes.TOPIC_ALREADY_EXISTS
    assert wire.produce(asked, batch(b"x")).error_code == 0


def test_of_two_names_that_collide_the_first_is_created(wire: Wire) -> None:
    [first, second] = create(wire, wanted("a.b"), wanted("a_b"))
    assert (first.error_code, second.error_code) == (0, codes.INVALID_TOPIC_EXCEPTION)
