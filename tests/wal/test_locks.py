"""FileLock: one holder among threads and processes, and never a wait without a bound."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from storage import Child, Crash, FaultyFiles, InterruptAt

from seawall.wal import locks
from seawall.wal.errors import AppendLockTimeout, ForkedHandle, HandleClosed, LockTimeout
from seawall.wal.files import Files, read_file
from seawall.wal.locks import FileLock, lock_holder


@pytest.fixture
def path(folder: str) -> str:
    return os.path.join(folder, "LOCK")


def make(path: str, timeout_ms: int = 60_000, files: Files | None = None) -> FileLock:
    return FileLock(files or Files(), path, timeout_ms=timeout_ms, error=AppendLockTimeout)


def hold(path: str) -> Child:
    """A process that holds the lock until it is killed."""

    def work(say: Callable[[str], None]) -> None:
        lock = make(path)
        with lock:
            say("holding")
            time.sleep(60)

    child = Child(work)
    assert child.line() == "holding"
    return child


def test_excludes_threads_and_other_openers_of_the_file(path: str) -> None:
    locks = [make(path), make(path)]
    inside = 0
    most = 0

    def work(lock: FileLock) -> None:
        nonlocal inside, most
        for _ in range(100):
            with lock:
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=work, args=(locks[n % 2],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    for lock in locks:
        lock.close()


def test_a_timeout_names_the_process_that_holds_the_lock(path: str) -> None:
    child = hold(path)
    lock = make(path, timeout_ms=50)
    with pytest.raises(AppendLockTimeout) as caught:
        lock.acquire()
    assert (caught.value.holder_pid, caught.value.path) == (child.pid, path)
    assert f"process {child.pid} " in str(caught.value)
    child.kill(signal.SIGKILL)
    child.wait()
    with lock:  # the kernel freed it; and the failed attempt left nothing taken
        pass
    lock.close()


def test_a_timeout_among_threads_names_this_process(path: str) -> None:
    lock = make(path, timeout_ms=20)
    with lock:
        caught: list[LockTimeout] = []

        def work() -> None:
            try:
                lock.acquire()
            except LockTimeout as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [error.holder_pid for error in caught] == [os.getpid()]
    lock.close()


def test_a_stopped_holder_that_goes_on_lets_the_waiter_in(path: str) -> None:
    def work(say: Callable[[str], None]) -> None:
        lock = make(path)
        lock.acquire()
        say("holding")
        os.kill(os.getpid(), signal.SIGSTOP)
        lock.release()
        say("released")

    child = Child(work)
    child.line()
    os.waitpid(child.pid, os.WUNTRACED)
    lock = make(path, timeout_ms=100)
    with pytest.raises(AppendLockTimeout) as caught:
        lock.acquire()
    assert caught.value.holder_pid == child.pid
    child.kill(signal.SIGCONT)
    lock.timeout_ms = 60_000
    with lock:
        pass
    lock.close()
    assert child.wait() == ["released"]


def test_the_holder_of_a_free_lock_is_nobody(path: str) -> None:
    lock = make(path)
    assert lock_holder(Files(), lock._descriptor.number) == 0
    with lock:
        assert lock_holder(Files(), lock._descriptor.number) == os.getpid()
    lock.close()


def test_a_holder_that_is_missed_once_is_found(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's table comes in pieces, between which it may change."""
    lock, looks = make(path), []

    def look(*wanted: Any) -> bytes:
        looks.append(wanted)
        return read_file(*wanted) if len(looks) > 2 else b""

    monkeypatch.setattr(locks, "read_file", look)
    with lock:
        assert lock_holder(Files(), lock._descriptor.number) == os.getpid()
    assert len(looks) == 3
    assert lock_holder(Files(), lock._descriptor.number) == 0
    assert len(looks) == 3 + locks.MOST_LOOKS
    lock.close()


def test_an_interrupted_wait_leaves_the_lock_as_it_was(path: str) -> None:
    files = FaultyFiles()
    other, lock = make(path), make(path, files=files)
    other.acquire()
    files.fail("try_lock", error=Crash)
    with pytest.raises(Crash):
        lock.acquire()
    other.release()
    with lock:
        pass
    for each in (lock, other):
        each.close()


def test_closing_while_a_thread_holds_the_lock_does_not_free_it(path: str) -> None:
    lock, other = make(path), make(path, timeout_ms=20)
    lock.acquire()
    lock.close()
    with pytest.raises(AppendLockTimeout):
        other.acquire()
    lock.release()
    with other:
        pass
    other.close()


def test_a_closed_lock_says_so(path: str) -> None:
    lock = make(path)
    lock.close()
    lock.close()
    with pytest.raises(HandleClosed):
        lock.acquire()
    with pytest.raises(HandleClosed):  # and again: the thread lock is not left taken
        lock.acquire()


def test_a_child_cannot_use_its_parents_lock_nor_keep_it_alive(path: str) -> None:
    def parent(say: Callable[[str], None]) -> None:
        lock = make(path)
        lock.acquire()

        def grandchild(say_to_parent: Callable[[str], None]) -> None:
            lock.abandon()
            with contextlib.suppress(OSError):
                os.close(3)
            try:
                lock.acquire()
            except ForkedHandle as error:
                say_to_parent(f"forked from {error.opened_by_pid}")
            say_to_parent("alive")
            time.sleep(60)

        child = Child(grandchild)
        say(f"{child.line()}, {child.line()}, {child.pid}")
        time.sleep(60)

    child = Child(parent)
    said = child.line().split(", ")
    assert said[:2] == [f"forked from {child.pid}", "alive"]
    lock = make(path, timeout_ms=20)
    with pytest.raises(AppendLockTimeout):
        lock.acquire()
    child.kill(signal.SIGKILL)
    os.waitpid(child.pid, 0)
    lock.timeout_ms = 60_000
    with lock:  # although the grandchild lives
        os.kill(int(said[2]), 0)
    lock.close()
    os.kill(int(said[2]), signal.SIGKILL)
    os.close(child._reader)


# -- a signal's handler that raises ------------------------------------------------------


def test_an_interrupt_anywhere_leaves_the_lock_free(path: str) -> None:
    lock, other = make(path), make(path, timeout_ms=0)
    at = places = 0
    while places >= at:
        at += 1
        with (
            contextlib.suppress(KeyboardInterrupt),
            InterruptAt(at, "wal/locks.py", "wal/files.py") as interrupt,
            lock.surely,
            lock,
        ):
            pass
        places = interrupt.places
        with other:  # another open file, as another process has it
            pass
        with in_thread(lock.acquire, lock.release):
            pass
    assert at > 10


@contextlib.contextmanager
def in_thread(*steps: Callable[[], object]) -> Iterator[None]:
    """Take some steps in another thread; fails if one of them does."""
    done = []
    thread = threading.Thread(target=lambda: done.extend([step() for step in steps]))
    thread.start()
    yield
    thread.join()
    assert len(done) == len(steps)


def test_what_a_handler_wants_of_a_lock_that_its_thread_has_is_refused(path: str) -> None:
    lock, other = make(path), make(path, timeout_ms=0)
    with lock.surely, lock:
        for _ in range(2):
            with pytest.raises(AppendLockTimeout), lock.surely, lock:
                raise AssertionError("taken twice")
        with pytest.raises(AppendLockTimeout):
            other.acquire()
    with other:
        pass
