"""A disk whose n-th call fails.

`FaultyFiles` stands between seawall and the real files below one directory, counts the
calls of one kind (syncs, or everything else that changes something), and fails one of
them. It knows which pages are dirty, as the kernel does, because of what a failed sync
does to them: they count as clean from then on, in the cache *kept* or *dropped* in favour
of what the disk has, and in neither case will a later sync write them again, although it
returns without an error (assumption A5 in docs/durability.md). The same holds for the names
of a log's segments when their folder's sync fails; the names of other folders, in which
nothing is acknowledged before a sync succeeds, are as durable as the next sync makes them.
`power_cut` leaves what really reached the disk.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seawall.wal.files import CREATE, READ, TRUNCATE, Buffer, Files

PAGE_BYTES = 4096

SYNCS = frozenset({"sync", "sync_directory"})
WRITES = frozenset(
    {"create", "pwrite", "pwritev", "allocate", "truncate"} | {"rename", "unlink", "mkdir", "rmdir"}
)
# Where files lie that only `Files` writes, and whose content a power cut must leave alone.
DURABLE_PLACES = frozenset({".", "logs", "quarantine"})
# How many of its bytes a short write writes.
SHORT: dict[str, Callable[[int], int]] = {
    "1": lambda size: min(1, size),
    "half": lambda size: size // 2,
    "all but 1": lambda size: size - 1,
}


class FaultyCall(NamedTuple):
    """A counted call. ``path`` is relative to the directory; ``size_bytes`` -1 if it has none."""

    kind: str
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens at the call with this number (from 1) of the kinds that are counted.

    ``how``: EIO or ENOSPC, or a key of `SHORT`. ``for_good``: to all later ones as well.
    ``drops_pages``: what a failed sync does to the cache. ``dies``: whoever calls sync is
    killed before it can do anything about its failure.
    """

    number: int
    how: str = "EIO"
    for_good: bool = False
    drops_pages: bool = False
    dies: bool = False


class Died(BaseException):
    """The process is killed here; nothing but `finally` and `with` is to notice."""


class _Inode:
    """One file: what is on disk, and which pages of the cache are newer."""

    __slots__ = ("dirty", "durable")

    def __init__(self, durable: bytes) -> None:
        self.durable = durable
        self.dirty: set[int] = set()


