"""What consumers write into the opaque bytes of JoinGroup and SyncGroup.

Java's ``ConsumerProtocolSubscription`` and ``ConsumerProtocolAssignment``: a version (i16),
then, of all versions, an array of topics, or of topics with their partitions. The server only
looks into them to show who reads what; bytes that it does not understand say nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

CONSUMER: Final = "consumer"
_I16: Final = struct.Struct(">h")
_I32: Final = struct.Struct(">i")
_NO_USER_DATA: Final = b"\xff\xff\xff\xff"


class _Reader:
    """Takes numbers and strings, and raises ValueError or struct.error at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def i16(self) -> int:
        number: int = _I16.unpack_from(self._data, self._at)[0]
        self._at += _I16.size
        return number

    def count(self, item_bytes: int) -> int:
        """The length of an array whose items have at least so many bytes."""
        number: int = _I32.unpack_from(self._data, self._at)[0]
        self._at += _I32.size
        if not 0 <= number * item_bytes <= len(self._data) - self._at:
            raise ValueError("an array is longer than what is left")
        return number

    def text(self) -> str:
        size = self.i16()
        part = self._data[self._at : self._at + size]
        if size < 0 or len(part) < size:
            raise ValueError("a string is longer than what is left")
        self._at += size
        return part.decode()

    def numbers(self) -> list[int]:
        count = self.count(_I32.size)
        found = struct.unpack_from(f">{count}i", self._data, self._at)
        self._at += count * _I32.size
        return list(found)


def subscribed_topics(metadata: bytes) -> tuple[str, ...]:
    """The topics that a consumer wants, sorted; () if that cannot be read."""
    reader = _Reader(metadata)
    try:
        reader.i16()
        return tuple(sorted({reader.text() for _ in range(reader.count(_I16.size))}))
    except (ValueError, struct.error):
        return ()


def assigned_partitions(assignment: bytes) -> list[tuple[str, int]]:
    """The partitions that a consumer was given; [] if that cannot be read."""
    if not assignment:
        return []
    reader = _Reader(assignment)
    found: list[tuple[str, int]] = []
    try:
        reader.i16()
        for _ in range(reader.count(_I16.size + _I32.size)):
            topic = reader.text()
            found += [(topic, number) for number in reader.numbers()]
    except (ValueError, struct.error):
        return []
    return found


def encode_assignment(partitions: Sequence[tuple[str, int]]) -> bytes:
    """The bytes, version 0, of an assignment."""
    topics: dict[str, list[int]] = {}
    for topic, number in partitions:
        topics.setdefault(topic, []).append(number)
    return _encode(topics)


def encode_subscription(topics: Sequence[str]) -> bytes:
    """The bytes, version 0, of a subscription."""
    return _encode(dict.fromkeys(topics))


def _encode(topics: Mapping[str, Sequence[int] | None]) -> bytes:
    parts = [_I16.pack(0), _I32.pack(len(topics))]
    for topic, numbers in topics.items():
        name = topic.encode()
        parts += [_I16.pack(len(name)), name]
        if numbers is not None:
            parts.append(struct.pack(f">i{len(numbers)}i", len(numbers), *numbers))
    return b"".join([*parts, _NO_USER_DATA])
