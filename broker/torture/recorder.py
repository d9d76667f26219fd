"""Recording a workload on a whole directory, with what LMDB and SQLite wrote from C.

Their files are not seen being written, so whenever one of them has committed something, a
snapshot of it is put into the trace: before the next call and the next mark. A crash at
that point finds it as of its last commit; that a commit itself survives a crash at any of
its system calls is another search's matter.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from seawall.broker.torture.connect import connect
from seawall.broker.torture.performer import Performer, Step
from seawall.wal.torture.recording import RecordingFiles
from seawall.wal.torture.trace import Trace, content

STATE, CATALOG, INDEX, RUN = "state", "catalog", "index", "run"
STATE_FILE = "state.lmdb/data.mdb"
INDEX_FILE = "index.lmdb/data.mdb"
CATALOG_FILES = ("catalog.db", "catalog.db-wal")
RUN_FILE = "run/ends"

# The two meta pages of an LMDB file: one of them changes with each commit.
_META_BYTES = 2 * 4096
# The head of SQLite's index of its WAL changes with each commit.
_SHM_BYTES = 96


def is_elsewhere(path: str) -> bool:
    """Whether a path is none of the logs' and has its state from a snapshot."""
    return path.startswith(("run", "index.lmdb", "state.lmdb", "catalog.db"))


class Recorder:
    """Records what happens below a folder: `files` are to be used there."""

    def __init__(self, root: str, boot: bytes) -> None:
        self.files = RecordingFiles(root, before_operation=self._look, boot=boot)
        self._root = root
        self._seen: dict[str, bytes] = {}
        self._look()

    @property
    def trace(self) -> Trace:
        """What has happened so far."""
        return self.files.trace

    def _look(self) -> None:
        self._look_at(STATE, [STATE_FILE], self._head(STATE_FILE, _META_BYTES))
        self._look_at(INDEX, [INDEX_FILE], self._head(INDEX_FILE, _META_BYTES))
        sizes = [self._size(name) for name in CATALOG_FILES]
        head = self._head("catalog.db-shm", _SHM_BYTES) + self._head("catalog.db", 100)
        self._look_at(CATALOG, CATALOG_FILES, head + repr(sizes).encode())
        self._look_at(RUN, [RUN_FILE], self._head(RUN_FILE, 1 << 16))

    def _look_at(self, name: str, paths: Sequence[str], seen: bytes) -> None:
        if self._seen.get(name, b"") != seen:
            self._seen[name] = seen
            full = [(path, os.path.join(self._root, path)) for path in paths]
            there = {path: content(whole) for path, whole in full if os.path.exists(whole)}
            self.files.snapshot(name, there)

    def _head(self, name: str, size_bytes: int) -> bytes:
        try:
            with open(os.path.join(self._root, name), "rb") as file:
                return file.read(size_bytes)
        except FileNotFoundError:
            return b""

    def _size(self, name: str) -> int:
        try:
            return os.stat(os.path.join(self._root, name)).st_size
        except FileNotFoundError:
            return -1


def record(root: str, script: Sequence[Step], boot: bytes) -> Trace:
    """Carry out a script in an empty folder, and record it."""
    recorder = Recorder(root, boot)
    worker = Performer(lambda: connect(root, recorder.files), recorder.files.mark)
    try:
        worker.perform(script)
    finally:
        worker.close()
    recorder.files.mark({"id": 0, "is": "done"})  # so that the last commits are looked at
    return recorder.trace
