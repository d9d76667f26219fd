"""Compacting a log: what goes and what stays, and a fault or a death at every call of it."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c
import pytest
from storage import PARTITION, Child, Clock, Crash, FaultyFiles, Store, content, flip

from seawall.wal import compaction, lookup, verify
from seawall.wal.checkpoint import checkpoint
from seawall.wal.compaction import Compacted, Rules
from seawall.wal.errors import (
    LogFenced,
    LogGone,
    OutOfOrderSequence,
    WalError,
    WriteFailed,
)
from seawall.wal.filtering import NEVER
from seawall.wal.folder_lock import lock_folder
from seawall.wal.index import Cleaned
from seawall.wal.records import HEADER_BYTES, Record, decode_batch, encode_batch, parse_header
from seawall.wal.swap import MOST_OFFSETS_PER_HOLE, merged_segments

MakeStore = Callable[..., Store]
ALL = Rules(min_dirty_ratio=0.0, delete_retention_ms=1_000)
DAY_MS = 86_400_000


def put(store: Store, *rows: tuple[str | None, str | None], **options: Any) -> int:
    """One batch of records with these keys and values, a millisecond apart."""
    now_ms = store.clock()
    records = [
        (now_ms + at, None if key is None else key.encode(), value and value.encode(), ())
        for at, (key, value) in enumerate(rows)
    ]
    appended = store.log.append([encode_batch(records, **options)])  # type: ignore[arg-type]
    store.log.commit(appended.next_offset)
    return appended.base_offset


def seal(store: Store) -> None:
    """Seal what is there, and put something into the new active segment."""
    store.log.roll()
    put(store, (None, "active"))


def rows(store: Store, offset: int | None = None) -> list[tuple[int, str, str | None]]:
    """Offset, key and value of all records that have keys."""
    return [
        (each.offset, each.key.decode(), each.value if each.value is None else each.value.decode())
        for each in store.read_all(offset)
        if each.key is not None
    ]


def wait(store: Store, ms: int) -> None:
    assert isinstance(store.clock, Clock)
    store.clock.now_ms += ms


# -- what goes and what stays ----------------------------------------------------------


def test_the_last_value_of_each_key_stays_at_its_offset(store: Store) -> None:
    put(store, ("a", "1"), ("b", "1"), (None, "x"), ("a", "2"))
    put(store, ("b", "2"))
    put(store, ("c", "1"), ("a", "3"))
    seal(store)
    put(store, ("c", "2"))
    before = store.read_all()
    told = store.log.compact(ALL, dry_run=True)
    assert store.read_all() == before
    assert store.log.compact(ALL) == told
    assert (told.superseded, told.expired, told.segments) == (3, 0, 0)
    assert told.held_by == ("compact", "active segment")
    assert told.superseded_bytes == 27  # three records of seven bytes, a key and a value
    assert rows(store) == [(4, "b", "2"), (5, "c", "1"), (6, "a", "3"), (8, "c", "2")]
    assert [each for each in before if each.offset in (2, 4, 5, 6, 7, 8)] == store.read_all()
    for offset in range(9):
        wanted = [each for each in store.read_all() if each.offset >= offset]
        assert store.read_all(offset) == wanted
    assert store.log.compact(ALL) == Compacted(held_by=("compact", "active segment"))
    store.assert_works(*store.values())


def test_whole_batches_become_one_hole_with_its_neighbours(store: Store) -> None:
    for _ in range(5):
        put(store, ("a", "1"), ("a", "2"))
    put(store, ("b", "1"))
    for _ in range(5):
        put(store, ("a", "3"))
    seal(store)
    store.log.compact(ALL)
    headers = []
    data, position = content(store.path()), 0
    while position < len(data):
        headers.append(parse_header(data, position))
        position += headers[-1].size_bytes
    found = [(each.base_offset, each.next_offset, each.record_count) for each in headers]
    assert found == [(0, 10, 0), (10, 11, 1), (11, 15, 0), (15, 16, 1)]
    assert headers[0].max_timestamp == store.clock() + 1  # what went was that new


def test_a_long_hole_takes_several_batches(make_store: MakeStore) -> None:
    """Behind each, whoever meets damage still finds the next batch."""
    store = make_store(segment_bytes=1 << 24)
    many = [("a", "1")] * (MOST_OFFSETS_PER_HOLE // 2 + 1)
    for _ in range(3):
        put(store, *many)
    put(store, ("a", "2"), ("b", "1"))
    seal(store)
    assert store.log.compact(ALL).superseded == 3 * len(many)
    size = os.path.getsize(store.path())
    assert store.log.compact(ALL).superseded_bytes == 0
    assert os.path.getsize(store.path()) == size
    flip(store.path(), 20)  # the first hole's CRC
    [damage] = store.log.verify()
    assert (damage.position, damage.end, damage.next_offset) == (0, 61, MOST_OFFSETS_PER_HOLE)


def test_what_is_not_compacted(store: Store) -> None:
    """The active segment, and the newest sealed one as long as recovery would judge it."""
    put(store, ("a", "1"), ("a", "2"))
    assert store.log.compact(ALL) == Compacted(held_by=("active segment",))
    store.log.roll()
    assert store.log.compact(ALL) == Compacted(held_by=("active segment",))
    store.append(b"not durable yet")
    assert store.log.compact(ALL) == Compacted(held_by=("active segment",))
    assert len(rows(store)) == 2
    store.log.sync()
    assert store.log.compact(ALL).superseded == 1


def test_control_batches_transactions_and_what_does_not_parse_stay(store: Store) -> None:
    put(store, ("a", "1"))
    put(store, ("a", "marker"), is_control=True)
    put(store, ("b", "committed"))
    put(store, ("b", "aborted?"), is_transactional=True)
    broken = bytearray(encode_batch([(0, b"a", b"v", ())]))
    broken[66] ^= 1  # an offset that is not one of its batch; the CRC is made right below
    broken = _resealed(broken)
    store.log.append([broken])
    put(store, ("a", "2"))
    seal(store)
    before = content(store.path())
    assert store.log.compact(ALL).superseded == 1
    after = content(store.path())
    # The first one is a hole now, and all that follows is what it was.
    first = parse_header(before, 0).size_bytes
    assert parse_header(after, 0).record_count == 0
    assert after[HEADER_BYTES:] == before[first:]
    assert bytes(broken[21:]) in after


def _resealed(batch: bytearray) -> bytearray:
    struct.pack_into(">I", batch, 17, google_crc32c.value(bytes(batch[21:])))
    return batch


def test_producers_leave_their_last_batch(store: Store) -> None:
    """Empty, with producer id, epoch and sequence: that is how far they got."""
    fields = {"producer_id": 7, "producer_epoch": 2}
    put(store, ("a", "1"), **fields, base_sequence=10)
    put(store, ("a", "2"), ("a", "3"), **fields, base_sequence=11)
    put(store, ("a", "4"))
    seal(store)
    store.log.compact(ALL)
    data = content(store.path())
    hole, last = parse_header(data, 0), parse_header(data, 61)
    assert (hole.next_offset, hole.producer_id) == (1, -1)
    assert (last.base_offset, last.next_offset, last.record_count) == (1, 3, 0)
    assert (last.producer_id, last.producer_epoch, last.base_sequence) == (7, 2, 11)
    # Once a later one is compacted too, it may go.
    put(store, ("b", "1"), **fields, base_sequence=13)
    seal(store)
    store.log.compact(ALL)
    assert parse_header(content(store.path()), 0).next_offset == 3


def numbered(value: str, sequence: int, **fields: Any) -> bytearray:
    """A batch of an idempotent producer, with one record."""
    return encode_batch(
        [(1000, b"a", value.encode(), ())],
        **{"producer_id": 7, "producer_epoch": 2, "base_sequence": sequence, **fields},
    )


def known(store: Store) -> dict[int, Any]:
    """What a log knows of its producers, without when it learnt that."""
    return {each: entry[:2] for each, entry in store.log.producers().items()}


def test_producers_are_known_without_an_index_after_all_their_records_went(store: Store) -> None:
    """The number that came last, and the epoch: a duplicate is one, and what is next is next."""
    for producer_id in (7, 8):
        [placed] = store.log.append_checked([numbered("1", 0, producer_id=producer_id)])
        store.log.commit(placed.next_offset)
    put(store, ("a", "2"))
    seal(store)
    before = known(store)
    assert before.keys() == {7, 8}
    assert store.log.compact(ALL).superseded == 2
    assert rows(store) == [(2, "a", "2")]
    store.reopen(clean=True, reboot=True, lose_index=True)
    assert known(store) == before
    [again] = store.log.append_checked([numbered("1", 0)])
    assert (again.base_offset, again.next_offset, again.is_duplicate) == (0, 1, True)
    with pytest.raises(OutOfOrderSequence):
        store.log.append_checked([numbered("3", 2)])
    [placed] = store.log.append_checked([numbered("2", 1)])
    assert not placed.is_duplicate


def test_a_batch_that_a_power_cut_may_take_away_does_not_count_as_the_last(store: Store) -> None:
    store.log.commit(store.log.append_checked([numbered("1", 0)])[0].next_offset)
    put(store, ("a", "2"))
    seal(store)
    store.log.append_checked([numbered("3", 1)])  # and not committed
    store.log.compact(ALL)
    first = parse_header(content(store.path()), 0)
    assert (first.record_count, first.producer_id, first.base_sequence) == (0, 7, 0)
    store.log.sync()
    put(store, ("a", "4"))
    seal(store)
    store.log.compact(ALL)
    assert parse_header(content(store.path()), 0).producer_id == -1


def test_of_a_producer_that_is_forgotten_nothing_is_left(store: Store) -> None:
    store.log.commit(store.log.append_checked([numbered("1", 0)])[0].next_offset)
    put(store, ("a", "2"))
    seal(store)
    store.log.compact(ALL)
    assert parse_header(content(store.path()), 0).producer_id == 7
    wait(store, store.config.producer_id_expiration_ms)
    put(store, ("a", "3"))
    seal(store)
    store.log.compact(ALL)
    assert parse_header(content(store.path()), 0).producer_id == -1
    assert known(store) == {}


def test_tombstones_stay_until_their_horizon(store: Store) -> None:
    """KIP-534: from when they were compacted on, and their timestamps stay what they are."""
    put(store, ("a", "1"), ("b", "1"))
    put(store, ("a", None), ("b", "2"))
    seal(store)
    timestamps = [each.timestamp for each in store.read_all()]
    wait(store, 5 * DAY_MS)
    assert store.log.compact(ALL).superseded == 2
    assert rows(store) == [(2, "a", None), (3, "b", "2")]
    header = parse_header(content(store.path()), 61)
    assert header.delete_horizon_ms == header.base_timestamp == store.clock() + 1_000
    assert [each.timestamp for each in store.read_all()] == timestamps[2:]
    assert header.max_timestamp == max(timestamps[2:4])
    wait(store, 999)
    assert store.log.compact(ALL) == Compacted(held_by=("compact", "active segment"))
    wait(store, 1)
    told = store.log.compact(ALL, dry_run=True)
    assert (told.superseded, told.expired) == (0, 1)
    assert told.expired_bytes > 0
    assert store.log.compact(ALL) == told
    assert rows(store) == [(3, "b", "2")]
    assert parse_header(content(store.path()), 61).delete_horizon_ms == header.base_timestamp
    # Nothing is due any more.
    wait(store, DAY_MS)
    assert store.log.compact(ALL) == Compacted(held_by=("compact", "active segment"))


def test_a_horizon_that_is_never_reached_is_not_written(store: Store) -> None:
    put(store, ("a", None))
    seal(store)
    before = content(store.path())
    never = Rules(min_dirty_ratio=0, delete_retention_ms=NEVER)
    assert store.log.compact(never).superseded == 0
    assert content(store.path()) == before


def test_a_value_behind_a_tombstone_counts(store: Store) -> None:
    put(store, ("a", "1"), ("a", None), ("a", "2"))
    seal(store)
    store.log.compact(ALL)
    assert rows(store) == [(2, "a", "2")]


def test_a_file_that_was_put_back_is_dirty(store: Store) -> None:
    """Its old values would come back once the tombstone behind them is gone."""
    put(store, ("a", "1"), ("a", "2"), ("b", "1"))
    put(store, ("a", None))
    store.log.roll()
    put(store, ("c", "1"))
    seal(store)
    store.config.segment_bytes = 150  # nothing is merged
    copy = content(store.path())
    store.log.compact(Rules(min_dirty_ratio=0, delete_retention_ms=NEVER))
    assert len(rows(store)) == 3
    store.close()
    with open(store.path(), "wb") as file:
        file.write(copy)
    store.open(join=True)
    assert len(rows(store)) == 5
    put(store, ("c", "2"))
    seal(store)
    assert store.log.compact(ALL).superseded == 3
    wait(store, 1_000)
    assert store.log.compact(ALL).expired == 1
    assert [key for _, key, _ in rows(store)] == ["b", "c"]


# -- what is due -----------------------------------------------------------------------


def test_only_so_much_of_a_log_has_to_be_new(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=400)
    half = Rules()
    for _ in range(6):
        put(store, ("a", "v" * 100), ("b", "v" * 100))
    told = store.log.compact(half)
    assert told.superseded == 8
    kept = store.log.segments()
    assert [each.base_offset for each in kept] == [0, 10]
    # One more sealed segment is about as long as what is clean, and no longer.
    put(store, ("c", "v" * 90), ("c", "v" * 90))
    assert store.log.compact(half).held_by == (
        "compact",
        "active segment",
        "min.cleanable.dirty.ratio",
    )
    put(store, ("c", "v" * 200), ("c", "v" * 90))
    assert store.log.compact(half).superseded == 3
    # max.compaction.lag.ms does not wait for that.
    put(store, ("d", "v" * 10))
    seal(store)
    assert "min.cleanable.dirty.ratio" in store.log.compact(half).held_by
    wait(store, 100)
    lagging = Rules(max_lag_ms=50)
    assert "min.cleanable.dirty.ratio" not in store.log.compact(lagging).held_by


def test_what_is_too_young_stays(make_store: MakeStore) -> None:
    store = make_store()
    put(store, ("a", "1"), ("a", "2"))
    seal(store)
    wait(store, 1_000)
    put(store, ("a", "3"))
    seal(store)
    young = Rules(min_dirty_ratio=0, min_lag_ms=600)
    told = store.log.compact(young)
    assert (told.superseded, told.held_by) == (
        1,
        ("compact", "active segment", "min.compaction.lag.ms"),
    )
    assert [offset for offset, _, _ in rows(store)] == [1, 3]
    wait(store, 601)
    assert store.log.compact(young).superseded == 1


def test_more_keys_than_there_is_room_for(make_store: MakeStore) -> None:
    """Up to where the map is full, and on from there the next time, without end or loss."""
    store = make_store(segment_bytes=900)
    keys = [f"k{number}" for number in range(120)]
    for turn in range(3):
        for at in range(0, len(keys), 5):
            put(store, *((key, f"{turn}") for key in keys[at : at + 5]))
    small = Rules(min_dirty_ratio=0, dedupe_buffer_bytes=1)  # some 50 keys
    rounds = 0
    while "log.cleaner.dedupe.buffer.size" in store.log.compact(small).held_by:
        rounds += 1
        last = {key: value for _, key, value in rows(store)}
        assert last == dict.fromkeys(keys, "2")
        assert rounds < 20
    assert rounds > 3
    active = store.context.row().segment
    clean = [key for offset, key, _ in rows(store) if offset < active]
    assert len(clean) == len(set(clean))


def test_where_it_got_to_is_bounded_by_what_is_true(store: Store) -> None:
    put(store, ("a", "1"), ("a", "2"))
    seal(store)
    store.log.compact(ALL)
    assert store.index.cleaned(PARTITION) == Cleaned(2, NEVER)
    # An index that knows of more than there is, or of nothing: all of it is compacted again.
    for wrong in (Cleaned(10**9, NEVER), None):
        put(store, ("a", "3"))
        seal(store)
        if wrong is None:
            store.index.forget(PARTITION)
        else:
            store.index.set_cleaned(PARTITION, wrong)
        assert store.log.compact(ALL).superseded == 1
    end = store.context.row().segment
    assert store.index.cleaned(PARTITION) == Cleaned(end, NEVER)
    # Deleted records are not looked at.
    store.log.drop_segments(end)
    assert store.log.compact(ALL) == Compacted(held_by=("active segment",))


def test_damage_stops_it_before_anything_is_changed(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=300)
    for _ in range(4):
        put(store, ("a", "v" * 100), ("a", "v" * 100))
    flip(store.path(2), 80)
    names = {name: content(os.path.join(store.folder, name)) for name in store.segments()}
    assert store.log.compact(ALL) == Compacted(held_by=("damage",))
    assert store.log.compact(ALL, dry_run=True) == Compacted(held_by=("damage",))
    assert {n: content(os.path.join(store.folder, n)) for n in store.segments()} == names
    flip(store.path(2), 80)
    assert store.log.compact(ALL).superseded == 5


def test_a_fenced_log_is_left_alone(store: Store) -> None:
    put(store, ("a", "1"), ("a", "2"))
    seal(store)
    store.log._appender.fence()
    assert store.log.compact(ALL) == Compacted(held_by=("failed sync",))
    with pytest.raises(LogFenced):
        put(store, ("a", "3"))


# -- merging ---------------------------------------------------------------------------


@pytest.fixture
def many(make_store: MakeStore) -> Store:
    return filled(make_store())


def filled(store: Store) -> Store:
    """Several small segments, which together fill more than one. The index has an entry for each
    batch."""
    store.config.index_interval_bytes = 1
    for turn in range(7):
        put(store, *((f"k{at}", f"{turn}" * (20 + 100 * (at > 4))) for at in range(6)))
        put(store, (f"only{turn}", "v" * 150), (None, "x"))
        store.log.roll()
    wait(store, 10)
    put(store, ("k0", None))
    seal(store)
    store.config.segment_bytes = 2_000
    return store


def last_values(records: list[Record]) -> dict[bytes, tuple[int, bytes | None]]:
    return {each.key: (each.offset, each.value) for each in records if each.key is not None}


def test_small_neighbours_become_one(many: Store) -> None:
    before, records = many.segments(), many.read_all()
    told = many.log.compact(ALL)
    assert told.segments == len(before) - len(many.segments()) > 2
    assert all(each.size_bytes <= 2_000 for each in many.log.segments())
    assert last_values(many.read_all()) == last_values(records)
    assert [r for r in many.read_all() if r.key is None] == [r for r in records if r.key is None]
    assert list(many.log.verify()) == []
    # The index knows the new files, and the old ones no more.
    many.config.index_interval_bytes = 1
    for segment in many.log.segments()[:-1]:
        sealed = many.index.sealed(PARTITION, segment.base_offset)
        assert sealed is not None
        assert (sealed.end_offset, sealed.size_bytes) == segment[1:3]
    check_entries(many)
    for name in set(before) - set(many.segments()):
        assert many.index.sealed(PARTITION, int(name[:20])) is None
    for record in many.read_all():
        found = many.log.offset_for_time(record.timestamp)
        assert found is not None
        assert found.offset <= record.offset


def check_entries(store: Store) -> None:
    """Each place that the index names in a sealed segment is that of such a batch."""
    for segment in store.log.segments()[:-1]:
        data, at = content(store.path(segment.base_offset)), segment.base_offset
        while found := store.index.first_after(PARTITION, segment.base_offset, at):
            if found.offset >= segment.end_offset:
                break
            assert parse_header(data, found.position).base_offset == found.offset
            at = found.offset


def left_unremoved(many: Store) -> None:
    """A process dies when the merged segment has its name, and before the others are removed."""
    many.files.fail("unlink", where="8.log", error=Crash)  # type: ignore[attr-defined]
    with pytest.raises(Crash):
        many.log.compact(ALL)
    many.reopen()
    assert merged_segments(many.context)


def test_segments_that_another_one_reaches_over(many: Store) -> None:
    """Everything reads them as well, and whoever compacts next removes them."""
    records = many.read_all()
    left_unremoved(many)
    for offset in range(len(records)):
        many.read_all(offset)
    assert last_values(many.read_all()) == last_values(records)
    assert list(many.log.verify()) == []
    many.index.forget(PARTITION)
    checkpoint(many.context)
    assert last_values(many.read_all()) == last_values(records)
    assert many.log.compact(ALL, dry_run=True).superseded > 0
    inode = os.stat(many.path()).st_ino
    many.log.compact(ALL)
    # Written anew before the others are removed: the sync of its name may have failed.
    assert os.stat(many.path()).st_ino != inode
    assert not merged_segments(many.context)
    assert last_values(many.read_all()) == last_values(records)
    many.reopen(reboot=True, lose_index=True)
    assert last_values(many.read_all()) == last_values(records)
    assert list(many.log.verify()) == []


def test_segments_reached_over_are_dropped_in_their_turn(many: Store) -> None:
    records = many.read_all()
    left_unremoved(many)
    bases = [int(name[:20]) for name in many.segments()]
    for base in bases[1:4]:
        many.log.drop_segments(base)
        wanted = [each for each in records if each.offset >= base]
        assert last_values(many.read_all()) == last_values(wanted)
        assert list(many.log.verify()) == []
    many.log.compact(ALL)
    assert last_values(many.read_all()) == last_values(wanted)


# -- on a bad day ----------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, "short", "crash"])
def test_a_fault_at_any_call(make_store: MakeStore, folder: str, error: int | str) -> None:
    """It is named; nothing is lost, nothing is left aside, and the next attempt comes through."""
    done = filled(make_store(os.path.join(folder, "done")))
    wanted = last_values(done.read_all())
    done.log.compact(ALL)
    after = done.read_all()
    nth, was_hit, fenced = 0, True, 0
    while was_hit:
        nth += 1
        store = filled(make_store(os.path.join(folder, f"{nth}")))
        files = store.files
        assert isinstance(files, FaultyFiles)
        if error == "short":
            files.fail(nth=nth, short=lambda size: size // 2)
        else:
            files.fail(nth=nth, error=Crash if error == "crash" else error)  # type: ignore[arg-type]
        try:
            store.log.compact(ALL)
        except WalError:
            pass
        except Crash:
            files.heal()
            store.reopen(reboot=nth % 2 == 0)
        was_hit = files.hits > 0
        files.heal()
        assert last_values(store.read_all()) == wanted
        assert list(store.log.verify()) == []
        try:
            put(store, ("more", "1"))
        except LogFenced:
            fenced += 1
            store.log_start = store.log.ends().log_start
            store.reopen(reboot=True)
            put(store, ("more", "1"))
        store.log.compact(ALL)
        assert [each for each in store.read_all() if each.key != b"more"] == after
        assert not [name for name in os.listdir(store.folder) if name.endswith(".rewrite")]
        store.crash()
    assert nth > (20 if error != "short" else 2)
    assert bool(fenced) == (error in (errno.EIO, errno.ENOSPC))


def test_what_a_dead_process_left_aside_is_removed(many: Store) -> None:
    def work(say: Callable[[str], None]) -> None:
        many.reopen()
        real = many.files.sync

        def sync(descriptor: int) -> None:
            if many.files.path_of(descriptor).endswith(".rewrite"):  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGKILL)
            real(descriptor)

        many.files.sync = sync  # type: ignore[method-assign]
        many.log.compact(ALL)

    records = many.read_all()
    many.close()
    Child(work).wait()
    many.open(join=True)
    assert [name for name in os.listdir(many.folder) if name.endswith(".rewrite")]
    many.log.compact(ALL)
    assert not [name for name in os.listdir(many.folder) if name.endswith(".rewrite")]
    assert last_values(many.read_all()) == last_values(records)


# -- others, meanwhile -----------------------------------------------------------------


def test_one_at_a_time_and_none_dropped_meanwhile(
    many: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LOCK_TIMEOUT_MS", 20)
    with lock_folder(many.context, exclusive=True) as is_held:
        assert is_held
        with many.peer() as log:
            assert log.compact(ALL) == Compacted(held_by=("another compaction",))
            names = many.segments()
            assert log.drop_segments(10) == 0
            assert (many.segments(), log.ends().log_start) == (names, 10)
    assert many.log.drop_segments(10) > 0
    with lock_folder(many.context, exclusive=False) as is_held, many.peer() as log:
        assert is_held
        assert log.drop_segments(12) == 0
        assert log.compact(ALL).held_by == ("another compaction",)


def test_the_lock_goes_with_the_folder(many: Store) -> None:
    many.log.mark_deleted()
    with pytest.raises(LogGone):
        many.log.compact(ALL)
    elsewhere = dataclasses.replace(many.context, folder=many.folder + "-gone")
    with pytest.raises(LogGone), lock_folder(elsewhere, exclusive=True):
        pass


def wait_for_a_signal(say: Callable[[str], None]) -> None:
    say("here")
    signal.pause()


def test_a_forked_child_does_not_keep_the_lock(many: Store) -> None:
    with lock_folder(many.context, exclusive=True):
        child = Child(wait_for_a_signal)
        assert child.line() == "here"
    with lock_folder(many.context, exclusive=True) as is_held:
        assert is_held
    child.kill(signal.SIGKILL)
    child.wait()


def test_a_checkpoint_meanwhile_adds_nothing_that_is_old(
    many: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process walks the old file, and comes to add what it found when it is exchanged."""
    many.index.forget(PARTITION)
    slow = many.peer()
    real = type(many.index).advance
    walked, go_on = threading.Event(), threading.Event()

    def slowly(index: Any, *arguments: Any) -> bool:
        if threading.current_thread().name == "slow":
            walked.set()
            assert go_on.wait(60)
        return real(index, *arguments)

    monkeypatch.setattr(type(many.index), "advance", slowly)
    thread = threading.Thread(target=lambda: checkpoint(slow.context), name="slow")
    thread.start()
    assert walked.wait(60)
    records = many.read_all()
    many.log.compact(ALL)
    go_on.set()
    thread.join()
    slow.log.close()
    check_entries(many)
    assert last_values(many.read_all()) == last_values(records)


