"""Repair: holes in the place of damage, wherever it is interrupted, and nothing else moved."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

import pytest
from storage import Crash, FaultyFiles, LossyDisk, Store, batch, content, flip

from seawall.wal.errors import WalError
from seawall.wal.quarantine import Quarantine
from seawall.wal.records import HEADER_BYTES
from seawall.wal.repair import Repair, repair

MakeStore = Callable[..., Store]

VALUES = [b"%d" % number * 20 for number in range(10, 40)]
SIZE = len(batch(VALUES[0]))


def filled(make_store: MakeStore, root: str | None = None) -> Store:
    """30 batches of one record in segments of 8."""
    options = {"segment_bytes": 8 * SIZE, "index_interval_bytes": 2 * SIZE}
    store = make_store(root, **options) if root else make_store(**options)
    for value in VALUES:
        store.put(value)
    store.log.checkpoint()
    assert store.segments() == [f"{base:020d}.log" for base in (0, 8, 16, 24)]
    return store


def quarantine_of(store: Store) -> Quarantine:
    return Quarantine(store.files, os.path.join(store.root, "quarantine"))


def mend(store: Store) -> list[Repair]:
    return list(repair(store.context, quarantine_of(store)))


def kept(store: Store) -> list[bytes]:
    folder = os.path.join(store.root, "quarantine")
    return [content(os.path.join(folder, name)) for name in sorted(os.listdir(folder))]


def assert_only_lost(store: Store, *lost: int) -> None:
    """All is read but these offsets, without an error; appending and the index work."""
    expected = [value for offset, value in enumerate(VALUES) if offset not in lost]
    for _ in range(2):
        assert store.values() == expected
        assert list(store.log.verify()) == []
        for offset in range(0, len(VALUES), 3):
            offsets = [record.offset for record in store.read_all(offset)]
            assert offsets == [each for each in range(offset, 30) if each not in lost]
        store.reopen(clean=True)
    checkpoint, row = store.index.checkpoint(1), store.ends.read(1)
    assert checkpoint is not None
    assert row is not None
    assert checkpoint.offset == row.durable_offset
    store.assert_works(*expected)


def test_nothing_is_done_to_what_is_whole(make_store: MakeStore) -> None:
    store = filled(make_store)
    before = {name: os.stat(store.path(int(name[:20]))) for name in store.segments()}
    stored = store.index.checkpoint(1)
    assert mend(store) == []
    assert {name: os.stat(store.path(int(name[:20]))) for name in store.segments()} == before
    assert store.index.checkpoint(1) == stored
    assert kept(store) == []


@pytest.mark.parametrize("lost", [8, 11, 15, 24, 26, 29])
@pytest.mark.parametrize("at", [0, 8, 17, HEADER_BYTES + 3])
def test_a_damaged_batch_becomes_a_hole(make_store: MakeStore, lost: int, at: int) -> None:
    store = filled(make_store)
    base = lost // 8 * 8
    position = (lost - base) * SIZE
    flip(store.path(base), position + at, 0x01 if at == 8 else 0x10)
    others = {name: content(store.path(int(name[:20]))) for name in store.segments()}
    damaged = others.pop(f"{base:020d}.log")
    (found,) = store.log.verify()
    assert (found.position, found.offset) == (position, lost)
    (done,) = mend(store)
    assert done.damage == found
    assert found.next_offset is not None
    # A flipped length hides what follows, up to where the index knows a batch.
    lost_offsets = range(lost, found.next_offset)
    assert len(lost_offsets) <= (2 if at == 8 and lost != 29 else 1)
    assert kept(store) == [damaged[position : found.end].rstrip(b"\0")]
    for name, before in others.items():
        if name != store.segments()[-1] and int(name[:20]) != 24:
            assert content(store.path(int(name[:20]))) == before
    assert_only_lost(store, *lost_offsets)


def test_several_in_one_segment(make_store: MakeStore) -> None:
    store = filled(make_store)
    for lost in (9, 10, 13):
        flip(store.path(8), (lost - 8) * SIZE + 30)
    assert [(each.damage.offset, each.damage.next_offset) for each in mend(store)] == [
        (9, 11),
        (13, 14),
    ]
    assert len(kept(store)) == 2
    assert_only_lost(store, 9, 10, 13)


@pytest.mark.parametrize("base", [0, 8, 16])
def test_a_missing_segment_becomes_one_hole(make_store: MakeStore, base: int) -> None:
    store = filled(make_store)
    os.unlink(store.path(base))
    (done,) = mend(store)
    assert done.quarantined is None
    assert os.path.getsize(store.path(base)) == HEADER_BYTES
    assert_only_lost(store, *range(base, base + 8))


@pytest.mark.parametrize("length", [0, 1, SIZE, 3 * SIZE - 1, 3 * SIZE, 8 * SIZE - 1])
@pytest.mark.parametrize("base", [8, 16])
def test_a_segment_that_was_cut_short(make_store: MakeStore, base: int, length: int) -> None:
    store = filled(make_store)
    os.truncate(store.path(base), length)
    mend(store)
    assert_only_lost(store, *range(base + length // SIZE, base + 8))


def test_a_newest_segment_that_is_gone(make_store: MakeStore) -> None:
    store = filled(make_store)
    store.crash()
    os.unlink(store.path(24))
    store.reopen(reboot=True)
    mend(store)
    assert_only_lost(store, *range(24, 30))


def test_trimmed_segments_are_not_missing(make_store: MakeStore) -> None:
    store = filled(make_store)
    store.log.drop_segments(20)
    assert mend(store) == []
    flip(store.path(16), 30)
    mend(store)
    assert [record.offset for record in store.read_all(20)] == list(range(20, 30))


@pytest.mark.parametrize("error", [Crash, errno.EIO])
def test_it_may_fail_anywhere_and_be_done_again(
    make_store: MakeStore, folder: str, error: int | type[BaseException]
) -> None:
    nth = 0
    while True:
        nth += 1
        store = filled(make_store, os.path.join(folder, f"{nth}"))
        flip(store.path(8), 30)
        flip(store.path(24), 2 * SIZE + 30)
        os.unlink(store.path(16))
        files = store.files
        assert isinstance(files, FaultyFiles)
        files.hits = 0
        files.fail(nth=nth, error=error)
        try:
            mend(store)
        except (Crash, OSError, WalError):
            pass
        files.heal()
        store.reopen(reboot=bool(nth % 2))
        mend(store)
        assert_only_lost(store, 8, 26, *range(16, 24))
        store.crash()
        if not files.hits:
            break
    assert nth > 40


def test_leftovers_of_an_interrupted_repair_are_removed(make_store: MakeStore) -> None:
    store = filled(make_store)
    with open(store.path(8) + ".rewrite", "wb") as file:
        file.write(b"half")
    mend(store)
    assert not os.path.exists(store.path(8) + ".rewrite")


@pytest.mark.parametrize("seed", range(25))
def test_the_power_may_be_cut_at_any_time(folder: str, seed: int) -> None:
    randomness = random.Random(seed)
    disk = LossyDisk(os.path.join(folder, "logs", "1-orders-0"), randomness)
    store = Store(folder, files=disk, segment_bytes=8 * SIZE, index_interval_bytes=2 * SIZE)
    try:
        for value in VALUES:
            store.put(value)
        store.log.checkpoint()
        lost = {8 + randomness.randrange(8), *range(16, 24)}
        damaged = store.path(8)
        flip(damaged, (min(lost) - 8) * SIZE + 30)
        os.unlink(store.path(16))
        # The disk has it so, too.
        disk.images[os.stat(damaged).st_ino] = content(damaged)
        disk.names.pop(store.path(16))
        for _ in range(randomness.randrange(1, 4)):
            disk.fail(nth=randomness.randrange(1, 80), error=Crash)
            try:
                mend(store)
            except Crash:
                pass
            disk.heal()
            store.crash()
            disk.power_cut()
            store.open()
        mend(store)
        assert_only_lost(store, *lost)
    finally:
        store.crash()
