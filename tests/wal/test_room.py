"""Records leave the last of the disk to acknowledging and trimming."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from storage import FaultyFiles, Store

from seawall.wal.compaction import Rules
from seawall.wal.errors import StorageFull
from seawall.wal.files import CREATE, READ_WRITE, Descriptor, Files
from seawall.wal.records import encode_batch
from seawall.wal.room import RESERVE_BYTES, RESERVE_PART, leave_reserve

MakeStore = Callable[..., Store]
GIBIBYTE = 1 << 30
ALL = Rules(min_dirty_ratio=0.0, delete_retention_ms=1_000)


class SmallDisk(FaultyFiles):
    """A disk that has so much left of so much, whatever is written to it."""

    left: tuple[int, int] | OSError = (GIBIBYTE, GIBIBYTE)

    def disk_bytes(self, descriptor: int) -> tuple[int, int]:
        if isinstance(self.left, OSError):
            raise self.left
        left, total = self.left
        return total, left


def test_what_a_disk_has_left(tmp_path: Path) -> None:
    descriptor = Descriptor(Files(), str(tmp_path / "file"), READ_WRITE | CREATE)
    total, left = Files().disk_bytes(descriptor.number)
    found = os.statvfs(tmp_path)
    assert total == found.f_blocks * found.f_frsize
    assert 0 < left <= total


@pytest.mark.parametrize(
    ("total_bytes", "reserve_bytes"),
    [(64 * GIBIBYTE, RESERVE_BYTES), (RESERVE_BYTES, RESERVE_BYTES // RESERVE_PART)],
)
def test_the_reserve_is_part_of_a_small_disk(total_bytes: int, reserve_bytes: int) -> None:
    files = SmallDisk()
    files.left = (reserve_bytes + 100, total_bytes)
    leave_reserve(files, 0, 100)
    with pytest.raises(OSError, match="is kept for acknowledging and trimming") as caught:
        leave_reserve(files, 0, 101)
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_cannot_be_asked_has_no_reserve() -> None:
    files = SmallDisk()
    files.left = OSError(errno.ENOSYS, "cannot")
    leave_reserve(files, 0, GIBIBYTE)


def small(make_store: MakeStore) -> tuple[Store, SmallDisk]:
    store = make_store(allocate_bytes=1 << 16)
    store.crash()
    files = store.files = SmallDisk()
    store.open()
    return store, files


def test_an_append_stops_before_the_reserve(make_store: MakeStore) -> None:
    store, files = small(make_store)
    store.put(b"a")
    files.left = (RESERVE_BYTES, 64 * GIBIBYTE)
    store.put(b"b")  # in blocks that it has already
    with pytest.raises(StorageFull, match="kept for acknowledging and trimming") as caught:
        store.put(b"x" * (1 << 16))
    assert caught.value.path == store.path()
    files.left = (GIBIBYTE, 64 * GIBIBYTE)
    store.put(b"d")
    store.assert_works(b"a", b"b", b"d")


def test_blocks_ahead_give_way_to_the_reserve(make_store: MakeStore) -> None:
    store, files = small(make_store)
    files.left = (RESERVE_BYTES + 4096, 64 * GIBIBYTE)
    store.put(b"a")
    assert os.path.getsize(store.path()) < 4096
    store.assert_works(b"a")


def test_compaction_stops_before_the_reserve(make_store: MakeStore) -> None:
    store, files = small(make_store)
    for number in range(4):
        store.log.append([encode_batch([(1000, b"k", b"%d" % number, ())])])
        store.log.roll()
    store.log.commit(4)
    before = store.values()
    files.left = (RESERVE_BYTES, 64 * GIBIBYTE)
    with pytest.raises(StorageFull, match="kept for acknowledging and trimming"):
        store.log.compact(ALL)
    assert store.values() == before
    assert not [name for name in os.listdir(store.folder) if name.endswith(".rewrite")]
    files.left = (GIBIBYTE, 64 * GIBIBYTE)
    store.log.compact(ALL)
    assert store.values() == before[2:]  # the active segment stays as it is
