"""The output format of ``consume -f``: kcat's escapes.

::

    %t topic    %p partition  %o offset   %T timestamp, ms since the epoch
    %k key      %K its length in bytes, -1 for null
    %s value    %S its length in bytes, -1 for null
                %R the same as a big endian signed 32-bit integer
    %h headers: name=value,name=value     %% a percent sign

    \\n  \\r  \\t  \\0  \\\\  \\xNN (one byte)

Nothing is added: a line break is ``\\n`` in the format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seawall.wal.records import Record

_TOKEN = re.compile(rb"%(.?)|\\(x[0-9a-fA-F]{1,2}|.?)|[^%\\]+", re.DOTALL)
_KNOWN_ESCAPES = r"\n \r \t \0 \\ \xNN"
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


class FormatInvalid(ValueError):
    """A format with an escape that does not exist."""


def compile_format(text: str, *, null: bytes = b"") -> Callable[[Record], bytes]:
    """A function that prints one record. Raises FormatInvalid.

    `null` is what stands for a key, a value or a header's value that is null.
    """
    fields = _fields(null)
    parts: list[bytes | Callable[[Record], bytes]] = []
    for match in _TOKEN.finditer(os.fsencode(text)):
        token = match[0]
        if token.startswith(b"%"):
            if token == b"%%":
                parts.append(b"%")
            elif match[1] in fields:
                parts.append(fields[match[1]])
            else:
                raise FormatInvalid(f"{_shown(token)} is no field; known are %{_known(fields)} %%")
        elif token.startswith(b"\\"):
            if match[2].startswith(b"x") and len(match[2]) > 1:
                parts.append(bytes([int(match[2][1:], 16)]))
            elif match[2] in _ESCAPES:
                parts.append(_ESCAPES[match[2]])
            else:
                raise FormatInvalid(f"{_shown(token)} is no escape; known are {_KNOWN_ESCAPES}")
        else:
            parts.append(token)

    def show(record: Record) -> bytes:
        return b"".join([p if isinstance(p, bytes) else p(record) for p in parts])

    return show


def _fields(null: bytes) -> dict[bytes, Callable[[Record], bytes]]:
    def shown(data: bytes | None) -> bytes:
        return null if data is None else data

    def headers(record: Record) -> bytes:
        return b",".join(
            name.encode("utf-8", "surrogateescape") + b"=" + shown(value)
            for name, value in record.headers
        )

    return {
        b"t": lambda record: record.topic.encode(),
        b"p": lambda record: b"%d" % record.partition,
        b"o": lambda record: b"%d" % record.offset,
        b"T": lambda record: b"%d" % record.timestamp,
        b"k": lambda record: shown(record.key),
        b"K": lambda record: b"%d" % _length(record.key),
        b"s": lambda record: shown(record.value),
        b"S": lambda record: b"%d" % _length(record.value),
        b"R": lambda record: _length(record.value).to_bytes(4, "big", signed=True),
        b"h": headers,
    }


def _length(data: bytes | None) -> int:
    return -1 if data is None else len(data)


def _known(fields: dict[bytes, Callable[[Record], bytes]]) -> str:
    return " %".join(name.decode() for name in fields)


def _shown(token: bytes) -> str:
    return repr(os.fsdecode(token))
