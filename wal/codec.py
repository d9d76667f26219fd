# cython: annotation_typing=False
"""The loops that run once per record: records <-> the bytes behind a batch header.

This file is complete Python. Where a C compiler is at hand, installing also compiles it
(with the C types in ``seawall.wal._codec.pxd``) to ``seawall.wal._codec``, which ``records``
prefers; both must give the same bytes, the same records and the same errors.

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

# The shortest record: a length and six fields of one byte each.
_LEAST_RECORD_BYTES = 7
# What is read: varints of up to 9 bytes, that is 63 bits or deltas of +-2**62, and base
# timestamps in the same range, so that every sum fits in 64 bits.
_TIMESTAMP_LIMIT = 1 << 62
# What is written: timestamps whose differences are in that range.
_WRITE_TIMESTAMP_LIMIT = 1 << 61


def encode_records(
    out: bytearray,
    records: Sequence[tuple[int, bytes | None, bytes | None, Sequence[Header]]],
) -> int:
    """Append (timestamp, key, value, headers) rows to ``out``; return the highest timestamp.

    The first row's timestamp is the base timestamp. If this raises (ValueError for a
    timestamp out of range, TypeError), ``out`` holds a part.
    """
    # Numbers are zig-zag encoded first; then their sizes are known, and so is the length
    # in front of the record. Loops that write varints stand here in full: calls cost more.
    base_timestamp = max_timestamp = records[0][0]
    offset_delta = 0
    for given_timestamp, key, value, headers in records:
        if not isinstance(given_timestamp, int):
            raise TypeError(f"a timestamp is int, not {type(given_timestamp).__name__}")
        timestamp = given_timestamp  # to C's type, which would also take a float
        if not -_WRITE_TIMESTAMP_LIMIT <= timestamp < _WRITE_TIMESTAMP_LIMIT:
            raise ValueError(f"timestamp {timestamp} is out of range")
        if timestamp > max_timestamp:
            max_timestamp = timestamp
        delta = (timestamp - base_timestamp) << 1
        if delta < 0:
            delta = ~delta
        size = 3  # attributes, timestamp delta, offset delta
        if delta > 0x7F:
            size += _more_bytes(delta)
        if offset_delta > 0x7F:
            size += _more_bytes(offset_delta)
        if key is None:
            key_number = 1
            size += 1
        elif isinstance(key, bytes):
            key_number = len(key)
            size += key_number + 1
            key_number <<= 1
            if key_number > 0x7F:
                size += _more_bytes(key_number)
        else:
            raise TypeError(f"a key is bytes or None, not {type(key).__name__}")
        if value is None:
            value_number = 1
            size += 1
        elif isinstance(value, bytes):
            value_number = len(value)
            size += value_number + 1
            value_number <<= 1
            if value_number > 0x7F:
                size += _more_bytes(value_number)
        else:
            raise TypeError(f"a value is bytes or None, not {type(value).__name__}")
        tail = _encode_headers(headers) if headers else b"\0"
        size = (size + len(tail)) << 1

        while size > 0x7F:
            out.append(size & 0x7F | 0x80)
            size >>= 7
        out.append(size)
        out.append(0)
        while delta > 0x7F:
            out.append(delta & 0x7F | 0x80)
            delta >>= 7
        out.append(delta)
        number = offset_delta
        while number > 0x7F:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)
        offset_delta += 2  # zig-zag
        while key_number > 0x7F:
            out.append(key_number & 0x7F | 0x80)
            key_number >>= 7
        out.append(key_number)
        if key is not None:
            out += key
        while value_number > 0x7F:
            out.append(value_number & 0x7F | 0x80)
            value_number >>= 7
        out.append(value_number)
        if value is not None:
            out += value
        out += tail
    return max_timestamp


def _more_bytes(number: int) -> int:
    """Return how many bytes more than one the varint of ``number`` has."""
    count = 1
    while number > 0x3FFF:
        number >>= 7
        count += 1
    return count


def _put_varint(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _encode_headers(headers: Sequence[Header]) -> bytearray:
    out = bytearray()
    _put_varint(out, len(headers) << 1)
    for key, value in headers:
        if not isinstance(key, str):
            raise TypeError(f"a header's key is str, not {type(key).__name__}")
        # Kafka says UTF-8; surrogateescape keeps foreign bytes that were read, as they were.
        name = key.encode("utf-8", "surrogateescape")
        _put_varint(out, len(name) << 1)
        out += name
        if value is None:
            out.append(1)
        elif isinstance(value, bytes):
            _put_varint(out, len(value) << 1)
            out += value
        else:
            raise TypeError(f"a header's value is bytes or None, not {type(value).__name__}")
    return out


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
                more = buffer[position]
                position += 1
                if more > 0x7F:
                    number, position = _decode_varint(buffer, position - 2)
                else:
                    number += (more << 7) - 0x80
            record_end = position + (number >> 1)
            if number & 1 or record_end > end:
                raise ValueError("a record's length does not fit in its batch")

            number = buffer[position + 1]
            position += 2
            if number > 0x7F:
                more = buffer[position]
                position += 1
                if more > 0x7F:
                    number, position = _decode_varint(buffer, position - 2)
                else:
                    number += (more << 7) - 0x80
            timestamp = base_timestamp + ((number >> 1) ^ -(number & 1))

            number = buffer[position]
            position += 1
            if number > 0x7F:
                more = buffer[position]
                position += 1
                if more > 0x7F:
                    number, position = _decode_varint(buffer, position - 2)
                else:
                    number += (more << 7) - 0x80
            offset_delta = number >> 1
            if number & 1 or offset_delta <= previous_delta or offset_delta > last_offset_delta:
                raise ValueError("a record's offset is not one of its batch")
            previous_delta = offset_delta

            key = None
            number = buffer[position]
            position += 1
            if number > 0x7F:
                more = buffer[position]
                position += 1
                if more > 0x7F:
                    number, position = _decode_varint(buffer, position - 2)
                else:
                    number += (more << 7) - 0x80
            if not number & 1:
                start = position
                position += number >> 1
                key = buffer[start:position]

            value = None
            number = buffer[position]
            position += 1
            if number > 0x7F:
                more = buffer[position]
                position += 1
                if more > 0x7F:
                    number, position = _decode_varint(buffer, position - 2)
                else:
                    number += (more << 7) - 0x80
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


def record_spans(
    buffer: bytes, position: int, end: int, count: int, last_offset_delta: int
) -> list[tuple[int, int, int, int, int, bytes | None, bool]]:
    """Where each of ``count`` records lies, and its key, for whoever leaves some of them out.

    Of each: where it begins and ends, its timestamp delta, where what follows that begins, its
    offset delta, its key, and whether it has a value. Takes what `decode_records` takes.
    """
    if count * _LEAST_RECORD_BYTES > end - position:
        raise ValueError(f"{count} records do not fit in {end - position} bytes")
    spans: list[tuple[int, int, int, int, int, bytes | None, bool]] = []
    previous_delta = -1
    try:
        for _ in range(count):
            begin = position
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
            timestamp_delta = (number >> 1) ^ -(number & 1)
            rest = position
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
            number = buffer[position]
            position += 1
            if number > 0x7F:
                number, position = _decode_varint(buffer, position - 1)
            has_value = not number & 1
            if has_value:
                position += number >> 1
            number = buffer[position]
            position += 1
            if number:
                _, position = _decode_headers(buffer, position - 1, record_end)
            if position != record_end:
                raise ValueError("a record's fields do not fill its length")
            spans.append((begin, record_end, timestamp_delta, rest, offset_delta, key, has_value))
    except IndexError:
        raise ValueError("a record ends early") from None
    if position != end:
        raise ValueError(f"{end - position} bytes are left behind the last record")
    return spans


def with_timestamp_delta(buffer: bytes, rest: int, end: int, delta: int) -> bytearray:
    """A record anew, with another timestamp delta before what stands from ``rest`` to ``end``."""
    number = delta << 1
    if number < 0:
        number = ~number
    body = bytearray(1)
    _put_varint(body, number)
    body += buffer[rest:end]
    out = bytearray()
    _put_varint(out, len(body) << 1)
    return out + body


def _decode_varint(buffer: bytes, position: int) -> tuple[int, int]:
    """Return the number, still zig-zag, and the position behind it."""
    number = 0
    for shift in (0, 7, 14, 21, 28, 35, 42, 49, 56):
        byte = buffer[position]
        position += 1
        if byte < 0x80:
            return number | byte << shift, position
        number |= (byte & 0x7F) << shift
    raise ValueError("a number is longer than 9 bytes")


def _decode_headers(buffer: bytes, position: int, end: int) -> tuple[list[Header], int]:
    number, position = _decode_varint(buffer, position)
    if number & 1 or number > end - position:  # the shortest header has 2 bytes
        raise ValueError("a header count is out of range")
    headers: list[Header] = []
    for _ in range(number >> 1):
        number = buffer[position]
        position += 1
        if number > 0x7F:
            number, position = _decode_varint(buffer, position - 1)
        start = position
        position += number >> 1
        if number & 1 or position > end:
            raise ValueError("a header key's length is out of range")
        key = buffer[start:position].decode("utf-8", "surrogateescape")
        value = None
        number = buffer[position]
        position += 1
        if number > 0x7F:
            number, position = _decode_varint(buffer, position - 1)
        if not number & 1:
            start = position
            position += number >> 1
            value = buffer[start:position]
        headers.append((key, value))
    return headers, position
