"""LMDB environments: one process, many processes, full disks, forks."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage import InterruptAt

from seawall.wal import kv
from seawall.wal.errors import (
    DirectoryUnusable,
    EnvironmentDamaged,
    ForkedHandle,
    HandleClosed,
    LockTimeout,
    StorageFull,
    SyncFailed,
    ValueDamaged,
    WalError,
)
from seawall.wal.files import Files
from seawall.wal.kv import Environment
from seawall.wal.kv_folder import remove_environment, remove_leftovers
from seawall.wal.kv_view import seal, unseal

MAP_BYTES = 1 << 30
PRELUDE = """
import os, signal, sys, time
from seawall.wal.files import Files
from seawall.wal.kv import Environment
path = sys.argv[1]
def say(text):
    sys.stdout.write(text + "\\n"); sys.stdout.flush()
def opened(map_bytes=1 << 30, timeout_ms=60_000):
    return Environment(
        path, files=Files(), map_size_bytes=map_bytes, write_lock_timeout_ms=timeout_ms)
"""


def open_environment(path: Path, **options: int) -> Environment:
    values = {"map_size_bytes": MAP_BYTES, **options}
    return Environment(str(path), files=Files(), **values)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.lmdb"


@pytest.fixture
def environment(path: Path) -> Iterator[Environment]:
    environment = open_environment(path)
    yield environment
    environment.close()


def start(source: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + source, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def heard(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def finish(child: subprocess.Popen[str], code: int | None = 0) -> None:
    with child:
        if code is None:
            child.kill()
    if code is not None:
        assert child.returncode == code


def everything(environment: Environment) -> dict[bytes, bytes]:
    with environment.read() as view:
        return dict(view.iterate())


# -- values --------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=60))
def test_one_flipped_bit_is_found(key: bytes, value: bytes) -> None:
    stored = seal(key, value)
    assert unseal("p", key, stored) == value
    for bit in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueDamaged):
            unseal("p", key, bytes(flipped))
    for bit in range(len(key) * 8):
        other = bytearray(key)
        other[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueDamaged):
            unseal("p", bytes(other), stored)


def test_a_value_may_not_borrow_from_its_key() -> None:
    with pytest.raises(ValueDamaged):
        unseal("p", b"ke", b"y" + seal(b"key", b"v"))


@pytest.mark.parametrize("stored", [b"", b"a", b"abc"])
def test_a_value_too_short_for_its_checksum_is_damaged(stored: bytes) -> None:
    with pytest.raises(ValueDamaged) as caught:
        unseal("the path", b"k", stored)
    assert (caught.value.path, caught.value.key) == ("the path", b"k")


def test_keys_are_found_without_looking_at_values(path: Path) -> None:
    environment = open_environment(path)
    try:
        with environment.write() as transaction:
            for key in (b"a", b"b", b"b\0", b"c"):
                transaction.put(key, b"1")
            transaction._transaction.put(b"b", b"damaged")
        with environment.read() as view:
            assert view.keys(b"b", b"c") == [b"b", b"b\0"]
            assert view.keys(b"a", b"z") == [b"a", b"b", b"b\0", b"c"]
            assert view.keys(b"d", b"e") == view.keys(b"b", b"b") == []
    finally:
        environment.close()


def test_damage_is_named_by_every_way_to_read(path: Path) -> None:
    with_two = open_environment(path)
    with with_two.write() as transaction:
        transaction.put(b"a", b"1")
        transaction.put(b"b", b"2")
    with_two.close()
    with lmdb.open(str(path)) as raw, raw.begin(write=True) as transaction:
        stored = bytearray(transaction.get(b"b") or b"")
        stored[0] ^= 1
        transaction.put(b"b", bytes(stored))
    environment = open_environment(path)
    try:
        with environment.read() as view:
            assert view.get(b"a") == b"1"
            for read in (
                lambda: view.get(b"b"),
                lambda: list(view.iterate()),
                lambda: list(view.iterate(reverse=True)),
                lambda: view.first_at_or_after(b"aa"),
                lambda: view.last_before(b"c"),
            ):
                with pytest.raises(ValueDamaged) as caught:
                    read()
                assert (caught.value.path, caught.value.key) == (str(path), b"b")
        [problem] = environment.verify()
        assert repr(b"b") in problem
        with environment.write() as transaction:  # damaged ones can be removed
            assert transaction.delete_range(b"b") == 1
        assert everything(environment) == {b"a": b"1"}
        assert list(environment.verify()) == []
    finally:
        environment.close()


# -- transactions --------------------------------------------------------------------

KEYS = st.binary(min_size=1, max_size=3)


@given(
    st.dictionaries(KEYS, st.binary(max_size=4), max_size=30),
    st.lists(st.tuples(st.binary(max_size=3), st.none() | st.binary(max_size=3)), max_size=8),
)
def test_ranges_agree_with_a_sorted_dict(
    tmp_path_factory: pytest.TempPathFactory,
    model: dict[bytes, bytes],
    ranges: list[tuple[bytes, bytes | None]],
) -> None:
    environment = shared_environment(tmp_path_factory)
    with environment.write() as transaction:
        transaction.delete_range(b"")
        for key, value in model.items():
            transaction.put(key, value)
    with environment.write() as transaction:
        for start_key, end in ranges:
            want = sorted(
                (k, v) for k, v in model.items() if k >= start_key and (end is None or k < end)
            )
            assert list(transaction.iterate(start_key, end)) == want
            assert list(transaction.iterate(start_key, end, reverse=True)) == want[::-1]
            assert transaction.first_at_or_after(start_key, end) == (want[0] if want else None)
            if end is not None:
                assert transaction.last_before(end, start_key) == (want[-1] if want else None)
            assert transaction.get(start_key or b"\0") == model.get(start_key or b"\0")
        for start_key, end in ranges:
            gone = [k for k in model if k >= start_key and (end is None or k < end)]
            assert transaction.delete_range(start_key, end) == len(gone)
            for key in gone:
                del model[key]
            assert dict(transaction.iterate()) == model


_shared: list[Environment] = []


def shared_environment(factory: pytest.TempPathFactory) -> Environment:
    """One for all examples of a test, because a synced transaction each is slow enough."""
    if not _shared:
        _shared.append(open_environment(factory.mktemp("shared") / "kv.lmdb"))
    return _shared[0]


@pytest.fixture(autouse=True)
def _close_shared() -> Iterator[None]:
    yield
    while _shared:
        _shared.pop().close()


def test_changes_are_there_after_closing(path: Path) -> None:
    environment = open_environment(path)
    with environment.write() as transaction:
        transaction.put(b"k", b"v")
    environment.close()
    environment = open_environment(path, create=False)
    assert everything(environment) == {b"k": b"v"}
    environment.close()


def test_an_error_inside_changes_nothing(environment: Environment) -> None:
    with environment.write() as transaction:
        transaction.put(b"k", b"old")
    with pytest.raises(ZeroDivisionError), environment.write() as transaction:
        transaction.put(b"k", b"new")
        assert transaction.get(b"k") == b"new"
        raise ZeroDivisionError
    assert everything(environment) == {b"k": b"old"}
    with environment.write() as transaction:  # the lock is free again
        assert transaction.delete(b"k")
        assert not transaction.delete(b"k")
    assert everything(environment) == {}


def test_a_reader_keeps_its_view(environment: Environment) -> None:
    with environment.read() as view:
        with environment.write() as transaction:
            transaction.put(b"k", b"v")
        assert view.get(b"k") is None
    assert everything(environment) == {b"k": b"v"}


def test_many_threads_count(environment: Environment) -> None:
    def count() -> None:
        for _ in range(20):
            with environment.write() as transaction:
                old = int(transaction.get(b"n") or b"0")
                transaction.put(b"n", b"%d" % (old + 1))
            with environment.read() as view:
                assert int(view.get(b"n") or b"0") > old

    threads = [threading.Thread(target=count) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert everything(environment) == {b"n": b"120"}


# -- open and close ------------------------------------------------------------------


def test_close_can_be_repeated_and_ends_all_use(environment: Environment) -> None:
    environment.close()
    environment.close()
    for use in (environment.read, environment.write):
        with pytest.raises(HandleClosed), use():
            pass
    with pytest.raises(HandleClosed):
        environment.reader_check()


def test_close_waits_for_a_reader(path: Path) -> None:
    environment = open_environment(path, write_lock_timeout_ms=100)
    inside, leave = threading.Event(), threading.Event()

    def read() -> None:
        with environment.read() as view:
            inside.set()
            leave.wait(60)
            assert view.get(b"k") is None

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(LockTimeout):
            environment.close()
        with environment.read() as view:  # still open
            assert view.get(b"k") is None
        environment._timeout_ms = 60_000
        threading.Timer(0.02, leave.set).start()
        environment.close()
    finally:
        leave.set()
        thread.join()


def test_one_process_opens_it_once(environment: Environment, path: Path) -> None:
    other = path.parent / "link"
    other.symlink_to(path)
    for name in (path, other):
        with pytest.raises(DirectoryUnusable, match="open already"):
            open_environment(name)
    with environment.write() as transaction:
        transaction.put(b"k", b"v")
    environment.close()
    again = open_environment(path)
    assert everything(again) == {b"k": b"v"}
    again.close()


def test_a_missing_folder_is_made_only_if_asked(path: Path) -> None:
    with pytest.raises(DirectoryUnusable):
        open_environment(path, create=False)
    assert not path.exists()


def test_a_folder_without_data_is_damaged(path: Path) -> None:
    open_environment(path).close()
    (path / "data.mdb").unlink()
    with pytest.raises(EnvironmentDamaged, match="missing"):
        open_environment(path)
    assert not (path / "data.mdb").exists()


@pytest.mark.parametrize("content", [b"", b"hello", bytes(8192), b"\xff" * 8192])
def test_a_file_that_is_not_lmdb_is_damaged(path: Path, content: bytes) -> None:
    open_environment(path).close()
    (path / "data.mdb").write_bytes(content)
    with pytest.raises(EnvironmentDamaged):
        open_environment(path)


def test_a_file_in_its_place_is_named(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(DirectoryUnusable):
        open_environment(path)


def test_what_a_crash_left_is_removed(path: Path) -> None:
    open_environment(path).close()
    left = path.parent / "kv.lmdb.4711.new"
    left.mkdir()
    (left / "data.mdb").write_bytes(b"x")
    remove_leftovers(Files(), str(path))
    assert not left.exists()
    assert path.exists()
    remove_environment(Files(), str(path))
    remove_environment(Files(), str(path))
    assert not path.exists()


def test_the_lock_table_has_its_blocks(environment: Environment, path: Path) -> None:
    """A hole in it would be a SIGBUS on a full disk."""
    status = (path / "lock.mdb").stat()
    assert status.st_size >= 4096 * 64
    assert status.st_blocks * 512 >= status.st_size


def test_two_processes_make_it_at_once(path: Path) -> None:
    source = """
