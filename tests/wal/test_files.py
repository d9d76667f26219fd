"""Files: the helpers on top of the system's calls, when those do less than asked."""

from __future__ import annotations

import errno
import os
import resource

import pytest
from storage import Crash, FaultyFiles, content

from seawall.wal.files import (
    CREATE,
    READ_WRITE,
    Descriptor,
    Files,
    disk_bytes,
    has_room,
    make_directory,
    read_file,
    read_fully,
    remove_file,
    write_fully,
    write_new_file,
)


@pytest.fixture
def path(folder: str) -> str:
    return os.path.join(folder, "file")


def open_descriptors(path: str) -> int:
    """How many descriptors of a file this process has."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}") == path
        except FileNotFoundError:  # the one that listdir itself had open
            pass
    return found


def test_a_short_write_is_gone_on_with(path: str) -> None:
    files = FaultyFiles()
    descriptor = Descriptor(files, path, READ_WRITE | CREATE)
    for _ in range(3):
        files.fail("pwrite", short=lambda size: min(size, 2))
    write_fully(files, descriptor.number, b"0123456789", 5)
    assert content(path) == bytes(5) + b"0123456789"


def test_a_write_without_progress_is_an_error_and_no_loop(path: str) -> None:
    files = FaultyFiles()
    descriptor = Descriptor(files, path, READ_WRITE | CREATE)
    files.fail("pwrite", short=lambda size: 0)
    with pytest.raises(OSError) as caught:
        write_fully(files, descriptor.number, b"0123", 0)
    assert caught.value.errno == errno.EIO


def test_short_reads_are_put_together(path: str) -> None:
    class Short(Files):
        def pread(self, descriptor: int, size_bytes: int, position: int) -> bytes:
            return super().pread(descriptor, min(size_bytes, 3), position)

    with open(path, "wb") as file:
        file.write(b"0123456789")
    descriptor = Descriptor(Short(), path)
    assert read_fully(Short(), descriptor.number, 100, 1) == b"123456789"
    assert read_fully(Short(), descriptor.number, 5, 1) == b"12345"
    assert read_fully(Short(), descriptor.number, 5, 50) == b""
    assert read_file(Short(), path, 4) == b"0123"
    assert read_file(Files(), "/proc/self/mountinfo")


def test_a_new_file_is_there_as_a_whole_or_as_it_was(folder: str, path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"old")
    files = FaultyFiles()
    write_new_file(files, path, b"old")
    count = len(files.calls)
    for error in (errno.EIO, errno.ENOSPC, Crash):
        for nth in range(1, count + 1):
            before = content(path)
            files.fail(nth=nth, error=error)
            with pytest.raises((OSError, Crash)):
                write_new_file(files, path, b"new %d" % nth)
            assert content(path) in (before, b"new %d" % nth)
            assert os.listdir(folder) == ["file"]
            files.heal()


def test_the_new_content_is_synced_before_the_name(path: str) -> None:
    files = FaultyFiles()
    write_new_file(files, path, b"new")
    order = [call for call in files.calls if call in ("sync", "rename", "sync_directory")]
    assert order == ["sync", "rename", "sync_directory"]


def test_descriptors_close_with_their_last_reference(path: str) -> None:
    one = Descriptor(Files(), path, READ_WRITE | CREATE)
    other = one
    del one
    assert open_descriptors(path) == 1
    del other
    assert open_descriptors(path) == 0
    with pytest.raises(FileNotFoundError):
        Descriptor(Files(), path + ".missing")
    abandoned = Descriptor(Files(), path)
    abandoned.abandon()
    abandoned.abandon()
    assert open_descriptors(path) == 0


def test_descriptors_are_not_inherited(path: str) -> None:
    descriptor = Descriptor(Files(), path, READ_WRITE | CREATE)
    assert not os.get_inheritable(descriptor.number)


def test_small_helpers(folder: str, path: str) -> None:
    files = Files()
    make_directory(files, os.path.join(folder, "d"))
    make_directory(files, os.path.join(folder, "d"))
    remove_file(files, path)
    assert not files.exists(path)
    assert files.path_size(path) is None
    assert files.path_identity(path) is None
    write_new_file(files, path, b"abc")
    assert (files.path_size(path), files.is_directory(path)) == (3, False)
    assert files.is_directory(folder)
    assert abs(files.modified_ms(path) / 1000 - os.stat(path).st_mtime) < 1
    with pytest.raises(NotADirectoryError):
        files.exists(os.path.join(path, "below"))
    assert len(files.boot_id()) == 16
    assert files.pid_namespace().startswith("pid:[")


def test_allocated_blocks_read_as_zeros_and_need_no_support(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = Descriptor(Files(), path, READ_WRITE | CREATE)
    Files().allocate(descriptor.number, 0, 10_000)
    assert content(path) == bytes(10_000)
    for number, is_error in ((errno.EOPNOTSUPP, False), (errno.ENOSPC, True)):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", refuse)
            if is_error:
                with pytest.raises(OSError):
                    Files().allocate(descriptor.number, 0, 10)
            else:
                Files().allocate(descriptor.number, 0, 10)


def test_room_is_what_disk_and_limit_leave(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_room(path)  # no such file: nobody knows
    with open(path, "wb") as file:
        file.truncate(5 << 20)
    assert has_room(path)
    for limit, has in ((6 << 20, True), ((6 << 20) - 1, False)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        assert has_room(path) is has
    monkeypatch.undo()
    real = os.statvfs(path)
    full = os.statvfs_result((*real[:4], 0, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    assert not has_room(path)


def test_the_bytes_of_a_disk(folder: str) -> None:
    total, usable = disk_bytes(folder)
    assert 0 < usable <= total
    with pytest.raises(FileNotFoundError):
        disk_bytes(os.path.join(folder, "nothing"))
