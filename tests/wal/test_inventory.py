"""What segments a log has, and how new what is in them is."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from storage import Store, flip, memory_folder

from seawall.wal.inventory import NEWEST, SegmentInfo, inventory, newest_ms


@pytest.fixture
def store() -> Iterator[Store]:
    with memory_folder() as folder:
        store = Store(folder, segment_bytes=4096)
        yield store
        store.crash()


def nothing(size_bytes: int) -> None:
    raise AssertionError(f"{size_bytes} bytes were read")


def test_a_new_log_has_none(store: Store) -> None:
    assert inventory(store.context) == []


def test_segments_follow_one_another(store: Store) -> None:
    store.put(b"a", b"b")
    assert inventory(store.context) == [
        SegmentInfo(0, 2, store.context.row().position, True, True, store.clock())
    ]
    store.log.roll()
    size = os.path.getsize(store.path(0))
    assert inventory(store.context) == [SegmentInfo(0, 2, size)]  # the new one is empty
    store.append(b"c")
    sealed, active = store.log.segments()
    assert sealed == SegmentInfo(0, 2, size)
    assert active[:2] == (2, 3)
    assert (active.is_active, active.is_durable) == (True, False)
    assert sum(each.size_bytes for each in (sealed, active)) == store.log.size_bytes()


def test_one_that_is_removed_meanwhile_is_left_out(store: Store) -> None:
    for value in (b"a", b"b", b"c"):
        store.put(value)
        store.log.roll()
    os.unlink(store.path(1))
    assert [each.base_offset for each in inventory(store.context)] == [0, 2]
    os.unlink(store.path(0))
    os.unlink(store.path(2))
    assert inventory(store.context) == []


def test_the_newest_time_is_the_indexs_or_is_read(store: Store) -> None:
    store.put(b"a", timestamp=3_000_000_000_000)
    store.put(b"b", timestamp=2_000_000_000_000)
    store.log.roll()
    store.put(b"c", timestamp=5)
    read: list[int] = []
    sealed, active = inventory(store.context)
    assert newest_ms(store.context, sealed, read.append) == 3_000_000_000_000
    assert newest_ms(store.context, active, read.append) == 5
    assert read == [sealed.size_bytes, active.size_bytes]
    store.log.checkpoint()
    assert store.log.newest_ms(sealed, nothing) == 3_000_000_000_000
    # An entry that speaks of another end is not of this segment as it is now.
    shorter = sealed._replace(end_offset=1)
    assert newest_ms(store.context, shorter, read.append) == 3_000_000_000_000
    assert len(read) == 3


@pytest.mark.parametrize("is_indexed", [False, True])
def test_without_any_time_the_files_counts(store: Store, is_indexed: bool) -> None:
    """As Kafka has it (LogSegment.largestTimestamp)."""
    store.put(b"a", timestamp=-1)
    store.log.roll()
    if is_indexed:
        store.log.checkpoint()
    os.utime(store.path(0), (1_700_000_123, 1_700_000_123))
    [segment] = inventory(store.context)
    assert newest_ms(store.context, segment) == 1_700_000_123_000


def test_behind_damage_there_may_be_anything(store: Store) -> None:
    """So a damaged segment is not taken for older than its file."""
    store.put(b"a", timestamp=1000)
    middle = store.context.row().position
    store.put(b"b", timestamp=1_800_000_000_000)
    store.log.roll()
    flip(store.path(0), middle + 16)  # the magic byte
    os.utime(store.path(0), (1_700_000_123, 1_700_000_123))
    [segment] = inventory(store.context)
    assert newest_ms(store.context, segment) == 1_700_000_123_000


def test_of_a_file_that_is_gone_nothing_is_known(store: Store) -> None:
    store.put(b"a")
    store.log.roll()
    [segment] = inventory(store.context)
    os.unlink(store.path(0))
    assert newest_ms(store.context, segment) == NEWEST


def test_changed_settings_hold_for_the_open_log(store: Store) -> None:
    store.put(b"a" * 3000)
    assert len(store.segments()) == 1
    store.context.config.take(type(store.config)(segment_bytes=100, segment_ms=7))
    store.put(b"b")
    assert len(store.segments()) == 2
    assert store.config.segment_ms == 7
