"""A lock between threads and processes that never waits without a bound.

`FileLock` is a thread lock around flock(2) on a file of its own. flock belongs to the
open file, so the kernel frees it when its process dies, however it dies; and one pair
of calls costs about 1.5 µs. It is taken without blocking and with a growing pause,
because a blocking flock cannot be bounded in time.

Who holds a lock is not written anywhere on the way (that would cost a write each
time): when a wait runs out, ``/proc/locks`` is asked.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
import weakref

from seawall.wal.backoff import Schedule
from seawall.wal.errors import (
    ForkedHandle,
    HandleClosed,
    HandleUnusable,
    LockTimeout,
    LogGone,
    WriteFailed,
)
from seawall.wal.files import CREATE, READ_WRITE, Descriptor, Files, read_file
from seawall.wal.open_files import Holder, keep_open

PAUSES = Schedule(base_ms=0.03, max_ms=2.5)
# `/proc/locks` comes in pieces of a page: whoever stands behind a lock that goes meanwhile may
# be missing.
MOST_LOOKS = 5


class FileLock(Holder):
    """An exclusive lock on `path`, for one thread of one process at a time.

    ``error`` is the kind of `LockTimeout` that a wait that runs out raises. With
    ``may_reopen`` its file is closed now and then if very many are open, and opened again when
    it is needed: for locks whose file goes with the folder that it is in.
    """

    def __init__(
        self,
        files: Files,
        path: str,
        *,
        timeout_ms: int,
        error: type[LockTimeout] = LockTimeout,
        may_reopen: bool = False,
    ) -> None:
        self._files = files
        self._error = error
        # Only its owner can release it: so a thread that a signal's handler interrupts can tell
        # whether it had it already. It is not taken twice: see `acquire`.
        self._threads = threading.RLock()
        self._owner = 0
        self.surely = _Surely(self)
        self.path = path
        self.timeout_ms = timeout_ms
        self._pid = os.getpid()
        self._descriptor: Descriptor | None = Descriptor(files, path, READ_WRITE | CREATE)
        self._closed = False
        if may_reopen:
            keep_open(self)
        # Whoever holds the lock keeps its file open, so that a close() by another thread
        # in the meantime does not free it.
        self._held: Descriptor | None = None

    def acquire(self) -> None:
        """Take the lock, or raise after ``timeout_ms``. At once if this thread has it."""
        descriptor = self._descriptor or self._open_again()
        self.was_used = True
        threads, me = self._threads, threading.get_ident()
        if self._owner == me:
            raise self._timed_out(descriptor)
        deadline = 0.0
        try:
            if not threads.acquire(blocking=False):
                deadline = time.monotonic() + self.timeout_ms / 1000
                if not threads.acquire(timeout=self.timeout_ms / 1000):
                    raise self._timed_out(descriptor)
        except BaseException:
            # Perhaps just after it was taken.
            with contextlib.suppress(RuntimeError):
                threads.release()
            raise
        try:
            self._owner, self._held = me, descriptor
            if not self._files.try_lock(descriptor.number):
                self._wait(descriptor, deadline or time.monotonic() + self.timeout_ms / 1000)
        except BaseException:
            self.release()
            raise

    def _open_again(self) -> Descriptor:
        if self._closed or self._pid != os.getpid():
            raise self._unusable()
        try:
            descriptor = Descriptor(self._files, self.path, READ_WRITE | CREATE)
        except FileNotFoundError:
            raise LogGone(path=os.path.dirname(self.path)) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise WriteFailed(path=self.path, position=0, reason=reason) from error
        self._descriptor = descriptor
        keep_open(self)
        return descriptor

    def let_go(self) -> None:
        """See `Holder`."""
        self._descriptor = None

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds it."""
        return self._owner == threading.get_ident()

    def release(self, *exc: object) -> None:
        """Free the lock, unless this thread has freed it already."""
        if self._owner != threading.get_ident():
            return
        held = self._held
        try:
            if held is not None:
                try:
                    self._files.unlock(held.number)
                except BaseException:
                    self._files.unlock(held.number)  # a signal's handler may have come before it
                    raise
        finally:
            self._held, self._owner = None, 0
            self._threads.release()

    # Not by way of other functions: an interrupt between them would leave it locked.
    __enter__ = acquire
    __exit__ = release

    def _wait(self, descriptor: Descriptor, deadline: float) -> None:
        for attempt in itertools.count():
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._timed_out(descriptor)
            time.sleep(min(left, PAUSES.delay_ms(attempt, random.random()) / 1000))
            if self._files.try_lock(descriptor.number):
                return

    def _timed_out(self, descriptor: Descriptor) -> LockTimeout:
        return self._error(
            path=self.path,
            holder_pid=lock_holder(self._files, descriptor.number),
            timeout_ms=self.timeout_ms,
        )

    def _unusable(self) -> HandleUnusable:
        if self._pid != os.getpid():
            return ForkedHandle(what=f"lock {self.path!r}", opened_by_pid=self._pid)
        return HandleClosed(what=f"lock {self.path!r}")

    def close(self) -> None:
        """Close the file, once nobody in this process holds the lock. Safe to call twice."""
        self._closed = True
        self._descriptor = None

    def abandon(self) -> None:
        """In a forked child: close our copy of the descriptor and unlock nothing.

        An flock is freed when the last copy of its descriptor is closed; a child that
        kept one would hold its parent's lock beyond the parent's death.
        """
        descriptor, self._descriptor = self._descriptor, None
        held, self._held = self._held, None
        for each in (descriptor, held):
            if each is not None:
                each.abandon()
        self._threads, self._owner = threading.RLock(), 0


class _Surely:
    """``with lock.surely, lock:`` frees it whenever one signal's handler raises.

    An interrupt at the first step of ``__exit__`` keeps that from doing anything; then this
    one's turn comes. What the handler itself does with the lock of the thread that it has
    interrupted is refused, and frees nothing.
    """

    __slots__ = ("_lock", "_nested")

    def __init__(self, lock: FileLock) -> None:
        self._lock = weakref.ref(lock)
        self._nested = 0  # counted by the owner only

    def __enter__(self) -> None:
        lock = self._lock()
        if lock is not None and lock._owner == threading.get_ident():
            self._nested += 1

    def __exit__(self, *exc: object) -> None:
        lock = self._lock()
        if lock is None or lock._owner != threading.get_ident():
            return
        if self._nested:
            self._nested -= 1
        else:
            lock.release()


def lock_holder(files: Files, descriptor: int) -> int:
    """The pid that holds an flock on an open file, 0 if that cannot be known.

    Reads ``/proc/locks`` (proc_locks(5)); the device is matched by inode only where
    the file system reports another device there than in stat(2), as btrfs does.
    """
    for _ in range(MOST_LOOKS):
        try:
            device, inode = files.identity(descriptor)
            table = read_file(files, "/proc/locks").decode("ascii", "replace")
        except OSError:
            break
        pid = _holder_in(table, f"{os.major(device):02x}:{os.minor(device):02x}:{inode}")
        if pid:
            return pid
    return 0


def _holder_in(table: str, wanted: str) -> int:
    inode = wanted.rpartition(":")[2]
    by_inode = 0
    for line in table.splitlines():
        fields = line.split()
        if "->" in fields or len(fields) < 6 or fields[1] != "FLOCK":
            continue
        if fields[5] == wanted:
            return max(0, int(fields[4]))
        if fields[5].rpartition(":")[2] == inode:
            by_inode = max(0, int(fields[4]))
    return by_inode
