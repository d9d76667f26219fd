"""Topic and group names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.errors import InvalidGroupName, InvalidTopicName
from seawall.broker.names import check_group_name, check_topic_name


@pytest.mark.parametrize("name", ["a", "orders", "A.b_c-9", "...", "-", "_", "..a", "x" * 249])
def test_topic_names(name: str) -> None:
    check_topic_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        (".", "folder"),
        ("..", "folder"),
        ("x" * 250, "250 characters"),
        ("a b", "' '"),
        ("a/b", "'/'"),
        ("grün", "'ü'"),
        ("٣", "'٣'"),  # a digit, but not one of ours
        ("a\n", r"'\\n'"),
        ("a\0", "x00"),
    ],
)
def test_not_topic_names(name: str, reason: str) -> None:
    with pytest.raises(InvalidTopicName, match=reason) as caught:
        check_topic_name(name)
    assert caught.value.topic == name


@pytest.mark.parametrize("name", ["a", "my group", "größe/1", "é" * 127 + "x", "😀"])
def test_group_names(name: str) -> None:
    check_group_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("x" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("a\tb", r"'\\t'"),
        ("\0", "x00"),
        ("\x7f", "x7f"),
        ("\x85", "x85"),
        ("\ud800", "UTF-8"),
    ],
)
def test_not_group_names(name: str, reason: str) -> None:
    with pytest.raises(InvalidGroupName, match=reason) as caught:
        check_group_name(name)
    assert caught.value.group == name


@given(st.text(max_size=300))
def test_a_good_name_is_a_good_file_name_and_key(name: str) -> None:
    try:
        check_topic_name(name)
    except InvalidTopicName:
        pass
    else:
        assert name.isascii()
        assert "/" not in name
    try:
        check_group_name(name)
    except InvalidGroupName:
        pass
    else:
        assert b"\0" not in name.encode()
        assert len(name.encode()) <= 255
