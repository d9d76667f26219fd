"""Lookup: right answers with an index that is there, wrong, stale or gone."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage import FaultyFiles, Store, batch, flip, memory_folder

from seawall.wal.index import NO_TIMESTAMP, Checkpoint, Entry, Sealed
from seawall.wal.lookup import TimeFound
from seawall.wal.records import HEADER_BYTES, encode_batch

MakeStore = Callable[..., Store]


def first_at_or_after(store: Store, timestamp_ms: int) -> TimeFound | None:
    for record in store.read_all():
        if record.timestamp >= timestamp_ms:
            return TimeFound(record.offset, record.timestamp)
    return None


def append_times(store: Store, times: list[list[int]]) -> None:
    for batch_times in times:
        store.log.append([encode_batch([(t, None, b"x" * 20, ()) for t in batch_times])])
    store.log.sync()


@settings(max_examples=settings().max_examples // 2)
@given(
    st.lists(st.lists(st.integers(-5, 60), min_size=1, max_size=4), min_size=1, max_size=40),
    st.integers(0, 40),
    st.integers(1, 3),
    st.data(),
)
def test_times_that_go_back_and_forth(
    times: list[list[int]], checkpoint_at: int, mode: int, data: st.DataObject
) -> None:
    with memory_folder() as folder:
        store = Store(folder, segment_bytes=600, index_interval_bytes=150)
        try:
            append_times(store, times[:checkpoint_at])
            if mode > 1:
                store.log.checkpoint()
            append_times(store, times[checkpoint_at:])
            if mode > 2:
                store.log.checkpoint()
            start = data.draw(st.integers(0, store.log.ends().durable_end))
            store.log.drop_segments(start)
            for timestamp in range(-7, 63):
                assert store.log.offset_for_time(timestamp) == first_at_or_after(
                    store, timestamp
                ), timestamp
        finally:
            store.crash()


def test_times_at_the_edges_of_what_a_number_can_be(store: Store) -> None:
    assert store.log.offset_for_time(0) is None
    append_times(store, [[-(2**60)], [0], [2**60]])
    store.log.checkpoint()
    assert store.log.offset_for_time(-(2**70)) == (0, -(2**60))
    assert store.log.offset_for_time(-(2**63)) == (0, -(2**60))
    assert store.log.offset_for_time(1) == (2, 2**60)
    assert store.log.offset_for_time(2**63 - 1) is None
    assert store.log.offset_for_time(2**63) is None
    assert store.log.offset_for_time(2**70) is None


def test_a_time_that_only_unsynced_records_have_is_not_found(store: Store) -> None:
    append_times(store, [[10]])
    store.append(b"x", timestamp=20)
    assert store.log.offset_for_time(15) is None
    store.log.sync()
    assert store.log.offset_for_time(15) == (1, 20)


def test_compressed_batches_and_log_append_times(store: Store) -> None:
    records = [(t, None, b"x" * 50, ()) for t in (10, 30, 20)]
    store.log.append([encode_batch(records, compression="zstd")])
    store.log.append([encode_batch(records, log_append_time_ms=100)])
    store.log.sync()
    assert store.log.offset_for_time(20) == (1, 30)
    assert store.log.offset_for_time(31) == (3, 100)


def test_unreadable_batches_are_passed_over_and_nothing_else(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=100_000)
    append_times(store, [[10], [20], [30], [40]])
    size = len(batch(b"x" * 20))
    flip(store.path(), size + HEADER_BYTES + 5)  # 20 is lost
    assert store.log.offset_for_time(15) == (2, 30)
    flip(store.path(), 2 * size + 3)  # 30 is lost, by its base offset
    assert store.log.offset_for_time(15) == (3, 40)
    store.log.checkpoint()
    assert store.log.offset_for_time(15) == (3, 40)
    assert store.log.offset_for_time(41) is None
    # Seemingly later than it was, and longer: neither may hide what is behind.
    flip(store.path(), 35, 0x7F)
    assert store.log.offset_for_time(5) == (3, 40)


def test_a_missing_segment_is_passed_over(make_store: MakeStore) -> None:
    store = make_store()
    for timestamp in (10, 20, 30):
        append_times(store, [[timestamp]])
        store.log.roll()
    store.log.checkpoint()
    os.unlink(store.path(1))
    assert store.log.offset_for_time(11) == (2, 30)


def test_a_segment_that_is_trimmed_meanwhile_is_passed_over(make_store: MakeStore) -> None:
    store = make_store()
    for timestamp in (10, 20, 30):
        append_times(store, [[timestamp]])
        store.log.roll()

    class Trimming(FaultyFiles):
        def open(self, path: str, flags: int = 0, mode: int = 0o644) -> int:
            if path.endswith(".log"):
                store.log.drop_segments(2)
            return super().open(path, flags, mode)

    with store.peer(Trimming()) as peer:
        assert peer.offset_for_time(5) == (2, 30)


def wrong_entries(store: Store, randomness: random.Random) -> None:
    """Entries that point anywhere: into batches, behind the end, to other batches."""
    bases = [int(name[:20]) for name in store.segments()]
    entries = [
        Entry(
            randomness.choice(bases),
            randomness.randrange(70),
            randomness.randrange(700),
            NO_TIMESTAMP,
        )
        for _ in range(60)
    ]
    stored = store.index.checkpoint(1)
    end = Checkpoint(0, 0, 0, NO_TIMESTAMP, 0) if stored is None else stored
    assert store.index.advance(1, stored, end, entries, [])


@pytest.mark.parametrize("seed", range(5))
def test_offsets_are_found_whatever_the_index_says(make_store: MakeStore, seed: int) -> None:
    store = make_store(segment_bytes=500, index_interval_bytes=100)
    for number in range(60):
        store.append(b"%d" % number * 10)
    store.log.sync()
    wrong_entries(store, random.Random(seed))
    for offset in range(60):
        assert store.values(offset, max_bytes=100)[:2] == [
            b"%d" % number * 10 for number in range(offset, min(60, offset + 2))
        ]


@pytest.mark.parametrize("key", [b"E", b"T", b"S"])
def test_index_values_that_are_damaged_are_as_if_absent(make_store: MakeStore, key: bytes) -> None:
    store = make_store(segment_bytes=500, index_interval_bytes=100)
    append_times(store, [[number] for number in range(60)])
    store.log.checkpoint()
    with store.environment.write() as transaction:
        raw = transaction._transaction
        with raw.cursor() as cursor:
            keys = [each for each, _ in cursor if bytes(each).startswith(key)]
        assert keys
        for each in keys:
            raw.put(each, b"rubbish")
    for number in range(60):
        assert store.read_all(number)[0].offset == number
        assert store.log.offset_for_time(number) == (number, number)


def test_an_index_of_other_data_finds_the_right_offsets(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=500)
    append_times(store, [[number] for number in range(30)])
    assert store.index.advance(
        1,
        None,
        Checkpoint(1000, 900, 5000, 7, 0),
        [Entry(0, 4, 100, NO_TIMESTAMP), Entry(900, 950, 100, 3)],
        [Sealed(900, 1000, 5000, 7)],
    )
    store.log.checkpoint()
    assert [record.offset for record in store.read_all()] == list(range(30))
    assert store.log.offset_for_time(17) == (17, 17)
