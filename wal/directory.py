"""A broker directory: whose it is, who has it open, and who may judge it.

Layout (see docs/format.md for the whole)::

    FORMAT         "seawall 1", newline, "cluster-id ", the id, newline
    LOCK           flock: shared by every opener, exclusive by a sole one; holds the
                   PID namespace of the openers
    catalog.db  state.lmdb/  index.lmdb/  logs/  run/  quarantine/

FORMAT is written last when a directory is made, so a directory that has it has all of
it. Whoever gets LOCK exclusively is alone and stays so until `Directory.share`: the
*sole opener*, who may judge, mend and rebuild. Everyone else joins as things are.
"""

from __future__ import annotations

import base64
import os
import time
import uuid

from seawall.wal.errors import (
    DirectoryError,
    DirectoryUnusable,
    ForeignDirectory,
    ForeignNamespace,
    LockTimeout,
    UnsupportedFormat,
    UnsupportedPlatform,
)
from seawall.wal.files import (
    CREATE,
    READ_WRITE,
    Files,
    make_directory,
    read_file,
    write_fully,
    write_new_file,
)
from seawall.wal.locks import lock_holder

FORMAT_LINE = "seawall 1"
FORMAT_LIMIT_BYTES = 4096
JOIN_PAUSE_S = 0.005

# What may lie in a directory that is still to become seawall's: a fresh checkout's and a
# fresh file system's own files, and what a crash in the middle of the making left.
_NOT_FOREIGN = frozenset({".gitkeep", ".gitignore", "lost+found", "LOCK", "run", "quarantine"})
_HALF_MADE = frozenset(
    {"catalog.db", "catalog.db-wal", "catalog.db-shm", "catalog.db-journal", "logs"}
)
_HALF_MADE_PREFIXES = ("FORMAT.", "index.lmdb", "state.lmdb")

# flock(2), mmap(2) and fdatasync(2) do not keep their word across machines.
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "9p", "ncpfs", "lustre"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone"}
)


class Directory:
    """A directory that this process holds open, alone (`is_sole`) or with others."""

    def __init__(
        self,
        files: Files,
        path: str,
        descriptor: int,
        *,
        is_sole: bool,
        cluster_id: str | None,
        timeout_ms: int,
    ) -> None:
        self._files = files
        self._lock_descriptor = descriptor
        self._timeout_ms = timeout_ms
        self.path = path
        self.is_sole = is_sole
        self.is_new = cluster_id is None
        self.cluster_id = cluster_id or new_cluster_id()

    @classmethod
    def open(cls, files: Files, path: str, *, create: bool, timeout_ms: int) -> Directory:
        """Open a directory; with `create`, an empty or missing one becomes seawall's.

        A foreign directory is refused before anything in it is touched. `timeout_ms`
        bounds the wait for a sole opener that is at work.

        Raises a `DirectoryError`, or `LockTimeout`.
        """
        path = os.path.abspath(path)
        try:
            return cls._open(files, path, create=create, timeout_ms=timeout_ms)
        except OSError as error:
            reason = error.strerror or str(error)
            raise DirectoryUnusable(path=path, reason=reason) from error

    @classmethod
    def _open(cls, files: Files, path: str, *, create: bool, timeout_ms: int) -> Directory:
        if not files.is_directory(path):
            if files.exists(path):
                raise DirectoryUnusable(path=path, reason="it is not a directory")
            if not create:
                raise DirectoryUnusable(path=path, reason="there is no such directory")
            _make_directories(files, path)
        _refuse_network_file_system(files, path)
        cluster_id = read_format(files, path)
        if cluster_id is None:
            try:
                _refuse_foreign(files, path)
            except DirectoryError:
                # Unless another process has made it seawall's just now.
                if read_format(files, path) is None:
                    raise
            if not create:
                raise DirectoryUnusable(path=path, reason="it is not a seawall directory")
        descriptor = files.open(os.path.join(path, "LOCK"), READ_WRITE | CREATE)
        try:
            is_sole = _take_lock(files, descriptor, path, timeout_ms)
            namespace = files.pid_namespace()
            if is_sole:
                line = namespace.encode() + b"\n"
                write_fully(files, descriptor, line.ljust(64, b" "), 0)
            else:
                _refuse_foreign_namespace(files, descriptor, path)
            # Another process may have made it ours in the meantime.
            cluster_id = read_format(files, path)
        except BaseException:
            files.close(descriptor)
            raise
        return cls(
            files,
            path,
            descriptor,
            is_sole=is_sole,
            cluster_id=cluster_id,
            timeout_ms=timeout_ms,
        )

    def join(self, *names: str) -> str:
        """A path inside the directory."""
        return os.path.join(self.path, *names)

    def make_folders(self) -> None:
        """Make the folders that every directory has."""
        for name in ("logs", "run", "quarantine"):
            make_directory(self._files, self.join(name))
        self._files.sync_directory(self.path)

    def finish_making(self) -> None:
        """Everything else is in place and synced: this is a seawall directory now."""
        text = f"{FORMAT_LINE}\ncluster-id {self.cluster_id}\n"
        write_new_file(self._files, self.join("FORMAT"), text.encode())
        self.is_new = False

    def share(self) -> None:
        """Let others in: the sole opener's work is done.

        Raises `LockTimeout` or `ForeignNamespace` if another process came in between.
        """
        if self.is_sole:
            # Not atomic (flock(2)): another process may be sole in between. It then
            # finds a directory in good order, and nothing to do; but it may be stopped, or
            # of another namespace.
            deadline = time.monotonic() + self._timeout_ms / 1000
            while not self._files.try_lock(self._lock_descriptor, exclusive=False):
                if time.monotonic() >= deadline:
                    raise LockTimeout(
                        path=self.join("LOCK"),
                        holder_pid=lock_holder(self._files, self._lock_descriptor),
                        timeout_ms=self._timeout_ms,
                    )
                time.sleep(JOIN_PAUSE_S)
            self.is_sole = False
            _refuse_foreign_namespace(self._files, self._lock_descriptor, self.path)

    def close(self) -> None:
        """Let go of the directory. Safe to call twice."""
        descriptor, self._lock_descriptor = self._lock_descriptor, -1
        if descriptor >= 0:
            self._files.close(descriptor)

    def abandon(self) -> None:
        """In a forked child: close our copy of the lock's descriptor."""
        self.close()


