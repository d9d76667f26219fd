"""Putting batches at the end of a log, from any thread of any process.

Under the partition's append lock (a thread lock and an flock): read the row in
``run/ends``, roll if the segment is full, stamp the offsets, write all batches with one
call, write the row. The bytes behind the log's end are always zeros; whoever finds
others there (left by a process that died between its write and its row) cuts them off
first, so that a later scan can never take them for records.

Syncing happens without the lock, and its result is published under it. A sync covers
what stood in the row when it began, whichever process wrote it. A sync that fails
fences the log through its row, for every process: after it, nothing is known about the
pages that were not on disk, and a descriptor that is opened later is not even told
(see "fsyncgate", PostgreSQL 2018). For the same reason a process that opens a segment
with un-synced bytes of others in it writes those bytes again before its first sync.

Rolling syncs the old segment before the new one exists. So un-synced bytes are only
ever in the newest segment, and recovery never has to look at another.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from seawall.wal.active import Active
from seawall.wal.context import LogContext, write_error
from seawall.wal.ends import DELETED, FENCED, EndsRow
from seawall.wal.errors import (
    AppendLockTimeout,
    LockTimeout,
    LogFenced,
    LogGone,
    OffsetOutOfRange,
    PublishTimeout,
    SyncFailed,
    WalError,
    WriteError,
)
from seawall.wal.files import (
    CREATE,
    NO_ROOM_ERRNOS,
    READ_WRITE,
    TOO_MANY_ERRNOS,
    Descriptor,
)
from seawall.wal.locks import FileLock
from seawall.wal.open_files import Holder, keep_open
from seawall.wal.records import HEADER_BYTES, stamp

# IOV_MAX is 1024 on Linux.
MOST_BUFFERS_PER_WRITE = 512

_LAST_OFFSET_DELTA_AT = 23
_LAST_OFFSET_DELTA = struct.Struct(">i")
EVERYTHING = 1 << 63  # no offset is that high


class Appended(NamedTuple):
    """The offsets that an append got: ``base_offset`` up to, not with, ``next_offset``."""

    base_offset: int
    next_offset: int


class Appender(Holder):
    """The writing end of one log in this process. Safe to use from any thread."""

    def __init__(self, context: LogContext) -> None:
        self._context = context
        self._files = context.files
        self._lock = FileLock(
            context.files,
            context.lock_path,
            timeout_ms=context.append_lock_timeout_ms,
            error=AppendLockTimeout,
            may_reopen=True,
        )
        self._active: Active | None = None
        # Up to where a segment was written ahead, for when it is opened again.
        self._written = (-1, 0)
        # What the last append of this process left; what `sync` begins with.
        self._appended: EndsRow | None = None
        self._fenced = False

    # -- appending -------------------------------------------------------------------

    def append(self, batches: Sequence[bytearray]) -> Appended:
        """Write valid batches behind one another; their base offsets are stamped in place.

        Nothing is durable or visible when this returns: see `sync`.

        Raises `AppendLockTimeout`, `StorageFull`, `WriteFailed`, `LogFenced`, `LogGone`,
        `LogStateLost`, or `SyncFailed` from beginning a segment: nothing was appended then.
        """
        with self._lock.surely, self._lock:
            row = self._row_for_append()
            return Appended(row.next_offset, self._append(row, batches).next_offset)

    def append_chosen(self, choose: Callable[[EndsRow], Sequence[bytearray]]) -> EndsRow:
        """Append what `choose` gives, which is asked under the lock, with the row before.

        Gives the row after; raises what `append` does, and what `choose` does.
        """
        with self._lock.surely, self._lock:
            row = self._row_for_append()
            batches = choose(row)
            return self._append(row, batches) if batches else row

    def _append(self, row: EndsRow, batches: Sequence[bytearray]) -> EndsRow:
        """Write batches where `row` says, and the row after. The caller holds the lock."""
        size = sum(map(len, batches))
        if row.position and self._is_full(row, size):
            row = self._roll(row)
        active = self._open_active(row)
        offset = row.next_offset
        for batch in batches:
            stamp(batch, offset)
            offset += _LAST_OFFSET_DELTA.unpack_from(batch, _LAST_OFFSET_DELTA_AT)[0] + 1
        self._write(active, row.position, batches, size)
        try:
            new_row = row.appended(offset, row.position + size)
            self._write_row(row, new_row)
        except WriteError:
            self._cut(active, row.position)
            raise
        self._appended = new_row
        return new_row

    def roll(self) -> None:
        """Begin a new segment, unless the newest one is empty."""
        with self._lock.surely, self._lock:
            row = self._row_for_append()
            if row.position:
                self._roll(row)

    def _row_for_append(self) -> EndsRow:
        row = self._context.row()
        if row.flags & FENCED or self._fenced:
            if not row.flags & FENCED:
                # The lock was not to be had when the sync failed; now it is ours.
                with contextlib.suppress(WriteError):
                    self._set_fence(row)
            raise LogFenced(path=self._context.folder)
        now = self._context.now_ms()
        if row.created_ms > now:
            # The clock was set back; without this the segment would not age until
            # the clock is again where it was.
            row = row._replace(created_ms=now)
        return row

    def _is_full(self, row: EndsRow, size: int) -> bool:
        config = self._context.config
        return (
            row.position + size > config.segment_bytes
            or self._context.now_ms() - row.created_ms >= config.segment_ms
        )

    def _write(
        self, active: Active, position: int, batches: Sequence[bytearray], size: int
    ) -> None:
        path = active.descriptor.path
        descriptor = active.descriptor.number
        if len(batches) > MOST_BUFFERS_PER_WRITE:
            batches = [bytearray().join(batches)]
        try:
            behind = self._files.pread(descriptor, HEADER_BYTES, position)
            if behind.strip(b"\0") and not self._cut(active, position):
                raise LogFenced(path=self._context.folder)
            active.allocate(position + size)
            written = self._files.pwritev(descriptor, batches, position)
        except OSError as error:
            self._cut(active, position)
            raise write_error(error, path, position) from error
        if written != size:
            self._cut(active, position)
            # A short write says "no room" without an errno; the next one would say it.
            short = OSError(next(iter(NO_ROOM_ERRNOS)), f"{written} of {size} bytes written")
            raise write_error(short, path, position)
        active.write_ahead(position + size, size)

    def _cut(self, active: Active, position: int) -> bool:
        """Make the bytes from `position` on read as zeros; if not, fence the log: False."""
        active.allocated_bytes = active.written_bytes = position
        try:
            self._files.truncate(active.descriptor.number, position)
        except OSError as error:
            if error.errno is None:
                raise  # a signal handler's: whoever appends next looks what is there, and cuts
            self._fenced = True
            with contextlib.suppress(WalError):
                self._set_fence(self._context.row())
            return False
        return True

    # -- segments --------------------------------------------------------------------

    def _open_active(self, row: EndsRow) -> Active:
        """The newest segment's file. The caller holds the append lock."""
        active, self.was_used = self._active, True
        if active is not None and active.segment == row.segment:
            return active
        path = self._context.segment_path(row.segment)
        try:
            flags = READ_WRITE if row.position else READ_WRITE | CREATE
            descriptor = Descriptor(self._files, path, flags)
            allocated = self._files.size(descriptor.number)
            if row.durable_position == 0:
                # The file may be new, by us or by a process that died before this.
                self._sync_name(row)
            active = Active(self._context, descriptor, row.segment, allocated)
            if self._written[0] == row.segment:
                active.written_bytes = self._written[1]
            if row.position > row.durable_position and not active.write_again(row):
                self._set_fence(row)
                raise LogFenced(path=self._context.folder)
        except OSError as error:
            raise write_error(error, path, row.durable_position) from error
        self._active = active
        keep_open(self)
        return active

    def _sync_name(self, row: EndsRow) -> None:
        """Make the newest segment's name durable; if that fails, fence the log.

        A later sync of the folder would work and say nothing of what this one has lost.
        """
        try:
            self._files.sync_directory(self._context.folder)
        except OSError as error:
            if error.errno is None or error.errno in TOO_MANY_ERRNOS:
                raise  # nothing was synced, and so nothing was lost
            with contextlib.suppress(WalError):
                self._set_fence(row)
            reason = error.strerror or str(error)
            raise SyncFailed(path=self._context.folder, reason=reason) from error

    def _roll(self, row: EndsRow) -> EndsRow:
        """Seal the newest segment and begin another. The caller holds the append lock."""
        context, files = self._context, self._files
        old = self._open_active(row)
        try:
            files.truncate(old.descriptor.number, row.position)
            old.allocated_bytes = row.position
        except OSError as error:
            raise write_error(error, old.descriptor.path, row.position) from error
        self._sync_descriptor(old.descriptor, row)
        new_row = row._replace(
            segment=row.next_offset,
            position=0,
            durable_offset=row.next_offset,
            durable_position=0,
            created_ms=context.now_ms(),
        )
        # The row comes before the file: whoever appends next, in whatever process,
        # creates the file if it is not there. The other way round, a process that died
        # in between would leave a segment whose name cuts off what is appended to the
        # old one.
        self._write_row(row, new_row)
        return new_row

    # -- syncing ---------------------------------------------------------------------

    def sync(self, next_offset: int = EVERYTHING) -> int:
        """Bring to disk at least what is below `next_offset`, publish it, return the durable end.

        It covers what this process has appended so far, and what any process has if
        that alone does not reach `next_offset`.

        Raises `SyncFailed`, and fences the log, if the sync fails or failed earlier:
        the outcome for everything above the durable end is unknown. `PublishTimeout`
        if the append lock was not free to publish it.
        """
        context = self._context
        appended = self._appended
        if appended is not None and appended.next_offset >= next_offset:
            row = appended
        else:
            row = context.row()
            if row.durable_offset == row.next_offset:
                return row.durable_offset
        self._check_fence(row)
        active = self._active
        if active is None or active.segment != row.segment:
            with self._lock.surely:
                self._acquire_to_publish()
                try:
                    row = context.row()
                    self._check_fence(row)
                    active = self._open_active(row)
                except WriteError as error:
                    path = context.segment_path(row.segment)
                    raise SyncFailed(path=path, reason=str(error)) from error
                finally:
                    self._lock.release()
        self._sync_descriptor(active.descriptor, None)
        with self._lock.surely:
            self._acquire_to_publish()
            try:
                before = now = context.row()
                self._check_fence(now)
                # Not if somebody has moved the end back: the caller sees that from the result.
                if now.reaches(row) and row.position > now.durable_position:
                    now = now.published(row.next_offset, row.position)
                    try:
                        self._write_row(before, now)
                    except WriteError as error:
                        raise SyncFailed(path=context.ends.path, reason=str(error)) from error
            finally:
                self._lock.release()
        return now.durable_offset

    def _sync_descriptor(self, descriptor: Descriptor, locked_row: EndsRow | None) -> None:
        """Sync a file; fence the log if that fails. `locked_row`: the lock is held."""
        try:
            self._files.sync(descriptor.number)
        except OSError as error:
            if error.errno is None:
                raise  # a signal handler's TimeoutError: the sync itself has not failed
            with contextlib.suppress(WalError):
                self.fence() if locked_row is None else self._set_fence(locked_row)
            raise SyncFailed(path=descriptor.path, reason=error.strerror or str(error)) from error

    def _set_fence(self, row: EndsRow) -> None:
        self._fenced = True
        self._write_row(row, row._replace(flags=row.flags | FENCED))

    def _check_fence(self, row: EndsRow) -> None:
        if row.flags & FENCED or self._fenced:
            raise SyncFailed(path=self._context.folder, reason="an earlier sync failed")

    def _acquire_to_publish(self) -> None:
        try:
            self._lock.acquire()
        except LockTimeout as error:
            raise PublishTimeout(
                path=error.path, holder_pid=error.holder_pid, timeout_ms=error.timeout_ms
            ) from error

    # -- the row ---------------------------------------------------------------------

    def set_log_start(self, offset: int) -> None:
        """Raise the log start in the row; a lower one is a no-op.

        Raises `OffsetOutOfRange` above the durable end.
        """
        with self._lock.surely, self._lock:
            row = self._context.row()
            if offset > row.durable_offset:
                raise OffsetOutOfRange(
                    offset=offset, log_start=row.log_start, durable_end=row.durable_offset
                )
            if offset > row.log_start:
                self._write_row(row, row._replace(log_start=offset))

    def fence(self) -> None:
        """Have no process append any more, because something is not certain to be on disk."""
        self._fenced = True
        with contextlib.suppress(WalError), self._lock.surely, self._lock:
            self._set_fence(self._context.row())

    def mark_deleted(self) -> None:
        """Have every process refuse this log from now on."""
        with self._lock.surely, self._lock:
            try:
                row = self._context.row()
            except LogGone:
                return
            self._write_row(row, row._replace(flags=row.flags | DELETED))

    def _write_row(self, row: EndsRow, new_row: EndsRow) -> None:
        """Replace `row`, or leave it as it was. The caller holds the append lock."""
        ends, partition_id = self._context.ends, self._context.partition_id
        try:
            ends.write(partition_id, new_row)
        except OSError as error:
            # Part of the new row may stand there.
            with contextlib.suppress(OSError):
                ends.write(partition_id, row)
            raise write_error(error, ends.path) from error

    def let_go(self) -> None:
        """See `Holder`. Whoever opens the segment again makes what is not synced dirty again."""
        active, self._active = self._active, None
        if active is not None:
            self._written = active.segment, active.written_bytes

    def close(self) -> None:
        """Close the files. Safe to call twice; nothing is synced."""
        self._active = None
        self._lock.close()

    def abandon(self) -> None:
        """In a forked child: drop our copies of the descriptors, unlock nothing."""
        self._active = None
        self._lock.abandon()
