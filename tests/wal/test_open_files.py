"""However many logs a process uses, it keeps a bounded number of files open."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator

import pytest
from storage import Child, FaultyFiles, Store, batch

from seawall.broker import Broker
from seawall.wal import open_files
from seawall.wal.errors import HandleClosed, LogGone, WriteFailed
from seawall.wal.files import Descriptor, Files
from seawall.wal.locks import FileLock
from seawall.wal.open_files import Holder, keep_open, make_room


class Held(Holder):
    def __init__(self) -> None:
        self.is_open = True
        keep_open(self)

    def let_go(self) -> None:
        self.is_open = False


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """So many may be kept open."""
    monkeypatch.setattr(open_files, "_holders", type(open_files._holders)())
    monkeypatch.setattr(open_files, "_most", lambda: 16)
    return 16


def test_those_that_were_not_used_for_the_longest_let_go(most: int) -> None:
    held = [Held() for _ in range(most)]
    assert all(each.is_open for each in held)
    more = [Held()]
    assert sum(each.is_open for each in [*held, *more]) == most - 2
    while len(more) < 10:
        held[15].was_used = True
        more.append(Held())
    assert held[15].is_open
    assert sum(each.is_open for each in [*held, *more]) <= most
    gone = next(each for each in held if not each.is_open)
    gone.is_open = True
    keep_open(gone)
    assert gone.is_open


def test_those_that_are_gone_do_not_count(most: int) -> None:
    kept = Held()
    for _ in range(10 * most):
        Held()
        kept.was_used = True
    assert kept.is_open
    assert make_room()
    assert not kept.is_open
    assert not make_room()


def test_nothing_to_let_go_of(most: int) -> None:
    assert not make_room()


def test_what_cannot_be_opened_makes_room_for_itself(
    most: int, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fails = os.open, [OSError(errno.EMFILE, "too many")] * 2

    def open_(*arguments: object) -> int:
        if fails:
            raise fails.pop()
        return real(*arguments)  # type: ignore[arg-type]

    held = [Held(), Held()]
    monkeypatch.setattr(os, "open", open_)
    with pytest.raises(OSError, match="too many"):
        Descriptor(Files(), folder)
    assert [each.is_open for each in held] == [False, True]
    fails.append(OSError(errno.EMFILE, "too many"))
    Files().sync_directory(folder)
    assert [each.is_open for each in held] == [False, False]


def test_a_log_goes_on_where_it_had_let_go(store: Store) -> None:
    store.put(b"a")
    reader = store.log.reader(0)
    reader.read(1 << 20)
    store.log.append([batch(b"b")])
    store.log._appender.let_go()
    store.log._appender._lock.let_go()
    reader.let_go()
    store.log.append([batch(b"c")])
    store.log._appender.let_go()
    store.log.sync()
    assert len(reader.read(1 << 20).batches) == 2
    store.assert_works(b"a", b"b", b"c")


def test_what_was_not_synced_is_written_again_when_it_is_opened_again(store: Store) -> None:
    """A descriptor that is opened after a failed write-back is not told of it."""
    store.put(b"a")
    with store.peer(files := FaultyFiles()) as peer:
        peer.append([batch(b"b")])
        peer._appender.let_go()
        files.calls.clear()
        peer.sync()
        assert files.calls.index("pwrite") < files.calls.index("sync")
    store.assert_works(b"a", b"b")


def test_too_many_open_files_fence_no_log(store: Store) -> None:
    with store.peer(files := FaultyFiles()) as peer:
        files.fail("sync_directory", error=errno.EMFILE)
        with pytest.raises(WriteFailed, match="Too many open files"):
            peer.append([batch(b"a")])
        peer.append([batch(b"b")])
        peer.sync()
    store.assert_works(b"b")


def test_a_lock_is_opened_again(folder: str) -> None:
    path = os.path.join(folder, "LOCK")
    lock = FileLock(Files(), path, timeout_ms=100, may_reopen=True)
    lock.let_go()
    with lock:
        lock.let_go()
        other = FileLock(Files(), path, timeout_ms=0)
        assert not other._files.try_lock(other._descriptor.number)  # type: ignore[union-attr]
    lock.let_go()
    os.chmod(folder, 0o500)
    lock.path = os.path.join(folder, "nothing", "LOCK")
    with pytest.raises(LogGone):
        lock.acquire()
    lock.path = folder
    with pytest.raises(WriteFailed):
        lock.acquire()
    os.chmod(folder, 0o700)
    lock.close()
    with pytest.raises(HandleClosed):
        lock.acquire()


def test_a_hundred_partitions_with_64_open_files(folder: str) -> None:
    def work(say: Callable[[str], None]) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with Broker.open(folder) as broker:
            broker.create_topic("wide", partitions=100)
            for _ in range(2):
                with broker.producer() as producer:
                    sent = [producer.send("wide", b"x", partition=n) for n in range(100)]
                    assert [each.result().partition for each in sent] == list(range(100))
            with broker.consumer("wide", group="g") as consumer:
                got = 0
                while records := consumer.poll():
                    got += len(records)
                consumer.ack()
            assert sum(each.lag for each in broker.group("g").offsets) == 0
            say(str(got))

    assert Child(work).wait() == ["200"]
