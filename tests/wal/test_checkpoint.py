"""Checkpoints: how far they reach, what they leave in the index, and what disturbs them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest
from storage import FaultyFiles, Store, batch, flip

from seawall.wal import checkpoint as checkpoint_module
from seawall.wal.errors import StorageFull, WalError
from seawall.wal.files import Descriptor
from seawall.wal.records import HEADER_BYTES
from seawall.wal.segment import Scan

MakeStore = Callable[..., Store]


def assert_reaches(store: Store) -> None:
    """The index knows everything up to the durable end, and nothing that is not so."""
    row = store.ends.read(1)
    stored = store.index.checkpoint(1)
    assert row is not None
    assert stored is not None
    if row.durable_position:
        assert stored[:3] == (row.durable_offset, row.segment, row.durable_position)
    for name in store.segments():
        segment = int(name[:20])
        descriptor = Descriptor(store.files, store.path(segment))
        size = store.files.size(descriptor.number)
        if segment == row.segment:
            size = row.durable_position
        scan = Scan(store.files, descriptor.number, position=0, limit=size, next_offset=segment)
        last_entry = greatest = 0
        for position, header in scan:
            found = store.index.at_or_before(1, segment, header.base_offset)
            if found is not None and found.offset == header.base_offset:
                assert found.position == position
                last_entry = position
            assert position - last_entry < store.config.index_interval_bytes
            greatest = max(greatest, header.max_timestamp)
        sealed = store.index.sealed(1, segment)
        if segment == row.segment:
            assert sealed is None
        elif size:
            assert sealed == (segment, scan.result.next_offset, size, greatest)


def fill(store: Store, count: int = 20, value_bytes: int = 40) -> None:
    for number in range(count):
        store.append(bytes(value_bytes), timestamp=1000 + number * 7 % 11)
    store.log.sync()


@pytest.mark.parametrize("at", [1, 3, 7])
def test_it_reaches_the_durable_end_in_steps_and_at_once(make_store: MakeStore, at: int) -> None:
    store = make_store(segment_bytes=1000, index_interval_bytes=250)
    for _ in range(at):
        fill(store, 9)
        store.append(b"not durable")
        store.log.checkpoint()
        assert_reaches(store)
    store.log.roll()
    store.log.checkpoint()
    assert_reaches(store)
    store.log.checkpoint()


def test_long_ways_are_gone_in_steps(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "STEP_BYTES", 1500)
    store = make_store(segment_bytes=1000, index_interval_bytes=250)
    fill(store, 100)
    before = len(store.segments())
    store.log.checkpoint()
    assert before > 8
    assert_reaches(store)


def test_nothing_to_do_writes_nothing(store: Store) -> None:
    store.log.checkpoint()
    assert store.index.checkpoint(1) is None or store.index.checkpoint(1)
    fill(store)
    store.log.checkpoint()
    size = os.stat(os.path.join(store.root, "index.lmdb", "data.mdb")).st_mtime_ns
    store.log.checkpoint()
    assert os.stat(os.path.join(store.root, "index.lmdb", "data.mdb")).st_mtime_ns == size


def test_a_rolled_segment_without_a_file_ends_it(store: Store) -> None:
    fill(store)
    store.log.roll()
    store.log.checkpoint()
    store.log.checkpoint()
    assert_reaches(store)
    fill(store)
    store.log.checkpoint()
    assert_reaches(store)


def test_trimmed_segments_are_passed_over(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=500, index_interval_bytes=100)
    fill(store, 5)
    store.log.checkpoint()
    fill(store, 30)
    store.log.drop_segments(20)
    store.log.checkpoint()
    assert_reaches(store)


@pytest.mark.parametrize("at", [0, 8, 16, 23, 26, 35, HEADER_BYTES + 3])
def test_damage_leaves_a_gap_and_no_wrong_entries(make_store: MakeStore, at: int) -> None:
    store = make_store(segment_bytes=2000, index_interval_bytes=100)
    fill(store, 40)
    size = len(batch(bytes(40)))
    flip(store.path(), 5 * size + at, 0x41)
    store.log.checkpoint()
    row, stored = store.ends.read(1), store.index.checkpoint(1)
    assert row is not None
    assert stored is not None
    assert stored.offset == row.durable_offset
    if at != 8:  # where the next batch begins is not known then
        beyond = store.index.at_or_before(1, 0, 18)
        assert beyond is not None
        assert beyond.offset > 10
        for offset in range(6, 40):
            assert store.read_all(offset, max_bytes=1)[0].offset == offset
    for name in store.segments():
        segment = int(name[:20])
        for offset in range(segment, 40):
            found = store.index.at_or_before(1, segment, offset)
            if found is not None:
                assert found.position == (found.offset - segment) * size


@pytest.mark.parametrize("bit", range(32))
@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_damaged_end_of_the_last_batch(make_store: MakeStore, bit: int, is_sealed: bool) -> None:
    """Its last offset delta leads to another end than the one that is known."""
    store = make_store(segment_bytes=100_000, index_interval_bytes=250)
    fill(store, 6)
    last = store.path(0)
    position = store.ends.read(1).position  # type: ignore[union-attr]
    if is_sealed:
        store.log.roll()
        store.append(b"behind")
        store.log.sync()
    size = HEADER_BYTES + 50  # the last batch begins less far before the end
    with open(last, "rb") as file:
        data = file.read(position)
    batch_at = max(
        at for at in range(position - size, position) if data[at : at + 8] == (5).to_bytes(8, "big")
    )
    flip(last, batch_at + 23 + bit // 8, 1 << bit % 8)
    store.log.checkpoint()
    row, stored = store.ends.read(1), store.index.checkpoint(1)
    assert row is not None
    assert stored is not None
    assert stored[:3] == (row.durable_offset, row.segment, row.durable_position)
    assert store.index.sealed(1, 0) is None


def test_two_at_once_do_no_harm(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=1000, index_interval_bytes=250)
    fill(store)

    class Meanwhile(FaultyFiles):
        done = False

        def size(self, descriptor: int) -> int:
            if not self.done:
                self.done = True
                store.log.checkpoint()
            return super().size(descriptor)

    with store.peer(Meanwhile()) as peer:
        peer.checkpoint()
    assert_reaches(store)


def test_a_failure_at_any_call_changes_nothing(make_store: MakeStore, folder: str) -> None:
    store = make_store(segment_bytes=500, index_interval_bytes=100)
    fill(store)
    files = store.files
    assert isinstance(files, FaultyFiles)
    nth = 0
    while True:
        nth += 1
        files.hits = 0
        files.fail(nth=nth, error=errno.EIO)
        try:
            store.log.checkpoint()
        except (OSError, WalError):
            pass
        files.heal()
        if not files.hits:
            break
        if store.index.checkpoint(1) is not None:
            # A sector that cannot be read once is read again.
            assert_reaches(store)
            store.index.forget(1)
    assert nth > 10
    assert_reaches(store)


def test_a_full_index_is_named_and_harms_no_log(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)

    def full(*_: object) -> bool:
        raise StorageFull(path="index", reason="No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.index, "advance", full)
        with pytest.raises(StorageFull):
            store.log.checkpoint()
    store.log.checkpoint()
    assert_reaches(store)


def test_a_lost_index_is_built_again(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=500, index_interval_bytes=100)
    fill(store)
    store.reopen(clean=True, lose_index=True)
    store.log.checkpoint()
    assert_reaches(store)
