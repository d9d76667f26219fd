"""A record as one line of JSON, and back, without loss.

::

    {"topic": "orders", "partition": 0, "offset": 17, "timestamp": 1767225600000,
     "key": "k", "value": "text", "headers": [{"name": "type", "value": "pay"}]}

Bytes that are UTF-8 are written as text; other bytes as base64 under another name, so that
the two can not be confused: ``key_base64``, ``value_base64``. ``null`` is no value at all,
which is not the same as an empty one. Headers keep their order and may repeat a name.
``timestamp`` is in milliseconds since the epoch.

On the way in, ``value`` (or ``value_base64``) must be there, all else may be left out, and
a name that is not in the list above is refused: it is more likely a typing error than
something to be ignored.
"""

from __future__ import annotations

import json
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seawall.wal.records import Record

TIMESTAMP_MIN = -1  # Kafka's "none"
TIMESTAMP_MAX = 2**63 - 1
PARTITION_MAX = 2**31 - 1

_DATA_FIELDS = ("key", "key_base64", "value", "value_base64")
_FIELDS = frozenset(("topic", "partition", "offset", "timestamp", "headers", *_DATA_FIELDS))
_HEADER_FIELDS = frozenset(("name", "value", "value_base64"))

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_encode_ascii = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class NotARecord(ValueError):
    """A line that does not describe a record."""


class Fields(NamedTuple):
    """What a line says of a record. None: not said, or null."""

    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int | None
    partition: int | None


def to_line(record: Record) -> bytes:
    """The record as JSON, in UTF-8, without ``\\n``."""
    fields: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
    }
    _put(fields, "key", record.key)
    _put(fields, "value", record.value)
    headers = []
    for name, value in record.headers:
        header: dict[str, object] = {"name": name}
        _put(header, "value", value)
        headers.append(header)
    fields["headers"] = headers
    try:
        return _encode(fields).encode()
    except UnicodeEncodeError:  # a header's name with half a surrogate pair
        return _encode_ascii(fields).encode()


def from_line(line: bytes) -> Fields:
    """What one line says. Raises NotARecord with the reason."""
    try:
        found = _decode(line.decode())
    except UnicodeDecodeError as error:
        raise NotARecord(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise NotARecord(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise NotARecord("not JSON that describes a record: nested too deeply") from None
    except ValueError:  # a number of more digits than int() takes
        raise NotARecord("not JSON that describes a record: a number too long") from None
    if not isinstance(found, dict):
        raise NotARecord("not a JSON object")
    _refuse_unknown(found, _FIELDS, "field")
    if "value" not in found and "value_base64" not in found:
        raise NotARecord('neither "value" nor "value_base64" is there')
    return Fields(
        value=_take(found, "value"),
        key=_take(found, "key"),
        headers=_headers(found.get("headers")),
        timestamp=_integer(found, "timestamp", TIMESTAMP_MIN, TIMESTAMP_MAX),
        partition=_integer(found, "partition", 0, PARTITION_MAX),
    )


def _put(fields: dict[str, object], name: str, data: bytes | None) -> None:
    if data is None:
        fields[name] = None
        return
    try:
        fields[name] = data.decode()
    except UnicodeDecodeError:
        fields[name + "_base64"] = b64encode(data).decode()


def _take(fields: dict[str, object], name: str) -> bytes | None:
    text, coded = fields.get(name), fields.get(name + "_base64")
    if name + "_base64" in fields:
        if name in fields:
            raise NotARecord(f'both "{name}" and "{name}_base64" are there')
        if not isinstance(coded, str):
            raise NotARecord(f'"{name}_base64" is not a string')
        try:
            return a2b_base64(coded.encode("ascii"), strict_mode=True) if coded else b""
        except (Base64Error, UnicodeEncodeError):
            raise NotARecord(f'"{name}_base64" is not base64') from None
    if text is None:
        return None
    if not isinstance(text, str):
        raise NotARecord(f'"{name}" is neither a string nor null')
    return _utf8(text, name)


def _headers(found: object) -> Sequence[tuple[str, bytes | None]]:
    if found is None:
        return ()
    if not isinstance(found, list):
        raise NotARecord('"headers" is not a list')
    headers = []
    for header in found:
        if not isinstance(header, dict) or not isinstance(name := header.get("name"), str):
            raise NotARecord('a header is not an object with a "name"')
        _refuse_unknown(header, _HEADER_FIELDS, "header's field")
        try:
            name.encode("utf-8", "surrogateescape")  # as the codec will
        except UnicodeEncodeError:
            raise NotARecord("a header's name holds half a surrogate pair") from None
        headers.append((name, _take(header, "value")))
    return headers


def _integer(fields: dict[str, object], name: str, least: int, most: int) -> int | None:
    number = fields.get(name)
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise NotARecord(f'"{name}" is not an integer from {least} to {most}')
    return number


def _refuse_unknown(fields: dict[str, object], known: frozenset[str], what: str) -> None:
    unknown = fields.keys() - known
    if unknown:
        raise NotARecord(f"unknown {what} {min(unknown)!r}")


def _utf8(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise NotARecord(f'"{name}" holds half a surrogate pair') from None
