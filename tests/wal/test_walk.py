"""Walking over damage: where the index leads, and where it must not."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest
from storage import Store, batch, content, flip

from seawall.wal.errors import LogDamaged
from seawall.wal.files import Descriptor
from seawall.wal.index import NO_TIMESTAMP, Checkpoint, Entry, Found
from seawall.wal.records import HEADER_BYTES, stamp
from seawall.wal.segment import FoundBatch, ScanEnd
from seawall.wal.walk import Gap, Walk, batch_behind

MakeStore = Callable[..., Store]

COUNT = 40
SIZE = len(batch(b"v" * 40))
EVERY = 4
LENGTH_AT = 8


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """40 batches of one record in one segment; the index knows every fourth of the first 30."""
    store = make_store(index_interval_bytes=EVERY * SIZE)
    for number in range(COUNT):
        if number == 30:
            store.log.checkpoint()
        store.put(b"%02d" % number * 20)
    return store


def walk(store: Store, **options: Found) -> tuple[list[int], list[Gap], Walk]:
    """The offsets that a walk passes, its gaps, and the walk."""
    row = store.ends.read(1)
    assert row is not None
    descriptor = Descriptor(store.files, store.path())
    walked = Walk(store.context, descriptor, 0, limit=row.durable_position, **options)
    offsets, gaps = [], []
    for step in walked:
        if isinstance(step, Gap):
            gaps.append(step)
        else:
            offsets.append(step.header.base_offset)
    return offsets, gaps, walked


def lengthen(store: Store, offset: int, length: int = 1 << 27) -> None:
    """Give a batch a length that reaches over all that follows."""
    with open(store.path(), "r+b") as file:
        file.seek(offset * SIZE + LENGTH_AT)
        file.write(struct.pack(">i", length))


def add_entries(store: Store, *entries: Entry) -> None:
    stored = store.index.checkpoint(1)
    assert stored is not None
    assert store.index.advance(1, stored, stored, entries, [])


def test_without_damage_there_are_no_gaps(store: Store) -> None:
    offsets, gaps, walked = walk(store)
    assert (offsets, gaps) == (list(range(COUNT)), [])
    assert walked.result[:3] == (ScanEnd.CLEAN, COUNT * SIZE, COUNT)
    assert walk(store, start=Found(7, 7 * SIZE))[0] == list(range(7, COUNT))


@pytest.mark.parametrize("damaged", [0, 1, 3, 4, 5, 27, 28, 29])
def test_a_length_hides_nothing_behind_the_next_entry(store: Store, damaged: int) -> None:
    lengthen(store, damaged)
    # The checkpoint, at offset 30, is a place to go on as well.
    on = min(damaged // EVERY * EVERY + EVERY, 30)
    offsets, gaps, _ = walk(store)
    assert offsets == [*range(damaged), *range(on, COUNT)]
    (gap,) = gaps
    assert (gap.position, gap.offset, gap.end) == (damaged * SIZE, damaged, on * SIZE)
    assert gap.behind is not None
    assert gap.behind.header.base_offset == on
    assert (gap.is_readable, gap.is_zero) == (True, False)
    (found,) = store.log.verify()
    assert (found.offset, found.next_offset) == (damaged, on)
    with pytest.raises(LogDamaged) as caught:
        store.read_all(damaged)
    assert caught.value.next_offset == on
    assert [record.offset for record in store.read_all(on)] == list(range(on, COUNT))


@pytest.mark.parametrize("damaged", [31, 39])
def test_above_the_checkpoint_nothing_tells(store: Store, damaged: int) -> None:
    lengthen(store, damaged)
    offsets, gaps, walked = walk(store)
    assert offsets == list(range(damaged))
    assert [(gap.behind, gap.end) for gap in gaps] == [(None, COUNT * SIZE)]
    assert walked.result.position == damaged * SIZE


def test_a_length_that_cannot_be_hides_nothing_anywhere(store: Store) -> None:
    for damaged in (1, 33):
        lengthen(store, damaged, (256 << 20) + 1)
    offsets, gaps, _ = walk(store)
    assert offsets == [each for each in range(COUNT) if each not in (1, 33)]
    assert len(gaps) == 2


def test_what_is_found_before_the_next_entry_is_read(store: Store) -> None:
    flip(store.path(), 5 * SIZE + HEADER_BYTES + 4)
    assert walk(store)[0] == [each for each in range(COUNT) if each != 5]


def test_an_entry_at_a_damaged_batch_is_passed_over(store: Store) -> None:
    lengthen(store, 5)
    flip(store.path(), 8 * SIZE + HEADER_BYTES + 4)
    flip(store.path(), 12 * SIZE + 3)
    offsets, gaps, _ = walk(store)
    assert offsets == [*range(5), *range(16, COUNT)]
    assert len(gaps) == 1


def test_zeros_up_to_the_limit_are_one_gap(store: Store) -> None:
    with open(store.path(), "r+b") as file:
        file.seek(35 * SIZE)
        file.write(bytes(5 * SIZE))
    offsets, gaps, _ = walk(store)
    assert offsets == list(range(35))
    assert [(gap.is_zero, gap.behind, gap.offset) for gap in gaps] == [(True, None, 35)]


# -- an index that is not to be believed ---------------------------------------------------


def test_an_index_without_this_log_changes_nothing(store: Store) -> None:
    flip(store.path(), 5 * SIZE + HEADER_BYTES + 4)
    expected = walk(store)[:2]
    store.index.forget(1)
    assert walk(store)[:2] == expected
    lengthen(store, 5)
    assert walk(store)[0] == list(range(5))


@pytest.mark.parametrize(
    ("offset", "position"),
    [
        (7, 6 * SIZE),  # another batch stands there
        (6, 6 * SIZE + 1),
        (7, 3 * SIZE),  # before the damage
        (7, 10**9),
        (3, 3 * SIZE),  # an offset below it
        (2**62, 6 * SIZE),
        (7, 2**63 - 1),
    ],
)
def test_a_wrong_entry_is_passed_over(store: Store, offset: int, position: int) -> None:
    lengthen(store, 5)
    add_entries(store, Entry(0, offset, position, NO_TIMESTAMP))
    assert walk(store)[0] == [*range(5), *range(8, COUNT)]


def test_a_wrong_checkpoint_is_passed_over(store: Store) -> None:
    lengthen(store, 29)
    stored = store.index.checkpoint(1)
    assert stored is not None
    wrong = Checkpoint(31, 0, 33 * SIZE, NO_TIMESTAMP, 0)
    assert store.index.advance(1, stored, wrong, [], [])
    assert walk(store)[0] == list(range(29))


def test_an_entry_that_cannot_have_been_reached_is_passed_over(store: Store) -> None:
    """A value that is a batch, far away in offsets, and an index that names it."""
    far = batch(b"never to be seen")
    stamp(far, 10_000_000)
    store.put(b"x" * 100 + bytes(far) + b"x")
    position = content(store.path()).index(far)
    lengthen(store, 29)
    store.index.forget(1)
    end = Checkpoint(41, 0, (COUNT + 2) * SIZE, NO_TIMESTAMP, 0)
    assert store.index.advance(1, None, end, [Entry(0, 10_000_000, position, NO_TIMESTAMP)], [])
    assert walk(store)[0] == list(range(29))


def test_a_damaged_value_in_the_index_hides_only_itself(store: Store) -> None:
    lengthen(store, 5)
    with store.environment.write() as transaction:
        key = struct.pack(">cQQQ", b"E", 1, 0, 8)
        assert transaction.get(key) is not None
        transaction._transaction.put(key, b"rubbish")
    assert walk(store)[0] == [*range(5), *range(12, COUNT)]


def test_what_is_found_must_end_before_the_next_entry(store: Store) -> None:
    """A value that is a batch, at an offset that the next entry says is another's."""
    inner = batch(b"never to be seen")
    stamp(inner, 9)
    with open(store.path(), "r+b") as file:
        file.seek(5 * SIZE)
        file.write(b"\xee" * SIZE + bytes(inner).ljust(2 * SIZE, b"\xee"))
    assert walk(store)[0] == [*range(5), *range(8, COUNT)]


def test_behind_a_place_that_the_file_no_longer_has(store: Store) -> None:
    os.truncate(store.path(), 3 * SIZE)
    descriptor = Descriptor(store.files, store.path())
    found = batch_behind(
        store.context, descriptor, 0, position=5 * SIZE, limit=3 * SIZE, after_offset=5
    )
    assert found is None


def test_it_can_be_left_at_any_step(store: Store) -> None:
    lengthen(store, 5)
    row = store.ends.read(1)
    assert row is not None
    descriptor = Descriptor(store.files, store.path())
    walked = Walk(store.context, descriptor, 0, limit=row.durable_position)
    for step in walked:
        if isinstance(step, Gap):
            break
        assert isinstance(step, FoundBatch)
    assert walked.result[:3] == (ScanEnd.TORN, 5 * SIZE, 5)
