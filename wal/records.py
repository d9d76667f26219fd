"""Record and RecordBatch v2: bytes <-> values. No I/O, no clock.

A batch is what Kafka writes, sends and stores, magic 2 (KIP-98), big endian::

    position  type    field
           0  int64   base_offset             offset of the first record; not in the CRC
           8  int32   batch_length            bytes behind this field; not in the CRC
          12  int32   partition_leader_epoch  not in the CRC
          16  int8    magic                   2; not in the CRC
          17  uint32  crc                     CRC-32C of everything from position 21 on
          21  int16   attributes              bits 0-2 compression, see ``compression``
                                              bit 3   timestamps are LogAppendTime
                                              bit 4   part of a transaction
                                              bit 5   control batch (not for users)
                                              bit 6   base_timestamp is a delete horizon
          23  int32   last_offset_delta       base_offset + this is the last offset
          27  int64   base_timestamp          ms since the epoch
          35  int64   max_timestamp           with bit 3: the timestamp of every record
          43  int64   producer_id             -1: none
          51  int16   producer_epoch          -1: none
          53  int32   base_sequence           -1: none
          57  int32   record_count
          61  …       the records, compressed as one piece; their layout stands in ``codec``

as struct strings: ``>qiibI`` (outside the CRC) and ``>hiqqqhii`` (inside).

A batch is **valid** if and only if

* its base offset is not negative,
* ``batch_length`` covers at least the header, and what is there is at least as long,
* magic is 2,
* the CRC matches,
* the record count is at most the last offset delta plus one: it is just that (*dense*) when a
  batch is appended, and fewer once key compaction has left some of its records out. None at
  all make it a hole: offsets without records.

Whether it also begins at the right offset, only its log can say. Zero bytes are never valid:
their length is 0. Valid batches may still hold records that do not parse, because Kafka's
clients write them: those raise RecordsUnreadable when somebody reads the records.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from os import environ
from typing import Final, NamedTuple

import google_crc32c

from seawall.wal.compression import (
    CODEC_NAMES,
    MAX_DECOMPRESSED_BYTES,
    DecompressError,
    compress,
    decompress,
)
from seawall.wal.errors import BatchInvalid, RecordsUnreadable

# SEAWALL_PURE_PYTHON=1 leaves the compiled core alone, to compare or to rule it out.
IS_COMPILED = not environ.get("SEAWALL_PURE_PYTHON")
if IS_COMPILED:
    try:
        from seawall.wal._codec import decode_records, encode_records
    except ImportError:  # installed without a compiler
        IS_COMPILED = False
if not IS_COMPILED:
    from seawall.wal.codec import decode_records, encode_records

if google_crc32c.implementation != "c":
    raise ImportError(
        "google_crc32c fell back to its pure-Python CRC-32C, which is far too slow for a log; "
        "install a wheel of google-crc32c for this platform"
    )

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_CHECKED: Final = struct.Struct(">hiqqqhii")  # the part of the header inside the CRC
_UNCHECKED: Final = struct.Struct(">qiibI")
_OFFSET: Final = struct.Struct(">q")
_EPOCH: Final = struct.Struct(">i")

#: The bytes of a batch that holds no record.
HEADER_BYTES: Final = 61
_LENGTH_FROM: Final = 12  # batch_length counts from here
_EPOCH_AT: Final = 12
_CRC_FROM: Final = 21
_MAGIC: Final = 2
_INT32_MAX: Final = 2**31 - 1
_INT64_MAX: Final = 2**63 - 1

_COMPRESSION_MASK: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20
_DELETE_HORIZON: Final = 0x40

#: Name of a compression codec -> its code in the attributes.
COMPRESSION_CODES: Final = {name: code for code, name in enumerate(CODEC_NAMES)}

Header = tuple[str, bytes | None]
#: What is encoded: timestamp (ms since the epoch), key, value, headers.
RecordTuple = tuple[int, bytes | None, bytes | None, Sequence[Header]]


class Record(NamedTuple):
    """One record as read. ``timestamp`` is in ms since the epoch; headers may repeat a key."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