environment = opened()
with environment.write() as transaction:
    transaction.put(b"%d" % os.getpid(), b"")
environment.close()
"""
    children = [start(source, path) for _ in range(2)]
    for child in children:
        finish(child)
    environment = open_environment(path)
    assert set(everything(environment)) == {b"%d" % child.pid for child in children}
    assert sorted(os.listdir(path.parent)) == ["kv.lmdb"]
    environment.close()


# -- other processes -----------------------------------------------------------------

HOLDER = """
environment = opened()
with environment.write() as transaction:
    transaction.put(b"k", b"theirs")
    say("inside")
    sys.stdin.readline()
environment.close()
"""


def test_a_stopped_writer_is_waited_for_and_named(path: Path) -> None:
    environment = open_environment(path, write_lock_timeout_ms=150)
    child = start(HOLDER, path)
    assert heard(child) == "inside"
    child.send_signal(signal.SIGSTOP)
    begin_s = time.monotonic()
    with pytest.raises(LockTimeout) as caught, environment.write():
        pass
    assert time.monotonic() - begin_s > 0.1
    assert caught.value.holder_pid == child.pid
    with environment.read() as view:  # readers do not wait
        assert view.get(b"k") is None
    child.send_signal(signal.SIGCONT)
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    finish(child)
    with environment.write() as transaction:
        assert transaction.get(b"k") == b"theirs"
        transaction.put(b"k", b"ours")
    environment.close()


def test_a_killed_writer_leaves_nothing(environment: Environment, path: Path) -> None:
    for _ in range(2):
        child = start(HOLDER, path)
        assert heard(child) == "inside"
        finish(child, None)
        with environment.write() as transaction:  # at once
            assert transaction.get(b"k") is None
            transaction.put(b"mine", b"")
    assert everything(environment) == {b"mine": b""}


READER = """
environment = opened()
with environment.read() as view:
    before = view.get(b"k")
    say("inside")
    sys.stdin.readline()
    assert view.get(b"k") == before
