"""Bringing the index up to the durable end.

A checkpoint walks the batch headers from the previous one to the durable end, whoever
wrote them, and adds to the index in one synced transaction what it passed. It runs at
most every second, on rolling and on closing; if two processes do it at once, the
second one's transaction changes nothing.

Damage is stepped over: the index then has a gap there, which readers meet as damage
when they come to it.
"""

from __future__ import annotations

import bisect

from seawall.wal.context import LogContext
from seawall.wal.files import Descriptor
from seawall.wal.index import NO_TIMESTAMP, Checkpoint, Entry, Sealed
from seawall.wal.lookup import readable_bytes
from seawall.wal.segment import Scan, find_batch, list_segments

# The most that one transaction covers; a longer way is done in several.
STEP_BYTES = 256 << 20


class _Walk:
    """What one step of a checkpoint has gathered so far."""

    def __init__(self, start: Checkpoint, interval_bytes: int) -> None:
        self.segment = start.segment
        self.position = start.position
        self.offset = start.offset
        self.max_timestamp = start.max_timestamp
        self.entry_position = start.entry_position
        self.interval_bytes = interval_bytes
        self.entries: list[Entry] = []
        self.sealed: list[Sealed] = []

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.offset, self.segment, self.position, self.max_timestamp, self.entry_position
        )

    def enter(self, segment: int) -> None:
        self.segment = self.offset = segment
        self.position = self.entry_position = 0
        self.max_timestamp = NO_TIMESTAMP

    def walk(self, context: LogContext, descriptor: Descriptor, limit: int) -> bool:
        """Pass all batches of the open segment up to `limit`; False if it ends in damage.

        Headers alone are read as long as they follow one another. A damaged one may lead
        astray for a while before that shows, so then all is done again with the CRCs.
        """
        before, entry_count = self.checkpoint(), len(self.entries)
        if self._walk(context, descriptor, limit, check_crc=False):
            return True
        self.offset, _, self.position, self.max_timestamp, self.entry_position = before
        del self.entries[entry_count:]
        return self._walk(context, descriptor, limit, check_crc=True)

    def _walk(
        self, context: LogContext, descriptor: Descriptor, limit: int, *, check_crc: bool
    ) -> bool:
        while True:
            scan = Scan(
                context.files,
                descriptor.number,
                position=self.position,
                limit=limit,
                next_offset=self.offset,
                check_crc=check_crc,
            )
            for position, header in scan:
                if position - self.entry_position >= self.interval_bytes:
                    self.entries.append(
                        Entry(self.segment, header.base_offset, position, self.max_timestamp)
                    )
                    self.entry_position = position
                if header.record_count and header.max_timestamp > self.max_timestamp:
                    self.max_timestamp = header.max_timestamp
            self.position, self.offset = scan.result.position, scan.result.next_offset
            if self.position >= limit:
                return True
            if not check_crc:
                return False
            behind = find_batch(
                context.files,
                descriptor.number,
                position=self.position,
                limit=limit,
                after_offset=self.offset,
            )
            if behind is None:
                return False
            self.position, self.offset = behind.position, behind.header.base_offset


def checkpoint(context: LogContext) -> None:
    """Bring the index of one log up to its durable end.

    Raises what the index's environment raises (`StorageFull`, `LockTimeout`, …); the
    log itself is not touched.
    """
    while not _step(context):
        pass


def _step(context: LogContext) -> bool:
    """One transaction; True when nothing is left to do."""
    row = context.row()
    stored = context.index.checkpoint(context.partition_id)
    if stored is not None and stored.segment == row.segment:
        if stored.offset >= row.durable_offset:
            return True
        bases = [row.segment]
    else:
        bases = [
            base for base in list_segments(context.files, context.folder) if base <= row.segment
        ]
    if not bases:
        return True
    if stored is None:
        start = Checkpoint(bases[0], bases[0], 0, NO_TIMESTAMP, 0)
    else:
        start = stored
    walk = _Walk(start, context.config.index_interval_bytes)
    if start.segment not in bases:
        # Trimmed since then, or lost.
        behind = bases[bisect.bisect_right(bases, start.segment) :]
        if not behind:
            return True
        walk.enter(behind[0])
    passed_bytes = 0
    for segment in bases[bases.index(walk.segment) :]:
        if segment == row.segment and row.durable_position == 0:
            # Nothing durable in it yet, perhaps not even its name.
            break
        if segment != walk.segment:
            walk.enter(segment)
        try:
            descriptor = Descriptor(context.files, context.segment_path(segment))
        except FileNotFoundError:
            continue
        limit = readable_bytes(context, row, descriptor, segment)
        passed_bytes += limit - walk.position
        is_whole = walk.walk(context, descriptor, limit)
        if segment == row.segment:
            walk.position, walk.offset = row.durable_position, row.durable_offset
        else:
            if is_whole:
                walk.sealed.append(Sealed(segment, walk.offset, limit, walk.max_timestamp))
            if passed_bytes >= STEP_BYTES:
                break
    end = walk.checkpoint()
    if end == stored:
        return True
    won = context.index.advance(context.partition_id, stored, end, walk.entries, walk.sealed)
    return not won or end.segment == row.segment