class FaultyFiles(Files):
    """The real files below ``root``, one call of which fails. Other files are left alone."""

    def __init__(
        self, root: str, *, counts: frozenset[str] = WRITES, fault: Fault | None = None
    ) -> None:
        self.root = os.path.abspath(root)
        self.counts = counts
        self.fault = fault
        self.calls: list[FaultyCall] = []
        self.hits = 0
        self.is_dead = False
        self.boot = b"\1" * 16
        self._paths: dict[int, str] = {}
        self._inodes: dict[int, _Inode] = {}
        # Folder -> names that a power cut takes away: until their folder's next sync, or
        # until they are made anew.
        self._new_names: dict[str, set[str]] = {}
        self._doomed_names: dict[str, set[str]] = {}

    def heal(self) -> None:
        """Nothing fails any more, and there is another process."""
        self.fault = None
        self.is_dead = False

    def boot_id(self) -> bytes:
        return self.boot

    # -- what fails ------------------------------------------------------------------

    def _counted(self, kind: str, path: str, size_bytes: int = -1) -> int:
        """Count a call; raise if it is to fail. The bytes that it may write, if it writes."""
        if self.is_dead:
            raise Died
        if kind not in self.counts or not path.startswith(self.root):
            return size_bytes
        self.calls.append(FaultyCall(kind, os.path.relpath(path, self.root), size_bytes))
        fault, number = self.fault, len(self.calls)
        if fault is None or number < fault.number or (number > fault.number and not fault.for_good):
            return size_bytes
        if fault.how in SHORT:
            if size_bytes < 0:
                return size_bytes
            self.hits += 1
            return SHORT[fault.how](size_bytes)
        self.hits += 1
        code = getattr(errno, fault.how)
        raise OSError(code, os.strerror(code), path)

    def open(self, path: str, flags: int = READ, mode: int = 0o644) -> int:
        is_new = bool(flags & CREATE) and not os.path.exists(path)
        if is_new:
            self._counted("create", path)
        elif flags & TRUNCATE:
            self._counted("truncate", path)
        descriptor = super().open(path, flags, mode)
        if is_new:
            self._named(path)
        self._paths[descriptor] = path
        if flags & TRUNCATE:
            self._touch(descriptor, 0, 1 << 20)
        return descriptor

    def close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        super().close(descriptor)

    def pwrite(self, descriptor: int, data: Buffer, position: int) -> int:
        count = self._counted("pwrite", self._path(descriptor), len(data))
        written = super().pwrite(descriptor, data[:count], position)
        self._touch(descriptor, position, written)
        return written

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], position: int) -> int:
        data = b"".join(buffers)
        count = self._counted("pwritev", self._path(descriptor), len(data))
        written = super().pwrite(descriptor, data[:count], position)
        self._touch(descriptor, position, written)
        return written

    def allocate(self, descriptor: int, position: int, size_bytes: int) -> None:
        self._counted("allocate", self._path(descriptor))
        super().allocate(descriptor, position, size_bytes)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        self._counted("truncate", self._path(descriptor))
        before = self.size(descriptor)
        super().truncate(descriptor, size_bytes)
        self._touch(descriptor, size_bytes, max(1, before - size_bytes))

    def rename(self, source: str, target: str) -> None:
        self._counted("rename", target)
        replaced = self.path_identity(target)
        super().rename(source, target)
        self._forget(replaced)
        self._unnamed(source)
        if replaced is None:
            self._named(target)
        else:
            # The old file stays until the folder is synced; that is another search's matter.
            self._doomed_names.get(os.path.dirname(target), set()).discard(target)

    def unlink(self, path: str) -> None:
        self._counted("unlink", path)
        removed = self.path_identity(path)
        super().unlink(path)
        self._forget(removed)
        self._unnamed(path)

    def mkdir(self, path: str) -> None:
        self._counted("mkdir", path)
        super().mkdir(path)
        self._named(path)

    def rmdir(self, path: str) -> None:
        self._counted("rmdir", path)
        super().rmdir(path)
        self._unnamed(path)

    def sync_directory(self, path: str) -> None:
        new_names = self._new_names.pop(path, set())
        try:
            self._counted("sync_directory", path)
        except OSError:
            is_log = os.path.basename(os.path.dirname(path)) == "logs"
            fate = self._doomed_names if is_log else self._new_names
            fate.setdefault(path, set()).update(new_names)
            raise
        super().sync_directory(path)

    def sync(self, descriptor: int) -> None:
        inode = self._inode(descriptor)
        try:
            self._counted("sync", self._path(descriptor))
        except OSError:
            if self.fault is not None and self.fault.drops_pages:
                self._drop(descriptor, inode)
            inode.dirty.clear()
            if self.fault is not None and self.fault.dies:
                self.is_dead = True
                raise Died from None
            raise
        super().sync(descriptor)
        cached = _content(descriptor)
        durable = bytearray(inode.durable[: len(cached)].ljust(len(cached), b"\0"))
        for page in inode.dirty:
            span = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
            durable[span] = cached[span]
        inode.durable = bytes(durable)
        inode.dirty.clear()

    # -- the cache and the disk ------------------------------------------------------

    def _path(self, descriptor: int) -> str:
        return self._paths.get(descriptor, "")

    def _inode(self, descriptor: int) -> _Inode:
        number = os.fstat(descriptor).st_ino
        inode = self._inodes.get(number)
        if inode is None:
            inode = self._inodes[number] = _Inode(b"")
        return inode

    def _named(self, path: str) -> None:
        folder = os.path.dirname(path)
        self._doomed_names.get(folder, set()).discard(path)
        self._new_names.setdefault(folder, set()).add(path)

    def _unnamed(self, path: str) -> None:
        for names in (self._new_names, self._doomed_names):
            names.get(os.path.dirname(path), set()).discard(path)

    def _forget(self, identity: tuple[int, int] | None) -> None:
        """A file without a name: its number may be given to another one."""
        if identity is not None:
            self._inodes.pop(identity[1], None)

    def _touch(self, descriptor: int, position: int, size_bytes: int) -> None:
        if size_bytes > 0:
            last = min((position + size_bytes - 1), self.size(descriptor)) // PAGE_BYTES
            self._inode(descriptor).dirty.update(range(position // PAGE_BYTES, last + 1))

    def _drop(self, descriptor: int, inode: _Inode) -> None:
        """Have the cache forget its dirty pages: it shows what the disk has."""
        size = self.size(descriptor)
        for page in inode.dirty:
            start = page * PAGE_BYTES
            kept = inode.durable[start : min(start + PAGE_BYTES, size)]
            kept = kept.ljust(min(PAGE_BYTES, max(0, size - start)), b"\0")
            super().pwrite(descriptor, kept, start)

    def power_cut(self) -> None:
        """Leave below the root what is on disk. Everything must be closed.

        New names are gone unless their folder was synced since. (Which other changes of names
        a power cut may take back is another search's matter.)
        """
        for gone in (*self._new_names.values(), *self._doomed_names.values()):
            for path in gone:
                self._take_away(path)
        self._new_names.clear()
        self._doomed_names.clear()
        for folder, _, names in os.walk(self.root):
            place = os.path.relpath(folder, self.root).partition(os.sep)[0]
            if place not in DURABLE_PLACES:
                continue
            for name in names:
                path = os.path.join(folder, name)
                inode = self._inodes.get(os.stat(path).st_ino)
                if inode is not None:
                    with open(path, "r+b") as file:
                        file.truncate(0)
                        file.write(inode.durable)
                    inode.dirty.clear()
        self.boot = bytes([self.boot[0] + 1]) * 16

    def _take_away(self, path: str) -> None:
        place = os.path.relpath(path, self.root).partition(os.sep)[0]
        if place == "logs" or os.sep not in os.path.relpath(path, self.root):
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.exists(path):
                os.unlink(path)


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
