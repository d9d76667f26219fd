"""Children that are watched, and killed at one system call of theirs."""

from __future__ import annotations

import dataclasses
import mmap
import os
import platform
import re
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import lmdb
import pytest

from seawall.wal.torture import filtered, traps
from seawall.wal.torture.search import Unavailable
from seawall.wal.torture.traps import Call, ChildFailed, Watched, kill_at, trace

X86_64 = platform.machine() == "x86_64"
Marker = Callable[[Any], None]


@pytest.fixture
def root() -> Iterator[str]:
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        probe = os.path.join(folder, "probe")
        os.mkdir(probe)
        try:
            trace(lambda mark: os.rmdir(probe), folder)
        except Unavailable as error:
            pytest.skip(str(error))
        yield folder


def listing(root: str) -> dict[str, bytes | None]:
    """Every name below a folder, and what is in it; None for a folder."""
    found: dict[str, bytes | None] = {}
    for folder, folders, files in os.walk(root):
        for name in folders:
            found[os.path.relpath(os.path.join(folder, name), root)] = None
        for name in files:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


def plain(call: Call) -> Call:
    """A call by the name that all its kinds have in common; machines and C libraries differ."""
    return dataclasses.replace(call, name=re.sub(r"(64|2)$", "", call.name).removesuffix("at"))


def shapes(watched: Watched) -> list[tuple[str, str]]:
    return [(plain(call).name, call.path) for call in watched.calls]


class Steps:
    """One of each, and what a folder looks like after each of them."""

    def __init__(self, root: str) -> None:
        self._root = root

    def __call__(self, mark: Marker) -> None:
        os.chdir(self._root)
        a = os.open("a", os.O_RDWR | os.O_CREAT)
        os.pwrite(a, b"0123456789", 0)
        os.fsync(a)
        os.pwritev(a, [b"ab", b"", b"cde"], 8)
        os.ftruncate(a, 12)
        os.fdatasync(a)
        os.posix_fallocate(a, 0, 20)
        mark({"size": 20})
        os.mkdir("folder")
        folder = os.open("folder", os.O_RDONLY)
        os.rename("a", "folder/b")
        os.rename("folder/b", "c", src_dir_fd=None, dst_dir_fd=folder)
        os.fsync(folder)
        os.unlink("c", dir_fd=folder)
        os.rmdir(os.path.join(self._root, "folder"))
        os.write(a, b"nobody sees it")
        os.close(os.open("d", os.O_RDWR | os.O_CREAT))
        os.truncate("d", 3)
        os.link("d", "e")
        os.symlink("d", "f")

    # after each call: the names, and the bytes in a
    AFTER = (
        {"a": b""},
        {"a": b"0123456789"},
        {"a": b"0123456789"},
        {"a": b"01234567abcde"},
        {"a": b"01234567abcd"},
        {"a": b"01234567abcd"},
        {"a": b"01234567abcd".ljust(20, b"\0")},
        {"a": b"01234567abcd".ljust(20, b"\0"), "folder": None},
        {"folder/b": b"01234567abcd".ljust(20, b"\0"), "folder": None},
        {"folder/c": b"01234567abcd".ljust(20, b"\0"), "folder": None},
        {"folder/c": b"01234567abcd".ljust(20, b"\0"), "folder": None},
        {"folder": None},
        {},
        {},
        {"d": b""},
        {"d": bytes(3)},
        {"d": bytes(3), "e": bytes(3)},
        {"d": bytes(3), "e": bytes(3), "f": bytes(3)},
    )


