"""Putting compacted segments in the place of what they were made from.

What stays of one segment, or of several neighbours, is written aside under the first one's
name. Then, in this order, so that a crash anywhere leaves the old or the new, and readers
find all that stays at every moment:

1. The file aside is synced.
2. The index forgets what it knows of these segments. Nobody adds to that again, because the
   checkpoint is behind them (`Index.forget_between` sees to it in the same transaction).
3. It is renamed over the first segment, and the folder is synced. From now on that segment
   reaches over the others' names. Nothing is wrong with that: a reader goes on in it, and one
   that looks for an offset of the others finds it in their old files as well.
4. The others are removed, and the folder is synced.
5. The index gets new entries.

Whoever is cut off between 3 and 4 leaves segments that another one reaches over. `remove_merged`
removes them, but only after it has written that one anew: the sync of the folder may have failed,
and then the rename may never reach the disk (A5), whatever a later sync says.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from seawall.wal.checkpoint import checkpoint, index_sealed
from seawall.wal.context import LogContext, write_error
from seawall.wal.ends import FENCED
from seawall.wal.errors import LogFenced, WriteFailed
from seawall.wal.files import (
    CREATE,
    READ_WRITE,
    TOO_MANY_ERRNOS,
    TRUNCATE,
    Descriptor,
    read_fully,
    remove_file,
    write_fully,
)
from seawall.wal.inventory import sealed_row
from seawall.wal.records import HEADER_BYTES, BatchHeader, empty_batch
from seawall.wal.rewrite import ASIDE_SUFFIX
from seawall.wal.room import leave_reserve
from seawall.wal.salvage import MOST_OFFSETS_PER_BYTE
from seawall.wal.segment import Scan, list_segments

BLOCK_BYTES = 1 << 20
# A longer hole takes several batches: behind one that is damaged, the next batch has to be in
# reach of whoever looks for it (see `salvage`).
MOST_OFFSETS_PER_HOLE = HEADER_BYTES * MOST_OFFSETS_PER_BYTE


class Hands(NamedTuple):
    """What compaction may do besides: rest for so many bytes, and fence the log."""

    spend: Callable[[int], object]
    fence: Callable[[], object]


class _Gone(NamedTuple):
    """Offsets of which nothing stays, and the holes that they are now, if that is all."""

    offset: int
    next_offset: int
    max_timestamp: int
    holes: list[bytes]
    has_records: bool


class Aside:
    """A segment as it will be. Nothing is written as long as it is what it was.

    ``size_bytes``: how long it is. ``is_changed``: whether it differs from its only source.
    With `writes` false, nothing is ever written.
    """

    def __init__(
        self,
        context: LogContext,
        segment: int,
        source: Descriptor,
        hands: Hands,
        *,
        writes: bool = True,
    ) -> None:
        self._context = context
        self._hands = hands
        self._source = source
        self._writes = writes
        self._descriptor: Descriptor | None = None
        self._buffer = bytearray()
        self._written = 0
        self._gone: _Gone | None = None
        self.path = context.segment_path(segment)
        self.size_bytes = 0
        self.is_changed = False

    def copy(self, batch: bytes) -> None:
        """A batch that stays as it is, and where it is, if none before it has changed."""
        self._close_hole()
        self._append(batch)

    def replace(self, batch: bytes | bytearray) -> None:
        """A batch in another one's place."""
        self._close_hole()
        self.change()
        self._append(batch)

    def leave_out(self, header: BatchHeader, batch: bytes) -> None:
        """A batch of which nothing stays; if it has no records, it is a hole already."""
        gone = self._gone or _Gone(header.base_offset, 0, header.max_timestamp, [], False)
        if not header.record_count:
            gone.holes.append(batch)
        self._gone = gone._replace(
            next_offset=header.next_offset,
            max_timestamp=max(gone.max_timestamp, header.max_timestamp),
            has_records=gone.has_records or header.record_count > 0,
        )

    def finish(self) -> None:
        """All has come. Now it is on the disk, if it is changed."""
        self._close_hole()
        self._flush()
        if self._descriptor is not None:
            self._context.files.sync(self._descriptor.number)
            self._descriptor = None

    def place(self) -> None:
        """Rename it over the first segment."""
        self._context.files.rename(self.path + ASIDE_SUFFIX, self.path)
        self._writes = False

    def discard(self) -> None:
        """It is not wanted any more, unless it was placed."""
        self._descriptor = None
        if self.is_changed and self._writes:
            with contextlib.suppress(OSError):
                remove_file(self._context.files, self.path + ASIDE_SUFFIX)

    def _close_hole(self) -> None:
        gone, self._gone = self._gone, None
        if gone is None:
            return
        count = -(-(gone.next_offset - gone.offset) // MOST_OFFSETS_PER_HOLE)
        if not gone.has_records and len(gone.holes) <= count:
            for hole in gone.holes:
                self._append(hole)
            return
        self.change()
        for offset in range(gone.offset, gone.next_offset, MOST_OFFSETS_PER_HOLE):
            last = min(offset + MOST_OFFSETS_PER_HOLE, gone.next_offset) - 1
            self._append(empty_batch(offset, last - offset, gone.max_timestamp))

    def _append(self, batch: bytes | bytearray) -> None:
        self.size_bytes += len(batch)
        if self._descriptor is not None:
            self._buffer += batch
            if len(self._buffer) >= BLOCK_BYTES:
                self._flush()

    def _flush(self) -> None:
        buffer, self._buffer = self._buffer, bytearray()
        if self._descriptor is not None and buffer:
            self._hands.spend(len(buffer))
            leave_reserve(self._context.files, self._descriptor.number, len(buffer))
            write_fully(self._context.files, self._descriptor.number, buffer, self._written)
            self._written += len(buffer)

    def change(self) -> None:
        """From here on it is not what it was: begin the file, with what was the same so far."""
        if self.is_changed:
            return
        self.is_changed = True
        if not self._writes:
            return
        files = self._context.files
        self._descriptor = Descriptor(
            files, self.path + ASIDE_SUFFIX, READ_WRITE | CREATE | TRUNCATE
        )
        while self._written < self.size_bytes:
            size = min(BLOCK_BYTES, self.size_bytes - self._written)
            self._buffer += read_fully(files, self._source.number, size, self._written)
            self._flush()


def swap(context: LogContext, aside: Aside, segments: Sequence[int], hands: Hands) -> None:
    """Put a finished `aside` in the place of these segments, which follow one another.

    The caller holds the folder's lock. Raises `LogGone`, `LogFenced`, `WriteFailed`, `OSError`.
    """
    first, last = segments[0], segments[-1]
    if context.row().flags & FENCED:
        raise LogFenced(path=context.folder)
    if not context.index.forget_between(context.partition_id, first, last):
        checkpoint(context)
        if not context.index.forget_between(context.partition_id, first, last):
            reason = "the index cannot be brought up to date"
            raise WriteFailed(path=aside.path, position=0, reason=reason)
    aside.place()
    _sync_names(context, hands)
    if len(segments) > 1:
        for segment in segments[1:]:
            remove_file(context.files, context.segment_path(segment))
        _sync_names(context, hands)
    index_sealed(context, first)


def _sync_names(context: LogContext, hands: Hands) -> None:
    """Make the folder's names durable; if that fails, fence the log.

    Among the names may be that of the active segment, and its own sync would not be told
    of what this one has lost.
    """
    try:
        context.files.sync_directory(context.folder)
    except OSError as error:
        if error.errno is None:
            raise  # a signal handler's; what a process that was killed here leaves is known
        if error.errno not in TOO_MANY_ERRNOS:  # else nothing was synced, and so nothing lost
            hands.fence()
        reason = f"the names in it could not be synced: {error.strerror or error}"
        raise WriteFailed(path=context.folder, position=0, reason=reason) from error


def merged_segments(context: LogContext) -> dict[int, list[int]]:
    """Segments that reach over the names behind them: by their base, those names.

    All that the index does not know to end where the next one begins are looked at.
    """
    row = context.row()
    bases = [each for each in list_segments(context.files, context.folder) if each < row.segment]
    found: dict[int, list[int]] = {}
    reach = owner = -1
    for base, after in itertools.pairwise([*bases, row.segment]):
        if base < reach:
            found.setdefault(owner, []).append(base)
            continue
        if sealed_row(context, base, after) is None:
            end = _end_offset(context, base)
            if end > after:
                reach, owner = end, base
    return found


def _end_offset(context: LogContext, base: int) -> int:
    descriptor = Descriptor(context.files, context.segment_path(base))
    scan = Scan(
        context.files,
        descriptor.number,
        position=0,
        limit=context.files.size(descriptor.number),
        next_offset=base,
        check_crc=False,
    )
    for _ in scan:
        pass
    return scan.result.next_offset


def remove_merged(context: LogContext, hands: Hands) -> None:
    """Finish what was cut off between steps 3 and 4. The caller holds the folder's lock."""
    for base, others in merged_segments(context).items():
        source = Descriptor(context.files, context.segment_path(base))
        aside = Aside(context, base, source, hands)
        aside.change()
        try:
            size, position = context.files.size(source.number), 0
            while position < size:
                block = read_fully(context.files, source.number, BLOCK_BYTES, position)
                aside.copy(block)
                position += len(block)
            aside.finish()
            swap(context, aside, [base, *others], hands)
        except OSError as error:
            raise write_error(error, aside.path) from error
        finally:
            aside.discard()
