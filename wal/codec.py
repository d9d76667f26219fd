"""The two loops that run once per record: records <-> the bytes behind a batch header.

This file is complete Python. Where a C compiler is at hand, installing also compiles it
(with the C types of ``_codec.pxd``) to ``seawall.wal._codec``, which ``records`` prefers;
both must give the same bytes, the same records and the same errors.

One record (the layout is drawn in ``records``)::

    varint  length          of what follows
    int8    attributes      no bit has a meaning
    varint  timestamp_delta to the batch's base timestamp
    varint  offset_delta    to the batch's base offset
    varint  key_length      negative: the key is null
    bytes   key
    varint  value_length    negative: the value is null
    bytes   value
    varint  header_count
    then for each header: varint key_length, UTF-8 key, varint value_length (negative: null),
    value

A varint is Protocol Buffers' zig-zag one: 0, -1, 1, -2, … become 0, 1, 2, 3, …, written in
groups of 7 bits, lowest first, with bit 7 set in every byte but the last.

Malformed bytes raise ValueError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    Header = tuple[str, bytes | None]

COMPILED = False

# The shortest record: a length and six fields of one byte each.
_LEAST_RECORD_BYTES = 7
# 9 bytes hold 63 bits: enough for a timestamp delta of +-2**62 ms, and every sum fits in 64 bits.
_MOST_VARINT_BYTES = 9
_TIMESTAMP_LIMIT = 1 << 62


def _encode_varint(number: int) -> bytes:
    rest = number << 1 if number >= 0 else ~(number << 1)
    if rest < 0x80:
        return bytes((rest,))
    if rest < 0x4000:
        return bytes((rest & 0x7F | 0x80, rest >> 7))
    out = bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


class _Varints(dict[int, bytes]):
    """The bytes of small numbers, filled on demand: a look-up costs a fifth of a call."""

    def __missing__(self, number: int) -> bytes:
        encoded = _encode_varint(number)
        if len(encoded) <= 2:  # so it never holds more than 16,384 numbers
            self[number] = encoded
        return encoded


_VARINTS = _Varints()


def encode_records(
    records: Sequence[tuple[int, bytes | None, bytes | None, Sequence[Header]]],
) -> tuple[bytes, int]:
    """Encode (timestamp, key, value, headers) rows; return the bytes and the max timestamp.

    The first row's timestamp is the base timestamp.
    """
    varints = _VARINTS
    parts: list[bytes] = []
    base_timestamp = max_timestamp = records[0][0]
    if not -_TIMESTAMP_LIMIT <= base_timestamp < _TIMESTAMP_LIMIT:
        raise ValueError(f"timestamp {base_timestamp} is out of range")
    offset_delta = 0
    for timestamp, key, value, headers in records:
        delta = timestamp - base_timestamp
        if delta < 0:
            if delta < -_TIMESTAMP_LIMIT:
                raise ValueError(f"timestamp {timestamp} is out of range")
        elif timestamp > max_timestamp:
            if delta >= _TIMESTAMP_LIMIT:
                raise ValueError(f"timestamp {timestamp} is out of range")
            max_timestamp = timestamp
        head = b"\0" + varints[delta] + varints[offset_delta]
        if key is None:
            head += b"\x01"
        else:
            head += varints[len(key)] + key
        tail = _encode_headers(headers) if headers else b"\0"
        if value is None:
            head += b"\x01"
            parts += (varints[len(head) + len(tail)], head, tail)
        else:
            head += varints[len(value)]
            parts += (varints[len(head) + len(value) + len(tail)], head, value, tail)
        offset_delta += 1
    return b"".join(parts), max_timestamp


def _encode_headers(headers: Sequence[Header]) -> bytes:
    parts = [_encode_varint(len(headers))]
    for key, value in headers:
        # Kafka says UTF-8; surrogateescape keeps foreign bytes that were read, as they were.
        name = key.encode("utf-8", "surrogateescape")
        parts += (_encode_varint(len(name)), name)
        if value is None:
            parts.append(b"\x01")
        else:
            parts += (_encode_varint(len(value)), value)
    return b"".join(parts)


def decode_records(
    buffer: bytes,
    position: int,
    end: int,
    count: int,
    topic: str,
    partition: int,
    base_offset: int,
    last_offset_delta: int,
    base_timestamp: int,
    record_type: type[Any],
) -> list[Any]:
    """Decode exactly ``count`` records that fill ``buffer[position:end]``.

    ``record_type`` is Record, passed in because this module must not import ``records``.
    """
    if count * _LEAST_RECORD_BYTES > end - position:
        raise ValueError(f"{count} records do not fit in {end - position} bytes")
    if not -_TIMESTAMP_LIMIT <= base_timestamp < _TIMESTAMP_LIMIT:
        raise ValueError(f"base timestamp {base_timestamp} is out of range")
    new = tuple.__new__
    records: list[Any] = []
    previous_delta = -1
    try:
        for _ in range(count):
            # Positions only grow, so one comparison with record_end below catches every
            # length inside a record that is too large.
            number = buffer[position]
            position += 1
            if number > 0x7F:
                number, position = _decode_varint(buffer, position - 1)
            record_end = position + (number >> 1)
            if number & 1 or record_end > end:
                raise ValueError("a record's length does not fit in its batch")

            number = buffer[position + 1]
            position += 2
            if number > 0x7F:
                number, position = _decode_varint(buffer, position - 1)
            timestamp = base_timestamp + ((number >> 1) ^ -(number & 1))

            number = buffer[position]
            position += 1
            if number > 0x7F:
                number, position = _decode_varint(buffer, position - 1)
            offset_delta = number >> 1
            if number & 1 or offset_delta <= previous_delta or offset_delta > last_offset_delta:
                raise ValueError("a record's offset is not one of its batch")
            previous_delta = offset_delta

            key = None
            number = buffer[position]
            position += 1
            if number > 0x7F:
                number, position = _decode_varint(buffer, position - 1)
            if not number & 1:
                start = position
                position += number >> 1
                key = buffer[start:position]

            value = None
            number = buffer[position]
            position += 1
            if number > 0x7F:
                number, position = _decode_varint(buffer, position - 1)
            if not number & 1:
                start = position
                position += number >> 1
                value = buffer[start:position]

            headers: Sequence[Header] = ()
            number = buffer[position]
            position += 1
            if number:
                headers, position = _decode_headers(buffer, position - 1, record_end)
            if position != record_end:
                raise ValueError("a record's fields do not fill its length")
            records.append(
                new(
                    record_type,
                    (topic, partition, base_offset + offset_delta, timestamp, key, value, headers),
                )
            )
    except IndexError:
        raise ValueError("a record ends early") from None
    if position != end:
        raise ValueError(f"{end - position} bytes are left behind the last record")
    return records


def _decode_varint(buffer: bytes, position: int) -> tuple[int, int]:
    """Return the number, still zig-zag, and the position behind it."""
    number = 0
    shift = 0
    for _ in range(_MOST_VARINT_BYTES):
        byte = buffer[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    raise ValueError(f"a number is longer than {_MOST_VARINT_BYTES} bytes")


def _decode_headers(buffer: bytes, position: int, end: int) -> tuple[list[Header], int]:
    number, position = _decode_varint(buffer, position)
    if number & 1 or number > end - position:  # the shortest header has 2 bytes
        raise ValueError("a header count is out of range")
    headers: list[Header] = []
    for _ in range(number >> 1):
        number, position = _decode_varint(buffer, position)
        start = position
        position += number >> 1
        if number & 1 or position > end:
            raise ValueError("a header key's length is out of range")
        key = buffer[start:position].decode("utf-8", "surrogateescape")
        number, position = _decode_varint(buffer, position)
        value = None
        if not number & 1:
            start = position
            position += number >> 1
            value = buffer[start:position]
        headers.append((key, value))
    return headers, position
