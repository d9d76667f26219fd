"""The index: what it stores, that logs do not meet in it, and that it can be dropped."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage import memory_folder

from seawall.wal.files import Files
from seawall.wal.index import NO_TIMESTAMP, Checkpoint, Entry, Found, Index, Sealed
from seawall.wal.kv import Environment

START = Checkpoint(0, 0, 0, NO_TIMESTAMP, 0)


def open_index(folder: str) -> tuple[Index, Environment]:
    path = os.path.join(folder, "index.lmdb")
    environment = Environment(path, files=Files(), map_size_bytes=1 << 26)
    return Index(environment), environment


@pytest.fixture
def index(folder: str) -> Iterator[Index]:
    index, environment = open_index(folder)
    yield index
    environment.close()


def test_nothing_is_known_of_a_new_log(index: Index) -> None:
    assert index.checkpoint(1) is None
    assert index.at_or_before(1, 0, 100) is None
    assert index.before_time(1, 0, 100) is None
    assert index.sealed(1, 0) is None


def test_an_advance_counts_from_the_stored_checkpoint_only(index: Index) -> None:
    one, two = START._replace(offset=10, position=100), START._replace(offset=20, position=200)
    assert index.advance(1, None, one, [], [])
    assert not index.advance(1, None, two, [Entry(0, 15, 150, 5)], [Sealed(0, 20, 200, 5)])
    assert index.checkpoint(1) == one
    assert index.at_or_before(1, 0, 100) is None
    assert index.sealed(1, 0) is None
    assert index.advance(1, one, two, [], [])
    assert index.checkpoint(1) == two
    assert index.checkpoint(2) is None


def test_producers_go_with_their_checkpoint(index: Index) -> None:
    one, two = START._replace(offset=10, position=100), START._replace(offset=20, position=200)
    assert index.producers(1) is None
    assert index.advance(1, None, one, [], [])
    assert index.producers(1) == (one, b"")
    assert not index.advance(1, None, two, [], [], b"of a process that was too late")
    assert index.producers(1) == (one, b"")
    assert index.advance(1, one, two, [], [], b"some")
    assert index.producers(1) == (two, b"some")
    assert index.producers(2) is None
    index.forget_segments(1, 100)
    assert index.advance(1, two, one, [], [])
    assert index.producers(1) == (one, b"some")
    index.forget(1)
    assert index.producers(1) is None


offsets = st.integers(0, 2**63 - 2)
timestamps = st.integers(-(2**63) + 1, 2**63 - 1)


@given(
    st.dictionaries(offsets, st.tuples(st.integers(0, 2**40), timestamps), max_size=20),
    st.lists(offsets, max_size=5),
    st.lists(timestamps, max_size=5),
)
def test_searches_agree_with_a_plain_list(
    entries: dict[int, tuple[int, int]], wanted: list[int], times: list[int]
) -> None:
    with memory_folder() as folder:
        index, environment = open_index(folder)
        try:
            listed = [Entry(7, offset, *entries[offset]) for offset in sorted(entries)]
            others = [Entry(segment, 5, 55, 5) for segment in (6, 8)]
            for partition_id in (1, 2, 3):
                mine = listed if partition_id == 2 else []
                assert index.advance(partition_id, None, START, others + mine, [])
            for offset in (*wanted, *entries):
                before = [entry for entry in listed if entry.offset <= offset]
                expected = Found(before[-1].offset, before[-1].position) if before else None
                assert index.at_or_before(2, 7, offset) == expected
            by_time = {entry.max_timestamp: entry for entry in listed}
            for timestamp in (*times, *by_time):
                earlier = [each for each in by_time if each < timestamp]
                if earlier:
                    entry = by_time[max(earlier)]
                    assert index.before_time(2, 7, timestamp) == (entry.offset, entry.position)
                else:
                    assert index.before_time(2, 7, timestamp) is None
        finally:
            environment.close()


def test_an_entry_before_any_timestamp_is_found_by_offset_only(index: Index) -> None:
    index.advance(1, None, START, [Entry(0, 5, 50, NO_TIMESTAMP)], [])
    assert index.at_or_before(1, 0, 9) == (5, 50)
    assert index.before_time(1, 0, 2**63 - 1) is None


def test_the_first_place_behind_an_offset(index: Index) -> None:
    assert index.first_after(1, 7, -1) is None
    entries = [Entry(7, offset, offset * 10, NO_TIMESTAMP) for offset in (8, 12, 20)]
    others = [Entry(segment, 9, 90, NO_TIMESTAMP) for segment in (6, 8)]
    checkpoint = Checkpoint(25, 7, 250, 0, 200)
    for partition_id in (1, 2, 3):
        mine = entries if partition_id == 2 else []
        assert index.advance(partition_id, None, checkpoint, others + mine, [])
    for offset, expected in [(-1, 8), (7, 8), (8, 12), (12, 20), (19, 20), (20, 25), (24, 25)]:
        assert index.first_after(2, 7, offset) == (expected, expected * 10)
    assert index.first_after(2, 7, 25) is None
    assert index.first_after(2, 9, 0) is None
    assert index.first_after(2, 6, 9) is None


def test_the_first_place_that_is_whole(index: Index) -> None:
    entries = [Entry(7, offset, offset * 10, NO_TIMESTAMP) for offset in (8, 12)]
    assert index.advance(1, None, Checkpoint(25, 7, 250, 0, 200), entries, [])
    for key, expected in ((8, 12), (12, 25)):
        with index._environment.write() as transaction:
            transaction._transaction.put(struct.pack(">cQQQ", b"E", 1, 7, key), b"rubbish")
        assert index.first_after(1, 7, 0) == (expected, expected * 10)


def test_forgetting_segments_and_logs_touches_no_others(index: Index) -> None:
    for partition_id in (1, 2, 3):
        entries = [Entry(segment, segment + 5, 50, 9) for segment in (0, 10, 20)]
        sealed = [Sealed(segment, segment + 10, 100, 9) for segment in (0, 10, 20)]
        index.advance(partition_id, None, START, entries, sealed)
    index.forget_segments(2, 20)

    def known(partition_id: int, segment: int) -> list[bool]:
        return [
            index.at_or_before(partition_id, segment, segment + 9) is not None,
            index.before_time(partition_id, segment, 100) is not None,
            index.sealed(partition_id, segment) is not None,
        ]

    assert known(2, 0) == known(2, 10) == [False] * 3
    assert known(2, 20) == known(1, 0) == known(3, 0) == [True] * 3
    assert index.checkpoint(2) == START
    index.forget(2)
    assert known(2, 20) == [False] * 3
    assert index.checkpoint(2) is None
    assert known(1, 20) == known(3, 0) == [True] * 3
    assert index.checkpoint(1) == index.checkpoint(3) == START


def test_it_survives_being_opened_again(folder: str) -> None:
    index, environment = open_index(folder)
    index.advance(1, None, START, [Entry(0, 5, 50, 9)], [Sealed(0, 10, 100, 9)])
    environment.close()
    index, environment = open_index(folder)
    assert index.checkpoint(1) == START
    assert index.sealed(1, 0) == Sealed(0, 10, 100, 9)
    environment.close()
