"""The folder of an LMDB environment: made durable as a whole, opened, removed.

Layout::

    data.mdb     LMDB's data (format 1, of LMDB 0.9), only its unnamed main database
    lock.mdb     LMDB's table of readers; means nothing once every process is gone
    write.lock   what we flock around each write transaction
"""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable

import lmdb

from seawall.wal.errors import DirectoryUnusable, StorageFull, WalError
from seawall.wal.files import CREATE, NO_ROOM_ERRNOS, READ_WRITE, Files

MAX_READERS = 4096  # read transactions at once, over all processes
MAX_SPARE_TRANSACTIONS = 16  # kept for the next reader of this process

READERS_NAME = "lock.mdb"
WRITE_LOCK_NAME = "write.lock"

# LMDB needs one cache line for each reader and a few for its header.
_READERS_BYTES = (MAX_READERS + 8) * 64
_LMDB_MAJOR = 0  # LMDB 0.9, data format 1


def _tell_processes_apart() -> None:
    """Let a forked child open an environment that its parent has open.

    py-lmdb 3 refuses to open the same files twice in a process, and forgets that a
    child is another process: it would refuse for ever. It asks this function what the
    same files are, so the answer gets the pid added.
    """
    try:
        module = importlib.import_module("lmdb._envid")
        original: Callable[[str, bool], tuple[object, ...]] = module.env_keys
    except (ImportError, AttributeError):  # py-lmdb before 3.0
        return

    def env_keys(path: str, subdir: bool) -> tuple[object, ...]:
        return tuple((os.getpid(), key) for key in original(path, subdir))

    module.__dict__["env_keys"] = env_keys


_tell_processes_apart()


def open_lmdb(path: str, map_size_bytes: int) -> lmdb.Environment:
    return lmdb.open(
        path,
        map_size=map_size_bytes,
        max_readers=MAX_READERS,
        max_spare_txns=MAX_SPARE_TRANSACTIONS,
        create=False,
        lib_version=_LMDB_MAJOR,
    )


def reserve_readers(files: Files, path: str) -> None:
    descriptor = files.open(path, READ_WRITE | CREATE)
    try:
        # One that is in use must not grow: others have mapped it as it is.
        files.allocate(descriptor, 0, files.size(descriptor) or _READERS_BYTES)
    finally:
        files.close(descriptor)


def create_environment(files: Files, path: str, map_size_bytes: int) -> None:
    """Make an empty environment aside, make it durable, and put it in place."""
    aside = f"{path}.{os.getpid()}.new"
    remove_environment(files, aside)
    files.mkdir(aside)
    try:
        try:
            reserve_readers(files, os.path.join(aside, READERS_NAME))
            environment = open_lmdb(aside, map_size_bytes)
            environment.sync(True)
            environment.close()
        except lmdb.Error as error:
            code = getattr(error, "code", 0)
            raise OSError(code or errno.EIO, str(error), aside) from error
        files.unlink(os.path.join(aside, READERS_NAME))
        files.close(files.open(os.path.join(aside, WRITE_LOCK_NAME), READ_WRITE | CREATE))
        files.sync_directory(aside)
        try:
            files.rename(aside, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove_environment(files, aside)  # another process was quicker
    except BaseException:
        remove_environment(files, aside)
        raise
    files.sync_directory(os.path.dirname(path) or ".")


def remove_environment(files: Files, path: str) -> None:
    """Remove an environment, or what is left of one, that nobody has open."""
    if not files.is_directory(path):
        return
    for name in files.list(path):
        files.unlink(os.path.join(path, name))
    files.rmdir(path)
    files.sync_directory(os.path.dirname(path) or ".")


def remove_leftovers(files: Files, path: str) -> None:
    """Remove what processes that died while making `path` left. For the sole opener."""
    folder, name = os.path.split(path)
    for other in files.list(folder or "."):
        if other.startswith(f"{name}.") and other.endswith(".new"):
            remove_environment(files, os.path.join(folder, other))


def os_error(path: str, error: OSError) -> WalError:
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM_ERRNOS:
        return StorageFull(path=path, reason=reason)
    return DirectoryUnusable(path=path, reason=reason)
