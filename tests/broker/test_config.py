"""Per-topic settings."""

from __future__ import annotations

import pytest

from seawall.broker.config import (
    SETTINGS,
    check_config,
    effective_config,
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
