"""Appending each batch of a producer once: two processes, deaths, and faults at every call."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from storage import Clock, Crash, FaultyFiles, InterruptAt, Store, batch, content, flip

from seawall.wal import producer_state
from seawall.wal.errors import (
    AppendLockTimeout,
    BatchInvalid,
    InvalidProducerEpoch,
    LogFenced,
    OutOfOrderSequence,
    StorageFull,
    SyncFailed,
    WalError,
    WriteFailed,
)
from seawall.wal.files import Descriptor
from seawall.wal.log import Log
from seawall.wal.producers import Placed

MakeStore = Callable[..., Store]


def numbered(
    sequence: int, *values: bytes, producer: int = 7, epoch: int = 0, timestamp: int = 1000
) -> bytearray:
    """A batch of a producer that has an id."""
    return batch(
        *(values or (b"%d" % sequence,)),
        timestamp=timestamp,
        producer_id=producer,
        producer_epoch=epoch,
        base_sequence=sequence,
    )


def put(log: Log, *batches: bytearray) -> list[Placed]:
    """Append and commit."""
    placed = log.append_checked(batches)
    log.commit(max(each.next_offset for each in placed))
    return placed


def faulty(store: Store) -> FaultyFiles:
    assert isinstance(store.files, FaultyFiles)
    return store.files


# -- what the check does -----------------------------------------------------------------


def test_a_batch_that_comes_again_is_where_it_was(store: Store) -> None:
    assert put(store.log, numbered(0, b"a", b"b", timestamp=5)) == [Placed(0, 2, 5, False)]
    assert put(store.log, numbered(2)) == [Placed(2, 3, 1000, False)]
    assert put(store.log, numbered(0, b"a", b"b", timestamp=9)) == [Placed(0, 2, 5, True)]
    assert store.log.ends() == (0, 3, 3)
    store.assert_works(b"a", b"b", b"2")


def test_a_duplicate_is_durable_once_it_is_committed(store: Store) -> None:
    """Whoever sent it first may have died before its sync."""
    store.log.append_checked([numbered(0)])
    with store.peer() as peer:
        placed = peer.append_checked([numbered(0)])
        assert placed == [Placed(0, 1, 1000, True)]
        assert peer.ends().durable_end == 0
        assert peer.commit(placed[0].next_offset) == 1
    assert store.values() == [b"0"]


def test_some_of_several_batches_were_there(store: Store) -> None:
    put(store.log, numbered(0), numbered(1))
    again = [numbered(1), batch(b"plain"), numbered(2, b"x", b"y"), numbered(2, b"x", b"y")]
    assert put(store.log, *again) == [
        Placed(1, 2, 1000, True),
        Placed(2, 3, 1000, False),
        Placed(3, 5, 1000, False),
        Placed(3, 5, 1000, True),
    ]
    store.assert_works(b"0", b"1", b"plain", b"x", b"y")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (numbered(5), OutOfOrderSequence),
        (numbered(1, epoch=1), OutOfOrderSequence),
        (numbered(2, epoch=-1), BatchInvalid),
        (numbered(-1), BatchInvalid),
    ],
)
def test_of_several_batches_none_is_appended_if_one_cannot_be(
    store: Store, bad: bytearray, error: type[WalError]
) -> None:
    put(store.log, numbered(0), numbered(1))
    with pytest.raises(error):
        store.log.append_checked([numbered(2), bad])
    assert store.log.ends().log_end == 2
    assert put(store.log, numbered(2))[0].base_offset == 2


def test_a_lower_epoch_is_fenced_by_a_higher_one_of_another_process(store: Store) -> None:
    put(store.log, numbered(0))
    with store.peer() as peer:
        assert put(peer, numbered(0, epoch=1)) == [Placed(1, 2, 1000, False)]
    with pytest.raises(InvalidProducerEpoch) as caught:
        store.log.append_checked([numbered(1)])
    assert (caught.value.epoch, caught.value.current_epoch) == (0, 1)
    assert store.log.producers()[7].epoch == 1


def test_plain_batches_ask_nobody(store: Store) -> None:
    """They are not read again, either, until somebody comes with a number."""
    put(store.log, numbered(0))
    calls = faulty(store).calls
    calls.clear()
    store.put(b"plain")
    plain = list(calls)
    with store.peer(files := FaultyFiles()) as peer:
        peer.append([batch(b"once")])
        files.calls.clear()
        peer.append([batch(b"again")])
        assert files.calls.count("pread") <= plain.count("pread")
        assert "open" not in files.calls
        assert "size" not in files.calls


# -- catching up -------------------------------------------------------------------------


def test_processes_see_what_the_others_append(make_store: MakeStore) -> None:
    """In turn, each batch twice, over many segments, plain ones in between."""
    store = make_store(segment_bytes=400)
    with store.peer() as peer:
        for number in range(40):
            first, second = ((store.log, peer), (peer, store.log))[number % 2]
            placed = put(first, numbered(number, b"v%d" % number * 5))
            if number % 3 == 0:
                first.append([batch(b"plain")])
            again = put(second, numbered(number, b"v%d" % number * 5))
            assert again == [placed[0]._replace(is_duplicate=True)]
    assert len(store.segments()) > 5
    values = [value for value in store.values() if value != b"plain"]
    assert values == [b"v%d" % number * 5 for number in range(40)]


@pytest.mark.parametrize("near_bytes", [0, 1 << 20])
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("lose_index", [False, True])
def test_a_new_process_knows_all_there_was(
    make_store: MakeStore,
    monkeypatch: pytest.MonkeyPatch,
    near_bytes: int,
    checkpoint: bool,
    lose_index: bool,
) -> None:
    monkeypatch.setattr(producer_state, "NEAR_BYTES", near_bytes)
    store = make_store(segment_bytes=400)
    for number in range(20):
        put(store.log, numbered(number), numbered(number, producer=8))
        if checkpoint and number in (3, 11, 15):
            store.log.checkpoint()
    known = store.log.producers()
    for reboot in (False, True):
        store.reopen(reboot=reboot, lose_index=lose_index)
        assert [entry.batches for entry in store.log.producers().values()] == [
            entry.batches for entry in known.values()
        ]
        assert put(store.log, numbered(19, producer=8))[0].is_duplicate
    with pytest.raises(OutOfOrderSequence):
        put(store.log, numbered(21))
    assert not put(store.log, numbered(20))[0].is_duplicate


def test_a_long_way_is_read_before_the_lock_is_taken(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_state, "NEAR_BYTES", 500)
    store = make_store(segment_bytes=4000)
    for number in range(60):
        put(store.log, numbered(number, b"v" * 100))
    assert len(store.segments()) > 2
    learn = producer_state.ProducerState._learn
    read: list[tuple[bool, int]] = []

    def learning(self: producer_state.ProducerState, *arguments: Any) -> bool:
        _, _, start, limit, _, _ = arguments
        read.append((store.log._appender._lock.is_mine, limit - start.position))
        return learn(self, *arguments)

    monkeypatch.setattr(producer_state.ProducerState, "_learn", learning)
    store.reopen(lose_index=True)
    assert put(store.log, numbered(59, b"v" * 100))[0].is_duplicate
    assert sum(size for _, size in read) > 60 * 100
    assert max((size for is_locked, size in read if is_locked), default=0) <= 500


def test_producers_outlive_their_records(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=400)
    put(store.log, numbered(0, producer=1), numbered(1, producer=1))
    for number in range(20):
        put(store.log, numbered(number))
    store.log.checkpoint()
    store.log.roll()
    store.log.drop_segments(store.log.ends().durable_end)
    assert store.segments() == []
    store.reopen()
    assert put(store.log, numbered(1, producer=1))[0] == Placed(1, 2, 1000, True)
    assert put(store.log, numbered(20))[0].base_offset == 22


def test_segments_that_go_while_they_are_read(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(segment_bytes=400)
    for number in range(20):
        put(store.log, numbered(number))
    bases = [int(name[:20]) for name in store.segments()]
    listed = producer_state.list_segments

    def trimming(files: FaultyFiles, folder: str) -> Sequence[int]:
        found = listed(files, folder)
        store.log.drop_segments(bases[3])
        return found

    monkeypatch.setattr(producer_state, "list_segments", trimming)
    with store.peer() as peer:
        assert put(peer, numbered(19))[0].is_duplicate
        assert put(peer, numbered(20))[0].base_offset == 20


def test_a_segment_that_is_sealed_and_written_anew_while_it_is_read(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As key compaction may do, with what is read before the append lock is taken."""
    store = make_store()
    store.log.append([batch(b"plain")])
    put(store.log, numbered(0), numbered(1))
    begun = []

    class Slowly(Descriptor):
        def __init__(self, files: FaultyFiles, path: str) -> None:
            if not begun:
                begun.append(path)
                store.log.roll()
                old = content(path)
                first = batch(b"longer than before")
                with open(path + ".new", "wb") as new:
                    new.write(first + old[len(batch(b"plain")) :])
                os.rename(path + ".new", path)
            super().__init__(files, path)

    monkeypatch.setattr(producer_state, "Descriptor", Slowly)
    with store.peer() as peer:
        assert put(peer, numbered(1)) == [Placed(2, 3, 1000, True)]
        assert begun
        assert put(peer, numbered(2)) == [Placed(3, 4, 1000, False)]


