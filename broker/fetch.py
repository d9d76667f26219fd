"""Reading one partition record by record, for a consumer."""

from __future__ import annotations

import logging
from collections import deque

from seawall.wal.errors import OffsetOutOfRange, WalError
from seawall.wal.log import Log, LogEnds
from seawall.wal.reader import Chunk, Reader
from seawall.wal.records import Record, decode_batch
from seawall.wal.segment import FoundBatch

logger = logging.getLogger("seawall.broker")

FETCH_BYTES = 1 << 20
# A log that is being trimmed may have lost the place before anything is read there.
MOST_RESETS = 100


class Fetcher:
    """The place of one consumer in one partition. For one thread at a time.

    `auto_offset_reset` says what happens when the log no longer holds the position:
    ``earliest`` and ``latest`` go on there (with a warning), ``error`` raises.
    """

    def __init__(
        self,
        log: Log,
        *,
        topic: str,
        partition: int,
        partition_id: int,
        position: int,
        auto_offset_reset: str,
        fetch_bytes: int = FETCH_BYTES,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.partition_id = partition_id
        self.position = position
        self._log = log
        self._auto_offset_reset = auto_offset_reset
        self._fetch_bytes = fetch_bytes
        self._reader: Reader = log.reader(position)
        self._data = b""
        self._batches: deque[FoundBatch] = deque()
        # Decoded and not handed out yet; from `_at` on.
        self._records: list[Record] = []
        self._at = 0

    def take(self, most: int) -> list[Record]:
        """The next records, `most` at the most; empty at the durable end.

        Raises what `Reader.read` and `decode_batch` raise, and then the position is
        that of the batch that could not be read.
        """
        records, at = self._records, self._at
        if at >= len(records):
            records = self._decode_next()
            at = 0
            if not records:
                return records
        if at == 0 and len(records) <= most:
            self._records, self._at = [], 0
            self.position = records[-1].offset + 1
            if len(records) < most and self._batches:
                self._take_more(records, most)
            return records
        taken = records[at : at + most]
        self._records, self._at = records, at + len(taken)
        self.position = taken[-1].offset + 1
        return taken

    def _take_more(self, taken: list[Record], most: int) -> None:
        """Add what else was read already, so that small batches cost no call each."""
        while self._batches and len(taken) + self._batches[0].header.record_count <= most:
            try:
                records = self._decode_first()
            except WalError:
                return  # the next call meets it again
            if records:
                taken += records
                self.position = records[-1].offset + 1

    def _decode_next(self) -> list[Record]:
        """The records of the next batch that has any; empty at the durable end."""
        while True:
            if not self._batches:
                chunk = self._read()
                if not chunk.batches:
                    return []
                self._data = chunk.data
                self._batches.extend(chunk.batches)
            records = self._decode_first()
            if records:
                return records

    def _decode_first(self) -> list[Record]:
        """The records of the next batch that was read; none in a hole or a control batch."""
        inside, header = self._batches[0]
        records: list[Record] = []
        if header.next_offset > self.position and not header.is_control:
            if header.base_offset > self.position:
                self.position = header.base_offset
            records = decode_batch(
                self._data, inside, self.topic, self.partition, min_offset=self.position
            )
        self._batches.popleft()
        if not records:
            self.position = max(self.position, header.next_offset)
        return records

    def _read(self) -> Chunk:
        for _ in range(MOST_RESETS):
            try:
                return self._reader.read(self._fetch_bytes)
            except OffsetOutOfRange as error:
                if self._auto_offset_reset == "error":
                    raise
                self._reset(error)
        return self._reader.read(self._fetch_bytes)

    def _reset(self, error: OffsetOutOfRange) -> None:
        """Go on where `auto_offset_reset` says."""
        is_earliest = self._auto_offset_reset == "earliest"
        target = error.log_start if is_earliest else error.durable_end
        logger.warning(
            "%s/%d: offset %d is gone (the log holds %d to %d); going on at %d (%s)",
            self.topic,
            self.partition,
            error.offset,
            error.log_start,
            error.durable_end,
            target,
            self._auto_offset_reset,
        )
        self._go_to(target)

    def ends(self) -> LogEnds:
        """The ends of the partition's log."""
        return self._log.ends()

    def check_offset(self, offset: int) -> None:
        """Raise `OffsetOutOfRange` unless ``log_start <= offset <= durable_end``."""
        self._log.check_offset(offset)

    def check_end(self, offset: int) -> None:
        """Raise `OffsetOutOfRange` for an offset that the log has not reached.

        One below the log start is fine: it stands for what was trimmed since.
        """
        ends = self._log.ends()
        if offset > ends.durable_end:
            raise OffsetOutOfRange(
                offset=offset, log_start=ends.log_start, durable_end=ends.durable_end
            )

    def seek(self, offset: int) -> None:
        """Go on at another offset; raises like `check_offset`."""
        self.check_offset(offset)
        self._go_to(offset)

    def close(self) -> None:
        """Let go of the open segment; whoever holds on to a closed consumer keeps no file."""
        self._reader.close()

    def rewind(self, offset: int) -> None:
        """Hand out again from `offset` on, which was handed out before."""
        self._go_to(offset)

    def _go_to(self, offset: int) -> None:
        self.position = offset
        self._reader.seek(offset)
        self._data = b""
        self._batches.clear()
        self._records, self._at = [], 0
