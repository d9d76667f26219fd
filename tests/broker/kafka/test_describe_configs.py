from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from wire import Wire

from seawall.broker import Broker
from seawall.broker.config import BROKER_SETTINGS, SETTINGS
from seawall.broker.kafka import codes
from seawall.broker.kafka.schema import Schema
from seawall.broker.kafka.settings import ServerSettings, descriptions
from seawall.broker.kafka.topic_configs import without_effect

KEY = 32
TOPIC, BROKER = 2, 4
DYNAMIC_TOPIC, DYNAMIC_DEFAULT_BROKER, STATIC_BROKER, DEFAULT = 1, 3, 4, 5
BOOLEAN, STRING, INT, LONG, DOUBLE, LIST = 1, 2, 3, 5, 6, 7


def ask(
    wire: Wire,
    *resources: tuple[int, str],
    version: int = 4,
    keys: Sequence[str] | None = None,
    **fields: Any,
) -> list[Any]:
    wanted = [
        {"resource_type": kind, "resource_name": name, "configuration_keys": keys}
        for kind, name in resources
    ]
    return list(wire.ask(KEY, version, resources=wanted, **fields).results)


def describe(wire: Wire, kind: int, name: str, **fields: Any) -> dict[str, Any]:
    [result] = ask(wire, (kind, name), **fields)
    assert (result.error_code, result.error_message) == (0, None)
    assert (result.resource_type, result.resource_name) == (kind, name)
    return {entry.name: entry for entry in result.configs}


@pytest.mark.parametrize("version", range(1, 5))
def test_it_describes_a_topic_in_every_version(wire: Wire, broker: Broker, version: int) -> None:
    broker.create_topic("new", config={"retention.ms": 5, "cleanup.policy": "delete"})
    entries = describe(wire, TOPIC, "new", version=version, include_synonyms=True)
    assert list(entries) == sorted({*SETTINGS, *without_effect(ServerSettings())})
    chosen = entries["retention.ms"]
    assert (chosen.value, chosen.config_source) == ("5", DYNAMIC_TOPIC)
    assert (chosen.read_only, chosen.is_sensitive) == (False, False)
    assert [(each.name, each.value, each.source) for each in chosen.synonyms] == [
        ("retention.ms", "5", DYNAMIC_TOPIC),
        ("retention.ms", "604800000", DEFAULT),
    ]
    default = entries["segment.bytes"]
    assert (default.value, default.config_source) == ("67108864", DEFAULT)
    assert [(each.value, each.source) for each in default.synonyms] == [("67108864", DEFAULT)]
    assert (entries["min.insync.replicas"].value, entries["min.insync.replicas"].read_only) == (
        "1",
        True,
    )
    if version >= 3:
        types = {name: entry.config_type for name, entry in entries.items()}
        assert types["cleanup.policy"] == LIST
        assert types["segment.bytes"] == types["min.insync.replicas"] == INT
        assert types["retention.ms"] == LONG
        assert types["min.cleanable.dirty.ratio"] == DOUBLE
        assert types["message.timestamp.type"] == STRING
        assert types["unclean.leader.election.enable"] == BOOLEAN
        assert {entry.documentation for entry in entries.values()} == {None}


def test_documentation_and_synonyms_only_when_asked_for(wire: Wire) -> None:
    entries = describe(wire, TOPIC, "orders", include_documentation=True)
    assert entries["retention.ms"].documentation == SETTINGS["retention.ms"].description
    assert all(entry.documentation for entry in entries.values())
    assert {entry.synonyms for entry in entries.values()} == {()}


def test_single_settings(wire: Wire) -> None:
    keys = ["retention.ms", "nothing.like.it", "flush.ms"]
    assert list(describe(wire, TOPIC, "orders", keys=keys)) == ["flush.ms", "retention.ms"]
    assert len(describe(wire, TOPIC, "orders", keys=[])) > 20


