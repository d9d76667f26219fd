"""The thread that does, a moment later, what nobody should have to wait for.

Logs that were appended to are brought to disk (for producers that did not wait for it)
and get a checkpoint, each at most once per interval. The thread starts with the first
append and sleeps without a timer while there is nothing to do.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from seawall.wal.errors import LockTimeout, LogGone, WalError

if TYPE_CHECKING:
    from seawall.wal.log import Log

logger = logging.getLogger("seawall.wal")


class Housekeeper:
    """One thread for all logs of a directory in this process."""

    def __init__(self, *, checkpoint_interval_ms: int, sync_interval_ms: int) -> None:
        self._checkpoint_interval_s = checkpoint_interval_ms / 1000
        self._sync_interval_s = sync_interval_ms / 1000
        self._work = threading.Condition()
        self._dirty: set[Log] = set()
        self._unsynced: set[Log] = set()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._checkpoint_due_s = 0.0
        self._sync_due_s = 0.0

    def needs_checkpoint(self, log: Log) -> None:
        """`log` was appended to; cheap, and called for every append."""
        if log not in self._dirty:
            with self._work:
                if not self._dirty:
                    self._checkpoint_due_s = time.monotonic() + self._checkpoint_interval_s
                self._dirty.add(log)
                self._wake()

    def needs_sync(self, log: Log) -> None:
        """`log` was appended to by someone who does not wait for the sync."""
        if log not in self._unsynced:
            with self._work:
                if not self._unsynced:
                    self._sync_due_s = time.monotonic() + self._sync_interval_s
                self._unsynced.add(log)
                self._wake()

    def _wake(self) -> None:
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name="seawall-housekeeper", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # No more threads, or the interpreter is ending. The append that brought us
                # here was made: it must not fail for this. The next one tries again.
                logger.warning("no thread for checkpoints and late syncs: %s", error)
                return
            self._thread = thread
        self._work.notify()

    def _run(self) -> None:
        while True:
            with self._work:
                unsynced, dirty = self._wait_for_work()
                if self._closed:
                    return
            self._care_for(unsynced, dirty)

    def _wait_for_work(self) -> tuple[set[Log], set[Log]]:
        """Sleep until something is due, and take it. Holds the condition."""
        while not self._closed:
            due_s = math.inf
            if self._unsynced:
                due_s = self._sync_due_s
            if self._dirty:
                due_s = min(due_s, self._checkpoint_due_s)
            now_s = time.monotonic()
            if now_s < due_s:
                self._work.wait(None if due_s == math.inf else due_s - now_s)
                continue
            unsynced: set[Log] = set()
            dirty: set[Log] = set()
            if now_s >= self._sync_due_s:
                unsynced, self._unsynced = self._unsynced, set()
            if now_s >= self._checkpoint_due_s:
                dirty, self._dirty = self._dirty, set()
            return unsynced, dirty
        return set(), set()

    def _care_for(self, unsynced: set[Log], dirty: set[Log]) -> None:
        for log in unsynced:
            try:
                log.sync()
            except LogGone:
                pass
            except LockTimeout as error:
                logger.warning("%s: not synced yet: %s", log.context.folder, error)
                if not self._closed:
                    self.needs_sync(log)
            except (WalError, OSError) as error:
                logger.error("%s: could not sync: %s", log.context.folder, error)
        for log in dirty:
            try:
                log.checkpoint()
            except LogGone:
                pass
            except (WalError, OSError) as error:
                logger.warning("%s: no checkpoint: %s", log.context.folder, error)

    def close(self) -> None:
        """End the thread, then sync and checkpoint what is left. Safe to call twice."""
        with self._work:
            self._closed = True
            self._work.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        unsynced, self._unsynced = self._unsynced, set()
        dirty, self._dirty = self._dirty, set()
        self._care_for(unsynced, dirty)

    def abandon(self) -> None:
        """In a forked child, which has no such thread."""
        self._work = threading.Condition()
        self._closed = True
        self._thread = None
        self._dirty, self._unsynced = set(), set()
