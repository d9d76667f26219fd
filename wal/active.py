"""The open file of the segment that grows, and the blocks ahead of its end.

Syncing is faster if the file system has nothing to note about a file but its bytes. So
blocks are allocated ahead (`posix_fallocate`): then its size stays what it is. And blocks
that were written before, be it with zeros, are synced almost twice as fast as blocks that
are only allocated, which the file system must mark as written then. For small appends,
for which the sync is what counts, zeros are therefore written ahead of them.
"""

from __future__ import annotations

import contextlib

from seawall.wal.context import LogContext
from seawall.wal.ends import EndsRow
from seawall.wal.files import NO_ROOM_ERRNOS, Descriptor, read_fully, write_fully
from seawall.wal.room import leave_reserve
from seawall.wal.segment import Scan, ScanEnd

ZEROS_AHEAD = bytes(256 << 10)
SMALL_APPEND_BYTES = 64 << 10


class Active:
    """The newest segment's file. Whoever uses it holds the append lock.

    ``allocated_bytes`` and ``written_bytes`` say how far, from the beginning, blocks are
    allocated and written, as far as this process knows.
    """

    __slots__ = ("_context", "allocated_bytes", "descriptor", "segment", "written_bytes")

    def __init__(
        self, context: LogContext, descriptor: Descriptor, segment: int, allocated_bytes: int
    ) -> None:
        self._context = context
        self.descriptor = descriptor
        self.segment = segment
        self.allocated_bytes = allocated_bytes
        self.written_bytes = 0

    def allocate(self, end: int) -> None:
        """Have blocks for everything up to `end`, and some more ahead of it."""
        allocated = self.allocated_bytes
        if end <= allocated:
            return
        config = self._context.config
        ahead = min(allocated + config.allocate_bytes, config.segment_bytes)
        target = max(end, ahead)
        try:
            self._grow(target)
        except OSError as error:
            if error.errno not in NO_ROOM_ERRNOS or target == end:
                raise
            self._grow(end)

    def _grow(self, target: int) -> None:
        files, descriptor, allocated = (
            self._context.files,
            self.descriptor.number,
            self.allocated_bytes,
        )
        leave_reserve(files, descriptor, target - allocated)
        files.allocate(descriptor, allocated, target - allocated)
        self.allocated_bytes = target

    def write_again(self, row: EndsRow) -> bool:
        """Make the bytes that may not be on disk dirty again, so that our sync covers them:
        those of others, and our own of before it was opened again. False if they are no
        batches.

        They stay what they are, so it harms nothing if this fails; it is then done again.
        """
        files, descriptor = self._context.files, self.descriptor.number
        scan = Scan(
            files,
            descriptor,
            position=row.durable_position,
            limit=row.position,
            next_offset=row.durable_offset,
        )
        for _ in scan:
            pass
        if scan.result.end is not ScanEnd.CLEAN or scan.result.next_offset != row.next_offset:
            return False
        size = row.position - row.durable_position
        data = read_fully(files, descriptor, size, row.durable_position)
        write_fully(files, descriptor, data, row.durable_position)
        return True

    def write_ahead(self, end: int, size: int) -> None:
        """Behind an append of `size` bytes that ends at `end`, which is the log's end.

        It is only for speed, so it does not matter if it fails.
        """
        if end <= self.written_bytes or size > SMALL_APPEND_BYTES:
            return
        self.written_bytes = end + len(ZEROS_AHEAD)
        count = min(self.allocated_bytes - end, len(ZEROS_AHEAD))
        if count > 0:
            with contextlib.suppress(OSError):
                self._context.files.pwrite(self.descriptor.number, ZEROS_AHEAD[:count], end)
