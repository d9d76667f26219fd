"""The bytes of ``state.lmdb``: keys and values, and nothing else.

Keys and values, big endian; numbers in keys are unsigned, strings are UTF-8, and each
value also carries the CRC that `kv` adds::

    "F"                           format of this environment   u32, 2
    "G" group                     a group                      see `group_format`
    "I"                           the next producer id, all below were given out   i64
    "L" partition                 log start                    i64
    "M" group 0x00 member id      a member                     see `group_format`
    "N"                           greatest generation of all groups that were deleted  u64
    "O" partition group           committed offset             i64, next record to read
                                  when                         i64 ms since the epoch
                                  metadata  the rest, bytes    for the consumer's own use
    "P" group 0x00 partition      empty: the "O" entries of a group
    "W" group 0x00                what a server goes on from   see `group_kept_format`
    "W" group 0x00 member id      the same, of a member

where "partition" is 8 bytes and a group's name is 1 to 255 bytes without 0x00. So the
"O" entries of one partition lie together, which is what trimming and recovery ask for,
and "P" finds those of a group. Each "O" has its "P" and the other way round. Programs that
knew no "W" pass over it, so it came without a new format.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

FORMAT = 2

FORMAT_KEY = b"F"
NEWEST_DELETED_KEY = b"N"
NEXT_PRODUCER_ID_KEY = b"I"
PRODUCER_IDS_PER_MS = 1_000
_FORMAT = struct.Struct(">I")
_GENERATION = struct.Struct(">Q")
_LOG_START = struct.Struct(">q")
_PRODUCER_ID = struct.Struct(">q")
_OFFSET = struct.Struct(">qq")
_PARTITION_KEY = struct.Struct(">cQ")
_PARTITION = struct.Struct(">Q")


class Malformed(ValueError):
    """A value whose checksum is right, but which is not laid out as it should be."""


class Committed(NamedTuple):
    """An acknowledgement: the next record to read, and when that was stored."""

    offset: int
    timestamp_ms: int
    metadata: str


# -- keys ----------------------------------------------------------------------------


def group_key(group: str) -> bytes:
    return b"G" + group.encode()


def group_of(key: bytes) -> str:
    """The group in a key that `group_key` made."""
    return key[1:].decode("utf-8", "replace")


def partition_key(prefix: bytes, partition_id: int) -> bytes:
    """The key of a log start (``b"L"``), or what keys of offsets (``b"O"``) begin with."""
    return _PARTITION_KEY.pack(prefix, partition_id)


def partition_of(key: bytes) -> int:
    """The partition in a key that begins as `partition_key` made it."""
    partition_id: int = _PARTITION_KEY.unpack_from(key)[1]
    return partition_id


def offset_key(partition_id: int, group: str) -> bytes:
    return _PARTITION_KEY.pack(b"O", partition_id) + group.encode()


def group_of_offset(key: bytes) -> str:
    """The group in a key that `offset_key` made."""
    return key[_PARTITION_KEY.size :].decode("utf-8", "replace")


def place_key(group: str, partition_id: int) -> bytes:
    return b"P" + group.encode() + b"\0" + _PARTITION.pack(partition_id)


def member_key(group: str, member_id: str) -> bytes:
    return b"M" + group.encode() + b"\0" + member_id.encode()


def kept_key(group: str, member_id: str = "") -> bytes:
    """The key of what a server goes on from, or of one member's part of it."""
    return b"W" + group.encode() + b"\0" + member_id.encode()


def group_range(kind: bytes, group: str) -> tuple[bytes, bytes]:
    """The first key, and the end, of a group's places (``b"P"``), members (``b"M"``) or what
    a server goes on from (``b"W"``); no name holds these bytes."""
    prefix = kind + group.encode()
    return prefix + b"\0", prefix + b"\1"


def split_key(key: bytes) -> tuple[str, str]:
    """The group and the member in a key that `member_key` or `kept_key` made."""
    group, _, member_id = key[1:].partition(b"\0")
    return group.decode("utf-8", "replace"), member_id.decode("utf-8", "replace")


def partition_of_place(key: bytes) -> int:
    partition_id: int = _PARTITION.unpack(key[-_PARTITION.size :])[0]
    return partition_id


# -- values --------------------------------------------------------------------------


def _unpack(layout: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size:
        raise Malformed(f"a value has {len(data)} bytes of {layout.size}")
    return layout.unpack_from(data)


def pack_format(version: int) -> bytes:
    return _FORMAT.pack(version)


def unpack_format(data: bytes) -> int:
    return _unpack(_FORMAT, data)[0]


def pack_generation(generation: int) -> bytes:
    return _GENERATION.pack(generation)


def unpack_generation(data: bytes) -> int:
    return _unpack(_GENERATION, data)[0]


def pack_log_start(offset: int) -> bytes:
    return _LOG_START.pack(offset)


def unpack_log_start(data: bytes) -> int:
    return _unpack(_LOG_START, data)[0]


def pack_producer_id(producer_id: int) -> bytes:
    return _PRODUCER_ID.pack(producer_id)


def unpack_producer_id(data: bytes) -> int:
    return _unpack(_PRODUCER_ID, data)[0]


def pack_committed(committed: Committed) -> bytes:
    return _OFFSET.pack(committed.offset, committed.timestamp_ms) + committed.metadata.encode()


def unpack_committed(data: bytes) -> Committed:
    offset, timestamp_ms = _unpack(_OFFSET, data)
    return Committed(offset, timestamp_ms, data[_OFFSET.size :].decode("utf-8", "replace"))
