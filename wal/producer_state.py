"""What this process knows of a log's producers, and how it catches up with the log.

The log is what all processes share: the header of each batch has its producer's id, epoch
and sequence. So each process that checks batches keeps `producers` of its own, and how far
it has seen the log, its *place*. Before it checks anything, under the append lock, it reads
the headers of what others have appended since. Nothing has to be recovered after a crash,
because nothing but the log was ever true.

The first time it begins at the checkpoint in the index, which has the producers of all that
lies below it; without an index it begins at the log's beginning. What is far behind is read
before the lock is taken, so that nobody waits for it.

CRCs are not looked at. A flipped bit in a header may so give a producer an error, but never
hides a batch that readers get: they would not get one whose CRC is wrong.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from seawall.wal.context import LogContext, write_error
from seawall.wal.ends import EndsRow
from seawall.wal.errors import EnvironmentDamaged, ValueDamaged
from seawall.wal.files import Descriptor
from seawall.wal.index import Found
from seawall.wal.producers import Producers
from seawall.wal.records import BatchHeader
from seawall.wal.segment import Scan, list_segments
from seawall.wal.walk import Gap, Walk

# The most that is read while the append lock is held, unless others append so fast that
# nobody ever comes nearer.
NEAR_BYTES = 1 << 20
MOST_ATTEMPTS = 8


def last_batches(context: LogContext, row: EndsRow) -> dict[int, int] | None:
    """Where the last batch of each producer begins, by its id: of those that are remembered
    and below the durable end that `row` names. None if segments are removed all the time.

    Raises `WalError`.
    """
    state = ProducerState(context)
    # What a power cut may take away says nothing about who came last.
    durable = row._replace(next_offset=row.durable_offset, position=row.durable_position)
    for _ in range(MOST_ATTEMPTS):
        if state.catch_up(durable):
            state.producers.forget_idle(context.now_ms(), context.config.producer_id_expiration_ms)
            entries = state.producers.entries()
            return {
                producer_id: entry.batches[-1].base_offset for producer_id, entry in entries.items()
            }
    return None


class Place(NamedTuple):
    """Everything below `offset` was seen; the next batch is at `position` of `segment`."""

    segment: int
    position: int
    offset: int


BEGINNING = Place(0, 0, 0)


class ProducerState:
    """The producers of one log. For one thread at a time."""

    def __init__(self, context: LogContext) -> None:
        self._context = context
        self.producers = Producers()
        self._place: Place | None = None

    def come_near(self) -> None:
        """Read most of what is to be read, without the append lock."""
        for _ in range(MOST_ATTEMPTS):
            row = self._context.row()
            if self.is_near(row):
                return
            self.catch_up(row)

    def is_near(self, row: EndsRow) -> bool:
        """Whether little enough is to be read to do it while the append lock is held."""
        place = self._place
        if place is None:
            return False
        if place.offset == row.segment:
            return row.position <= NEAR_BYTES
        return place.segment == row.segment and row.position - place.position <= NEAR_BYTES

    def catch_up(self, row: EndsRow) -> bool:
        """Learn what stands in the log up to the end that `row` names.

        False if it did not come to that end, because segments were removed or written anew
        meanwhile: try again with the row as it is then.
        """
        place = self._place
        if place is None or place.offset > row.next_offset:
            place = self._begin(row)
        if place.offset < row.next_offset:
            try:
                if not self._read(place, row):
                    return False
            except OSError as error:
                raise write_error(error, self._context.folder) from error
        self.reached(row)
        return True

    def reached(self, row: EndsRow) -> None:
        """All that stands below the end that `row` names is known."""
        self._place = Place(row.segment, row.position, row.next_offset)

    def _begin(self, row: EndsRow) -> Place:
        """Begin at the index's checkpoint, or at the log's beginning."""
        self.producers, self._place = Producers(), BEGINNING
        with contextlib.suppress(ValueDamaged, EnvironmentDamaged, ValueError):
            stored = self._context.index.producers(self._context.partition_id)
            if stored is not None and stored[0].offset <= row.next_offset:
                checkpoint, packed = stored
                self.producers = Producers.unpack(packed)
                self._place = Place(checkpoint.segment, checkpoint.position, checkpoint.offset)
        return self._place

    def _read(self, place: Place, row: EndsRow) -> bool:
        context = self._context
        bases = [place.segment] if place.segment == row.segment else self._bases(row)
        for segment, end_offset in itertools.pairwise([*bases, row.next_offset]):
            if end_offset <= place.offset:
                continue
            try:
                descriptor = Descriptor(context.files, context.segment_path(segment))
            except FileNotFoundError:
                if segment in self._bases(row):
                    continue  # lost, or the newest one, which has no file yet
                return False  # removed, perhaps written anew together with another one
            start = Found(segment, 0)
            limit = context.files.size(descriptor.number)
            if segment == row.segment:
                limit = min(limit, row.position)
                # In a sealed segment, a position may not be what it was: it may have been
                # compacted. What is known already is passed over.
                if place.segment == segment:
                    start = Found(place.offset, place.position)
            if not self._learn(descriptor, segment, start, limit, end_offset, row):
                return False
            self._place = Place(end_offset, 0, end_offset)
        return True

    def _bases(self, row: EndsRow) -> list[int]:
        context = self._context
        bases = list_segments(context.files, context.folder)
        return [*(base for base in bases if base < row.segment), row.segment]

    def _learn(
        self,
        descriptor: Descriptor,
        segment: int,
        start: Found,
        limit: int,
        end_offset: int,
        row: EndsRow,
    ) -> bool:
        """Read the headers of a segment up to `limit`; False if it is another one by now."""
        scan = Scan(
            self._context.files,
            descriptor.number,
            position=start.position,
            limit=limit,
            next_offset=start.offset,
            check_crc=False,
        )
        later = self._learnt(found.header for found in scan)
        if scan.result.next_offset != end_offset:
            if segment == row.segment and self._context.row().segment != segment:
                return False
            walk = Walk(self._context, descriptor, segment, limit=limit, start=start)
            later = self._learnt(step.header for step in walk if not isinstance(step, Gap))
        self.producers.take_over(later)
        return True

    def _learnt(self, headers: Iterator[BatchHeader]) -> Producers:
        """What stands in a stretch of the log, apart: it may yet turn out to be damaged."""
        known_below = self._place.offset if self._place else 0
        later = Producers()
        new = (header for header in headers if header.base_offset >= known_below)
        later.learn(new, self._context.now_ms())
        return later