class BatchHeader(NamedTuple):
    """The header of a batch, field by field as it is stored."""

    base_offset: int
    batch_length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        """The bytes of the whole batch, header included."""
        return self.batch_length + _LENGTH_FROM

    @property
    def next_offset(self) -> int:
        """The offset that follows this batch."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def compression(self) -> str:
        """none, gzip, snappy, lz4, zstd; or "unknown (5)" and the like."""
        code = self.attributes & _COMPRESSION_MASK
        return CODEC_NAMES[code] if code < len(CODEC_NAMES) else f"unknown ({code})"

    @property
    def is_log_append_time(self) -> bool:
        """Whether ``max_timestamp`` is the timestamp of every record."""
        return bool(self.attributes & _LOG_APPEND_TIME)

    @property
    def is_transactional(self) -> bool:
        """Whether the batch is part of a transaction."""
        return bool(self.attributes & _TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        """Whether the records are control records, which consumers never hand to users."""
        return bool(self.attributes & _CONTROL)

    @property
    def delete_horizon_ms(self) -> int | None:
        """From when on its null values may go, in ms since the epoch; None if not known yet."""
        return self.base_timestamp if self.attributes & _DELETE_HORIZON else None


def encode_batch(
    records: Sequence[RecordTuple],
    *,
    compression: str | None = "none",
    base_offset: int = 0,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    is_transactional: bool = False,
    is_control: bool = False,
    log_append_time_ms: int | None = None,
) -> bytearray:
    """Encode one or more records as a batch with leader epoch 0.

    With ``log_append_time_ms`` that becomes the timestamp of every record. Raises ValueError
    for no records, an unknown compression, a timestamp beyond ±2**62 ms, or too much data.
    """
    if not records:
        raise ValueError("a batch needs at least one record; use empty_batch() for a hole")
    code = COMPRESSION_CODES.get(compression or "none")
    if code is None:
        raise ValueError(f"unknown compression {compression!r}; use one of {CODEC_NAMES}")
    batch = bytearray(HEADER_BYTES)
    try:
        max_timestamp = encode_records(batch, records)
    except OverflowError as error:  # the compiled core's word for a number beyond 64 bits
        raise ValueError(f"a timestamp is out of range: {error}") from error
    if code:
        body = bytes(memoryview(batch)[HEADER_BYTES:])
        if len(body) > MAX_DECOMPRESSED_BYTES:
            raise ValueError(
                f"{len(body)} bytes of records are more than a compressed batch may hold "
                f"({MAX_DECOMPRESSED_BYTES}); send fewer at once"
            )
        batch[HEADER_BYTES:] = compress(code, body)
    attributes = code
    if log_append_time_ms is not None:
        attributes |= _LOG_APPEND_TIME
        max_timestamp = log_append_time_ms
    if is_transactional:
        attributes |= _TRANSACTIONAL
    if is_control:
        attributes |= _CONTROL
    count = len(records)
    _finish(
        batch,
        base_offset,
        attributes,
        count - 1,
        records[0][0],
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        count,
    )
    return batch


def empty_batch(base_offset: int, last_offset_delta: int, timestamp: int) -> bytearray:
    """Return a hole: a batch that spans its offsets and holds no record.

    As Kafka's cleaner writes it: no base timestamp, and ``timestamp`` as the maximum.
    """
    batch = bytearray(HEADER_BYTES)
    _finish(batch, base_offset, 0, last_offset_delta, -1, timestamp, -1, -1, -1, 0)
    return batch


def with_fewer_records(
    header: BatchHeader,
    records: bytes | bytearray,
    *,
    record_count: int,
    max_timestamp: int,
    delete_horizon_ms: int | None = None,
) -> bytearray:
    """Return a batch with these encoded records of it, which keep their offsets.

    All else stays as ``header`` has it. With ``delete_horizon_ms`` that becomes the base
    timestamp (KIP-534), and the records' timestamp deltas have to be relative to it.
    """
    code = header.attributes & _COMPRESSION_MASK
    attributes, base_timestamp = header.attributes, header.base_timestamp
    if delete_horizon_ms is not None:
        attributes |= _DELETE_HORIZON
        base_timestamp = delete_horizon_ms
    batch = bytearray(HEADER_BYTES)
    if not records:
        attributes &= ~_COMPRESSION_MASK  # nothing is not compressed, as in Kafka
    else:
        batch += compress(code, bytes(records))
    _finish(
        batch,
        header.base_offset,
        attributes,
        header.last_offset_delta,
        base_timestamp,
        max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        record_count,
    )
    return batch


def _finish(batch: bytearray, base_offset: int, *checked_fields: int) -> None:
    """Fill in the header of a batch whose records stand in their place already."""
    batch_length = len(batch) - _LENGTH_FROM
    if batch_length > _INT32_MAX:
        raise ValueError(f"{len(batch)} bytes are more than a batch can have")
    _CHECKED.pack_into(batch, _CRC_FROM, *checked_fields)
    crc = google_crc32c.value(bytes(memoryview(batch)[_CRC_FROM:]))
    _UNCHECKED.pack_into(batch, 0, base_offset, batch_length, 0, _MAGIC, crc)


def stamp(batch: bytearray, base_offset: int, leader_epoch: int = 0) -> None:
    """Write base offset and leader epoch into a batch, in place: both lie outside the CRC."""
    _OFFSET.pack_into(batch, 0, base_offset)
    _EPOCH.pack_into(batch, _EPOCH_AT, leader_epoch)


def estimate_size(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> int:
    """Return an upper bound of the uncompressed bytes of one record in a batch."""
    # length 5, attributes 1, timestamp 9, offset 5, key and value length 5 each, header count 5
    size = 35
    if key is not None:
        size += len(key)
    if value is not None:
        size += len(value)
    for name, content in headers:
        size += 10 + 4 * len(name)
        if content is not None:
            size += len(content)
    return size


def parse_header(buffer: bytes | bytearray | memoryview, position: int = 0) -> BatchHeader:
    """Read a header; raise BatchInvalid unless it is whole and magic and length can be right.

    Nothing behind the header is looked at, and the CRC is not checked.
    """
    if len(buffer) - position < HEADER_BYTES:
        raise BatchInvalid(reason=f"{max(0, len(buffer) - position)} bytes are less than a header")
    header = BatchHeader._make(_HEADER.unpack_from(buffer, position))
    if header.batch_length < HEADER_BYTES - _LENGTH_FROM:
        raise BatchInvalid(reason=f"its length {header.batch_length} is less than a header")
    if header.magic != _MAGIC:
        raise BatchInvalid(reason=f"its magic is {header.magic}, not {_MAGIC}")
    return header


def check_batch(
    buffer: bytes, position: int, available: int, *, dense: bool = False
) -> BatchHeader:
    """Return the header of the valid batch at ``position``, else raise BatchInvalid.

    ``available`` is the bytes from ``position`` to the end of the data in ``buffer``. With
    ``dense``, for what clients send, each of its offsets has to have its record.
    The sentence that this follows stands in the module's docstring.
    """
    if available < HEADER_BYTES:
        raise BatchInvalid(reason=f"{max(0, available)} bytes are less than a header")
    header = parse_header(buffer, position)
    if header.base_offset < 0:
        raise BatchInvalid(reason=f"its base offset {header.base_offset} is negative")
    end = position + header.batch_length + _LENGTH_FROM
    if end > position + available or end > len(buffer):
        raise BatchInvalid(
            reason=f"its {header.size_bytes} bytes are more than the {available} that are left"
        )
    crc = google_crc32c.value(buffer[position + _CRC_FROM : end])
    if crc != header.crc:
        raise BatchInvalid(reason=f"its CRC is {crc:08x}, not {header.crc:08x} as stored")
    span, count = header.last_offset_delta + 1, header.record_count
    if span < 1 or header.base_offset > _INT64_MAX - span:
        raise BatchInvalid(reason=f"its last offset delta {span - 1} is out of range")
    if not (span if dense else 0) <= count <= span:
        raise BatchInvalid(reason=f"it counts {count} records for {span} offsets")
    return header


def decode_batch(
    buffer: bytes, position: int, topic: str, partition: int, *, min_offset: int = 0
) -> list[Record]:
    """Return the records of the batch at ``position`` whose offset is at least ``min_offset``.

    The caller has checked the batch (``check_batch``), and skips control batches. Raises
    RecordsUnreadable if the records do not parse or decompress to too much.
    """
    header = parse_header(buffer, position)
    start, end = position + HEADER_BYTES, position + header.size_bytes
    body = buffer
    base_offset, count = header.base_offset, header.record_count
    if start == end and count == 0:
        return []
    try:
        code = header.attributes & _COMPRESSION_MASK
        if code:
            body = decompress(code, buffer[start:end])
            start, end = 0, len(body)
        records: list[Record] = decode_records(
            body,
            start,
            end,
            count,
            topic,
            partition,
            base_offset,
            header.last_offset_delta,
            header.base_timestamp,
            Record,
        )
    except (ValueError, DecompressError) as error:
        raise RecordsUnreadable(
            offset=base_offset, next_offset=header.next_offset, reason=str(error)
        ) from error
    if header.attributes & _LOG_APPEND_TIME:
        timestamp = header.max_timestamp
        records = [
            Record(topic, partition, offset, timestamp, key, value, headers)
            for _, _, offset, _, key, value, headers in records
        ]
    if base_offset < min_offset:
        records = [record for record in records if record.offset >= min_offset]
    return records
