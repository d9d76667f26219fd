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
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

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
        self._connection: sa.Connection | None = None
        self._begin = "BEGIN"
        self.opened = 0  # how many connections there have been
        self._engine = sa.create_engine("sqlite://", creator=self._open, poolclass=NullPool)
        sa.event.listen(self._engine, "begin", self._on_begin)
        if path in _carried_across_a_fork:
            raise CatalogUnusable(
                path=path,
                reason="this process was forked by other means than os.fork() while its "
                "parent had it open; open it in a process of its own",
            )
        _open_here.add(self)
        forks.register(self)

    def _on_begin(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(self._begin)

    @contextmanager
    def _held(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=self._busy_timeout_ms / 1000):
            raise CatalogBusy(path=self.path, timeout_ms=self._busy_timeout_ms)
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _turn(self) -> Iterator[sa.Connection]:
        """The connection, for this thread alone; errors become the broker's."""
        self._check_usable()
        with self._held():
            self._check_usable()
            try:
                if self._connection is None:
                    self._connection = self._engine.connect()
                    self.opened += 1
                yield self._connection
            except sa.exc.DBAPIError as error:
                raise self._translate(error.orig) from error
            except sqlite3.Error as error:
                raise self._translate(error) from error

    @contextmanager
    def transaction(self, begin: str) -> Iterator[sa.Connection]:
        """A transaction that begins with this statement; an error inside undoes it."""
        with self._turn() as connection:
            self._begin = begin
            with connection.begin():
                yield connection

    @contextmanager
    def bare(self) -> Iterator[Any]:
        """SQLite's own connection, outside of a transaction."""
        with self._turn() as connection:
            yield _raw(connection)

    def _check_usable(self) -> None:
        if self._forked:
            raise ForkedBroker(what="catalogue", opened_by_pid=self._pid)
        if self._closed:
            raise BrokerClosed(what="catalogue")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _translate(self, error: BaseException | None) -> BrokerError:
        extended = getattr(error, "sqlite_errorcode", 0)
        code = extended & 0xFF
        reason = str(error)
        if code in _BUSY:
            return CatalogBusy(path=self.path, timeout_ms=self._busy_timeout_ms)
        if code == sqlite3.SQLITE_FULL or extended in _NO_ROOM_EXTENDED:
            return StorageFull(path=self.path, reason=reason)
        if code in _DAMAGED or extended in _DAMAGED_EXTENDED or reason.startswith("no such "):
            return CatalogDamaged(path=self.path, reason=reason)
        return CatalogUnusable(path=self.path, reason=reason)

    def _open(self) -> sqlite3.Connection:
        """A new connection, for SQLAlchemy."""
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
            raw = _raw(self._connection)
            for kept in (raw, self._connection, self._engine):
                forks.keep_for_ever(kept)


def _raw(connection: sa.Connection) -> Any:
    """SQLite's own connection underneath."""
    return connection.connection.dbapi_connection


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
