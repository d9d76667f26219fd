"""The thread that removes in the background what may go, in one process at a time.

Any number of processes may have a directory open, and one of them holds the compactor's
*lease*: the flock on ``run/compactor.lock``, which the kernel frees when that process dies,
however it dies. The others look every now and then whether it is free.

The thread starts a while after the first producer or the first consumer of a group, so a
short command has none of it. It sleeps until ``state.lmdb`` or the catalogue is written, by
whichever process (inotify), or until the next timed round is due: while nothing is
acknowledged, it does nothing. After a round it rests, `REST_FACTOR` times as long as the round
took, so it never takes more than a small share of a core.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from seawall.wal.files import CREATE, READ_WRITE, Descriptor, Files

if TYPE_CHECKING:
    from seawall.wal.watch import FolderWatch

logger = logging.getLogger("seawall.broker")

START_DELAY_S = 3.0
LEASE_INTERVAL_S = 10.0
SHORTEST_REST_S = 1.0
REST_FACTOR = 20

# Does a round, given how to wait and whether it is a timed one; gives the seconds between
# two timed ones.
DoRound = Callable[[Callable[[float], bool], bool], float]


class Compactor:
    """One thread for a directory in this process. It is cheap until it is started."""

    def __init__(self, files: Files, path: str, do_round: DoRound) -> None:
        """`path` is that of the directory."""
        self._files = files
        self._path = path
        self._do_round = do_round
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._lease: Descriptor | None = None
        # Whether this process is the one that works.
        self.holds_lease = False
        self._watch: FolderWatch | None = None

    @property
    def lease_path(self) -> str:
        return os.path.join(self._path, "run", "compactor.lock")

    def start(self) -> None:
        """Have the thread, from now on. Cheap if there is one."""
        with self._starting:
            if self._thread is not None or self._stopped.is_set():
                return
            thread = threading.Thread(target=self._run, name="seawall-compactor", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # No more threads. The next producer or consumer tries again.
                logger.warning("no thread that removes what was acknowledged: %s", error)
                return
            self._thread = thread

    def _run(self) -> None:
        wait_s, trouble = START_DELAY_S, ""
        try:
            while not self._wait(wait_s):
                wait_s = LEASE_INTERVAL_S
                try:
                    if self._take_lease():
                        self._work()
                except Exception as error:  # noqa: BLE001 - without this thread nothing goes
                    # Somebody else may have more luck with the lease meanwhile.
                    self._lease, self.holds_lease = None, False
                    if str(error) != trouble:
                        logger.warning(
                            "%s: nothing is removed in the background: %s", self._path, error
                        )
                    trouble = str(error)
        finally:
            self._lease, self.holds_lease = None, False

    def _take_lease(self) -> bool:
        if self._lease is None:
            self._lease = Descriptor(self._files, self.lease_path, READ_WRITE | CREATE)
        self.holds_lease = self._files.try_lock(self._lease.number)
        return self.holds_lease

    def _work(self) -> None:
        """Do one round after the other, until it is time to end."""
        from seawall.broker.pace import Stopped
        from seawall.wal.watch import FolderWatch

        with FolderWatch([self._path, os.path.join(self._path, "state.lmdb")]) as watch:
            self._watch = watch
            last_timed_s = -float("inf")
            interval_s = 0.0
            while not self._stopped.is_set():
                began_s = time.monotonic()
                is_timed = began_s >= last_timed_s + interval_s
                if is_timed:
                    last_timed_s = began_s
                try:
                    interval_s = self._do_round(self._wait, is_timed)
                except Stopped:
                    return
                except Exception as error:  # noqa: BLE001 - the next round may go better
                    if self._stopped.is_set():
                        return
                    logger.warning("%s: nothing was removed: %s", self._path, error)
                    interval_s = max(interval_s, LEASE_INTERVAL_S)
                took_s = time.monotonic() - began_s
                if self._wait(max(SHORTEST_REST_S, REST_FACTOR * took_s)):
                    return
                watch.wait(max(0.0, last_timed_s + interval_s - time.monotonic()))

    def _wait(self, timeout_s: float) -> bool:
        """Sleep; True at once when it is time to end."""
        return self._stopped.wait(timeout_s) if timeout_s else self._stopped.is_set()

    def close(self) -> None:
        """End the thread and give the lease back. Safe to call twice."""
        with self._starting:
            self._stopped.set()
            thread, self._thread = self._thread, None
        if thread is not None:
            watch = self._watch
            if watch is not None:
                watch.stop()
            thread.join()

    def abandon(self) -> None:
        """In a forked child, which has no such thread: close our copies of its files."""
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        self._stopped.set()
        self._thread = None
        self.holds_lease = False
        lease, self._lease = self._lease, None
        watch, self._watch = self._watch, None
        with contextlib.suppress(OSError):
            if lease is not None:
                lease.abandon()
            if watch is not None:
                watch.abandon()
