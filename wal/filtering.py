"""Which records of a batch key compaction keeps, and the batch without the others.

A record goes if a later one has its key (*superseded*), and one without a value, a
*tombstone*, also once its delete horizon has passed (*expired*). The horizon is KIP-534's:
when a tombstone is first met as the last record of its key, the batch's base timestamp
becomes the time from which on it may go, and attribute bit 6 says so. Timestamp deltas are
written anew then, so that its records read as before.

Records without a key stay, because nothing says that another one supersedes them (Kafka
drops them). Control batches stay as they are, and so do batches that do not parse. Those
of a transaction supersede nothing, because it may have been aborted.

The last batch of an idempotent producer, if it loses all its records, stays as an empty
one, with its producer id, epoch and sequence, as long as the producer is remembered (as in
Kafka): they say what was sent last, to whoever has nothing but the log.
"""

from __future__ import annotations

from collections.abc import Mapping

from seawall.wal import records
from seawall.wal.compression import DecompressError, decompress
from seawall.wal.errors import RecordsUnreadable
from seawall.wal.keymap import KeyMap, Span
from seawall.wal.records import (
    COMPRESSION_CODES,
    HEADER_BYTES,
    BatchHeader,
    with_fewer_records,
)

if records.IS_COMPILED:
    from seawall.wal._codec import record_spans, with_timestamp_delta
else:
    from seawall.wal.codec import record_spans, with_timestamp_delta

# A horizon, and the distance to it, that the codec can read. Beyond it nothing ever goes.
HORIZON_LIMIT_MS = 1 << 61
DELTA_LIMIT_MS = 1 << 62

NEVER = (1 << 63) - 1


def spans_of(header: BatchHeader, batch: bytes) -> tuple[bytes, list[Span]]:
    """The records of a batch, decompressed, and where each lies in that.

    Raises `RecordsUnreadable` where `decode_batch` does.
    """
    body, start, end = batch, HEADER_BYTES, len(batch)
    try:
        if abs(header.base_timestamp) > DELTA_LIMIT_MS:
            raise ValueError(f"base timestamp {header.base_timestamp} is out of range")
        code = COMPRESSION_CODES.get(header.compression)
        if code != 0:
            body = decompress(-1 if code is None else code, batch[HEADER_BYTES:])
            start, end = 0, len(body)
        return body, record_spans(body, start, end, header.record_count, header.last_offset_delta)
    except (ValueError, DecompressError) as error:
        raise RecordsUnreadable(
            offset=header.base_offset, next_offset=header.next_offset, reason=str(error)
        ) from error


class Dirty:
    """What is gathered from the part of a log that was not compacted before."""

    def __init__(self, keys: KeyMap, start: int) -> None:
        self.keys = keys
        self.start = start

    def take(self, header: BatchHeader, batch: bytes) -> int | None:
        """Take the next batch; give the first offset for which there was no room."""
        if header.is_control or header.is_transactional or not header.record_count:
            return None
        try:
            _, spans = spans_of(header, batch)
        except RecordsUnreadable:
            return None
        return self.keys.put(spans, header.base_offset, self.start)


class Filter:
    """Goes through batches, says what stays, and counts what does not.

    ``end``: records from there on stay whatever they are. ``horizon_ms`` is the earliest
    delete horizon of what stays. ``last_batches``: where the last batch of each producer
    begins that is remembered, by its id; None: that is not known.
    """

    def __init__(
        self,
        dirty: Dirty,
        *,
        end: int,
        now_ms: int,
        delete_retention_ms: int,
        last_batches: Mapping[int, int] | None = None,
    ) -> None:
        self._dirty = dirty
        self._end = end
        self._last_batches = last_batches
        self._now_ms = now_ms
        self._new_horizon_ms = now_ms + delete_retention_ms
        self.horizon_ms = NEVER
        self.superseded = self.superseded_bytes = 0
        self.expired = self.expired_bytes = 0

    def pass_on(self, header: BatchHeader, batch: bytes) -> bytes | bytearray | None:
        """What stays of a batch: the same object if it is unchanged, None if it may become
        part of a hole."""
        if header.is_control:
            return batch
        if not header.record_count:
            return batch if self._is_last(header) else None
        try:
            body, spans = spans_of(header, batch)
        except RecordsUnreadable:
            return batch
        kept, tombstones = self._kept(header, spans)
        horizon_ms = None
        if tombstones:
            if header.delete_horizon_ms is not None:
                self.horizon_ms = min(self.horizon_ms, header.delete_horizon_ms)
            elif self._can_have_horizon(header, kept):
                horizon_ms = self._new_horizon_ms
                self.horizon_ms = min(self.horizon_ms, horizon_ms)
        if len(kept) == len(spans) and horizon_ms is None:
            return batch
        if not kept and not self._is_last(header):
            return None
        return _rebuilt(header, body, kept, horizon_ms)

    def _is_last(self, header: BatchHeader) -> bool:
        """Whether this is the last batch of its producer, or may be."""
        if header.producer_id < 0:
            return False
        last = self._last_batches
        return last is None or last.get(header.producer_id) == header.base_offset

    def _kept(self, header: BatchHeader, spans: list[Span]) -> tuple[list[Span], int]:
        """The records that stay, and how many of them are tombstones that will go."""
        kept: list[Span] = []
        tombstones = 0
        base, end, last = header.base_offset, self._end, self._dirty.keys.last
        horizon_ms = header.delete_horizon_ms
        is_due = horizon_ms is not None and self._now_ms >= horizon_ms
        for span in spans:
            begin, behind, _, _, delta, key, has_value = span
            if key is not None and base + delta < end:
                if last(key) > base + delta:
                    self.superseded += 1
                    self.superseded_bytes += behind - begin
                    continue
                if not has_value:
                    if is_due:
                        self.expired += 1
                        self.expired_bytes += behind - begin
                        continue
                    tombstones += 1
            kept.append(span)
        return kept, tombstones

    def _can_have_horizon(self, header: BatchHeader, kept: list[Span]) -> bool:
        horizon_ms = self._new_horizon_ms
        shift_ms = header.base_timestamp - horizon_ms
        return horizon_ms < HORIZON_LIMIT_MS and all(
            abs(shift_ms + span[2]) < DELTA_LIMIT_MS for span in kept
        )


def _rebuilt(
    header: BatchHeader, body: bytes, kept: list[Span], horizon_ms: int | None
) -> bytearray:
    """A batch with some of its records only, and with a delete horizon if it gets one."""
    base_ms = header.base_timestamp
    if horizon_ms is None:
        content = b"".join([body[span[0] : span[1]] for span in kept])
    else:
        shift_ms = base_ms - horizon_ms
        content = b"".join(
            [with_timestamp_delta(body, span[3], span[1], shift_ms + span[2]) for span in kept]
        )
    max_timestamp = header.max_timestamp
    if kept and not header.is_log_append_time:
        max_timestamp = base_ms + max(span[2] for span in kept)
    return with_fewer_records(
        header,
        content,
        record_count=len(kept),
        max_timestamp=max_timestamp,
        delete_horizon_ms=horizon_ms,
    )
