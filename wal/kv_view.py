"""Reading and writing inside one LMDB transaction, and the checksum of each value.

Layout of each value: what was stored, then 4 bytes, the CRC-32C (big endian) of

    length of the key   2 bytes, big endian
    key
    what was stored

A value is valid if and only if it has at least 4 bytes and this CRC is right. So one
that sits under a key which is not its own is found as well.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import google_crc32c
import lmdb

from seawall.wal.errors import (
    DirectoryUnusable,
    EnvironmentDamaged,
    HandleClosed,
    StorageFull,
    ValueDamaged,
    WalError,
    WriteFailed,
)
from seawall.wal.files import NO_ROOM_ERRNOS, has_room

if TYPE_CHECKING:
    from seawall.wal.kv import Environment

_KEY_LENGTH = struct.Struct(">H")
_CRC = struct.Struct(">I")

DATA_NAME = "data.mdb"

_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.CursorFullError,
    lmdb.PageFullError,
)
_UNUSABLE_ERRNOS = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)
# py-lmdb gives this one no class and no code.
_CLOSED_MESSAGE = "closed/deleted/dropped"


def seal(key: bytes, value: bytes) -> bytes:
    """`value` as it is stored under `key`."""
    return value + _CRC.pack(google_crc32c.value(_KEY_LENGTH.pack(len(key)) + key + value))


def unseal(path: str, key: bytes, stored: bytes) -> bytes:
    """What `seal` was given, or `ValueDamaged`. ``path`` only names it in the error."""
    value = stored[:-4]
    checksum = google_crc32c.value(_KEY_LENGTH.pack(len(key)) + key + value)
    if len(stored) < 4 or _CRC.pack(checksum) != stored[-4:]:
        raise ValueDamaged(path=path, key=key)
    return value


class ReadTransaction:
    """One consistent view. For the thread that began it, inside its ``with`` block."""

    __slots__ = ("_path", "_transaction")

    def __init__(self, path: str, transaction: lmdb.Transaction[bytes]) -> None:
        self._path = path  # of the environment, for errors
        self._transaction = transaction

    @property
    def number(self) -> int:
        """How many transactions have changed the environment before this one looks at it."""
        return self._transaction.id()

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None if there is none."""
        try:
            stored = self._transaction.get(key)
        except lmdb.Error as error:
            raise translate(error, self._path) from error
        return None if stored is None else unseal(self._path, key, stored)

    def iterate(
        self, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """The entries with ``start <= key < end``, in order; ``None`` is no end.

        Do not write while it runs.
        """
        try:
            with self._transaction.cursor() as cursor:
                if reverse:
                    found = cursor.last() if end is None else _before(cursor, end)
                else:
                    # An empty key is not legal in LMDB, not even to look for.
                    found = cursor.set_range(start) if start else cursor.first()
                while found:
                    key, stored = cursor.item()
                    if key < start if reverse else end is not None and key >= end:
                        return
                    yield key, unseal(self._path, key, stored)
                    found = cursor.prev() if reverse else cursor.next()
        except lmdb.Error as error:
            raise translate(error, self._path) from error

    def keys(self, start: bytes, end: bytes) -> list[bytes]:
        """The keys with ``start <= key < end``. Their values are not looked at."""
        try:
            with self._transaction.cursor() as cursor:
                found = []
                more = cursor.set_range(start)
                while more and cursor.key() < end:
                    found.append(cursor.key())
                    more = cursor.next()
                return found
        except lmdb.Error as error:
            raise translate(error, self._path) from error

    def first_at_or_after(self, key: bytes, end: bytes | None = None) -> tuple[bytes, bytes] | None:
        """The entry with the smallest key in ``key <= … < end``."""
        return next(self.iterate(key, end), None)

    def last_before(self, key: bytes, start: bytes = b"") -> tuple[bytes, bytes] | None:
        """The entry with the greatest key in ``start <= … < key``."""
        return next(self.iterate(start, key, reverse=True), None)

    def damaged_keys(self) -> Iterator[bytes]:
        """Read every entry, and give the keys of those whose value is damaged."""
        try:
            with self._transaction.cursor() as cursor:
                for key, stored in cursor:
                    try:
                        unseal(self._path, key, stored)
                    except ValueDamaged:
                        yield key
        except lmdb.Error as error:
            raise translate(error, self._path) from error


def _before(cursor: lmdb.Cursor[bytes], end: bytes) -> bool:
    """Put a cursor on the last entry below `end`."""
    if not end:
        return False
    return cursor.prev() if cursor.set_range(end) else cursor.last()


class WriteTransaction(ReadTransaction):
    """Changes that become durable together when the ``with`` block ends without an error."""

    __slots__ = ()

    def put(self, key: bytes, value: bytes) -> None:
        """Store a value, replacing what the key had."""
        try:
            self._transaction.put(key, seal(key, value))
        except lmdb.Error as error:
            raise translate(error, self._path) from error

    def delete(self, key: bytes) -> bool:
        """Remove a key. False if there was none."""
        try:
            return self._transaction.delete(key)
        except lmdb.Error as error:
            raise translate(error, self._path) from error

    def delete_range(self, start: bytes, end: bytes | None = None) -> int:
        """Remove the keys with ``start <= key < end`` and say how many there were.

        Their values are not looked at, so damaged ones can be removed.
        """
        count = 0
        try:
            with self._transaction.cursor() as cursor:
                found = cursor.set_range(start) if start else cursor.first()
                while found and (end is None or cursor.key() < end):
                    cursor.delete()
                    count += 1
                    found = bool(cursor.key())
        except lmdb.Error as error:
            raise translate(error, self._path) from error
        return count


class Reading:
    """A ``with`` block that reads. Whatever a signal's handler raises in it, and in its last
    steps, it ends; but for one at the very first step of its end. What that leaves goes with the
    exception's traceback (of a writer: when its thread writes again), or when that thread closes
    the environment."""

    __slots__ = ("_environment", "_transaction")

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._transaction: lmdb.Transaction[bytes] | None = None

    def __enter__(self) -> ReadTransaction:
        try:
            self._transaction = self._environment.begin(id(self), write=False)
            return ReadTransaction(self._environment.path, self._transaction)
        except BaseException:
            self._environment.end_read(id(self), self._transaction)
            raise

    def __exit__(self, *exc: object) -> None:
        try:
            self._environment.end_read(id(self), self._transaction)
        except BaseException:
            self._environment.leave(id(self))
            raise


class Writing:
    """A ``with`` block that writes, and ends as `Reading` does."""

    __slots__ = ("__weakref__", "_environment")

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def __enter__(self) -> WriteTransaction:
        environment = self._environment
        try:
            return WriteTransaction(environment.path, environment.begin_write(self))
        except BaseException:
            environment.give_back(self)
            raise

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        try:
            self._environment.end_write(self, commit=kind is None)
        except BaseException:
            self._environment.give_back(self)
            raise


def translate(error: lmdb.Error, path: str) -> WalError:
    """LMDB's error as one of ours. ``path`` is the environment's folder."""
    code = getattr(error, "code", 0)
    data = os.path.join(path, DATA_NAME)
    reason = str(error)
    if isinstance(error, lmdb.MapFullError):
        return StorageFull(path=data, reason="the environment has reached its map size")
    if isinstance(error, lmdb.DiskError) or code in NO_ROOM_ERRNOS:
        return StorageFull(path=data, reason=reason)
    if code == errno.EIO and not has_room(data):
        # What LMDB calls a short write.
        return StorageFull(path=data, reason=reason)
    if isinstance(error, lmdb.ReadersFullError):
        return DirectoryUnusable(path=path, reason="too many transactions read it at once")
    if isinstance(error, _DAMAGED):
        return EnvironmentDamaged(path=data, reason=reason)
    if _CLOSED_MESSAGE in reason:
        return HandleClosed(what=f"environment {path!r}")
    if code in _UNUSABLE_ERRNOS:
        return DirectoryUnusable(path=path, reason=reason)
    return WriteFailed(path=data, position=0, reason=reason)
