"""What a record batch from a client has to be before it is stored as it came.

Only the header is looked at, and the checksum; the records are parsed where a topic or its
server demands it. The rules are Kafka's (``ProduceRequest.validateRecords``,
``LogValidator``, ``UnifiedLog.analyzeAndValidateRecords``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import google_crc32c

from seawall.broker.config import COMPACT, COMPACT_AND_DELETE, INT64_MAX, TopicConfig
from seawall.broker.errors import (
    BatchTooLarge,
    CorruptBatch,
    InvalidRecord,
    InvalidTimestamp,
    RecordTooLarge,
    UnsupportedCompression,
)
from seawall.wal.errors import BatchInvalid, RecordsUnreadable
from seawall.wal.records import (
    COMPRESSION_CODES,
    BatchHeader,
    decode_batch,
    parse_header,
)

NO_TIMESTAMP: Final = -1
LOG_APPEND_TIME: Final = "LogAppendTime"

_MAGIC: Final = 2
_MAGIC_AT: Final = 16
_CRC_FROM: Final = 21
_LOG_APPEND_TIME_BIT: Final = 0x08
_DELETE_HORIZON_BIT: Final = 0x40
_CRC: Final = struct.Struct(">I")
_ATTRIBUTES: Final = struct.Struct(">h")
_MAX_TIMESTAMP_AT: Final = 35
_MAX_TIMESTAMP: Final = struct.Struct(">q")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRules:
    """What is demanded of batches besides the topic's settings.

    ``timestamp_before_max_ms``, ``timestamp_after_max_ms``: how far timestamps may lie from
    the present. ``codecs``: the highest code that the client may use (4 is zstd).
    """

    validate_records: bool = False
    timestamp_before_max_ms: int = INT64_MAX
    timestamp_after_max_ms: int = INT64_MAX
    codecs: int = max(COMPRESSION_CODES.values())


DEFAULT_RULES: Final = RawRules()


def checked_batch(
    data: bytes | None, config: TopicConfig, *, now_ms: int, rules: RawRules = DEFAULT_RULES
) -> tuple[bytearray, BatchHeader]:
    """The one batch in `data`, ready to be appended: with LogAppendTime it is stamped.

    Raises `InvalidRecord` and its kinds, `RecordTooLarge`, `BatchTooLarge`.
    """
    if not data:
        raise InvalidRecord(reason="there is no record batch")
    if len(data) > _MAGIC_AT and data[_MAGIC_AT] != _MAGIC:
        raise InvalidRecord(reason=f"its magic is {data[_MAGIC_AT]}, only {_MAGIC} is stored")
    try:
        header = parse_header(data)
    except BatchInvalid as error:
        raise CorruptBatch(reason=error.reason) from None
    if header.size_bytes > len(data):
        raise CorruptBatch(reason=f"it has {header.size_bytes} bytes, {len(data)} came")
    if header.size_bytes < len(data):
        raise InvalidRecord(reason="there is more than one record batch for the partition")
    if len(data) > config.max_message_bytes:
        raise RecordTooLarge(size_bytes=len(data), max_bytes=config.max_message_bytes)
    if len(data) > config.segment_bytes:
        raise BatchTooLarge(size_bytes=len(data), max_bytes=config.segment_bytes)
    crc = google_crc32c.value(data[_CRC_FROM:])
    if crc != header.crc:
        raise CorruptBatch(reason=f"its CRC is {crc:08x}, not {header.crc:08x} as it says")
    _check_header(header, rules)
    is_stamped = config.message_timestamp_type == LOG_APPEND_TIME
    if not is_stamped:
        _check_timestamps(header, now_ms, rules)
    needs_keys = config.cleanup_policy in (COMPACT, COMPACT_AND_DELETE)
    if needs_keys or rules.validate_records:
        _check_records(data, needs_keys=needs_keys)
    batch = bytearray(data)
    if is_stamped:
        _stamp_time(batch, header.attributes, now_ms)
    return batch, header


def _check_header(header: BatchHeader, rules: RawRules) -> None:
    count, delta = header.record_count, header.last_offset_delta
    if count < 1 or delta != count - 1:
        raise InvalidRecord(reason=f"it counts {count} records, and its last has number {delta}")
    if header.base_offset:
        raise InvalidRecord(reason=f"its base offset is {header.base_offset}, not 0")
    if header.is_control:
        raise InvalidRecord(reason="clients cannot write control batches")
    if header.is_transactional:
        raise InvalidRecord(reason="it is part of a transaction, and there are none here")
    if header.attributes & _DELETE_HORIZON_BIT:
        raise InvalidRecord(reason="clients cannot set a delete horizon")
    if header.attributes & 0x07 > rules.codecs:
        raise UnsupportedCompression(
            reason=f"compression {header.compression} is not known to this version of the request"
        )
    if header.producer_id >= 0 and (header.base_sequence < 0 or header.producer_epoch < 0):
        raise InvalidRecord(
            reason=f"producer {header.producer_id} sent sequence {header.base_sequence} "
            f"in epoch {header.producer_epoch}"
        )


def _check_timestamps(header: BatchHeader, now_ms: int, rules: RawRules) -> None:
    if header.is_log_append_time:
        raise InvalidTimestamp(reason="the timestamp type of a producer is CreateTime")
    oldest = min(header.base_timestamp, header.max_timestamp)
    if oldest < NO_TIMESTAMP:
        raise InvalidTimestamp(reason=f"timestamp {oldest} is negative")
    if header.max_timestamp - now_ms > rules.timestamp_after_max_ms:
        raise InvalidTimestamp(
            reason=f"timestamp {header.max_timestamp} is more than "
            f"{rules.timestamp_after_max_ms} ms ahead of the present"
        )
    if oldest != NO_TIMESTAMP and now_ms - oldest > rules.timestamp_before_max_ms:
        raise InvalidTimestamp(
            reason=f"timestamp {oldest} is more than {rules.timestamp_before_max_ms} ms old"
        )


def _check_records(data: bytes, *, needs_keys: bool) -> None:
    try:
        records = decode_batch(data, 0, "", 0)
    except RecordsUnreadable as error:
        raise InvalidRecord(reason=f"its records do not parse ({error.reason})") from None
    if needs_keys:
        for number, record in enumerate(records):
            if record.key is None:
                raise InvalidRecord(
                    reason=f"record {number} has no key, and the topic is compacted by key"
                )


def _stamp_time(batch: bytearray, attributes: int, now_ms: int) -> None:
    """Make the time of appending every record's timestamp (KIP-32)."""
    _ATTRIBUTES.pack_into(batch, _CRC_FROM, attributes | _LOG_APPEND_TIME_BIT)
    _MAX_TIMESTAMP.pack_into(batch, _MAX_TIMESTAMP_AT, now_ms)
    crc = google_crc32c.value(bytes(memoryview(batch)[_CRC_FROM:]))
    _CRC.pack_into(batch, _CRC_FROM - _CRC.size, crc)