def test_calls_are_seen_with_their_arguments(root: str) -> None:
    watched = trace(Steps(root), root)
    assert [plain(call) for call in watched.calls] == [
        Call(number=1, name="open", path="a"),
        Call(number=2, name="pwrite", path="a", size=10, position=0),
        Call(number=3, name="fsync", path="a"),
        Call(number=4, name="pwritev", path="a", size=5, position=8),
        Call(number=5, name="ftruncate", path="a", size=12),
        Call(number=6, name="fdatasync", path="a"),
        Call(number=7, name="fallocate", path="a", size=20, position=0),
        Call(number=8, name="mkdir", path="folder"),
        Call(number=9, name="rename", path="a", target="folder/b"),
        Call(number=10, name="rename", path="folder/b", target="folder/c"),
        Call(number=11, name="fsync", path="folder"),
        Call(number=12, name="unlink", path="folder/c"),
        Call(number=13, name="rmdir" if X86_64 else "unlink", path="folder"),
        Call(number=14, name="write", path="folder/c", size=14),
        Call(number=15, name="open", path="d"),
        Call(number=16, name="truncate", path="d", size=3),
        Call(number=17, name="link", path="d", target="e"),
        Call(number=18, name="symlink", path="f"),
    ]
    assert watched.marks == [{"size": 20}]
    assert watched.killed_at is None
    assert str(plain(watched.calls[1])) == "2: pwrite a 10 bytes at 0"
    assert str(plain(watched.calls[8])) == "9: rename a -> folder/b"


@pytest.mark.parametrize("number", range(1, len(Steps.AFTER) + 1))
def test_a_kill_leaves_what_the_calls_before_it_did(root: str, number: int) -> None:
    watched = kill_at(Steps(root), root, number)
    assert watched.killed_at == watched.calls[-1]
    assert watched.killed_at.number == number == len(watched.calls)
    assert listing(root) == ({} if number == 1 else Steps.AFTER[number - 2])
    assert watched.marks == ([{"size": 20}] if number > 7 else [])


def test_two_runs_make_the_same_calls(root: str) -> None:
    first, second = os.path.join(root, "first"), os.path.join(root, "second")
    os.mkdir(first)
    os.mkdir(second)
    assert trace(Steps(first), first).calls == trace(Steps(second), second).calls


def table(path: str) -> list[int]:
    with sqlite3.connect(path) as connection:
        found = [row[0] for row in connection.execute("SELECT number FROM numbers")]
    connection.close()
    return found


def test_sqlite_keeps_what_it_committed_at_every_call(root: str) -> None:
    path = os.path.join(root, "numbers.db")

    def make() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE numbers (number INTEGER)")
        connection.close()

    def child(mark: Marker) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        for number in range(3):
            connection.execute("INSERT INTO numbers VALUES (?)", (number,))
            mark(number)
        connection.close()

    make()
    calls = trace(child, root).calls
    assert {"pwrite", "fdatasync"} <= {plain(call).name for call in calls}
    for number in range(1, len(calls) + 1):
        for name in os.listdir(root):
            os.unlink(os.path.join(root, name))
        make()
        watched = kill_at(child, root, number)
        assert watched.calls == calls[:number]
        found = table(path)
        assert found == list(range(len(found)))
        assert len(watched.marks) <= len(found) <= len(watched.marks) + 1


def test_lmdb_keeps_what_it_committed_at_every_call(root: str) -> None:
    path = os.path.join(root, "numbers.lmdb")

    def child(mark: Marker) -> None:
        environment = lmdb.open(path, map_size=1 << 20)
        for number in range(3):
            with environment.begin(write=True) as transaction:
                transaction.put(b"%d" % number, b"there")
            mark(number)
        environment.close()

    calls = trace(child, root).calls
    assert {"pwrite", "fdatasync"} <= {plain(call).name for call in calls}
    for number in range(1, len(calls) + 1):
        if os.path.isdir(path):
            for name in os.listdir(path):
                os.unlink(os.path.join(path, name))
            os.rmdir(path)
        watched = kill_at(child, root, number)
        assert watched.calls == calls[:number]
        found = 0
        if watched.marks:
            with lmdb.open(path, map_size=1 << 20) as environment, environment.begin() as reading:
                found = reading.stat()["entries"]
        assert found >= len(watched.marks)