environment.close()
"""


def test_a_killed_reader_is_cleared(environment: Environment, path: Path) -> None:
    child = start(READER, path)
    assert heard(child) == "inside"
    assert environment.reader_check() == 0
    finish(child, None)
    assert environment.reader_check() == 1


def test_a_killed_reader_does_not_make_it_grow_for_ever(
    environment: Environment, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv, "READER_CHECK_INTERVAL_S", 0.0)
    child = start(READER, path)
    assert heard(child) == "inside"
    finish(child, None)

    def size_after(commits: int) -> int:
        for number in range(commits):
            with environment.write() as transaction:
                transaction.put(b"k", b"%d" % number)
        return (path / "data.mdb").stat().st_size

    size_bytes = size_after(20)
    assert size_after(40) == size_bytes


def test_a_reader_that_lives_is_left_alone(
    environment: Environment, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv, "READER_CHECK_INTERVAL_S", 0.0)
    with environment.write() as transaction:
        transaction.put(b"k", b"v")
    child = start(READER, path)
    assert heard(child) == "inside"
    for number in range(20):
        with environment.write() as transaction:
            transaction.put(b"k", b"%d" % number)
    finish(child)


def test_growth_by_another_process_is_followed(path: Path) -> None:
    environment = open_environment(path, map_size_bytes=1 << 17)
    with environment.write() as transaction:
        transaction.put(b"k", b"v")
    source = """
