"""What a recording says, held against what was done."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator

import pytest
from storage import memory_folder

from seawall.wal.files import CREATE, READ_WRITE, TRUNCATE, Files
from seawall.wal.torture.recording import RecordingFiles
from seawall.wal.torture.trace import ROOT, Kind, Mark, Operation, Snapshot


class FailingFiles(Files):
    """Fails every call while it is told to."""

    is_failing = False

    def _check(self) -> None:
        if self.is_failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def pwrite(self, descriptor: int, data: object, position: int) -> int:
        self._check()
        return super().pwrite(descriptor, data, position)  # type: ignore[arg-type]

    def sync(self, descriptor: int) -> None:
        self._check()
        super().sync(descriptor)

    def sync_directory(self, path: str) -> None:
        self._check()
        super().sync_directory(path)

    def unlink(self, path: str) -> None:
        self._check()
        super().unlink(path)


class FailingRecording(RecordingFiles, FailingFiles):
    """A recording of files that fail."""


class ShortFiles(Files):
    def pwrite(self, descriptor: int, data: object, position: int) -> int:
        return super().pwrite(descriptor, data[:3], position)  # type: ignore[index]

    def pwritev(self, descriptor: int, buffers: object, position: int) -> int:
        return super().pwrite(descriptor, b"".join(buffers)[:5], position)  # type: ignore[call-overload]


class ShortRecording(RecordingFiles, ShortFiles):
    """A recording of files that write a part."""


@pytest.fixture
def root() -> Iterator[str]:
    with memory_folder() as folder:
        yield folder


def create(files: Files, path: str, data: bytes = b"") -> int:
    descriptor = files.open(path, READ_WRITE | CREATE)
    if data:
        files.pwrite(descriptor, data, 0)
    return descriptor


def said(files: RecordingFiles) -> list[tuple[str, str]]:
    return [(operation.kind.value, operation.path) for operation in files.trace.operations]


def test_every_change_is_noted_in_order(root: str) -> None:
    files = RecordingFiles(root)
    files.mkdir(f"{root}/logs")
    descriptor = create(files, f"{root}/logs/a")
    files.allocate(descriptor, 0, 100)
    files.pwrite(descriptor, memoryview(b"one"), 0)
    files.pwritev(descriptor, [b"two", bytearray(b"three")], 3)
    files.truncate(descriptor, 50)
    files.sync(descriptor)
    files.close(descriptor)
    files.rename(f"{root}/logs/a", f"{root}/b")
    files.sync_directory(f"{root}/logs")
    files.sync_directory(root)
    files.unlink(f"{root}/b")
    files.rmdir(f"{root}/logs")
    assert said(files) == [
        ("mkdir", "logs"),
        ("create", "logs/a"),
        ("allocate", "logs/a"),
        ("write", "logs/a"),
        ("write", "logs/a"),
        ("truncate", "logs/a"),
        ("sync", "logs/a"),
        ("rename", "logs/a"),
        ("sync directory", "logs"),
        ("sync directory", ""),
        ("unlink", "b"),
        ("rmdir", "logs"),
    ]
    events = files.trace.operations
    assert [event.number for event in events] == list(range(12))
    assert (events[2].position, events[2].size_bytes) == (0, 100)
    assert (events[4].position, events[4].data, events[4].end) == (3, b"twothree", 11)
    assert events[5].size_bytes == 50
    assert (events[7].target, events[7].folder, events[7].target_folder) == ("b", 1, ROOT)
    assert {event.node for event in events[1:8]} == {2}
    assert (events[8].node, events[9].node, events[10].node, events[11].node) == (1, ROOT, 2, 1)


def test_what_changes_nothing_is_not_noted(root: str) -> None:
    with open(f"{root}/a", "wb") as file:
        file.write(b"old")
    files = RecordingFiles(root)
    assert files.trace.initial == {"a": b"old"}
    descriptor = files.open(f"{root}/a", READ_WRITE | CREATE)
    assert files.pread(descriptor, 10, 0) == b"old"
    assert files.try_lock(descriptor)
    files.close(descriptor)
    assert files.list(root) == ["a"]
    assert files.path_size(f"{root}/a") == 3
    assert files.trace.events == []
    with pytest.raises(FileNotFoundError):
        files.open(f"{root}/b")
    with pytest.raises(FileExistsError):
        files.mkdir(f"{root}/a")
    assert files.trace.events == []


def test_outside_of_the_root_nothing_is_noted(root: str) -> None:
    files = RecordingFiles(f"{root}/data")
    files.mkdir(f"{root}/data")
    files.sync_directory(root)
    descriptor = create(files, f"{root}/a", b"x")
    files.sync(descriptor)
    files.truncate(descriptor, 0)
    files.allocate(descriptor, 0, 10)
    files.close(descriptor)
    files.rename(f"{root}/a", f"{root}/database")
    files.unlink(f"{root}/database")
    assert files.trace.events == []
    files.close(create(files, f"{root}/data/a"))
    assert said(files) == [("create", "a")]
    with pytest.raises(ValueError, match="across the edge"):
        files.rename(f"{root}/data/a", f"{root}/a")


def test_a_file_that_exists_is_truncated_and_not_created(root: str) -> None:
    files = RecordingFiles(root)
    files.close(create(files, f"{root}/a", b"x"))
    files.close(files.open(f"{root}/a", READ_WRITE | CREATE | TRUNCATE))
    assert said(files) == [("create", "a"), ("write", "a"), ("truncate", "a")]
    assert len({operation.node for operation in files.trace.operations}) == 1


def test_nodes_follow_files_and_not_names(root: str) -> None:
    files = RecordingFiles(root)
    first = create(files, f"{root}/a")
    files.rename(f"{root}/a", f"{root}/b")
    second = create(files, f"{root}/a")
    files.unlink(f"{root}/b")
    files.pwrite(first, b"unlinked, but open", 0)
    files.pwrite(second, b"the other", 0)
    files.close(first)
    files.close(second)
    third = create(files, f"{root}/b")
    files.pwrite(third, b"a new one", 0)
    files.close(third)
    writes = {op.data: op.node for op in files.trace.operations if op.kind is Kind.WRITE}
    assert writes == {b"unlinked, but open": 1, b"the other": 2, b"a new one": 3}


def test_a_folder_takes_what_is_in_it_along(root: str) -> None:
    files = RecordingFiles(root)
    files.mkdir(f"{root}/x")
    files.mkdir(f"{root}/x/y")
    files.close(create(files, f"{root}/x/y/a"))
    files.mkdir(f"{root}/xy")
    files.rename(f"{root}/x", f"{root}/z")
    files.mkdir(f"{root}/x")
    descriptor = files.open(f"{root}/z/y/a", READ_WRITE)
    files.pwrite(descriptor, b"data", 0)
    files.close(descriptor)
    files.sync_directory(f"{root}/z/y")
    *_, new, write, sync = files.trace.operations
    assert (new.node, write.node, sync.node) == (5, 3, 2)
    files.rmdir(f"{root}/xy")
    assert files.trace.operations[-1].node == 4


def test_what_fails_did_not_happen_but_for_a_sync(root: str) -> None:
    files = FailingRecording(root)
    descriptor = create(files, f"{root}/a")
    files.is_failing = True
    with pytest.raises(OSError):
        files.pwrite(descriptor, b"x", 0)
    with pytest.raises(OSError):
        files.unlink(f"{root}/a")
    with pytest.raises(OSError):
        files.sync(descriptor)
    with pytest.raises(OSError):
        files.sync_directory(root)
    files.close(descriptor)
    assert said(files) == [("create", "a"), ("failed sync", "a"), ("failed sync directory", "")]


def test_only_what_was_written_is_noted(root: str) -> None:
    files = ShortRecording(root)
    descriptor = create(files, f"{root}/a")
    assert files.pwrite(descriptor, b"abcdef", 0) == 3
    assert files.pwritev(descriptor, [b"gh", b"ijklm"], 3) == 5
    files.close(descriptor)
    assert [op.data for op in files.trace.operations[1:]] == [b"abc", b"ghijk"]


def test_what_others_made_is_found(root: str) -> None:
    files = RecordingFiles(root)
    os.makedirs(f"{root}/x/y")
    with open(f"{root}/x/y/a", "wb") as file:
        file.write(b"theirs")
    files.close(files.open(f"{root}/x/y/a"))
    files.close(files.open(f"{root}/x/y/a"))
    with open(f"{root}/x/b", "wb") as file:
        file.write(b"theirs as well")
    files.unlink(f"{root}/x/b")
    assert said(files) == [
        ("found", "x"),
        ("found", "x/y"),
        ("found", "x/y/a"),
        ("found", "x/b"),
        ("unlink", "x/b"),
    ]
    events = files.trace.operations
    assert [(event.node, event.folder, event.data) for event in events[:3]] == [
        (1, ROOT, None),
        (2, 1, None),
        (3, 2, b"theirs"),
    ]


def test_marks_and_snapshots_stand_where_they_were_made(root: str) -> None:
    files = RecordingFiles(root)
    contents = {"catalog.db": b"1"}
    files.before_operation = lambda: files.snapshot("catalog", dict(contents))
    files.mkdir(f"{root}/x")
    files.mark({"id": 1, "is": "began"})
    contents["catalog.db"] = b"2"
    contents["more"] = b"1"
    files.mark({"id": 1, "is": "done"})
    files.mkdir(f"{root}/y")
    kinds = [type(event) for event in files.trace.events]
    assert kinds == [Snapshot, Operation, Mark, Snapshot, Mark, Operation]
    assert [event.number for event in files.trace.events] == list(range(6))
    snapshots = [event for event in files.trace.events if isinstance(event, Snapshot)]
    assert [each.files for each in snapshots] == [
        {"catalog.db": b"1"},
        {"catalog.db": b"2", "more": b"1"},
    ]


def test_a_write_is_noted_as_a_whole_whatever_the_threads(root: str) -> None:
    files = RecordingFiles(root)
    counts: list[int] = []
    files.before_operation = lambda: counts.append(len(files.trace.events))

    def work(name: str) -> None:
        descriptor = create(files, f"{root}/{name}")
        for number in range(100):
            files.pwrite(descriptor, b"%d" % number, number)
        files.close(descriptor)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == list(range(404))
    assert [event.number for event in files.trace.events] == counts
    for name in "abcd":
        written = [op.data for op in files.trace.operations if op.path == name][1:]
        assert written == [b"%d" % number for number in range(100)]


def test_another_boot(root: str) -> None:
    files = RecordingFiles(root)
    assert files.boot_id() == Files().boot_id()
    files.boot = b"another boot's.."
    assert files.boot_id() == b"another boot's.."
