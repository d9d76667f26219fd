"""A recorded folder, with short words for what is done to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from seawall.wal.files import CREATE, READ_WRITE, TRUNCATE, Files
from seawall.wal.torture.disk import Disk
from seawall.wal.torture.materialise import image
from seawall.wal.torture.recording import RecordingFiles
from seawall.wal.torture.states import Choice
from seawall.wal.torture.trace import Trace, read_tree

State = frozenset[tuple[str, bytes | None]]


class FailingSyncs(Files):
    """Files that fail to sync while they are told to."""

    is_failing = False

    def sync(self, descriptor: int) -> None:
        self._check()
        super().sync(descriptor)

    def sync_directory(self, path: str) -> None:
        self._check()
        super().sync_directory(path)

    def _check(self) -> None:
        if self.is_failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


class Recording(RecordingFiles, FailingSyncs):
    """A recording of files that fail to sync."""


class Folder:
    """What is below `root` from now on; names are relative to it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files = Recording(root)

    @property
    def trace(self) -> Trace:
        return self.files.trace

    def path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def write(self, name: str, data: bytes, position: int = 0) -> None:
        self._with(name, lambda fd: self.files.pwrite(fd, data, position))

    def truncate(self, name: str, size: int) -> None:
        self._with(name, lambda fd: self.files.truncate(fd, size))

    def allocate(self, name: str, position: int, size: int) -> None:
        self._with(name, lambda fd: self.files.allocate(fd, position, size))

    def sync(self, name: str) -> None:
        self._with(name, self.files.sync)

    def empty(self, name: str) -> None:
        self.files.close(self.files.open(self.path(name), READ_WRITE | CREATE | TRUNCATE))

    def rename(self, name: str, new_name: str) -> None:
        self.files.rename(self.path(name), self.path(new_name))

    def unlink(self, name: str) -> None:
        self.files.unlink(self.path(name))

    def mkdir(self, name: str) -> None:
        self.files.mkdir(self.path(name))

    def sync_names(self, *names: str) -> None:
        for name in names or ("",):
            self.files.sync_directory(self.path(name))

    def durable(self, name: str, data: bytes = b"") -> None:
        """A file that is on disk."""
        self.write(name, data)
        self.sync(name)
        self.sync_names(name.rpartition("/")[0])

    def fail_sync(self, name: str) -> None:
        """Of a file, or of the names in the root if `name` is empty."""
        self.files.is_failing = True
        with pytest.raises(OSError):
            if name:
                self.sync(name)
            else:
                self.sync_names()
        self.files.is_failing = False

    def _with(self, name: str, work: Callable[[int], object]) -> None:
        descriptor = self.files.open(self.path(name), READ_WRITE | CREATE)
        try:
            work(descriptor)
        finally:
            self.files.close(descriptor)

    def disk(self, ignore: Callable[[str], bool] = lambda path: False) -> Disk:
        """The disk behind the last operation."""
        disk = Disk(self.trace, ignore)
        disk.advance(len(self.trace.events))
        return disk

    def check(self, *wanted: dict[str, bytes | None]) -> None:
        """These and no others are reachable, and what is really there is among them."""
        assert states_of(self.disk()) == {frozenset(each.items()) for each in wanted}
        assert read_tree(self.root) in wanted


def states_of(disk: Disk) -> set[State]:
    """Every state without a torn write."""
    return {
        frozenset(image(disk, Choice(kept=kept, names=names)).items())
        for kept in range(1 << len(disk.pending))
        for names in range(1 << len(disk.pending_names))
    }
