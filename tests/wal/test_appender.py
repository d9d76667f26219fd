"""Appending and syncing, on disks that fail at every call, and with processes that stop."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable

import pytest
from storage import Child, Clock, Crash, FaultyFiles, Store, batch

from seawall.wal.appender import MOST_BUFFERS_PER_WRITE
from seawall.wal.ends import FENCED
from seawall.wal.errors import (
    AppendLockTimeout,
    ForkedHandle,
    HandleClosed,
    LogFenced,
    LogGone,
    LogStateLost,
    OffsetOutOfRange,
    PublishTimeout,
    StorageFull,
    SyncFailed,
    WalError,
    WriteError,
    WriteFailed,
)

MakeStore = Callable[..., Store]
SHORT = [lambda size: 1, lambda size: size // 2, lambda size: size - 1]


def faulty(store: Store) -> FaultyFiles:
    assert isinstance(store.files, FaultyFiles)
    return store.files


# -- what appending does -----------------------------------------------------------------


def test_offsets_are_dense_and_nothing_is_visible_before_its_commit(store: Store) -> None:
    appended = store.log.append([batch(b"a", b"b"), batch(b"c")])
    assert appended == (0, 3)
    assert store.log.append([batch(b"d")]) == (3, 4)
    assert store.log.ends() == (0, 0, 4)
    assert store.values() == []
    assert store.log.commit(3) == 4  # a sync covers all that is there
    assert store.log.ends() == (0, 4, 4)
    assert store.values() == [b"a", b"b", b"c", b"d"]
    assert [record.offset for record in store.read_all()] == [0, 1, 2, 3]


def test_more_batches_than_one_call_can_write(store: Store) -> None:
    batches = [batch(b"%d" % number) for number in range(MOST_BUFFERS_PER_WRITE + 3)]
    appended = store.log.append(batches)
    store.log.commit(appended.next_offset)
    assert store.values() == [b"%d" % number for number in range(len(batches))]


def test_appending_nothing_changes_nothing(store: Store) -> None:
    store.put(b"a")
    assert store.log.append([]) == (1, 1)
    store.assert_works(b"a")


def test_a_full_segment_is_followed_by_another(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=300)
    for number in range(9):
        store.put(b"%d" % number * 50)
    assert len(store.segments()) > 2
    for name in store.segments()[:-1]:
        assert 0 < os.path.getsize(os.path.join(store.folder, name)) <= 300
    assert [record.offset for record in store.read_all()] == list(range(9))


def test_an_append_beyond_a_segments_size_gets_one_of_its_own(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=300)
    store.put(b"a")
    store.put(b"x" * 5000)
    store.put(b"b")
    assert store.segments() == [f"{base:020d}.log" for base in (0, 1, 2)]
    store.assert_works(b"a", b"x" * 5000, b"b")


def test_a_segment_ages_even_if_the_clock_is_set_back(make_store: MakeStore) -> None:
    clock = Clock()
    store = make_store(clock=clock, segment_ms=1000)
    store.put(b"a")
    clock.now_ms += 999
    store.put(b"b")
    assert len(store.segments()) == 1
    clock.now_ms -= 10_000_000
    store.put(b"c")
    assert len(store.segments()) == 1
    clock.now_ms += 1000
    store.put(b"d")
    assert len(store.segments()) == 2


def test_rolling_an_empty_segment_does_nothing(store: Store) -> None:
    store.log.roll()
    store.put(b"a")
    store.log.roll()
    store.log.roll()
    store.put(b"b")
    assert store.segments() == [f"{base:020d}.log" for base in (0, 1)]


def test_rolling_publishes_what_was_appended(store: Store) -> None:
    store.append(b"a")
    store.log.roll()
    assert store.log.ends() == (0, 1, 1)
    assert store.values() == [b"a"]


def test_peers_append_in_turn_across_rolls(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=300)
    with store.peer() as peer:
        expected = []
        for number in range(20):
            log = (store.log, peer)[number % 2]
            expected.append(b"%d" % number * 30)
            appended = log.append([batch(expected[-1])])
            assert appended.base_offset == number
            if number % 3 == 0:
                log.commit(appended.next_offset)
        assert peer.sync() == 20
        assert store.values() == expected


def test_log_start_rises_only_and_never_above_the_durable_end(store: Store) -> None:
    store.put(b"a", b"b")
    store.append(b"c")
    store.log.drop_segments(1)
    store.log.drop_segments(0)
    assert store.log.ends() == (1, 2, 3)
    with pytest.raises(OffsetOutOfRange):
        store.log.drop_segments(3)
    assert store.log.ends() == (1, 2, 3)


def test_a_deleted_log_is_gone_for_everyone(store: Store) -> None:
    store.put(b"a")
    with store.peer() as peer:
        peer.mark_deleted()
        peer.mark_deleted()
        assert store.log.is_deleted()
        for call in (lambda: store.append(b"b"), store.log.sync, store.log.ends, store.read_all):
            with pytest.raises(LogGone):
                call()


def test_without_a_row_nothing_is_appended(store: Store) -> None:
    store.put(b"a")
    store.ends.clear(1)
    with pytest.raises(LogStateLost):
        store.append(b"b")
    store.reopen()
    store.assert_works(b"a")


def test_a_closed_log_says_so(store: Store) -> None:
    store.put(b"a")
    store.log.close()
    store.log.close()
    with pytest.raises(HandleClosed):
        store.append(b"b")


# -- what a dead process leaves ----------------------------------------------------------


@pytest.mark.parametrize("reopen", [False, True])
def test_bytes_without_a_row_are_cut_off(store: Store, reopen: bool) -> None:
    """A process that dies between its write and its row has appended nothing."""
    store.put(b"a")
    with store.peer(FaultyFiles()) as peer:
        files = peer.context.files
        assert isinstance(files, FaultyFiles)
        files.fail("pwrite", where="ends", error=Crash)
        with pytest.raises(Crash):
            peer.append([batch(b"lost" * 100), batch(b"lost, too")])
    if reopen:
        store.reopen()
    assert store.put(b"b") == 2
    store.reopen(reboot=True, lose_index=True)
    assert store.findings == []
    store.assert_works(b"a", b"b")


def test_bytes_that_cannot_be_cut_off_fence_the_log(store: Store) -> None:
    """Else what is behind the next batch might be taken for records after a power cut."""
    store.put(b"a")
    peer_files = FaultyFiles()
    with store.peer(peer_files) as peer:
        peer_files.fail("pwrite", where="ends", error=Crash)
        with pytest.raises(Crash):
            peer.append([batch(b"lost" * 10), batch(b"lost, too")])
    faulty(store).fail("truncate")
    with pytest.raises(WriteError):
        store.append(b"b")
    row = store.ends.read(1)
    assert row is not None
    assert row.flags & FENCED
    assert row.next_offset == 1
    store.reopen()
    assert store.values()[:1] == [b"a"]
    store.put(b"afterwards")
    assert b"b" not in store.values()


def test_a_roll_that_no_file_followed_is_gone_on_with(make_store: MakeStore) -> None:
    store = make_store()
    store.put(b"a")
    store.log.roll()  # the row names a file that does not exist yet
    assert store.segments() == [f"{0:020d}.log"]
    store.log.checkpoint()
    assert list(store.log.verify()) == []
    assert store.values() == [b"a"]
    store.reopen()
    store.put(b"b")
    store.assert_works(b"a", b"b")


def test_a_new_segments_name_is_synced_before_its_records(make_store: MakeStore) -> None:
    """Even if the process that made the file died before it could."""
    store = make_store()
    store.put(b"a")
    store.log.roll()
    with open(store.path(1), "wb"):
        pass
    files = faulty(store)
    files.calls.clear()
    store.put(b"b")
    assert files.calls.index("sync_directory") < files.calls.index("sync")


# -- failing disks -----------------------------------------------------------------------


@pytest.mark.parametrize("where", [".log", "ends"])
@pytest.mark.parametrize("short", range(len(SHORT)))
def test_a_short_write_appends_nothing(store: Store, where: str, short: int) -> None:
    store.put(b"a")
    faulty(store).fail(where=where, short=SHORT[short])
    faulty(store).fail("pwrite", where=where, error=errno.ENOSPC)
    with pytest.raises(StorageFull):
        store.append(b"b" * 100)
    faulty(store).heal()
    assert store.log.ends() == (0, 1, 1)
    store.assert_works(b"a")


def calls_of(work: Callable[[Store], object], make_store: MakeStore, folder: str) -> int:
    """How many calls to the system it makes."""
    store = prepared(make_store, os.path.join(folder, "count"))
    files = faulty(store)
    files.calls.clear()
    work(store)
    return len(files.calls)


def prepared(make_store: MakeStore, root: str) -> Store:
    """A log with two durable records, whose newest segment is full."""
    store = make_store(root, segment_bytes=300, allocate_bytes=100)
    store.put(b"a" * 100)
    store.put(b"b" * 100)
    return store


def append(store: Store) -> None:
    store.append(b"c" * 100)


def append_to_the_same_segment(store: Store) -> None:
    store.log.append([batch(b"c")])


def append_and_commit(store: Store) -> None:
    store.put(b"c" * 100)


def commit_for_another(store: Store) -> None:
    with store.peer(FaultyFiles()) as peer:
        peer.append([batch(b"c" * 100)])
    store.log.sync()


def roll(store: Store) -> None:
    store.log.roll()


def checkpoint(store: Store) -> None:
    store.log.checkpoint()


def drop(store: Store) -> None:
    store.log.drop_segments(1)


WORK = [
    append,
    append_to_the_same_segment,
    append_and_commit,
    commit_for_another,
    roll,
    checkpoint,
    drop,
]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_a_failure_at_any_call_is_named_and_corrupts_nothing(
    work: Callable[[Store], object], error: int, make_store: MakeStore, folder: str
) -> None:
    count = calls_of(work, make_store, folder)
    assert count
    for nth in range(1, count + 1):
        store = prepared(make_store, os.path.join(folder, f"{nth}"))
        files = faulty(store)
        files.fail(nth=nth, error=error)
        failed = None
        try:
            work(store)
        except WalError as caught:
            failed = caught
        except OSError:
            assert work is checkpoint  # whoever asks for one is told as it is
        assert files.hits == 1
        call = files.calls[-1] if failed else ""
        files.heal()
        row = store.ends.read(1)
        assert row is not None, (nth, failed)
        expected = [b"a" * 100, b"b" * 100][row.log_start :]
        if isinstance(failed, WriteError) and not isinstance(failed, SyncFailed):
            assert row.next_offset == 2 or work in (append_and_commit, commit_for_another), call
        if row.flags & FENCED:
            assert isinstance(failed, SyncFailed | LogFenced), (nth, failed)
            assert error != errno.ENOSPC or "sync" in files.calls
            for peer_call in (lambda s=store: s.append(b"x"), lambda s=store: s.log.roll()):
                with pytest.raises(LogFenced):
                    peer_call()
            store.reopen()
            assert not store.findings
        store.log.sync()
        values = store.values()
        assert values[: len(expected)] == expected, nth
        assert values[len(expected) :] in ([], [b"c"], [b"c" * 100]), nth
        if failed is None and work not in (roll, checkpoint, drop):
            assert len(values) == 3
        log_start = store.log_start = store.log.ends().log_start
        store.assert_works(*values)
        store.reopen(reboot=True, lose_index=True)
        assert store.findings == [], nth
        assert store.values(log_start)[-1] == b"afterwards"
        store.crash()


def test_a_full_disk_needs_no_restart(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=400, allocate_bytes=100)
    files = faulty(store)
    acknowledged = []
    for round_number in range(30):
        kind = ("pwritev", "allocate", "pwrite", "truncate", "open")[round_number % 5]
        files.fail(kind, error=errno.ENOSPC, times=3)
        value = b"%d" % round_number * 40
        try:
            store.append(value)
            acknowledged.append(value)
        except StorageFull:
            pass
        files.heal()
        acknowledged.append(b"after %d" % round_number)
        store.put(acknowledged[-1])
        assert store.values() == acknowledged
    store.assert_works(*acknowledged)


def test_allocating_ahead_gives_way_to_what_is_needed(make_store: MakeStore) -> None:
    store = make_store(allocate_bytes=1 << 16)
    faulty(store).fail("allocate", error=errno.ENOSPC)
    store.put(b"a")
    assert faulty(store).counts["allocate"] == 2
    assert os.path.getsize(store.path()) < 1 << 16
    store.assert_works(b"a")


def test_a_real_file_size_limit_is_no_room(store: Store) -> None:
    def work(say: Callable[[str], None]) -> None:
        import resource

        log = store.open(join=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            for _ in range(100):
                store.put(b"x" * 5000)
        except StorageFull as error:
            say(f"full, {os.path.basename(error.path)}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        count = log.ends().durable_end
        store.put(b"y")
        say(f"{count}, {log.ends().durable_end}, {len(list(log.verify()))}")

    store.crash()
    assert Child(work).wait() == [f"full, {0:020d}.log", "19, 20, 0"]
    store.open()
    assert len(store.values()) == 20


def test_a_sync_publishes_only_what_stood_there_when_it_began(store: Store) -> None:
    class Meanwhile(FaultyFiles):
        def sync(self, descriptor: int) -> None:
            super().sync(descriptor)
            store.append(b"too late")

    store.append(b"in time")
    with store.peer(Meanwhile()) as peer:
        assert peer.sync() == 1
    assert store.log.ends() == (0, 1, 2)
    assert store.values() == [b"in time"]
    store.assert_works(b"in time", b"too late")


def test_a_roll_during_a_sync_is_no_trouble(store: Store) -> None:
    class Meanwhile(FaultyFiles):
        def sync(self, descriptor: int) -> None:
            super().sync(descriptor)
            store.append(b"b")
            store.log.roll()
            store.append(b"c")

    store.append(b"a")
    with store.peer(Meanwhile()) as peer:
        assert peer.sync() == 2
    assert store.log.ends() == (0, 2, 3)
    store.assert_works(b"a", b"b", b"c")


# -- failed syncs ------------------------------------------------------------------------


def test_a_failed_sync_fences_the_log_for_everyone_until_it_is_opened_alone(
    store: Store,
) -> None:
    store.put(b"a")
    peer_files = FaultyFiles()
    with store.peer(peer_files) as peer:
        peer.append([batch(b"p")])
        store.append(b"b")
        faulty(store).fail("sync")
        with pytest.raises(SyncFailed):
            store.log.sync()
        assert store.values() == [b"a"]
        for log in (store.log, peer):
            with pytest.raises(LogFenced):
                log.append([batch(b"c")])
            with pytest.raises(SyncFailed):
                log.commit(3)
            with pytest.raises(LogFenced):
                log.roll()
        assert "sync" not in peer_files.calls  # a later sync would be told nothing
    inode = os.stat(store.path()).st_ino
    store.reopen()
    assert os.stat(store.path()).st_ino != inode  # written anew, and so certain
    assert not store.findings
    store.assert_works(b"a", b"p", b"b")


def test_a_fence_that_could_not_be_written_is_written_later(make_store: MakeStore) -> None:
    store = make_store(timeout_ms=50)
    store.append(b"a")
    with store.peer() as peer:
        with peer._appender._lock:
            faulty(store).fail("sync")
            with pytest.raises(SyncFailed):
                store.log.sync()
        with pytest.raises(LogFenced):
            store.append(b"b")
        with pytest.raises(LogFenced):
            peer.append([batch(b"b")])


def test_a_sync_that_cannot_be_published_is_not_lost(make_store: MakeStore) -> None:
    store = make_store(timeout_ms=50)
    store.append(b"a")
    with store.peer() as peer, peer._appender._lock, pytest.raises(PublishTimeout):
        store.log.sync()
    assert store.log.sync() == 1
    store.assert_works(b"a")


def test_whoever_opens_a_segment_writes_again_what_others_left_unsynced(
    store: Store,
) -> None:
    """A descriptor that is opened after a failed write-back is not told of it."""
    store.put(b"a")
    with store.peer() as peer:
        peer.append([batch(b"b")])
    files = FaultyFiles()
    with store.peer(files) as peer:
        peer.append([batch(b"c")])
        assert files.calls.index("pwrite") < files.calls.index("pwritev")
        peer.sync()
    store.assert_works(b"a", b"b", b"c")


def test_unsynced_bytes_of_others_that_are_gone_fence_the_log(store: Store) -> None:
    store.put(b"a")
    with store.peer() as peer:
        peer.append([batch(b"b" * 100)])
    row = store.ends.read(1)
    assert row is not None
    with open(store.path(), "r+b") as file:
        file.seek(row.durable_position)
        file.write(bytes(row.position - row.durable_position))
    store.crash()
    store.open()
    with pytest.raises(SyncFailed):
        store.log.sync()
    with pytest.raises(LogFenced):
        store.append(b"c")
    store.reopen()
    store.assert_works(b"a")


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_writing_them_again_may_fail_and_be_tried_again(store: Store, error: int) -> None:
    store.put(b"a")
    with store.peer() as peer:
        peer.append([batch(b"b")])
    store.crash()
    store.open()
    faulty(store).fail("pwrite", where=".log", short=lambda size: size // 2)
    faulty(store).fail("pwrite", where=".log", error=error)
    with pytest.raises(SyncFailed):
        store.log.sync()
    store.assert_works(b"a", b"b")


# -- interruptions -----------------------------------------------------------------------


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_an_interrupt_at_any_call_leaves_no_lock_behind(
    work: Callable[[Store], object], make_store: MakeStore, folder: str
) -> None:
    for nth in range(1, calls_of(work, make_store, folder) + 1):
        store = prepared(make_store, os.path.join(folder, f"{nth}"))
        faulty(store).fail(nth=nth, error=KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            work(store)
        faulty(store).heal()
        store.log.sync()
        values = store.values()
        assert b"b" * 100 in values
        with store.peer() as peer:
            peer.append([batch(b"by a peer")])
        store.assert_works(*values, b"by a peer")
        store.crash()


# -- processes ---------------------------------------------------------------------------


def test_a_stopped_holder_of_the_append_lock_is_named(make_store: MakeStore) -> None:
    store = make_store(timeout_ms=100)
    store.put(b"a")
    store.crash()

    class Stopping(FaultyFiles):
        def pwritev(self, *args):  # type: ignore[no-untyped-def]
            os.kill(os.getpid(), signal.SIGSTOP)
            return super().pwritev(*args)

    def work(say: Callable[[str], None]) -> None:
        store.files = Stopping()
        store.open(join=True)
        store.put(b"b")
        store.crash()

    child = Child(work)
    os.waitpid(child.pid, os.WUNTRACED)
    store.open(join=True)
    with pytest.raises(AppendLockTimeout) as caught:
        store.append(b"c")
    assert caught.value.holder_pid == child.pid
    assert store.values() == [b"a"]  # readers go on
    child.kill(signal.SIGCONT)
    child.wait()
    store.assert_works(b"a", b"b")


def test_a_child_cannot_append_and_does_its_parent_no_harm(store: Store) -> None:
    store.put(b"a")

    def work(say: Callable[[str], None]) -> None:
        for call in (
            lambda: store.append(b"x"),
            store.log.sync,
            store.log.roll,
            store.log.ends,
            store.log.checkpoint,
            lambda: store.log.drop_segments(1),
            store.log.mark_deleted,
            store.read_all,
        ):
            try:
                call()
            except ForkedHandle as error:
                say(f"{error.opened_by_pid}")
        store.log.close()

    child = Child(work)
    assert child.wait() == [str(os.getpid())] * 8
    store.assert_works(b"a")


def test_the_lock_of_a_killed_parent_is_not_kept_by_its_child(make_store: MakeStore) -> None:
    store = make_store()
    store.crash()

    def parent(say: Callable[[str], None]) -> None:
        store.open(join=True)
        with store.log._appender._lock:
            child = Child(lambda _: time.sleep(60))
            say(f"{child.pid}")
            time.sleep(60)

    child = Child(parent)
    grandchild = int(child.line())
    store.open(join=True)
    child.kill(signal.SIGKILL)
    os.waitpid(child.pid, 0)
    store.assert_works()
    os.kill(grandchild, signal.SIGKILL)
    os.close(child._reader)


def test_errors_carry_what_is_needed(store: Store) -> None:
    faulty(store).fail("pwritev", error=errno.EIO)
    with pytest.raises(WriteFailed) as caught:
        store.append(b"a")
    assert caught.value.path == store.path()
    assert caught.value.position == 0
    faulty(store).fail("pwritev", error=errno.EDQUOT)
    with pytest.raises(StorageFull) as full:
        store.append(b"a")
    assert full.value.path == store.path()


def test_a_new_segment_whose_name_could_not_be_synced_takes_nothing(store: Store) -> None:
    """A later sync of the folder would work, and nobody would know that the name is lost."""
    files = faulty(store)
    store.put(b"first")
    store.log.roll()
    files.fail("sync_directory")
    with pytest.raises(SyncFailed):
        store.append(b"lost")
    with pytest.raises(LogFenced):
        store.append(b"refused")
    with pytest.raises(LogFenced):
        store.peer().log.append([batch(b"refused elsewhere")])
    store.reopen()
    store.put(b"second")
    assert [record.value for record in store.read_all()] == [b"first", b"second"]
