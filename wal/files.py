"""The only calls that seawall makes to the operating system's files.

Everything that touches a disk goes through a `Files` object, so that a test can
put another one in its place and break every call on purpose. The methods are thin:
they add no retry, no buffering and no policy, and they raise what the operating
system raises (`OSError`); the caller decides what an error means for the log. Only what
opens something lets go of other files first if they are too many (`open_files`).

Descriptors are plain integers and are never inherited by a child that is started
with ``exec``. Positions and sizes are in bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import stat
from collections.abc import Sequence
from typing import Protocol

from seawall.wal.open_files import make_room

# Errors that mean "no room", whatever the file system calls it: the disk is full, the
# quota is used up, the file-size limit (ulimit -f, RLIMIT_FSIZE) is reached.
NO_ROOM_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Errors that say nothing of the disk: this process, or the machine, has too much open.
TOO_MANY_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE})

# Less than this is no room, where a library keeps to itself what the kernel said.
NO_ROOM_BYTES = 1 << 20

# File systems without fallocate(2) answer with one of these; allocating ahead is only
# an optimisation, so it is skipped there.
_NO_ALLOCATE_ERRNOS = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})

Buffer = bytes | bytearray | memoryview

READ = os.O_RDONLY
READ_WRITE = os.O_RDWR
CREATE = os.O_CREAT
EXCLUSIVE = os.O_EXCL
TRUNCATE = os.O_TRUNC


class Files:
    """The operating system's files. Stateless, so one object serves every thread."""

    # -- descriptors -----------------------------------------------------------------

    def open(self, path: str, flags: int = READ, mode: int = 0o644) -> int:
        return _open(path, flags, mode)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def pread(self, descriptor: int, size_bytes: int, position: int) -> bytes:
        return os.pread(descriptor, size_bytes, position)

    def pwrite(self, descriptor: int, data: Buffer, position: int) -> int:
        """Write once and return the count, which may be short."""
        return os.pwrite(descriptor, data, position)

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], position: int) -> int:
        """Write several buffers in one call and return the count, which may be short."""
        return os.pwritev(descriptor, buffers, position)

    def allocate(self, descriptor: int, position: int, size_bytes: int) -> None:
        """Reserve blocks (they read as zeros); does nothing where that is unsupported."""
        try:
            os.posix_fallocate(descriptor, position, size_bytes)
        except OSError as error:
            if error.errno not in _NO_ALLOCATE_ERRNOS:
                raise

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        os.ftruncate(descriptor, size_bytes)

    def sync(self, descriptor: int) -> None:
        """Make data and size durable: fdatasync(2)."""
        os.fdatasync(descriptor)

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def disk_bytes(self, descriptor: int) -> tuple[int, int]:
        """`disk_bytes` of the disk that an open file is on."""
        return disk_bytes(descriptor)

    def identity(self, descriptor: int) -> tuple[int, int]:
        """(st_dev, st_ino) of an open file."""
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino

    # -- names -----------------------------------------------------------------------

    def rename(self, source: str, target: str) -> None:
        """Rename, replacing the target."""
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        os.mkdir(path)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        descriptor = _open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def list(self, path: str) -> list[str]:
        """The names in a directory, unsorted."""
        return os.listdir(path)

    def exists(self, path: str) -> bool:
        """False only if there is no such name; other trouble raises `OSError`."""
        return self.path_size(path) is not None

    def is_directory(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(os.stat(path).st_mode)
        except FileNotFoundError:
            return False

    def path_size(self, path: str) -> int | None:
        """The size of a file in bytes, None if there is no such name."""
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            return None

    def path_identity(self, path: str) -> tuple[int, int] | None:
        """(st_dev, st_ino) of what a name points to, None if there is no such name."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def modified_ms(self, path: str) -> int:
        """When a file was last written, in ms since the epoch."""
        return os.stat(path).st_mtime_ns // 1_000_000

    # -- locks -----------------------------------------------------------------------

    def try_lock(self, descriptor: int, *, exclusive: bool = True) -> bool:
        """flock(2) without waiting; False if somebody else holds it."""
        mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    # -- the machine -----------------------------------------------------------------

    def boot_id(self) -> bytes:
        """16 bytes that are the same until the kernel is booted again."""
        text = read_file(self, "/proc/sys/kernel/random/boot_id")
        return bytes.fromhex(text.decode("ascii").strip().replace("-", ""))

    def pid_namespace(self) -> str:
        """The name of this process's PID namespace, such as ``pid:[4026531836]``."""
        return os.readlink("/proc/self/ns/pid")


def _open(path: str, flags: int, mode: int = 0o644) -> int:
    try:
        return os.open(path, flags, mode)
    except OSError as error:
        if error.errno not in TOO_MANY_ERRNOS or not make_room():
            raise
    return os.open(path, flags, mode)


def has_room(path: str) -> bool:
    """Whether a file could still grow: neither its disk nor RLIMIT_FSIZE is all but reached.

    For those who are told "input/output error" by LMDB and SQLite, which say so of a short
    write. True if that cannot be found out.
    """
    try:
        disk = os.statvfs(os.path.dirname(path) or ".")
        size = os.stat(path).st_size
    except OSError:
        return True
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    is_below_limit = limit == resource.RLIM_INFINITY or size + NO_ROOM_BYTES <= limit
    return is_below_limit and disk.f_bavail * disk.f_frsize >= NO_ROOM_BYTES


def disk_bytes(place: str | int) -> tuple[int, int]:
    """The size of the disk that a path or an open file is on, and what this user may still fill
    of it."""
    disk = os.statvfs(place)
    return disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize


def make_directory(files: Files, path: str) -> None:
    """Create a directory if it is not there. Does not sync its parent."""
    with contextlib.suppress(FileExistsError):
        files.mkdir(path)


def remove_file(files: Files, path: str) -> None:
    """Remove a file if it is there. Does not sync its directory."""
    with contextlib.suppress(FileNotFoundError):
        files.unlink(path)


def read_file(files: Files, path: str, limit_bytes: int = 1 << 20) -> bytes:
    """The first `limit_bytes` bytes of a file."""
    descriptor = files.open(path, READ)
    try:
        return read_fully(files, descriptor, limit_bytes, 0)
    finally:
        files.close(descriptor)


def read_fully(files: Files, descriptor: int, size_bytes: int, position: int) -> bytes:
    """`size_bytes` bytes from `position`; fewer only at the end of the file.

    One pread(2) is enough nearly always, but Linux moves at most 2 GiB in one call and
    files under ``/proc`` come in pieces.
    """
    data = files.pread(descriptor, size_bytes, position)
    if len(data) == size_bytes or not data:
        return data
    pieces = [data]
    got = len(data)
    while got < size_bytes:
        data = files.pread(descriptor, size_bytes - got, position + got)
        if not data:
            break
        pieces.append(data)
        got += len(data)
    return b"".join(pieces)


def write_fully(files: Files, descriptor: int, data: Buffer, position: int) -> None:
    """Write all of `data`, in as many calls as it takes.

    For files that nobody reads before they are finished; the log itself never goes on
    after a short write.
    """
    view = memoryview(data)
    while view:
        count = files.pwrite(descriptor, view, position)
        if count <= 0:
            raise OSError(errno.EIO, "write made no progress")
        view = view[count:]
        position += count


def write_new_file(files: Files, path: str, data: Buffer) -> None:
    """Put a whole file in place: written aside, synced, renamed, directory synced.

    After a crash the name holds either what it held before, or all of `data`.
    """
    aside = f"{path}.{os.getpid()}.new"
    descriptor = files.open(aside, READ_WRITE | CREATE | TRUNCATE)
    try:
        try:
            write_fully(files, descriptor, data, 0)
            files.sync(descriptor)
        finally:
            files.close(descriptor)
        files.rename(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            files.unlink(aside)
        raise
    files.sync_directory(os.path.dirname(path) or ".")


class Abandonable(Protocol):
    """What holds operating-system state that a forked child must not touch."""

    def abandon(self) -> None: ...


class Descriptor:
    """An open file that closes when the last reference to it goes.

    A thread that syncs a segment keeps its own reference, so another thread that rolls
    to the next segment in the meantime cannot close it underneath, nor can its number
    be given to another file.
    """

    __slots__ = ("_files", "number", "path")

    def __init__(self, files: Files, path: str, flags: int = READ) -> None:
        self.number = -1
        self._files = files
        self.path = path
        self.number = files.open(path, flags)

    def abandon(self) -> None:
        """In a forked child: close our copy now, whoever still refers to it.

        What the parent's other threads referred to is never let go of in the child.
        """
        number, self.number = self.number, -1
        if number >= 0:
            with contextlib.suppress(OSError):
                self._files.close(number)

    def __del__(self) -> None:
        self.abandon()
