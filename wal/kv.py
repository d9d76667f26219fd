"""LMDB environments: ordered keys and values that survive a power cut.

One `Environment` for each folder and process serves every thread. What LMDB leaves to
its users is settled here and in ``kv_view`` and ``kv_folder``, once:

* Writers take an flock of our own first, because a wait for LMDB's own writer lock
  cannot be bounded and ignores Ctrl-C. LMDB's lock is then always free.
* Full sync, never a writable map: an environment that was not synced can kill its
  readers with SIGBUS after a power cut.
* Only the unnamed main database is used; its users give their keys prefixes. Opening a
  database by name would take LMDB's writer lock.
* A new environment is made aside, synced, and renamed into place, so its name never
  stands for something half made.
* The lock table's blocks are reserved: it is written through a map, so that a full
  disk would otherwise end the process with SIGBUS.
* An environment that is opened twice in one process loses its locks: that is refused.
* A process that was killed while it read would hold back the pages of all later commits (16 KiB
  each, at least) as long as anybody has the environment open. So writers look for such.

Lock order: our thread lock, our flock, LMDB's lock; the gate is held for moments only.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import lmdb

from seawall.wal import forks
from seawall.wal.errors import (
    DirectoryUnusable,
    EnvironmentDamaged,
    ForkedHandle,
    HandleClosed,
    LockTimeout,
    SyncFailed,
    WalError,
)
from seawall.wal.files import Files
from seawall.wal.kv_folder import (
    READERS_NAME,
    WRITE_LOCK_NAME,
    create_environment,
    open_lmdb,
    os_error,
    reserve_readers,
)
from seawall.wal.kv_view import DATA_NAME, Reading, Writing, translate
from seawall.wal.locks import FileLock

BEGIN_ATTEMPTS = 3
# How often a process that writes looks for readers that were killed.
READER_CHECK_INTERVAL_S = 1.0


class Environment:
    """One LMDB environment, for every thread of this process."""

    def __init__(
        self,
        path: str,
        *,
        files: Files,
        map_size_bytes: int,
        create: bool = True,
        write_lock_timeout_ms: int = 10_000,
    ) -> None:
        """Open the environment in the folder `path`.

        ``map_size_bytes`` bounds the data and costs address space only: choose it far
        above need. With ``create`` a folder that is missing is made; one that is there
        without its data is damaged, because it had data once.

        Raises `DirectoryUnusable`, `EnvironmentDamaged`, `StorageFull`, and
        `LockTimeout` if another process keeps the write lock.
        """
        self.path = path
        self._files = files
        self._map_size_bytes = map_size_bytes
        self._timeout_ms = write_lock_timeout_ms
        self._pid = os.getpid()
        self._forked = False
        self._closed = False
        self._begin_gate()
        self._reader_check_s = 0.0  # when the next one is due
        self._environment: lmdb.Environment | None = None
        try:
            if not files.is_directory(path):
                if not create:
                    raise DirectoryUnusable(path=path, reason="it does not exist")
                create_environment(files, path, map_size_bytes)
            self._lock = FileLock(
                files, os.path.join(path, WRITE_LOCK_NAME), timeout_ms=write_lock_timeout_ms
            )
        except OSError as error:
            raise os_error(path, error) from error
        try:
            # A second descriptor of LMDB's lock file, opened and closed while this
            # process uses the environment, would drop LMDB's locks: check first.
            _claim(self)
            try:
                self._environment = self._open()
            except BaseException:
                _disclaim(self)
                raise
        except BaseException:
            self._lock.close()
            raise
        forks.register(self)

    def _open(self) -> lmdb.Environment:
        readers = os.path.join(self.path, READERS_NAME)
        try:
            if not self._files.path_size(self._data_path):
                raise EnvironmentDamaged(path=self._data_path, reason="it is missing or empty")
            if not self._files.path_size(readers):
                with self._lock:  # one process decides how large the table is
                    reserve_readers(self._files, readers)
            else:
                reserve_readers(self._files, readers)
            return open_lmdb(self.path, self._map_size_bytes)
        except OSError as error:
            raise os_error(self.path, error) from error
        except lmdb.Error as error:
            raise translate(error, self.path) from error

    def _begin_gate(self) -> None:
        # Entered by itself, and not through the Condition: see `Committer`.
        self._gate_lock = threading.Lock()
        self._gate = threading.Condition(self._gate_lock)
        # Who has a transaction in this process, and in which thread; guarded by the gate.
        self._inside: dict[int, int] = {}
        self._writer: Callable[[], Writing | None] = lambda: None
        self._writer_id = 0
        self._writing: lmdb.Transaction[bytes] | None = None

    # -- transactions ----------------------------------------------------------------

    def read(self) -> Reading:
        """``with environment.read() as view:`` Keep it short: it holds old pages back."""
        return Reading(self)

    def write(self) -> Writing:
        """``with environment.write() as transaction:`` One synced transaction.

        An error inside the block leaves everything as it was, and so do `LockTimeout`,
        `StorageFull` and `WriteFailed`. After `SyncFailed` it is unknown whether the
        changes survive a power cut. Not to be nested: the inner one gets `LockTimeout`.
        """
        return Writing(self)

    def begin_write(self, writer: Writing) -> lmdb.Transaction[bytes]:
        """For `Writing`, which gives it back whatever happens."""
        self._check_usable()
        if self._lock.is_mine and self._writer() is None:
            self._undo()  # its owner is gone: a signal's handler kept it from ending
        named = weakref.ref(writer), id(writer)
        self._lock.acquire()
        self._writer, self._writer_id = named
        self._check_readers()
        self._writing = self.begin(id(writer), write=True)
        return self._writing

    def _check_readers(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._reader_check_s:
            self._reader_check_s = now_s + READER_CHECK_INTERVAL_S
            with contextlib.suppress(WalError):
                self.reader_check()

    def begin(self, user: int, *, write: bool) -> lmdb.Transaction[bytes]:
        """For `Reading` and `Writing`, whose ids these are."""
        attempt = 1
        while True:
            environment = None
            try:
                environment = self._enter(user)
                return environment.begin(write=write)
            except BaseException as error:
                self.leave(user)
                if environment is None or not isinstance(error, lmdb.Error):
                    raise
                if attempt == BEGIN_ATTEMPTS or not self._repair(environment, error):
                    raise translate(error, self.path) from error
            attempt += 1

    def _repair(self, environment: lmdb.Environment, error: lmdb.Error) -> bool:
        """Remove what kept a transaction from beginning. False if there is no remedy."""
        if isinstance(error, lmdb.MapResizedError):
            # A process with a larger map size made the data outgrow this map.
            self._with_none_active(lambda: environment.set_mapsize(0))
        elif isinstance(error, lmdb.PanicError):
            self._reopen(environment)
        elif isinstance(error, lmdb.ReadersFullError):
            self.reader_check()
        else:
            return False
        return True

    def end_read(self, user: int, transaction: lmdb.Transaction[bytes] | None) -> None:
        """For `Reading`."""
        if self._forked:  # its slot in the lock table is the parent's
            forks.keep_for_ever(transaction)
            return
        try:
            if transaction is not None:
                with contextlib.suppress(lmdb.Error):  # closed before it, by this thread
                    transaction.abort()
        finally:
            self.leave(user)

    def end_write(self, writer: Writing, *, commit: bool) -> None:
        """For `Writing`."""
        if self._forked:  # it is the parent's, to commit or to abort
            forks.keep_for_ever(self._writing)
            if commit:
                self._check_usable()
            return
        try:
            if commit:
                if self._writing is None or self._writer() is not writer:  # a handler closed it
                    raise HandleClosed(what=f"environment {self.path!r}")
                self._writing.commit()
                self._writing = None
        except lmdb.Error as error:
            self._writing = None
            self.leave(id(writer))  # to open it again, nobody may be inside
            raise self._commit_failed(error) from error
        finally:
            self.give_back(writer)

    def give_back(self, writer: Writing) -> None:
        """Undo what was begun and not ended, if anything. It may be called again."""
        if self._lock.is_mine and self._writer() is writer and not self._forked:
            self._undo()

    def _undo(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            with contextlib.suppress(lmdb.Error):
                writing.abort()
        self.leave(self._writer_id)
        self._lock.release()

    def _commit_failed(self, error: lmdb.Error) -> WalError:
        """What to call a failed commit: nothing changed, or unknown.

        LMDB writes and syncs the new pages first, which changes nothing that anybody
        reads, and then the page that points to them. If that last write fails, LMDB
        takes it back in the page cache and refuses all further work, but what a power
        cut would leave is unknown.
        """
        environment = self._environment
        try:
            if environment is not None:
                environment.begin(write=True).abort()  # we still hold our flock
        except lmdb.PanicError:
            try:
                self._reopen(environment)
            except WalError:
                pass  # the next transaction tries again
            return SyncFailed(path=self._data_path, reason=str(error))
        except lmdb.Error:
            pass
        return translate(error, self.path)

    # -- who is inside ---------------------------------------------------------------

    @property
    def _data_path(self) -> str:
        return os.path.join(self.path, DATA_NAME)

    def _check_usable(self) -> None:
        if self._forked:
            raise ForkedHandle(what=f"environment {self.path!r}", opened_by_pid=self._pid)
        if self._closed:
            raise HandleClosed(what=f"environment {self.path!r}")

    def _enter(self, user: int) -> lmdb.Environment:
        self._check_usable()
        with self._gate_lock:
            self._check_usable()
            if self._environment is None:  # an earlier attempt to open it again failed
                self._environment = self._open()
            self._inside[user] = threading.get_ident()
            return self._environment

    def leave(self, user: int) -> None:
        """The reverse of `_enter`; it may be called again."""
        with self._gate_lock:
            self._inside.pop(user, None)
            if not self._inside:
                self._gate.notify_all()

    def _with_none_active(self, action: Callable[[], None]) -> None:
        """Do what pulls the map away under transactions, once there are none."""
        deadline = time.monotonic() + self._timeout_ms / 1000
        with self._gate_lock:
            while self._inside:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise LockTimeout(
                        path=self.path, holder_pid=os.getpid(), timeout_ms=self._timeout_ms
                    )
                self._gate.wait(left)
            action()

    def _reopen(self, failed: lmdb.Environment | None) -> None:
        """Open it again after a panic, unless another thread has done so already."""

        def reopen() -> None:
            if failed is not None and self._environment is failed:
                self._environment = None
                failed.close()
                self._environment = self._open()

        self._with_none_active(reopen)

    # -- upkeep ----------------------------------------------------------------------

    def reader_check(self) -> int:
        """Free the slots of readers whose process is gone, and say how many there were."""
        user = object()
        try:
            return self._enter(id(user)).reader_check()
        except lmdb.Error as error:
            raise translate(error, self.path) from error
        finally:
            self.leave(id(user))

    def verify(self) -> Iterator[str]:
        """Read every entry, while others use it too, and say which ones are damaged."""
        try:
            with self.read() as view:
                for key in view.damaged_keys():
                    yield f"the value of key {key!r} has the wrong checksum"
        except EnvironmentDamaged as error:
            yield error.reason

    def close(self) -> None:
        """Close it, once no other thread has a transaction open. Safe to call twice. Raises
        `LockTimeout`, and leaves it open, if one stays open too long."""
        if self._forked or self._closed:
            return
        if self._lock.is_mine:
            self._undo()
        for user, thread in list(self._inside.items()):
            if thread == threading.get_ident():
                self.leave(user)
        self._with_none_active(self._close)

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()
        _disclaim(self)
        self._lock.close()

    def abandon(self) -> None:
        """In a forked child: never use it again, and undo nothing that is the parent's. LMDB
        does not notice a fork: in the child its close, and even its destructor, would end
        transactions of the parent. So the object is kept for ever."""
        if self._forked:
            return
        self._forked = True
        forks.keep_for_ever(self._writing)
        self._begin_gate()
        _disclaim(self)
        if self._environment is not None:
            forks.keep_for_ever(self._environment)
        if not self._closed:
            self._lock.abandon()


# The environments that this process has open, by the identity of their write lock.
_open_here: dict[tuple[int, int], Environment] = {}


def _claim(environment: Environment) -> None:
    path = environment.path
    identity = environment._files.path_identity(os.path.join(path, WRITE_LOCK_NAME))
    if identity is None:
        raise DirectoryUnusable(path=path, reason="its lock file was removed")
    # One atomic operation, so that no lock is needed, which a fork could leave taken.
    if _open_here.setdefault(identity, environment) is not environment:
        raise DirectoryUnusable(path=path, reason="this process has it open already")


def _disclaim(environment: Environment) -> None:
    for identity, other in list(_open_here.items()):
        if other is environment:
            _open_here.pop(identity, None)