def test_calls_of_threads_are_seen_one_by_one(root: str) -> None:
    def child(mark: Marker) -> None:
        def work(name: str) -> None:
            descriptor = os.open(os.path.join(root, name), os.O_RDWR | os.O_CREAT)
            for at in range(10):
                os.pwrite(descriptor, b"x", at)

        threads = [threading.Thread(target=work, args=(f"t{each}",)) for each in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    watched = trace(child, root)
    assert [call.number for call in watched.calls] == list(range(1, 34))
    assert {call.path for call in watched.calls} == {"t0", "t1", "t2"}
    for name in ("t0", "t1", "t2"):
        positions = [call.position for call in watched.calls if call.path == name]
        assert positions == [-1, *range(10)]
    assert kill_at(child, root, 20).killed_at is not None


def test_a_process_that_the_child_starts_is_watched_and_killed_as_well(root: str) -> None:
    path = os.path.join(root, "a")

    def child(mark: Marker) -> None:
        mark("began")
        subprocess.run(["sh", "-c", f"echo text > {path}; sleep 60"], check=True)

    watched = kill_at(child, root, 2)
    assert shapes(watched) == [("open", "a"), ("write", "a")]
    assert listing(root) == {"a": b""}


def test_a_process_that_outlives_the_child_is_killed(root: str) -> None:
    def child(mark: Marker) -> None:
        mark(subprocess.Popen(["sleep", "60"]).pid)

    [pid] = trace(child, root).marks
    # An orphan's parent is the process that runs the tests.
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_only_files_below_the_root_count(root: str) -> None:
    inside, outside = os.path.join(root, "in"), os.path.join(root, "in-not")
    os.mkdir(inside)
    os.mkdir(outside)
    os.symlink(inside, os.path.join(outside, "link"))

    def child(mark: Marker) -> None:
        _, writing = os.pipe()
        os.write(writing, b"x")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            os.write(writing, b"x")
            with pytest.raises(OSError):
                os.write(one.fileno(), b"x")
        with pytest.raises(OSError):
            os.write(1000, b"x")
        with pytest.raises(OSError):
            os.unlink(os.path.join(inside, "not there"))
        os.mkdir(os.path.join(outside, "folder"))
        os.close(os.open(os.path.join(outside, "link", "a"), os.O_WRONLY | os.O_CREAT))
        os.rename(os.path.join(outside, "link", "a"), os.path.join(outside, "a"))
        os.chdir(outside)
        os.rename("a", "../in/b")
        descriptor = os.open("../in/b", os.O_WRONLY)
        os.write(descriptor, b"x")

    moved = os.path.join(os.path.realpath(outside), "a")
    assert [plain(call) for call in trace(child, inside).calls] == [
        Call(number=1, name="unlink", path="not there"),
        Call(number=2, name="open", path="a"),
        Call(number=3, name="rename", path="a", target=moved),
        Call(number=4, name="rename", path=moved, target="b"),
        Call(number=5, name="write", path="b", size=1),
    ]


def test_a_map_that_is_synced_is_a_call_on_its_file(root: str) -> None:
    def child(mark: Marker) -> None:
        descriptor = os.open(os.path.join(root, "a"), os.O_RDWR | os.O_CREAT)
        os.ftruncate(descriptor, 8192)
        with mmap.mmap(descriptor, 8192) as mapped:
            mapped[5000] = 1
            mapped.flush()

    assert trace(child, root).calls[-1] == Call(number=3, name="msync", path="a", size=8192)


def test_long_paths_are_read_whole(root: str) -> None:
    deep = root
    for _ in range(12):
        deep = os.path.join(deep, "f" * 200)
    os.makedirs(deep)

    def child(mark: Marker) -> None:
        for number in range(40):
            os.mkdir(os.path.join(deep, f"{number:0{20 + number}}"))

    assert [call.path for call in trace(child, root).calls] == [
        os.path.relpath(os.path.join(deep, f"{number:0{20 + number}}"), root)
        for number in range(40)
    ]


def test_marks_arrive_however_many_they_are(root: str) -> None:
    def child(mark: Marker) -> None:
        for number in range(500):
            mark({"number": number, "text": "x" * 10_000})
        os.mkdir(os.path.join(root, "folder"))

    watched = kill_at(child, root, 1)
    assert [each["number"] for each in watched.marks] == list(range(500))


def test_a_mark_that_is_too_long_is_the_child_s_error(root: str) -> None:
    with pytest.raises(ChildFailed, match="a mark of 131073 bytes, of 131072 at the most"):
        trace(lambda mark: mark("x" * ((1 << 17) - 2)), root)
    assert len(trace(lambda mark: mark("x" * ((1 << 17) - 3)), root).marks[0]) == (1 << 17) - 3


def test_what_a_child_raises_is_told(root: str) -> None:
    def child(mark: Marker) -> None:
        mark("one")
        os.mkdir(os.path.join(root, "folder"))
        raise LookupError("there is no such thing")

    with pytest.raises(ChildFailed, match="LookupError: there is no such thing") as caught:
        trace(child, root)
    assert caught.value.marks == ["one"]
    assert [call.path for call in caught.value.calls] == ["folder"]
    os.rmdir(os.path.join(root, "folder"))
    with pytest.raises(ChildFailed, match="no such thing"):
        kill_at(child, root, 2)


def test_a_child_that_ends_otherwise_is_an_error(root: str) -> None:
    with pytest.raises(ChildFailed, match="ended with 3 instead of 0"):
        trace(lambda mark: os._exit(3), root)
    with pytest.raises(ChildFailed, match="ended with -9 instead of 0"):
        trace(lambda mark: os.kill(os.getpid(), signal.SIGKILL), root)


def test_a_child_that_makes_fewer_calls_is_an_error(root: str) -> None:
    with pytest.raises(ChildFailed, match="made 18 calls and ended before 19"):
        kill_at(Steps(root), root, 19)
    with pytest.raises(ValueError):
        kill_at(Steps(root), root, 0)


def test_a_child_that_takes_too_long_is_killed(root: str) -> None:
    def child(mark: Marker) -> None:
        os.mkdir(os.path.join(root, "folder"))
        mark(os.getpid())
        time.sleep(600)

    for timeout_s in (0.3, 3.0, 30.0):  # on a busy machine it does not get far in a moment
        with pytest.raises(ChildFailed, match=f"not done after {timeout_s} s") as caught:
            trace(child, root, timeout_s=timeout_s)
        if caught.value.marks:
            break
        if os.path.isdir(os.path.join(root, "folder")):
            os.rmdir(os.path.join(root, "folder"))
    assert "(its last call was 1: mkdir" in str(caught.value)
    with pytest.raises(ProcessLookupError):
        os.kill(caught.value.marks[0], 0)


def test_a_child_that_never_stops_calling_is_killed(root: str) -> None:
    def child(mark: Marker) -> None:
        descriptor = os.open(os.path.join(root, "a"), os.O_RDWR | os.O_CREAT)
        while True:
            os.pwrite(descriptor, b"x", 0)

    with pytest.raises(ChildFailed, match="not done after"):
        trace(child, root, timeout_s=0.3)


def test_signals_that_the_child_handles_make_no_call_twice(root: str) -> None:
    def child(mark: Marker) -> None:
        signal.signal(signal.SIGALRM, lambda *args: None)
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        descriptor = os.open(os.path.join(root, "a"), os.O_RDWR | os.O_CREAT)
        for at in range(300):
            os.pwrite(descriptor, b"x", at)
        signal.setitimer(signal.ITIMER_REAL, 0)

    calls = trace(child, root).calls
    assert [call.position for call in calls[1:]] == list(range(300))


def test_an_exception_in_the_parent_leaves_no_child(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(traps, "_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trace(Steps(root), root)
    assert listing(root) == {}


def test_another_machine_is_unavailable(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traps.platform, "machine", lambda: "riscv64")
    with pytest.raises(Unavailable, match="needs Linux on x86_64 or aarch64, not linux on riscv64"):
        trace(Steps(root), root)


def test_a_kernel_that_refuses_is_unavailable(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtered, "install_filter", lambda *args: -22)
    with pytest.raises(Unavailable, match="refuses: Invalid argument"):
        trace(Steps(root), root)
    assert listing(root) == {}


def test_memory_that_may_not_be_read_is_unavailable(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError("not for you")

    monkeypatch.setattr(traps, "_memory", refuse)
    with pytest.raises(Unavailable, match="memory cannot be read: not for you"):
        trace(Steps(root), root)
