"""Readers: whole batches below the durable end, and damage by its name and place."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest
from storage import FaultyFiles, Store, batch, flip

from seawall.wal.errors import LogDamaged, LogGone, OffsetOutOfRange
from seawall.wal.records import HEADER_BYTES

MakeStore = Callable[..., Store]


@pytest.fixture
def many(make_store: MakeStore) -> Store:
    """30 batches of 1 to 3 records in several segments, with an index."""
    store = make_store(segment_bytes=500, index_interval_bytes=100)
    number = 0
    for size in [1, 2, 3] * 10:
        store.append(*[b"%d" % (number + n) * 10 for n in range(size)])
        number += size
    store.log.sync()
    store.log.checkpoint()
    assert len(store.segments()) > 5
    return store


def all_values(count: int = 60) -> list[bytes]:
    return [b"%d" % number * 10 for number in range(count)]


@pytest.mark.parametrize("max_bytes", [1, 61, 100, 200, 499, 1 << 20])
def test_everything_is_read_whatever_the_chunk(many: Store, max_bytes: int) -> None:
    assert many.values(max_bytes=max_bytes) == all_values()
    for chunk_size in (1, 200):
        reader = many.log.reader(0)
        while (chunk := reader.read(chunk_size)).batches:
            assert len(chunk.data) <= chunk_size or len(chunk.batches) == 1
            assert sum(found.header.size_bytes for found in chunk.batches) == len(chunk.data)


def test_reading_can_begin_at_every_offset(many: Store) -> None:
    for offset in range(60):
        records = many.read_all(offset, max_bytes=200)
        assert [record.offset for record in records] == list(range(offset, 60))


def test_a_reader_follows_what_is_committed_and_nothing_else(many: Store) -> None:
    reader = many.log.reader(60)
    for number in range(60, 80):
        assert reader.read(1000).batches == []
        many.append(b"next")
        assert reader.read(1000).batches == []
        many.log.sync()
        chunk = reader.read(1000)
        assert [found.header.base_offset for found in chunk.batches] == [number]
        assert reader.offset == number + 1


def test_a_reader_sees_what_another_process_commits(many: Store) -> None:
    reader = many.log.reader(60)
    with many.peer() as peer:
        peer.append([batch(b"x" * 600)])  # in a segment of its own
        peer.sync()
        assert len(reader.read(10).batches) == 1
        peer.roll()
        peer.append([batch(b"y")])
        peer.sync()
        assert len(reader.read(10).batches) == 1
        assert reader.offset == 62


def test_seeking(many: Store) -> None:
    reader = many.log.reader(0)
    for offset in (30, 5, 5, 59, 0, 59, 60):
        reader.seek(offset)
        chunk = reader.read(1)
        if offset < 60:
            header = chunk.batches[0].header
            assert header.base_offset <= offset < header.next_offset == reader.offset
            reader.seek(header.next_offset)  # no step at all
    reader.close()
    reader.close()


@pytest.mark.parametrize("offset", [-5, -1, 3, 4, 62, 10**18])
def test_out_of_range(many: Store, offset: int) -> None:
    many.append(b"not durable")
    many.log.drop_segments(5)
    with pytest.raises(OffsetOutOfRange) as caught:
        many.log.reader(offset).read(1)
    assert (caught.value.offset, caught.value.log_start, caught.value.durable_end) == (
        offset,
        5,
        60,
    )


def test_trimming_under_a_reader(many: Store) -> None:
    reader = many.log.reader(0)
    assert reader.read(1).batches
    many.log.drop_segments(30)
    with pytest.raises(OffsetOutOfRange):
        reader.read(1)
    reader.seek(30)
    assert reader.read(1).batches[0].header.base_offset <= 30


def test_trimming_between_the_look_at_the_row_and_the_file(many: Store) -> None:
    """It is out of range then, and not damage."""

    class Trimming(FaultyFiles):
        armed = True

        def list(self, path: str) -> list[str]:
            if self.armed:
                self.armed = False
                many.log.drop_segments(30)
            return super().list(path)

    with many.peer(Trimming()) as peer, pytest.raises(OffsetOutOfRange):
        peer.reader(3).read(1)


def test_a_deleted_log(many: Store) -> None:
    reader = many.log.reader(0)
    many.log.mark_deleted()
    with pytest.raises(LogGone):
        reader.read(1)


# -- damage ------------------------------------------------------------------------------


def read_over_damage(store: Store, start: int = 0) -> tuple[list[int], list[LogDamaged]]:
    """What a reader gets that seeks to where each damage says that it ends."""
    reader, offsets, damages = store.log.reader(start), [], []
    while True:
        try:
            chunk = reader.read(200)
        except LogDamaged as error:
            damages.append(error)
            reader.seek(max(error.next_offset, error.offset + 1))
            continue
        if not chunk.batches:
            assert all(each.next_offset > each.offset for each in damages)
            return offsets, damages
        for _, header in chunk.batches:
            offsets += range(header.base_offset, header.next_offset)


@pytest.mark.parametrize("lose_index", [False, True])
@pytest.mark.parametrize("at", [0, 7, 8, 11, 16, 17, 23, 26, 57, 60, HEADER_BYTES + 3])
def test_a_damaged_batch_in_a_sealed_segment(many: Store, at: int, lose_index: bool) -> None:
    segment = int(many.segments()[1][:20])
    reader = many.log.reader(segment)
    first = reader.read(1).batches[0].header
    second = reader.read(1).batches[0].header
    position = first.size_bytes
    flip(many.path(segment), position + at, 0x41)
    many.reopen(clean=True, lose_index=lose_index)
    lost = set(range(second.base_offset, second.next_offset))
    if at in (8, 11):  # where the next batch begins is not known then
        lost = set(range(second.base_offset, int(many.segments()[2][:20])))
    for start in range(60):
        offsets, damages = read_over_damage(many, start)
        assert lost & set(range(start, 60)) or not damages
        assert set(range(start, 60)) - set(offsets) <= lost, start
        for damaged in damages:
            assert damaged.path == many.path(segment)
            assert damaged.offset in lost
            assert damaged.position == position
    offsets, damages = read_over_damage(many)
    assert len(damages) == 1
    assert not set(offsets) & {second.base_offset}
    (found,) = many.log.verify()
    assert (found.path, found.position, found.offset) == (
        many.path(segment),
        position,
        second.base_offset,
    )


def test_a_missing_segment(many: Store) -> None:
    bases = [int(name[:20]) for name in many.segments()]
    os.unlink(many.path(bases[2]))
    for start in (0, bases[2], bases[2] + 1):
        offsets, damages = read_over_damage(many, start)
        assert [damaged.next_offset for damaged in damages] == [bases[3]]
        assert offsets == [n for n in range(start, 60) if not bases[2] <= n < bases[3]]
    (found,) = many.log.verify()
    assert (found.path, found.offset, found.next_offset) == (
        many.path(bases[2]),
        bases[2],
        bases[3],
    )


def test_every_flipped_byte_of_a_log_is_found(make_store: MakeStore) -> None:
    """By reading and by verifying, or it is a leader epoch, which nobody reads."""
    store = make_store(segment_bytes=900, index_interval_bytes=200)
    for number in range(24):
        store.append(b"%d" % number * 20, b"x" * 40)
    store.log.sync()
    store.log.checkpoint()
    expected = store.read_all()
    checked = 0
    for name in store.segments():
        base = int(name[:20])
        epochs: set[int] = set()
        reader = store.log.reader(base)
        size = position = os.path.getsize(store.path(base))
        row = store.ends.read(1)
        assert row is not None
        if row.segment == base:
            size = row.durable_position
        position = 0
        while position < size:
            epochs |= {position + n for n in range(12, 16)}
            position += reader.read(1).batches[0].header.size_bytes
        for position in range(int(name[:20]) % 4, size, 4):
            flip(store.path(base), position, 0x10)
            found = list(store.log.verify())
            if position in epochs:
                assert not found
                assert store.read_all() == expected
            else:
                assert found, (name, position)
                assert found[0].path == store.path(base)
                assert found[0].position <= position
                with pytest.raises(LogDamaged):
                    store.read_all()
            flip(store.path(base), position, 0x10)
            checked += 1
    assert checked > 800
    assert store.read_all() == expected


def test_a_log_truncated_at_every_length(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=500)
    for number in range(9):
        store.put(b"%d" % number * 30)
    contents = {name: open_bytes(store, name) for name in store.segments()}
    for name, content in contents.items():
        row = store.ends.read(1)
        assert row is not None
        size = row.durable_position if row.segment == int(name[:20]) else len(content)
        for length in range(0, size, 5):
            path = os.path.join(store.folder, name)
            os.truncate(path, length)
            offsets, damages = read_over_damage(store)
            assert damages, (name, length)
            assert list(store.log.verify())
            missing = set(range(9)) - set(offsets)
            assert missing == set(range(damages[0].offset, damages[-1].next_offset))
            with open(path, "r+b") as file:
                file.write(content)
    assert read_over_damage(store) == (list(range(9)), [])


def open_bytes(store: Store, name: str) -> bytes:
    with open(os.path.join(store.folder, name), "rb") as file:
        return file.read()


def test_a_file_that_shrinks_under_a_reader(store: Store) -> None:
    store.put(b"a" * 100)
    store.put(b"b" * 100)
    reader = store.log.reader(0)
    reader.read(1)
    os.truncate(store.path(), 10)
    with pytest.raises(LogDamaged):
        reader.read(1)


def test_a_sector_that_cannot_be_read_is_damage(store: Store) -> None:
    store.put(b"a")
    store.put(b"b")
    reader = store.log.reader(0)
    reader.read(1)
    files = store.files
    assert isinstance(files, FaultyFiles)
    files.fail("pread", where=".log", times=100, error=errno.EIO)
    with pytest.raises(LogDamaged) as caught:
        reader.read(1)
    assert "cannot be read" in str(caught.value)
    assert caught.value.offset == 1
    files.heal()
    assert reader.read(1).batches


def test_a_passing_failure_is_looked_at_again(store: Store) -> None:
    store.put(b"a")
    files = store.files
    assert isinstance(files, FaultyFiles)
    files.fail("pread", where=".log", error=errno.EIO)
    assert len(store.log.reader(0).read(1).batches) == 1