def test_kafka_clients_take_delete_for_the_default(wire: Wire, broker: Broker) -> None:
    """And `acknowledged` for something that somebody has chosen."""
    broker.create_topic("wire", config={"cleanup.policy": "delete"})
    broker.create_topic("keys", config={"cleanup.policy": "compact"})
    told = {
        name: describe(wire, TOPIC, name)["cleanup.policy"] for name in ("orders", "wire", "keys")
    }
    assert {name: (each.value, each.config_source) for name, each in told.items()} == {
        "orders": ("acknowledged", DYNAMIC_TOPIC),
        "wire": ("delete", DEFAULT),
        "keys": ("compact", DYNAMIC_TOPIC),
    }


@pytest.mark.parametrize("version", [1, 4])
def test_the_broker(serving: Any, broker: Broker, version: int) -> None:
    wire = Wire(serving(num_partitions=3, log_message_timestamp_after_max_ms=60_000).address)
    broker.set_config({"offsets.retention.minutes": 5})
    entries = describe(wire, BROKER, "1", version=version, include_synonyms=True)
    assert entries.keys() >= {*BROKER_SETTINGS, *descriptions()}
    told = {name: (each.value, each.config_source) for name, each in entries.items()}
    assert told["num.partitions"] == ("3", STATIC_BROKER)
    assert told["auto.create.topics.enable"] == ("true", DEFAULT)
    assert told["offsets.retention.minutes"] == ("5", DYNAMIC_DEFAULT_BROKER)
    assert told["log.retention.check.interval.ms"] == ("300000", DEFAULT)
    assert told["default.replication.factor"] == ("1", DEFAULT)
    changeable = {name for name, each in entries.items() if not each.read_only}
    assert changeable == set(BROKER_SETTINGS)
    if version >= 3:
        types = {name: each.config_type for name, each in entries.items()}
        assert types["num.partitions"] == INT
        assert types["connections.max.idle.ms"] == LONG
        assert types["auto.create.topics.enable"] == BOOLEAN
        assert types["listen"] == STRING
    limit = describe(wire, TOPIC, "orders")["message.timestamp.after.max.ms"]
    assert (limit.value, limit.read_only) == ("60000", True)
    wire.close()


def test_the_defaults_of_all_brokers_are_what_was_set(wire: Wire, broker: Broker) -> None:
    assert describe(wire, BROKER, "") == {}
    broker.set_config({"offsets.retention.minutes": 5})
    assert list(describe(wire, BROKER, "")) == ["offsets.retention.minutes"]


NO_SETTINGS = {
    (TOPIC, "nothing"): codes.UNKNOWN_TOPIC_OR_PARTITION,
    (TOPIC, "no/name"): codes.INVALID_TOPIC_EXCEPTION,
    (TOPIC, ""): codes.INVALID_REQUEST,
    (BROKER, "2"): codes.INVALID_REQUEST,
    (BROKER, "one"): codes.INVALID_REQUEST,
    (8, "1"): codes.INVALID_REQUEST,
    (0, ""): codes.INVALID_REQUEST,
    (-7, "x" * 32_000): codes.INVALID_REQUEST,
}


def test_what_has_no_settings(wire: Wire) -> None:
    *bad, good = ask(wire, *NO_SETTINGS, (TOPIC, "orders"), version=1)
    told = {(each.resource_type, each.resource_name): each.error_code for each in bad}
    assert told == NO_SETTINGS
    assert all(10 < len(each.error_message) < 1_100 and each.configs == () for each in bad)
    assert good.error_code == 0


def test_a_resource_is_described_once(wire: Wire) -> None:
    assert len(ask(wire, (TOPIC, "orders"), (TOPIC, "orders"))) == 1


def test_too_many_at_once(wire: Wire) -> None:
    results = ask(wire, *((TOPIC, f"t{number}") for number in range(10_001)))
    assert {each.error_code for each in results} == {codes.POLICY_VIOLATION}


def test_a_long_answer_is_made_beside_the_loop(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of settings take long to write, and nobody else should wait for that."""
    makers = []
    encode = Schema.encode

    def noting(schema: Schema, correlation_id: int, answer: Any) -> bytes:
        makers.append(threading.current_thread().name)
        return encode(schema, correlation_id, answer)

    monkeypatch.setattr(Schema, "encode", noting)
    describe(wire, TOPIC, "orders")
    wire.ask(18, 0)
    assert makers[0].startswith("seawall-executor")
    assert makers[1] == "seawall-server"
