"""The last offset of each key, against a dict."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.wal.keymap import MOST_OFFSETS, SLOT_BYTES, KeyMap, Span


def spans(*keys: bytes | None) -> list[Span]:
    return [(0, 0, 0, 0, delta, key, True) for delta, key in enumerate(keys)]


@given(
    batches=st.lists(
        st.lists(st.none() | st.sampled_from([b"", b"a", b"b", b"\0" * 12]) | st.binary()),
        max_size=8,
    ),
    base=st.integers(0, 1 << 62),
)
def test_it_knows_what_a_dict_knows(batches: list[list[bytes | None]], base: int) -> None:
    keys = KeyMap(1 << 16, base, 10_000)
    known: dict[bytes, int] = {}
    offset = base
    for batch in batches:
        assert keys.put(spans(*batch), offset, base) is None
        known |= {key: at for at, key in enumerate(batch, offset) if key is not None}
        offset += len(batch)
    assert keys.count == len(known)
    for key, at in known.items():
        assert keys.last(key) == at
        assert keys.last(key + b"another") == known.get(key + b"another", -1)


def test_what_is_before_the_start_is_not_taken() -> None:
    keys = KeyMap(1 << 16, 100, 100)
    assert keys.put(spans(b"a", b"b", b"c"), 98, 100) is None
    assert [keys.last(key) for key in (b"a", b"b", b"c")] == [-1, -1, 100]


def test_when_it_is_full_it_says_where() -> None:
    keys = KeyMap(1, 0, 1_000_000)
    wanted = [b"%d" % number for number in range(100)]
    most = keys.most
    assert most < 100
    assert keys.put(spans(*wanted), 0, 0) == most
    # Keys that it knows it still takes.
    assert keys.put(spans(b"0", b"1"), 500, 0) is None
    assert keys.put(spans(b"0", b"new"), 600, 0) == 601
    assert (keys.last(b"0"), keys.last(b"1"), keys.last(b"2")) == (600, 501, 2)
    assert keys.count == most


def test_offsets_that_are_too_far_from_the_base_have_no_room() -> None:
    keys = KeyMap(1 << 16, 5, 100)
    assert keys.put(spans(b"a"), 5 + MOST_OFFSETS - 1, 0) is None
    assert keys.last(b"a") == 5 + MOST_OFFSETS - 1
    assert keys.put(spans(b"b"), 5 + MOST_OFFSETS, 0) == 5 + MOST_OFFSETS
    assert keys.put(spans(b"a"), 5 + MOST_OFFSETS, 0) == 5 + MOST_OFFSETS


@pytest.mark.parametrize("limit_bytes", [1 << 12, 1 << 16])
def test_all_of_its_room_is_used_however_keys_fall(limit_bytes: int) -> None:
    keys = KeyMap(limit_bytes, 0, 1 << 40)
    assert keys.most == limit_bytes // SLOT_BYTES * 3 // 4
    wanted = [random.Random(at).randbytes(9) for at in range(keys.most)]
    assert keys.put(spans(*wanted), 0, 0) is None
    assert [keys.last(key) for key in wanted] == list(range(keys.most))
    assert keys.last(b"nobody") == -1


def test_five_million_keys_fit_in_128_mib() -> None:
    assert (128 << 20) // SLOT_BYTES * 3 // 4 > 5_000_000
    for most in (5_000_000, 50_000, 1_001, 1_002, 1_003):
        assert KeyMap(128 << 20, 0, most).most >= most
    # And few keys take little.
    assert KeyMap(128 << 20, 0, 100).most < 200


def test_no_two_tables_place_a_key_alike() -> None:
    """So nobody can choose keys that collide."""
    tables = []
    for _ in range(2):
        keys = KeyMap(1 << 12, 0, 1_000)
        keys.put(spans(b"key"), 0, 0)
        tables.append(bytes(keys._table))
    assert tables[0] != tables[1]