environment = opened(map_bytes=1 << 26)
with environment.write() as transaction:
    for n in range(3000):
        transaction.put(b"%08d" % n, bytes(100))
environment.close()
"""
    finish(start(source, path))
    assert len(everything(environment)) == 3001
    with environment.write() as transaction:
        transaction.put(b"k", b"w")
    environment.close()


# -- full and failing disks ----------------------------------------------------------


def test_a_full_map_changes_nothing_and_is_left(path: Path) -> None:
    environment = open_environment(path, map_size_bytes=1 << 17)
    with environment.write() as transaction:
        transaction.put(b"k", b"v")
    with pytest.raises(StorageFull), environment.write() as transaction:
        for number in range(10_000):
            transaction.put(b"%08d" % number, bytes(100))
    assert everything(environment) == {b"k": b"v"}
    with environment.write() as transaction:
        transaction.put(b"k", b"w")
    environment.close()


def descriptors_of(path: Path) -> list[tuple[int, bool]]:
    """LMDB's descriptors of the data, and whether each is the one for the meta pages."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == str(path / "data.mdb"):
                flags = Path(f"/proc/self/fdinfo/{name}").read_text().split("flags:")[1].split()[0]
                found.append((int(name), bool(int(flags, 8) & os.O_DSYNC)))
        except FileNotFoundError:
            pass
    return found


