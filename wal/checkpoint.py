"""Bringing the index up to the durable end.

A checkpoint walks the batch headers from the previous one to the durable end, whoever
wrote them, and adds to the index in one synced transaction what it passed. It runs at
most every second, on rolling and on closing; if two processes do it at once, the
second one's transaction changes nothing.

It takes the producers along that have an id (see `producers`), so that nobody has to look
for them in the whole log.

Damage is stepped over: the index then has a gap there, which readers meet as damage
when they come to it.
"""

from __future__ import annotations

import bisect
import contextlib

from seawall.wal.context import LogContext
from seawall.wal.errors import ValueDamaged
from seawall.wal.files import Descriptor
from seawall.wal.index import NO_TIMESTAMP, Checkpoint, Entry, Found, Sealed
from seawall.wal.lookup import readable_bytes
from seawall.wal.producers import Producers
from seawall.wal.segment import FoundBatch, Scan, Scanned, list_segments
from seawall.wal.walk import Gap, Walk

# The most that one transaction covers; a longer way is done in several.
STEP_BYTES = 256 << 20


class _Gathered:
    """What one step of a checkpoint has gathered so far."""

    def __init__(self, start: Checkpoint, interval_bytes: int, now_ms: int) -> None:
        self.segment = start.segment
        self.position = start.position
        self.offset = start.offset
        self.max_timestamp = start.max_timestamp
        self.entry_position = start.entry_position
        self.interval_bytes = interval_bytes
        self.entries: list[Entry] = []
        self.sealed: list[Sealed] = []
        self.producers = Producers()
        self._now_ms = now_ms
        self._passed = Producers()

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.offset, self.segment, self.position, self.max_timestamp, self.entry_position
        )

    def enter(self, segment: int) -> None:
        self.segment = self.offset = segment
        self.position = self.entry_position = 0
        self.max_timestamp = NO_TIMESTAMP

    def walk(
        self, context: LogContext, descriptor: Descriptor, limit: int, end_offset: int
    ) -> bool:
        """Pass all batches of the open segment up to `limit`; False if it ends in damage.

        Headers alone are read as long as they follow one another, up to `end_offset`. A
        damaged one may lead astray for a while before that shows, so then all is done
        again with the CRCs.
        """
        before, entry_count = self.checkpoint(), len(self.entries)
        self._passed = Producers()
        scan = Scan(
            context.files,
            descriptor.number,
            position=self.position,
            limit=limit,
            next_offset=self.offset,
            check_crc=False,
        )
        for found in scan:
            self._pass(found)
        if scan.result.position >= limit and scan.result.next_offset == end_offset:
            self._stop_at(scan.result)
            self.producers.take_over(self._passed)
            return True
        self.max_timestamp, self.entry_position = before.max_timestamp, before.entry_position
        del self.entries[entry_count:]
        self._passed = Producers()
        start = Found(before.offset, before.position)
        walk = Walk(context, descriptor, self.segment, limit=limit, start=start)
        for step in walk:
            if not isinstance(step, Gap):
                self._pass(step)
        self._stop_at(walk.result)
        self.producers.take_over(self._passed)
        return self.position >= limit

    def _pass(self, found: FoundBatch) -> None:
        position, header = found
        if position - self.entry_position >= self.interval_bytes:
            self.entries.append(
                Entry(self.segment, header.base_offset, position, self.max_timestamp)
            )
            self.entry_position = position
        if header.record_count and header.max_timestamp > self.max_timestamp:
            self.max_timestamp = header.max_timestamp
        if header.producer_id >= 0:
            self._passed.learn((header,), self._now_ms)

    def _stop_at(self, result: Scanned) -> None:
        self.position, self.offset = result.position, result.next_offset


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
    gathered = _Gathered(start, context.config.index_interval_bytes, context.now_ms())
    if start.segment not in bases:
        # Trimmed since then, or lost.
        behind = bases[bisect.bisect_right(bases, start.segment) :]
        if not behind:
            return True
        gathered.enter(behind[0])
    passed_bytes = 0
    ends = dict(zip(bases, [*bases[1:], row.durable_offset], strict=True))
    for segment in bases[bases.index(gathered.segment) :]:
        if segment == row.segment and row.durable_position == 0:
            # Nothing durable in it yet, perhaps not even its name.
            break
        if segment != gathered.segment:
            gathered.enter(segment)
        try:
            descriptor = Descriptor(context.files, context.segment_path(segment))
        except FileNotFoundError:
            continue
        limit = readable_bytes(context, row, descriptor, segment)
        passed_bytes += limit - gathered.position
        is_whole = gathered.walk(context, descriptor, limit, ends[segment])
        if segment == row.segment:
            gathered.position, gathered.offset = row.durable_position, row.durable_offset
        else:
            if is_whole:
                gathered.sealed.append(
                    Sealed(segment, gathered.offset, limit, gathered.max_timestamp)
                )
            if passed_bytes >= STEP_BYTES:
                break
    end = gathered.checkpoint()
    if end == stored:
        return True
    won = context.index.advance(
        context.partition_id,
        stored,
        end,
        gathered.entries,
        gathered.sealed,
        _producers(context, gathered.producers) if len(gathered.producers) else None,
    )
    return not won or end.segment == row.segment


def _producers(context: LogContext, later: Producers) -> bytes:
    """The producers up to the checkpoint that is stored, and of the batches behind it.

    If another process moves that checkpoint meanwhile, this one's transaction changes
    nothing, so it does not matter whose producers these are then.
    """
    producers = Producers()
    with contextlib.suppress(ValueDamaged, ValueError):
        stored = context.index.producers(context.partition_id)
        producers = Producers.unpack(stored[1] if stored else b"")
    producers.take_over(later)
    producers.forget_idle(context.now_ms(), context.config.producer_id_expiration_ms)
    return producers.pack()