def test_the_index_is_not_forgotten_before_its_checkpoint_is_behind(many: Store) -> None:
    last = many.log.segments()[-2].base_offset
    many.index.forget(PARTITION)
    assert not many.index.forget_between(PARTITION, 0, last)
    checkpoint(many.context)
    assert many.index.sealed(PARTITION, 0) is not None
    assert many.index.forget_between(PARTITION, 0, last)
    assert many.index.sealed(PARTITION, 0) is None
    assert not many.index.forget_between(PARTITION, 0, many.context.row().segment)


def test_an_index_that_is_older_than_the_files(many: Store) -> None:
    """Put back from a copy: hints that are wrong now lead nobody astray."""
    checkpoint(many.context)
    many.crash()
    copy = content(os.path.join(many.root, "index.lmdb", "data.mdb"))
    many.open(join=True)
    records = many.read_all()
    many.log.compact(ALL)
    many.crash()
    with open(os.path.join(many.root, "index.lmdb", "data.mdb"), "wb") as file:
        file.write(copy)
    many.open(join=True)
    after = many.read_all()
    assert last_values(after) == last_values(records)
    for offset in range(records[-1].offset):
        assert many.read_all(offset) == [each for each in after if each.offset >= offset]
    for record in after:
        found = many.log.offset_for_time(record.timestamp)
        wanted = next(each for each in after if each.timestamp >= record.timestamp)
        assert found == (wanted.offset, wanted.timestamp)
    many.log.compact(ALL)
    assert last_values(many.read_all()) == last_values(records)