@pytest.mark.parametrize(
    ("meta", "instead", "flags", "error"),
    [
        (False, "/dev/full", os.O_WRONLY, StorageFull),
        (False, "/dev/null", os.O_RDONLY, WalError),
        (True, "/dev/full", os.O_WRONLY, SyncFailed),
        (True, "/dev/null", os.O_RDONLY, SyncFailed),
    ],
)
def test_a_failed_commit_changes_nothing_and_the_next_one_works(
    environment: Environment,
    path: Path,
    meta: bool,
    instead: str,
    flags: int,
    error: type[WalError],
) -> None:
    with environment.write() as transaction:
        transaction.put(b"k", b"v")
    [descriptor] = [number for number, dsync in descriptors_of(path) if dsync is meta]
    kept = os.dup(descriptor)
    number = os.open(instead, flags)
    os.dup2(number, descriptor)
    os.close(number)
    try:
        with pytest.raises(error), environment.write() as transaction:
            transaction.put(b"k", b"w")
    finally:
        if not meta:  # after a failed meta page the environment is opened afresh
            os.dup2(kept, descriptor)
        os.close(kept)
    assert everything(environment) == {b"k": b"v"}
    with environment.write() as transaction:
        transaction.put(b"n", b"")
    assert everything(environment) == {b"k": b"v", b"n": b""}


