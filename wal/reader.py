"""Reading a log from an offset onwards, in whole batches.

A `Reader` keeps its place: the open segment, the position in it, the offset that it
expects there. It reads only below the durable end. Each batch is checked (CRC and
offset) before it is handed out. Where a check fails or a file is gone, the reader drops
its descriptor and looks its place up again, once, because the segment may have been
replaced or trimmed; only then is it damage.
"""

from __future__ import annotations

from typing import NamedTuple

from seawall.wal.context import LogContext
from seawall.wal.ends import EndsRow
from seawall.wal.errors import BatchInvalid, LogDamaged, OffsetOutOfRange
from seawall.wal.files import Descriptor
from seawall.wal.lookup import damage, locate, open_segment, readable_bytes
from seawall.wal.open_files import Holder, keep_open
from seawall.wal.records import HEADER_BYTES, check_batch, parse_header
from seawall.wal.sectors import read_anyway, unreadable
from seawall.wal.segment import FoundBatch


class Chunk(NamedTuple):
    """Whole batches: `data`, and where in it each begins with what header."""

    data: bytes
    batches: list[FoundBatch]


NOTHING = Chunk(b"", [])


class Reader(Holder):
    """A place in a log. For one thread at a time."""

    def __init__(self, context: LogContext, offset: int) -> None:
        self._context = context
        self._descriptor: Descriptor | None = None
        self._segment = 0
        self._position = 0
        self._base_offset = 0
        self.offset = offset

    def seek(self, offset: int) -> None:
        """Go to another offset; it is looked at when something is read."""
        if offset != self._base_offset:
            self._descriptor = None
        self.offset = offset

    def read(self, max_bytes: int) -> Chunk:
        """The batches from `offset` on, `max_bytes` at the most but one batch at least.

        The first batch may begin below `offset`. Empty at the durable end. Afterwards
        `offset` is behind the last batch.

        Raises `OffsetOutOfRange`, `LogDamaged`, `LogGone`.
        """
        try:
            return self._read_in_range(max_bytes)
        except LogDamaged:
            self._descriptor = None
        try:
            return self._read_in_range(max_bytes)
        except LogDamaged:
            self._descriptor = None
            raise

    def _read_in_range(self, max_bytes: int) -> Chunk:
        row = self._context.row()
        if self.offset == row.durable_offset:
            return NOTHING
        if not row.log_start <= self.offset < row.durable_offset:
            raise OffsetOutOfRange(
                offset=self.offset, log_start=row.log_start, durable_end=row.durable_offset
            )
        return self._read(row, max_bytes)

    def _read(self, row: EndsRow, max_bytes: int) -> Chunk:
        descriptor = self._descriptor
        if descriptor is None:
            place = locate(self._context, row, self.offset)
            self._descriptor = descriptor = place.descriptor
            self._segment = place.segment
            self._position = place.position
            self._base_offset = place.base_offset
            keep_open(self)
        self.was_used = True
        limit = readable_bytes(self._context, row, descriptor, self._segment)
        if self._position >= limit and self._segment != row.segment:
            descriptor = self._next_segment()
            limit = readable_bytes(self._context, row, descriptor, self._segment)
        try:
            chunk = self._read_batches(descriptor, limit, max_bytes)
        except BatchInvalid as error:
            # A sealed segment ends where the next one's name says, whatever is behind.
            if self._segment == row.segment or not self._context.files.exists(
                self._context.segment_path(self._base_offset)
            ):
                raise self._damaged(descriptor, error.reason) from None
            descriptor = self._next_segment()
            limit = readable_bytes(self._context, row, descriptor, self._segment)
            try:
                chunk = self._read_batches(descriptor, limit, max_bytes)
            except BatchInvalid as second_error:
                raise self._damaged(descriptor, second_error.reason) from None
        self.offset = self._base_offset
        return chunk

    def _next_segment(self) -> Descriptor:
        descriptor = open_segment(self._context, self._base_offset, self._base_offset)
        self._descriptor = descriptor
        self._segment, self._position = self._base_offset, 0
        return descriptor

    def _read_batches(self, descriptor: Descriptor, limit: int, max_bytes: int) -> Chunk:
        """Read and check batches; on return the place is behind the last valid one.

        Raises `BatchInvalid` only if not even the first one is valid.
        """
        available = max(0, limit - self._position)
        files, number = self._context.files, descriptor.number
        data = read_anyway(
            files, number, min(max(max_bytes, HEADER_BYTES), available), self._position
        )
        first = parse_header(data, 0)
        if len(data) < first.size_bytes <= available:
            data = read_anyway(files, number, first.size_bytes, self._position)
        batches: list[FoundBatch] = []
        inside, expected, size = 0, self._base_offset, len(data)
        while inside < size:
            try:
                header = check_batch(data, inside, size - inside)
                if header.base_offset != expected:
                    raise BatchInvalid(
                        reason=f"its base offset is {header.base_offset}, not {expected}"
                    )
            except BatchInvalid:
                if not batches:
                    raise
                # Cut off by `max_bytes`, or damaged: the next read will tell.
                data = data[:inside]
                break
            batches.append(FoundBatch(inside, header))
            inside += header.size_bytes
            expected = header.next_offset
        self._position += inside
        self._base_offset = expected
        return Chunk(data, batches)

    def _damaged(self, descriptor: Descriptor, reason: str) -> LogDamaged:
        end = self._position + HEADER_BYTES
        trouble = unreadable(self._context.files, descriptor.number, self._position, end)
        if trouble:
            reason = f"it cannot be read: {trouble}"
        return damage(
            self._context,
            self._segment,
            self._position,
            max(self.offset, self._base_offset),
            reason,
            expected_offset=self._base_offset,
        )

    def let_go(self) -> None:
        """See `Holder`. What is read next is looked up again."""
        self._descriptor = None

    def close(self) -> None:
        """Let go of the open segment. Safe to call twice."""
        self._descriptor = None
