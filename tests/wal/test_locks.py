"""FileLock: one holder among threads and processes, and never a wait without a bound."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

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


class Interruption:
    """Raises KeyboardInterrupt at the n-th place in `locks` where Python may deliver a signal."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.places = 0

    def __enter__(self) -> None:
        sys.setprofile(self.profile)

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)

    def profile(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename == locks.__file__:
            self.places += 1
            if self.places == self.at:
                sys.setprofile(None)
                raise KeyboardInterrupt


def test_an_interrupt_anywhere_leaves_the_lock_free(path: str) -> None:
    lock, other = make(path), make(path, timeout_ms=0)
    places = 0
    while True:
        places += 1
        interruption = Interruption(places)
        try:
            with interruption, lock.guarded(), lock:
                pass
        except KeyboardInterrupt:
            pass
        with ThreadPoolExecutor(1) as threads:
            threads.submit(lock.acquire).result()
            threads.submit(lock.release).result()
        with other:
            pass
        if interruption.places < places:
            break
    assert places > 10
    lock.close()
    other.close()


def test_a_signal_handler_in_the_middle_of_it_is_refused_and_takes_nothing(path: str) -> None:
    lock, other = make(path), make(path, timeout_ms=0)
    with lock:
        with pytest.raises(AppendLockTimeout) as caught, lock.guarded(), lock:
            pass
        assert caught.value.holder_pid == os.getpid()
        with pytest.raises(AppendLockTimeout):
            other.acquire()
    lock.close()
    other.close()