def test_a_file_size_limit_is_a_full_disk(path: Path) -> None:
    environment = open_environment(path)
    with environment.write() as transaction:
        transaction.put(b"k", b"v")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((path / "data.mdb").stat().st_size, hard))
    try:
        with pytest.raises(StorageFull), environment.write() as transaction:
            for number in range(1000):
                transaction.put(b"%08d" % number, bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything(environment) == {b"k": b"v"}
    with environment.write() as transaction:
        transaction.put(b"k", b"w")
    environment.close()


def test_no_room_to_open_is_named(path: Path) -> None:
    class Full(Files):
        def allocate(self, descriptor: int, position: int, size_bytes: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageFull):
        Environment(str(path), files=Full(), map_size_bytes=MAP_BYTES)
    assert os.listdir(path.parent) == []
    open_environment(path).close()


# -- fork ----------------------------------------------------------------------------


def in_child(action: object) -> str:
    """Run a function in a forked child, and give what it returned as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            try:
                answer = repr(action())  # type: ignore[operator]
            except BaseException as error:  # noqa: BLE001
                answer = f"{type(error).__name__}: {error}"
            os.write(writer, answer.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def test_a_child_may_not_use_it_but_may_open_it(environment: Environment, path: Path) -> None:
    with environment.write() as transaction:
        transaction.put(b"k", b"v")

    def child() -> list[object]:
        refused = 0
        for use in (environment.read, environment.write):
            try:
                with use():
                    pass
            except ForkedHandle:
                refused += 1
        environment.close()
        environment.abandon()
        own = open_environment(path)
        before = everything(own)
        with own.write() as transaction:
            transaction.put(b"child", b"")
        own.close()
        return [refused, before]

    assert in_child(child) == "[2, {b'k': b'v'}]"
    assert everything(environment) == {b"k": b"v", b"child": b""}
    with environment.write() as transaction:
        transaction.put(b"k", b"w")


def test_a_child_leaves_its_parents_transactions_alone(environment: Environment) -> None:
    inside, leave = threading.Event(), threading.Event()

    def write() -> None:
        with environment.write() as transaction:
            transaction.put(b"k", b"v")
            inside.set()
            leave.wait(60)
            transaction.put(b"l", b"w")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert inside.wait(60)
        with environment.read() as view:
            assert in_child(lambda: view.get(b"k")) == "None"
            assert environment.reader_check() == 0
            assert everything(environment) == {}
    finally:
        leave.set()
        thread.join()
    assert everything(environment) == {b"k": b"v", b"l": b"w"}


def test_a_fork_inside_a_block_ends_it_only_in_the_parent(environment: Environment) -> None:
    pid = -1
    try:
        with environment.write() as transaction:
            transaction.put(b"k", b"v")
            pid = os.fork()
    except ForkedHandle:
        os._exit(7)
    finally:
        if pid == 0:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert everything(environment) == {b"k": b"v"}


def test_the_write_lock_does_not_outlive_its_process_in_a_child(path: Path) -> None:
    source = """
environment = opened()
with environment.write() as transaction:
    pid = os.fork()
    if pid == 0:
        say("%d" % os.getpid())
        time.sleep(60)
    time.sleep(60)
"""
    child = start(source, path)
    grandchild = int(heard(child))
    try:
        child.kill()
        child.wait()
        environment = open_environment(path, write_lock_timeout_ms=60_000)
        with environment.write() as transaction:
            transaction.put(b"k", b"v")
        environment.close()
    finally:
        os.kill(grandchild, signal.SIGKILL)
        finish(child, None)
        try:
            os.waitpid(grandchild, 0)  # adopted
        except ChildProcessError:
            pass


# -- a signal's handler that raises ------------------------------------------------------


@pytest.mark.parametrize("kind", ["read", "write"])
def test_an_interrupt_anywhere_lets_everybody_go_on(environment: Environment, kind: str) -> None:
    modules = ("wal/kv.py", "wal/kv_view.py", "wal/locks.py", "wal/files.py")
    at = places = 0
    while places >= at:
        at += 1
        interrupt = InterruptAt(at, *modules)
        with contextlib.suppress(KeyboardInterrupt), interrupt:
            if kind == "read":
                with environment.read() as view:
                    view.get(b"k")
            else:
                with environment.write() as transaction:
                    transaction.put(b"k", b"%d" % at)
        places = interrupt.places
        with environment.write() as transaction:
            transaction.put(b"n", b"%d" % at)
        assert everything(environment)[b"n"] == b"%d" % at
    assert at > 10


def test_nothing_is_taken_from_whoever_writes_by_a_handler_that_wants_to_write(
    environment: Environment,
) -> None:
    with environment.write() as transaction:
        for _ in range(2):
            with pytest.raises(LockTimeout), environment.write():
                raise AssertionError("begun twice")
        transaction.put(b"k", b"v")
    assert everything(environment) == {b"k": b"v"}


def test_what_the_closing_thread_did_not_get_to_end_keeps_nothing_open(path: Path) -> None:
    """A signal's handler raised at the first step of the end, and its traceback is kept."""
    for kind in ("read", "write"):
        environment = open_environment(path)
        left = environment.read() if kind == "read" else environment.write()
        left.__enter__()
        environment.close()
        del left
    again = open_environment(path)
    with again.write() as transaction:
        transaction.put(b"k", b"v")
    again.close()


def test_a_write_whose_environment_a_handler_has_closed_says_that_nothing_was_stored(
    path: Path,
) -> None:
    environment = open_environment(path)
    with pytest.raises(HandleClosed), environment.write() as transaction:
        transaction.put(b"k", b"v")
        environment.close()  # as a signal's handler does that raises nothing
    again = open_environment(path)
    assert everything(again) == {}
    again.close()


def test_a_write_that_fails_takes_nothing_from_the_next_one(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends it may be called again when another thread has begun already."""
    go, begun, end = threading.Event(), threading.Event(), threading.Event()

    def write_next() -> None:
        go.wait(60)
        with environment.write() as transaction:
            transaction.put(b"next", b"v")
            begun.set()
            end.wait(60)

    undo = environment._undo
    calls = []

    def undo_late() -> None:
        calls.append(True)
        if len(calls) > 1:
            go.set()
            begun.wait(60)
        undo()

    class Failing:
        def __init__(self, transaction: Any) -> None:
            self.abort = transaction.abort

        def commit(self) -> None:
            raise OSError(errno.EIO, "as it failed")

    monkeypatch.setattr(environment, "_undo", undo_late)
    thread = threading.Thread(target=write_next)
    thread.start()
    try:
        with pytest.raises(OSError, match="as it failed"), environment.write() as transaction:
            transaction.put(b"k", b"v")
            environment._writing = Failing(environment._writing)  # type: ignore[assignment]
    finally:
        go.set()
        end.set()
        thread.join()
    assert everything(environment) == {b"next": b"v"}
