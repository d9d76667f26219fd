"""Per-topic settings."""

from __future__ import annotations

import pytest

from seawall.broker.config import (
    BROKER_SETTINGS,
    SETTINGS,
    check_changes,
    check_config,
    effective_config,
    parse_broker_config,
    parse_config,
)
from seawall.broker.errors import InvalidConfig


def test_defaults_are_kafkas_or_documented() -> None:
    config = parse_config({})
    assert config.segment_bytes == 64 << 20
    assert config.segment_ms == 604_800_000
    assert config.max_message_bytes == 1_048_588
    assert config.index_interval_bytes == 4096
    assert config.message_timestamp_type == "CreateTime"
    assert effective_config({}) == {key: s.default for key, s in SETTINGS.items()}


def test_every_default_is_allowed_and_every_setting_explained() -> None:
    assert list(SETTINGS) == sorted(SETTINGS)
    for key, setting in SETTINGS.items():
        assert check_config({key: setting.default}) == {key: setting.default}
        assert setting.description.endswith(".")
        assert setting.allowed


def test_numbers_are_kept_as_plain_text() -> None:
    assert check_config({"segment.bytes": 8192, "segment.ms": " 007 "}) == {
        "segment.bytes": "8192",
        "segment.ms": "7",
    }


def test_values_are_used() -> None:
    stored = check_config(
        {"segment.bytes": "4096", "segment.ms": 1, "message.timestamp.type": "LogAppendTime"}
    )
    config = parse_config(stored)
    assert (config.segment_bytes, config.segment_ms) == (4096, 1)
    assert config.message_timestamp_type == "LogAppendTime"
    assert effective_config(stored)["segment.bytes"] == "4096"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("segment.bytes", "4095"),
        ("segment.bytes", str(1 << 31)),
        ("segment.bytes", "-1"),
        ("segment.bytes", "64MiB"),
        ("segment.bytes", "1e6"),
        ("segment.bytes", "1_000_000"),
        ("segment.bytes", "٤٠٩٦٠"),
        ("segment.bytes", ""),
        ("segment.bytes", 4096.5),
        ("segment.ms", True),
        ("segment.ms", "9" * 5000),
        ("segment.ms", 0),
        ("max.message.bytes", 60),
        ("message.timestamp.type", "createtime"),
        ("compression.type", "zstd"),
    ],
)
def test_bad_values_are_named(key: str, value: str | int) -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_config({key: value})
    assert caught.value.key == key
    assert caught.value.known
    assert SETTINGS[key].allowed in str(caught.value)


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("segment.byte", "segment.bytes"),
        ("segment_bytes", "segment.bytes"),
        ("Segment.MS", "segment.ms"),
        ("max.messages.bytes", "max.message.bytes"),
    ],
)
def test_unknown_keys_get_a_suggestion(key: str, suggestion: str) -> None:
    with pytest.raises(InvalidConfig, match=f"did you mean '{suggestion}'") as caught:
        check_config({key: "1"})
    assert caught.value.suggestion == suggestion


def test_unknown_keys_without_a_suggestion_get_the_list() -> None:
    with pytest.raises(InvalidConfig, match=r"there are: cleanup\.policy, compression") as caught:
        check_config({"colour": "red"})
    assert not caught.value.known


def test_kafkas_words_and_ranges() -> None:
    """KIP-71 for the policies; the rest as in Kafka's TopicConfig."""
    config = parse_config({})
    assert config.cleanup_policy == "acknowledged"
    assert (config.retention_ms, config.retention_bytes) == (604_800_000, -1)
    assert (config.delete_retention_ms, config.min_compaction_lag_ms) == (86_400_000, 0)
    assert config.min_cleanable_dirty_ratio == 0.5
    for value in ("delete,compact", "compact, delete", "delete, compact", "compact,delete"):
        assert check_config({"cleanup.policy": value}) == {"cleanup.policy": "compact,delete"}
    assert check_config({"retention.ms": -1, "retention.bytes": "-1"}) == {
        "retention.ms": "-1",
        "retention.bytes": "-1",
    }
    assert check_config({"min.cleanable.dirty.ratio": "1"}) == {"min.cleanable.dirty.ratio": "1.0"}
    assert parse_config({"min.cleanable.dirty.ratio": "0.25"}).min_cleanable_dirty_ratio == 0.25


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cleanup.policy", "acknowledged,delete"),
        ("cleanup.policy", ""),
        ("retention.ms", "-2"),
        ("retention.bytes", "--1"),
        ("retention.bytes", "-"),
        ("delete.retention.ms", "-1"),
        ("min.cleanable.dirty.ratio", "1.01"),
        ("min.cleanable.dirty.ratio", "-0.5"),
        ("min.cleanable.dirty.ratio", "nan"),
        ("min.cleanable.dirty.ratio", "1e-3"),
    ],
)
def test_bad_limits_are_named(key: str, value: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_config({key: value})
    assert SETTINGS[key].allowed in str(caught.value)


def test_changes_take_settings_back() -> None:
    assert check_changes({"segment.ms": None, "segment.bytes": 4096}) == {
        "segment.ms": None,
        "segment.bytes": "4096",
    }
    with pytest.raises(InvalidConfig, match=r"did you mean 'segment\.ms'"):
        check_changes({"segment.m": None})


def test_the_brokers_settings() -> None:
    assert list(BROKER_SETTINGS) == sorted(BROKER_SETTINGS)
    for key, setting in BROKER_SETTINGS.items():
        assert check_config({key: setting.default}, BROKER_SETTINGS) == {key: setting.default}
        assert setting.description.endswith(".")
    config = parse_broker_config({"offsets.retention.minutes": "5"})
    assert config.offsets_retention_minutes == 5
    assert config.retention_check_interval_ms == 300_000
    assert config.io_max_bytes_per_second == 32 << 20
