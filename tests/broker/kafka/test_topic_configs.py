from __future__ import annotations

import re
from pathlib import Path

import pytest

from seawall.broker.config import INT64_MAX, SETTINGS
from seawall.broker.errors import InvalidConfig
from seawall.broker.kafka import codes
from seawall.broker.kafka.codes import KafkaError, code_of
from seawall.broker.kafka.settings import ServerSettings
from seawall.broker.kafka.topic_configs import checked_for_topic, without_effect

SERVER = ServerSettings()
DOCS = Path(__file__).parents[3] / "docs" / "kafka.md"


def code_for(key: str, value: str | None) -> int:
    try:
        checked_for_topic({key: value}, SERVER)
    except (KafkaError, InvalidConfig) as error:
        return code_of(error)
    return codes.NONE


@pytest.mark.parametrize("key", without_effect(SERVER))
def test_what_holds_is_accepted_and_not_stored(key: str) -> None:
    holds = without_effect(SERVER)[key].default
    assert checked_for_topic({key: holds}, SERVER) == {}
    assert key not in SETTINGS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flush.messages", "10000"),
        ("flush.ms", "1000"),
        ("unclean.leader.election.enable", "TRUE"),
        ("unclean.leader.election.enable", " false "),
        ("preallocate", "false"),
        ("file.delete.delay.ms", "60000"),
        ("segment.index.bytes", "52428800"),
        ("segment.jitter.ms", "100"),
        ("compression.zstd.level", "-5"),
    ],
)
def test_what_makes_no_difference_is_accepted(key: str, value: str) -> None:
    assert checked_for_topic({key: value}, SERVER) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min.insync.replicas", "2"),
        ("min.insync.replicas", "0"),
        ("flush.messages", "0"),
        ("unclean.leader.election.enable", "perhaps"),
        ("remote.storage.enable", "true"),
        ("local.retention.ms", "1000"),
        ("max.compaction.lag.ms", "1000"),
        ("leader.replication.throttled.replicas", "*"),
        ("message.timestamp.after.max.ms", "3600000"),
        ("compression.type", "lz4"),
        ("compression.type", "uncompressed"),
        ("retention.ms", None),
        ("confluent.value.schema.validation", "true"),
        ("message.format.version", "3.0-IV1"),
    ],
)
def test_what_would_promise_too_much_is_refused(key: str, value: str | None) -> None:
    assert code_for(key, value) == codes.INVALID_CONFIG


def test_limits_of_timestamps_are_the_servers() -> None:
    server = ServerSettings(log_message_timestamp_after_max_ms=3_600_000)
    assert checked_for_topic({"message.timestamp.after.max.ms": "3600000"}, server) == {}
    with pytest.raises(KafkaError, match="for the whole server"):
        checked_for_topic({"message.timestamp.after.max.ms": str(INT64_MAX)}, server)


def test_the_documented_table_is_the_code() -> None:
    """Each setting has a row in docs/kafka.md, and no row has no setting."""
    section = DOCS.read_text().split("## Topics and settings")[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", section, flags=re.M)
    documented = {key for cell in first_cells for key in re.findall(r"`([a-z0-9.]+)`", cell)}
    assert documented == {*SETTINGS, *without_effect(SERVER)}
