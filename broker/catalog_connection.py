"""One SQLite connection for all threads of a process, which survives forks.

It is used in turn. SQLite may not be carried across a fork, not even to be closed;
worse, a connection that the child opens itself would share the parent's locks, as the
child's SQLite believes, and have none. So the connection is closed right before a
fork, and opened again when it is next needed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from seawall.broker.errors import (
    BrokerClosed,
    BrokerError,
    CatalogBusy,
    CatalogDamaged,
    CatalogUnusable,
    ForkedBroker,
    StorageFull,
)
from seawall.wal import forks
from seawall.wal.files import has_room

# SQLite's primary result codes (sqlite.org/rescode.html) …
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# … and extended ones, which tell more.
_DAMAGED_EXTENDED = frozenset({sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})
_NO_ROOM_EXTENDED = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE})


class CatalogConnection:
    """A SQLite file in WAL mode.

    Its methods raise `CatalogDamaged`, `CatalogBusy`, `CatalogUnusable`, `StorageFull`,
    `BrokerClosed` and `ForkedBroker`; a transaction has then changed nothing.
    """

    def __init__(self, path: str, *, create: bool, busy_timeout_ms: int) -> None:
        self.path = path
        self._mode = "rwc" if create else "rw"
        self._busy_timeout_ms = busy_timeout_ms
        self._pid = os.getpid()
        self._forked = False
        self._closed = False
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self.opened = 0  # how many connections there have been
        if path in _carried_across_a_fork:
            raise CatalogUnusable(
                path=path,
                reason="this process was forked by other means than os.fork() while its "
                "parent had it open; open it in a process of its own",
            )
        _open_here.add(self)
        forks.register(self)

    @contextmanager
    def _held(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=self._busy_timeout_ms / 1000):
            raise CatalogBusy(path=self.path, timeout_ms=self._busy_timeout_ms)
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _turn(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone; errors become the broker's."""
        self._check_usable()
        with self._held():
            self._check_usable()
            try:
                if self._connection is not None and self._connection.in_transaction:
                    self._disconnect()  # an interrupt came even before its undoing
                if self._connection is None:
                    self._connection = self._open()
                    self.opened += 1
                yield self._connection
            except sqlite3.Error as error:
                raise self._translate(error) from error

    @contextmanager
    def transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """A transaction that begins with this statement; an error inside undoes it."""
        with self._turn() as connection:
            try:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    self._undo(connection)

    @contextmanager
    def bare(self) -> Iterator[sqlite3.Connection]:
        """The connection outside of a transaction."""
        with self._turn() as connection:
            yield connection

    def _undo(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()  # undoes it as well, and what went wrong first is raised

    def _check_usable(self) -> None:
        if self._forked:
            raise ForkedBroker(what="catalogue", opened_by_pid=self._pid)
        if self._closed:
            raise BrokerClosed(what="catalogue")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _translate(self, error: sqlite3.Error) -> BrokerError:
        extended: int = getattr(error, "sqlite_errorcode", 0)  # the module's own errors have none
        code = extended & 0xFF
        reason = str(error)
        if code in _BUSY:
            return CatalogBusy(path=self.path, timeout_ms=self._busy_timeout_ms)
        if code == sqlite3.SQLITE_FULL or extended in _NO_ROOM_EXTENDED:
            return StorageFull(path=self.path, reason=reason)
        if extended == sqlite3.SQLITE_IOERR_WRITE and not self._has_room():
            # SQLite does not tell a file-size limit from a broken disk.
            return StorageFull(path=self.path, reason=reason)
        if code in _DAMAGED or extended in _DAMAGED_EXTENDED or reason.startswith("no such "):
            return CatalogDamaged(path=self.path, reason=reason)
        return CatalogUnusable(path=self.path, reason=reason)

    def _has_room(self) -> bool:
        return has_room(self.path) and has_room(f"{self.path}-wal")

    def _open(self) -> sqlite3.Connection:
        """A new connection."""
        connection = sqlite3.connect(
            f"file:{quote(self.path)}?mode={self._mode}",
            uri=True,
            timeout=self._busy_timeout_ms / 1000,
            isolation_level=None,  # we say BEGIN ourselves
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("PRAGMA cell_size_check=ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._forked:
            return
        with self._held():
            self._closed = True
            self._disconnect()

    def abandon(self) -> None:
        """In a forked child: never use it again."""
        self._forked = True
        self._lock = threading.Lock()
        if self._connection is not None:  # a fork that Python was not told about
            _carried_across_a_fork.add(self.path)
            forks.keep_for_ever(self._connection)


# -- forks -----------------------------------------------------------------------------

_open_here: weakref.WeakSet[CatalogConnection] = weakref.WeakSet()
_held_for_fork: list[CatalogConnection] = []
# Paths that this process may not open, because it inherited an open connection.
_carried_across_a_fork: set[str] = set()


def _before_fork() -> None:
    """Close every connection, and let no thread open one until the fork is done."""
    for each in list(_open_here):
        if each._forked:
            continue
        if each._lock.acquire(timeout=each._busy_timeout_ms / 1000):
            _held_for_fork.append(each)
            each._disconnect()


def _after_fork_in_parent() -> None:
    while _held_for_fork:
        _held_for_fork.pop()._lock.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_held_for_fork.clear,
)
