"""Bytes -> frames. No socket, no clock.

A frame is a length (int32, big endian) and so many bytes. The length is compared with the
limit before anything is allocated for it, and only bytes that have come are kept.
"""

from __future__ import annotations

import struct
from typing import Final

LENGTH_BYTES: Final = 4
# key, version and correlation id: nothing shorter can be a request
SHORTEST_REQUEST: Final = 8

_LENGTH: Final = struct.Struct(">i")
_HTTP = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ")


class BadFrame(Exception):
    """What came cannot be the beginning of a request."""


class FrameReader:
    """Collects what a socket gives, and hands out whole frames."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._at = 0  # in the first of them: what lies before it was handed out
        self._have = 0
        self._length: int | None = None

    @property
    def buffered_bytes(self) -> int:
        """The bytes that have come and are in no frame that was handed out."""
        return self._have

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._have += len(data)

    def length(self) -> int | None:
        """The length of the next frame, None until it has come. Raises `BadFrame`."""
        if self._length is None and self._have >= LENGTH_BYTES:
            data = self._gather()
            start = data[self._at : self._at + LENGTH_BYTES]
            self._length = checked_length(start, self._max_bytes)
        return self._length

    def take(self) -> bytes | None:
        """The next frame without its length, None until it is whole. Raises `BadFrame`."""
        length = self.length()
        if length is None or self._have < LENGTH_BYTES + length:
            return None
        data = self._gather()
        begin = self._at + LENGTH_BYTES
        self._have -= LENGTH_BYTES + length
        self._at = begin + length
        self._length = None
        if not self._have:
            self._chunks, self._at = [], 0
        return data[begin : begin + length]

    def _gather(self) -> bytes:
        if len(self._chunks) != 1:
            self._chunks[0] = self._chunks[0][self._at :]
            self._chunks, self._at = [b"".join(self._chunks)], 0
        return self._chunks[0]


def checked_length(start: bytes, max_bytes: int) -> int:
    """The length that four bytes stand for, or `BadFrame`."""
    if start[:2] == b"\x16\x03":
        raise BadFrame("a TLS handshake; this listener speaks plain text (PLAINTEXT)")
    if start in _HTTP:
        raise BadFrame("an HTTP request; this is a Kafka endpoint")
    length = int(_LENGTH.unpack(start)[0])
    if length < SHORTEST_REQUEST:
        raise BadFrame(f"a request of {length} bytes")
    if length > max_bytes:
        raise BadFrame(f"a request of {length} bytes; socket.request.max.bytes allows {max_bytes}")
    return length