def test_damage_is_stepped_over(make_store: MakeStore) -> None:
    """Producers are known by what is behind it; readers get what is damaged from nobody."""
    store = make_store()
    for number in range(10):
        put(store.log, numbered(number // 2, producer=number % 2))
    # The length of the fourth batch.
    flip(store.path(), 3 * len(numbered(0)) + 11)
    with store.peer() as peer:
        entries = peer.producers()
        assert [each.base_offset for each in entries[0].batches] == [0, 2, 4, 6, 8][-5:]
        assert [each.base_offset for each in entries[1].batches] == [1, 5, 7, 9]
        assert put(peer, numbered(4, producer=1))[0] == Placed(9, 10, 1000, True)
    store.log.checkpoint()
    store.reopen()
    assert store.log.producers()[1].last_sequence == 4


def test_a_file_that_is_missing_is_passed_over(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=400)
    for number in range(20):
        put(store.log, numbered(number))
    os.unlink(os.path.join(store.folder, store.segments()[2]))
    with store.peer() as peer:
        assert put(peer, numbered(19))[0].is_duplicate


def test_a_disk_that_does_not_let_itself_be_read(make_store: MakeStore) -> None:
    store = make_store()
    put(store.log, numbered(0))
    with store.peer(files := FaultyFiles()) as peer:
        files.fail("open", where=".log", error=errno.EMFILE)
        with pytest.raises(WriteFailed):
            peer.append_checked([numbered(1)])
        assert put(peer, numbered(1))[0].base_offset == 1


def test_a_damaged_list_of_producers_is_made_anew(store: Store) -> None:
    put(store.log, numbered(0), numbered(1))
    store.log.checkpoint()
    checkpoint = store.index.checkpoint(1)
    assert checkpoint is not None
    store.index.advance(1, checkpoint, checkpoint, [], [], b"garbage")
    store.reopen()
    assert put(store.log, numbered(1))[0].is_duplicate
    put(store.log, numbered(2))
    store.log.checkpoint()
    store.reopen()
    assert put(store.log, numbered(2))[0].is_duplicate


def test_producers_that_were_idle_for_too_long_are_forgotten(make_store: MakeStore) -> None:
    store = make_store(producer_id_expiration_ms=1000)
    put(store.log, numbered(0, producer=1))
    store.log.checkpoint()
    assert isinstance(store.clock, Clock)
    store.clock.now_ms += 999
    put(store.log, numbered(0))
    assert set(store.log.producers()) == {1, 7}
    store.clock.now_ms += 1
    assert set(store.log.producers()) == {7}
    store.log.checkpoint()
    store.reopen()
    assert put(store.log, numbered(5, producer=1))[0].base_offset == 2


# -- deaths and faults -------------------------------------------------------------------


@pytest.mark.parametrize("lose_index", [False, True])
def test_a_batch_without_a_row_is_not_there(store: Store, lose_index: bool) -> None:
    put(store.log, numbered(0))
    with store.peer(FaultyFiles()) as peer:
        files = peer.context.files
        assert isinstance(files, FaultyFiles)
        files.fail("pwrite", where="ends", error=Crash)
        with pytest.raises(Crash):
            peer.append_checked([numbered(1)])
    if lose_index:
        store.reopen(lose_index=True)
    placed = put(store.log, numbered(1))
    again = put(store.log, numbered(1))
    assert again == [placed[0]._replace(is_duplicate=True)]
    assert store.values() == [b"0", b"1"]
    store.assert_works(b"0", b"1")


def calls_of_an_append(store: Store) -> int:
    faulty(store).calls.clear()
    put(store.log, numbered(3))
    return len(faulty(store).calls)


def prepared(make_store: MakeStore, root: str, roll: bool) -> Store:
    """A store whose log does not know yet what another process has appended."""
    store = make_store(root, segment_bytes=250 if roll else 1 << 20)
    put(store.log, numbered(0))
    with store.peer() as peer:
        put(peer, numbered(1), numbered(2))
    return store


@pytest.mark.parametrize("roll", [False, True])
@pytest.mark.parametrize("how", ["EIO", "ENOSPC", "crash", "short"])
def test_a_fault_at_each_call_and_the_batch_again(
    make_store: MakeStore, folder: str, roll: bool, how: str
) -> None:
    total = calls_of_an_append(prepared(make_store, os.path.join(folder, "0"), roll))
    assert total > 5
    for nth in range(1, total + 1):
        store = prepared(make_store, os.path.join(folder, str(nth)), roll)
        files = faulty(store)
        if how == "short":
            files.fail(nth=nth, short=lambda size: size // 2)
        elif how == "crash":
            files.fail(nth=nth, error=Crash)
        else:
            files.fail(nth=nth, error=getattr(errno, how))
        acknowledged: list[Placed] = []
        try:
            acknowledged = put(store.log, numbered(3))
        except (WalError, OSError, Crash):
            pass
        files.heal()
        if nth % 2 or how == "crash":
            store.reopen(reboot=nth % 4 == 1)
        try:
            placed = put(store.log, numbered(3))
        except (LogFenced, SyncFailed):
            store.reopen()
            placed = put(store.log, numbered(3))
        if acknowledged:
            assert placed == [acknowledged[0]._replace(is_duplicate=True)], (how, nth)
        assert placed[0].base_offset == 3
        assert store.values() == [b"0", b"1", b"2", b"3"], (how, nth)
        assert put(store.log, numbered(4))[0].base_offset == 4
        store.assert_works(b"0", b"1", b"2", b"3", b"4")
        store.crash()


def test_a_failed_append_is_not_remembered(store: Store) -> None:
    put(store.log, numbered(0))
    faulty(store).fail("pwritev", error=errno.ENOSPC)
    with pytest.raises(StorageFull):
        store.log.append_checked([numbered(1)])
    with pytest.raises(OutOfOrderSequence):
        store.log.append_checked([numbered(2)])
    assert put(store.log, numbered(1)) == [Placed(1, 2, 1000, False)]


def test_who_waits_for_a_thread_that_reads_waits_for_so_long_only(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(timeout_ms=50)
    put(store.log, numbered(0))
    reading, go_on = threading.Event(), threading.Event()

    def slowly(self: producer_state.ProducerState) -> None:
        reading.set()
        go_on.wait(60)

    monkeypatch.setattr(producer_state.ProducerState, "is_near", lambda self, row: False)
    monkeypatch.setattr(producer_state.ProducerState, "come_near", slowly)
    thread = threading.Thread(target=lambda: store.log.append_checked([numbered(1)]))
    thread.start()
    try:
        assert reading.wait(60)
        with pytest.raises(AppendLockTimeout) as caught:
            store.log.append_checked([numbered(2)])
    finally:
        go_on.set()
        thread.join()
    assert caught.value.holder_pid == os.getpid()
    assert store.log.ends().log_end == 2


def test_an_interrupt_anywhere_leaves_no_lock_behind(store: Store) -> None:
    at = places = sequence = 0

    def append() -> None:
        put(store.log, numbered(sequence, producer=8))

    while places >= at:
        at += 1
        interrupt = InterruptAt(at, "wal/checked.py")
        with contextlib.suppress(KeyboardInterrupt), interrupt:
            store.log.append_checked([numbered(0, producer=1000 + at)])
        places = interrupt.places
        thread = threading.Thread(target=append)
        thread.start()
        thread.join()
        assert store.log.producers()[8].last_sequence == sequence
        sequence += 1
    assert at > 5