def test_an_index_whose_checkpoint_is_in_an_older_file(store: Store) -> None:
    """What comes behind it in the file that is there now is found by its time as well."""
    for number in range(6):
        put(store, ("a", "v" * 50), ("b", f"{number}"))
    checkpoint(store.context)
    store.crash()
    copy = content(os.path.join(store.root, "index.lmdb", "data.mdb"))
    store.open(join=True)
    wait(store, 100)
    put(store, ("c", "late"))
    wait(store, -100)
    put(store, ("d", "v" * 2_000))
    seal(store)
    store.log.compact(ALL)
    wanted = store.log.offset_for_time(store.clock() + 50)
    assert wanted is not None
    store.crash()
    with open(os.path.join(store.root, "index.lmdb", "data.mdb"), "wb") as file:
        file.write(copy)
    store.open(join=True)
    checkpoint(store.context)
    assert store.log.offset_for_time(store.clock() + 50) == wanted
    sealed = store.index.sealed(PARTITION, 0)
    assert sealed is not None
    assert sealed.max_timestamp == wanted.timestamp


def test_verifying_goes_on_where_segments_are_now(
    many: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are merged when the first one has just been verified."""
    real, before = verify._verify_segment, many.log.segments()

    def verify_segment(*arguments: Any) -> Any:
        monkeypatch.undo()
        reached = yield from real(*arguments)
        many.log.compact(ALL)
        return reached

    monkeypatch.setattr(verify, "_verify_segment", verify_segment)
    assert list(many.log.verify()) == []
    assert len(many.log.segments()) < len(before)


def test_a_search_by_time_goes_on_where_segments_are_now(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are merged when the first one has just been passed over."""
    for key in ("a", "b", "c"):
        put(store, (key, "1"))
        store.log.roll()
        wait(store, 100)
    put(store, ("d", "1"))
    real, before = lookup.open_segment, store.log.segments()
    wanted = store.read_all()[1]

    def open_segment(*arguments: Any) -> Any:
        assert arguments[1] == wanted.offset
        monkeypatch.undo()
        store.log.compact(ALL)
        return real(*arguments)

    store.log.checkpoint()
    monkeypatch.setattr(lookup, "open_segment", open_segment)
    found = store.log.offset_for_time(wanted.timestamp - 50)
    assert found == (wanted.offset, wanted.timestamp)
    assert len(store.log.segments()) < len(before)


def test_a_name_that_may_be_lost_is_given_anew(store: Store) -> None:
    """The sync of the folder failed (A5): the log is fenced, and the next one does it again."""
    put(store, ("a", "1"), ("a", "2"))
    seal(store)
    files = store.files
    assert isinstance(files, FaultyFiles)
    files.fail("sync_directory")
    with pytest.raises(WriteFailed, match="could not be synced"):
        store.log.compact(ALL)
    with pytest.raises(LogFenced):
        put(store, ("a", "3"))
    assert store.log.compact(ALL) == Compacted(held_by=("failed sync",))
    store.reopen()
    put(store, ("a", "3"))
    inode = os.stat(store.path()).st_ino
    syncs = files.counts["sync_directory"]
    assert store.log.compact(ALL).superseded == 0
    assert os.stat(store.path()).st_ino != inode
    assert files.counts["sync_directory"] > syncs
    assert rows(store) == [(1, "a", "2"), (3, "a", "3")]


@pytest.fixture
def stepping(many: Store, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Do something before each call that a compaction makes to change names."""

    def step(action: Callable[[str], None]) -> None:
        for kind in ("rename", "unlink", "sync_directory"):
            real = getattr(many.files, kind)

            def call(*arguments: Any, kind: str = kind, real: Any = real) -> Any:
                action(f"before {kind}")
                try:
                    return real(*arguments)
                finally:
                    action(f"after {kind}")

            monkeypatch.setattr(many.files, kind, call)
        many.log.compact(ALL)
        monkeypatch.undo()

    return step


def test_readers_of_another_process_at_each_step(many: Store, stepping: Any) -> None:
    """New ones, and those that were in the middle of a file before it was exchanged."""
    records, files = many.read_all(), FaultyFiles(many.files.boot_id())
    last, keyless = last_values(records), [each for each in records if each.key is None]
    peer = many.peer(files)
    log = peer.log
    readers = [(offset, log.reader(offset)) for offset in range(0, 60, 3)]
    for _, reader in readers:
        reader.read(1)
    steps = []

    def read(reader: Any, max_bytes: int) -> list[Record]:
        found, wanted = [], reader.offset
        chunk = reader.read(max_bytes)
        for position, _ in chunk.batches:
            found += decode_batch(chunk.data, position, "orders", 0, min_offset=wanted)
        return found

    def look(name: str) -> None:
        steps.append(name)
        reader = log.reader(0)
        found: list[Record] = []
        while more := read(reader, 700):
            found += more
        while reader.offset < log.ends().durable_end:
            found += read(reader, 700)
        assert last_values(found) == last
        assert [each for each in found if each.key is None] == keyless
        assert list(log.verify()) == []
        for record in (records[0], records[30], records[-1]):
            hit = log.offset_for_time(record.timestamp)
            wanted = next(each for each in found if each.timestamp >= record.timestamp)
            assert hit is not None
            assert hit.offset <= wanted.offset
        for start, old in readers:
            begun = old.offset
            seen = read(old, 1)
            between = [r for r in found if begun <= r.offset < old.offset and r.offset >= start]
            assert {r.offset for r in between} <= {r.offset for r in seen}

    stepping(look)
    assert len(steps) > 12
    for _, reader in readers:
        reader.close()
    with peer:
        pass


def test_what_comes_while_a_file_is_written_is_not_touched(
    many: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appends, a roll and a checkpoint by others."""
    real, done = many.files.rename, []

    def rename(source: str, target: str) -> None:
        if not done:
            done.append(put(many, ("k1", "new")))
            many.log.roll()
            put(many, ("k1", "newer"))
            many.log.checkpoint()
        real(source, target)

    monkeypatch.setattr(many.files, "rename", rename)
    records = many.read_all()
    many.log.compact(ALL)
    assert last_values(many.read_all()) == {
        **last_values(records),
        b"k1": (done[0] + 1, b"newer"),
    }
    assert (done[0], "k1", "new") in rows(many)
    assert list(many.log.verify()) == []


def test_it_rests_and_ends_when_it_is_told_to(many: Store) -> None:
    class Stopped(Exception):
        pass

    spent: list[int] = []
    many.log.compact(ALL, spent.append, dry_run=True)
    sealed = sum(each.size_bytes for each in many.log.segments()[:-1])
    assert 2 * sealed == sum(spent)
    records = many.read_all()
    for most in range(len(spent) + 3):
        left = iter(range(most))

        def spend(size: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Stopped

        try:
            many.log.compact(ALL, spend)
        except Stopped:
            assert not [name for name in os.listdir(many.folder) if name.endswith(".rewrite")]
            assert last_values(many.read_all()) == last_values(records)