def new_cluster_id() -> str:
    """A random id, written as Kafka writes its cluster ids: 22 letters, digits, - and _."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def read_format(files: Files, path: str) -> str | None:
    """The cluster id in FORMAT, None without such a file; raises `UnsupportedFormat`."""
    try:
        data = read_file(files, os.path.join(path, "FORMAT"), FORMAT_LIMIT_BYTES)
    except FileNotFoundError:
        return None
    lines = data.decode("utf-8", "replace").splitlines()
    if not lines or lines[0] != FORMAT_LINE:
        found = lines[0][:40] if lines else ""
        raise UnsupportedFormat(path=path, found=found, supported=FORMAT_LINE)
    for line in lines[1:]:
        key, _, value = line.partition(" ")
        if key == "cluster-id" and value:
            return value
    raise UnsupportedFormat(path=path, found="FORMAT without a cluster-id", supported=FORMAT_LINE)


def _take_lock(files: Files, descriptor: int, path: str, timeout_ms: int) -> bool:
    """True: exclusively; False: shared."""
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        if files.try_lock(descriptor, exclusive=True):
            return True
        if files.try_lock(descriptor, exclusive=False):
            return False
        if time.monotonic() >= deadline:
            raise LockTimeout(
                path=os.path.join(path, "LOCK"),
                holder_pid=lock_holder(files, descriptor),
                timeout_ms=timeout_ms,
            )
        time.sleep(JOIN_PAUSE_S)


def _refuse_foreign_namespace(files: Files, descriptor: int, path: str) -> None:
    own = files.pid_namespace()
    found = files.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
    if found != own:
        raise ForeignNamespace(path=path, namespace=found, own_namespace=own)


def _refuse_foreign(files: Files, path: str) -> None:
    """A directory without FORMAT must be empty, or half made."""
    for name in sorted(files.list(path)):
        if name in _NOT_FOREIGN:
            continue
        if name not in _HALF_MADE and not name.startswith(_HALF_MADE_PREFIXES):
            raise ForeignDirectory(path=path, found=name)
        inside = os.path.join(path, name)
        if name == "logs" and files.is_directory(inside) and files.list(inside):
            raise UnsupportedFormat(
                path=path, found="logs without a FORMAT file", supported=FORMAT_LINE
            )


def _make_directories(files: Files, path: str) -> None:
    parent = os.path.dirname(path)
    if parent != path and not files.exists(parent):
        _make_directories(files, parent)
    make_directory(files, path)
    files.sync_directory(parent)


def _refuse_network_file_system(files: Files, path: str) -> None:
    identity = files.path_identity(path)
    if identity is None:
        return
    device = f"{os.major(identity[0])}:{os.minor(identity[0])}"
    try:
        table = read_file(files, "/proc/self/mountinfo").decode("utf-8", "replace")
    except OSError as error:
        raise UnsupportedPlatform(
            path=path, reason=f"/proc is needed, and reading it failed: {error.strerror}"
        ) from error
    for line in table.splitlines():
        # proc_pid_mountinfo(5): … major:minor … " - " type source options
        mount, _, rest = line.partition(" - ")
        fields, kind = mount.split(), rest.split(" ", 1)[0]
        if len(fields) > 2 and fields[2] == device and kind in _NETWORK_FILE_SYSTEMS:
            raise UnsupportedPlatform(
                path=path,
                reason=f"it is on a network file system ({kind}); use a local disk",
            )
