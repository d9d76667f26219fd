"""What every part of one partition's log needs to know."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from seawall.wal.ends import DELETED, Ends, EndsRow
from seawall.wal.errors import (
    LogGone,
    LogStateLost,
    StorageFull,
    WalError,
    WriteFailed,
)
from seawall.wal.files import NO_ROOM_ERRNOS, Files
from seawall.wal.index import Index
from seawall.wal.segment import segment_name

MEBIBYTE = 1 << 20


def wall_clock_ms() -> int:
    """The time in ms since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True, kw_only=True)
class LogConfig:
    """The settings of one log, with Kafka's meanings. They may change while it is open.

    ``segment_bytes``: a segment is full before it would be longer than this; a single
    append that is longer gets a segment of its own. ``segment_ms``: a segment that was
    begun longer ago than this is full. ``index_interval_bytes``: at least one index
    entry per so many bytes. ``allocate_bytes``: how far ahead blocks are allocated.
    ``producer_id_expiration_ms``: how long a producer of which nothing comes is remembered.
    """

    segment_bytes: int = 64 * MEBIBYTE
    segment_ms: int = 7 * 24 * 3600 * 1000
    index_interval_bytes: int = 4096
    allocate_bytes: int = 4 * MEBIBYTE
    producer_id_expiration_ms: int = 24 * 3600 * 1000

    def take(self, other: LogConfig) -> None:
        """Be as another one is, for everybody who has this one."""
        self.segment_bytes = other.segment_bytes
        self.segment_ms = other.segment_ms
        self.index_interval_bytes = other.index_interval_bytes
        self.allocate_bytes = other.allocate_bytes
        self.producer_id_expiration_ms = other.producer_id_expiration_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class LogContext:
    """One partition's log: where it is, and what it shares with the others."""

    files: Files
    folder: str
    partition_id: int
    ends: Ends
    index: Index
    config: LogConfig
    append_lock_timeout_ms: int = 10_000
    now_ms: Callable[[], int] = wall_clock_ms

    def segment_path(self, base_offset: int) -> str:
        return os.path.join(self.folder, segment_name(base_offset))

    @property
    def lock_path(self) -> str:
        return os.path.join(self.folder, "LOCK")

    def row(self) -> EndsRow:
        """The partition's row in ``run/ends``."""
        try:
            row = self.ends.read(self.partition_id)
        except OSError as error:
            if error.errno is None:
                raise  # a signal handler's
            raise LogStateLost(path=self.ends.path, partition_id=self.partition_id) from error
        if row is None:
            if not self.files.exists(self.folder):
                raise LogGone(path=self.folder)
            raise LogStateLost(path=self.ends.path, partition_id=self.partition_id)
        if row.flags & DELETED:
            raise LogGone(path=self.folder)
        return row


def write_error(error: OSError, path: str, position: int = 0) -> WalError:
    """The named error for a write that failed with `error`.

    Raises `error` itself if it has no errno: then a signal handler has raised it.
    """
    if error.errno is None:
        raise error
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM_ERRNOS:
        return StorageFull(path=path, reason=reason)
    return WriteFailed(path=path, position=position, reason=reason)
