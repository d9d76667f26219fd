"""One server for a directory: whoever holds the flock on ``run/server.lock``.

The kernel frees it when its process dies, however it dies, so the next server may begin at
once. The file says who holds it, for people: a line of JSON with the pid and the address.
"""

from __future__ import annotations

import json
import os
import time

from seawall.broker.errors import ServerRunning
from seawall.wal import forks
from seawall.wal.files import (
    CREATE,
    READ_WRITE,
    Descriptor,
    Files,
    read_fully,
    write_fully,
)
from seawall.wal.locks import lock_holder

# A dying process lets go of its files a moment after it looks dead.
PATIENCE_S = 0.5
_PAUSE_S = 0.01
_RECORD_BYTES = 512


class ServerLease:
    """The lease of one directory. Blocks: for a thread that may."""

    def __init__(self, files: Files, path: str) -> None:
        """`path` is that of the directory."""
        self._files = files
        self._path = path
        self._descriptor: Descriptor | None = None

    def take(self) -> None:
        """Be the one server. Raises `ServerRunning`."""
        path = os.path.join(self._path, "run", "server.lock")
        descriptor = Descriptor(self._files, path, READ_WRITE | CREATE)
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._files.try_lock(descriptor.number):
            if time.monotonic() >= deadline_s:
                raise self._running(descriptor)
            time.sleep(_PAUSE_S)
        self._descriptor = descriptor
        forks.register(self)
        try:
            self.tell("")
        except BaseException:
            self._descriptor = None
            raise

    def _running(self, descriptor: Descriptor) -> ServerRunning:
        pid, address = lock_holder(self._files, descriptor.number), ""
        try:
            told = json.loads(read_fully(self._files, descriptor.number, _RECORD_BYTES, 0))
            if not pid or told["pid"] == pid:
                pid, address = int(told["pid"]), str(told["address"])
        except (ValueError, KeyError, TypeError):
            pass  # it has only just begun
        return ServerRunning(path=self._path, holder_pid=pid, address=address)

    def tell(self, address: str) -> None:
        """Write down where the server listens."""
        descriptor = self._descriptor  # stays open, even if it is given back meanwhile
        if descriptor is not None:
            line = json.dumps({"pid": os.getpid(), "address": address}) + "\n"
            record = line.encode().ljust(_RECORD_BYTES)
            write_fully(self._files, descriptor.number, record, 0)

    def give_back(self) -> None:
        """Let another one be the server. Safe to call twice."""
        self._descriptor = None

    def abandon(self) -> None:
        """In a forked child: close our copy, or it would hold the lock beyond the parent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            descriptor.abandon()
