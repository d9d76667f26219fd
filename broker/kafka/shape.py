"""Requests walked over without making values of them: where fields end, and how many there are.

Some things have to be known of a request before, or although, kio does not read it:

* That its arrays can have as many items as they claim. kio asks for the memory of all of them
  first: a claim of four thousand million ends the process, in native code, where nothing
  catches it.
* How many items its arrays have. An item may be one byte on the wire and some hundred in
  memory, so a request is not bounded by its length alone.
* Tagged fields that nobody knows (KIP-482). They are to be passed over; kio refuses them. So a
  request that it refuses is written anew without them, and read once more.

The layout comes from kio's classes.
"""

from __future__ import annotations

import struct
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Final

_INT16: Final = struct.Struct(">h")
_INT32: Final = struct.Struct(">i")
_LONGEST_VARINT: Final = 5

_SIZES: Final = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
    "uuid": 16,
    "error_code": 2,
    "timedelta_i32": 4,
    "timedelta_i64": 8,
    "datetime_i64": 8,
}


class TooManyItems(Exception):
    """The arrays of a request have more items than are allowed."""


class Malformed(Exception):
    """It is not what it should be: cut off, or with lengths that lead out of it."""


class _Walk:
    """One walk over the bytes of a message."""

    __slots__ = ("data", "items", "most_items", "sections")

    def __init__(self, data: bytes, most_items: int) -> None:
        self.data = data
        self.items = 0
        self.most_items = most_items
        # Of tagged fields with unknown ones: where they begin and end, and what is to stay.
        self.sections: list[tuple[int, int, list[bytes]]] = []

    def varint(self, at: int) -> tuple[int, int]:
        """An unsigned number, and where it ends."""
        value = self.data[at]
        if value < 0x80:
            return value, at + 1
        value = 0
        for number in range(_LONGEST_VARINT):
            byte = self.data[at + number]
            value |= (byte & 0x7F) << 7 * number
            if byte < 0x80:
                return value, at + number + 1
        raise Malformed

    def count(self, items: int) -> None:
        self.items += items
        if self.items > self.most_items:
            raise TooManyItems

    def inside(self, at: int) -> int:
        if at > len(self.data):
            raise Malformed
        return at


# Walks over one field: from where it begins to where it ends.
_Step = Callable[[_Walk, int], int]


class Shape:
    """How the requests of one kind and version are laid out."""

    def __init__(self, kind: Any) -> None:
        self._step = _struct(kind)

    def items(self, data: bytes, position: int, most: int) -> int:
        """The items of all arrays together. Raises `TooManyItems`, and `Malformed`."""
        walk = _Walk(data, most)
        try:
            self._step(walk, position)
        except (IndexError, struct.error):
            raise Malformed from None
        return walk.items

    def without_unknown_tags(self, data: bytes, position: int) -> bytes | None:
        """All of `data` without the tagged fields that kio does not know, None if it has none."""
        walk = _Walk(data, len(data))
        try:
            self._step(walk, position)
        except (Malformed, TooManyItems, IndexError, struct.error):
            return None
        if not walk.sections:
            return None
        parts, done = [], 0
        for begin, end, kept in walk.sections:
            parts += [data[done:begin], _varint(len(kept)), *kept]
            done = end
        parts.append(data[done:])
        return b"".join(parts)


@cache
def _struct(kind: Any) -> _Step:
    is_flexible = bool(kind.__flexible__)
    steps: list[tuple[int, _Step]] = []
    tags: set[int] = set()
    fixed = 0  # bytes in front of the next step, and at last behind all of them
    for each in fields(kind):
        if "tag" in each.metadata:
            tags.add(each.metadata["tag"])
            continue
        field = _field(each, is_flexible and not _is_old(kind, each))
        if isinstance(field, int):
            fixed += field
        else:
            steps.append((fixed, field))
            fixed = 0
    known = frozenset(tags)

    def walk_over(walk: _Walk, at: int) -> int:
        for skipped, step in steps:
            at = step(walk, at + skipped)
        at += fixed
        return _tags(walk, at, known) if is_flexible else walk.inside(at)

    return walk_over


def _is_old(kind: Any, each: Any) -> bool:
    """Whether a field of a flexible message is as in those that are not: the client's id."""
    return bool(kind.__type__.name == "header" and each.name == "client_id")


def _tags(walk: _Walk, begin: int, known: frozenset[int]) -> int:
    count, at = walk.varint(begin)
    if not count:
        return at
    kept = []
    for _ in range(count):
        first = at
        tag, at = walk.varint(at)
        size, at = walk.varint(at)
        at = walk.inside(at + size)
        if tag in known:
            kept.append(walk.data[first:at])
    if len(kept) < count:
        walk.sections.append((begin, at, kept))
    return at


def _field(each: Any, is_flexible: bool) -> _Step | int:
    """What walks over a field, or its size if that is always the same."""
    nested, is_array = nested_in(each.type)
    size, step = 0, None
    if nested is not None:
        step = _struct(nested)
    else:
        kind = each.metadata["kafka_type"]
        size = _SIZES.get(kind, 0)
        if not size:
            step = _sized(kind, is_flexible)
    if is_array:
        return _array(step, size, is_flexible)
    if step is None:
        return size
    if nested is not None and type(None) in typing.get_args(each.type):
        return _nullable(step)
    return step


def _sized(kind: str, is_flexible: bool) -> _Step:
    """What has its length in front of it; null has none."""

    def flexible(walk: _Walk, at: int) -> int:
        size, at = walk.varint(at)
        return at + max(0, size - 1)

    def old(walk: _Walk, at: int) -> int:
        size: int = form.unpack_from(walk.data, at)[0]
        return at + form.size + max(0, size)

    form = _INT16 if kind == "string" else _INT32
    return flexible if is_flexible else old


def _array(step: _Step | None, size: int, is_flexible: bool) -> _Step:
    def walk_over(walk: _Walk, at: int) -> int:
        if is_flexible:
            count, at = walk.varint(at)
            count -= 1
        else:
            count, at = _INT32.unpack_from(walk.data, at)[0], at + _INT32.size
        if count <= 0:
            return at
        if count > len(walk.data) - at:  # no item is shorter than a byte
            raise Malformed
        walk.count(count)
        if step is None:
            return walk.inside(at + count * size)
        for _ in range(count):
            at = step(walk, at)
        return at

    return walk_over


def _nullable(step: _Step) -> _Step:
    def walk_over(walk: _Walk, at: int) -> int:
        return step(walk, at + 1) if walk.data[at] < 0x80 else at + 1

    return walk_over


def nested_in(hint: Any) -> tuple[Any, bool]:
    """The message that a field of this type holds, and whether it holds several."""
    if is_dataclass(hint) and isinstance(hint, type):
        return hint, False
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return nested_in(arguments[0])[0], True
    found = [nested_in(each) for each in arguments]
    kinds = [kind for kind, _ in found if kind is not None]
    return (kinds[0] if kinds else None), any(is_array for _, is_array in found)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
