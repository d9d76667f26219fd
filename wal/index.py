"""The index of every log in a directory: ``index.lmdb``. A cache, never a truth.

It answers "where in which file is offset N" and "which is the first offset at or after
time T" to within a few kilobytes; the reader scans on from there. It also holds each
log's checkpoint: how far the log was known to be on disk when the index was last
written, which is where recovery begins. All of it can be built again from the
segments, so whatever looks wrong here is dropped.

Keys and values, big endian (each value also carries the CRC that `kv` adds)::

    "O"                           -> cluster id of the directory it was made for
    "C" partition id              -> offset segment position max_timestamp entry_position
    "E" partition id segment offset    -> position
    "P" partition id              -> producers, see `producers`; of all that the log held
                                     below the checkpoint; none: there were none
    "T" partition id segment timestamp -> offset position
    "S" partition id segment           -> end offset, size, max timestamp

An "E" entry says that a batch with that base offset begins at that position. A "T"
entry says that all batches of the segment before that position have timestamps up to
the one in the key, and names the last such position. "S" exists for
segments that are sealed and wholly indexed. Timestamps in keys are shifted by 2**63,
so that negative ones sort first.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from seawall.wal.errors import ValueDamaged
from seawall.wal.kv import Environment

_CHECKPOINT = struct.Struct(">qqqqq")
_PARTITION_KEY = struct.Struct(">cQ")
_ENTRY_KEY = struct.Struct(">cQQQ")
_SEGMENT_KEY = struct.Struct(">cQQ")
_POSITION = struct.Struct(">Q")
_OFFSET_POSITION = struct.Struct(">QQ")
_SEALED = struct.Struct(">QQq")
_TIME_BIAS = 1 << 63
_OWNER_KEY = b"O"

NO_TIMESTAMP = -(1 << 63)


class Checkpoint(NamedTuple):
    """How far a log is indexed, and known to be on disk.

    ``max_timestamp`` and ``entry_position`` carry the indexing on: the greatest
    timestamp so far in `segment`, and the position of the last entry made in it.
    """

    offset: int
    segment: int
    position: int
    max_timestamp: int
    entry_position: int


class Entry(NamedTuple):
    """A batch that the index points to. ``max_timestamp`` is of the batches before it."""

    segment: int
    offset: int
    position: int
    max_timestamp: int


class Sealed(NamedTuple):
    """A segment that grows no more."""

    segment: int
    end_offset: int
    size_bytes: int
    max_timestamp: int


class Found(NamedTuple):
    offset: int
    position: int


class Index:
    """The index of one directory. Safe to use from any thread and process."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def owner(self) -> str | None:
        """The cluster id of the directory that this index was made for."""
        with self._environment.read() as transaction:
            value = transaction.get(_OWNER_KEY)
        return None if value is None else value.decode()

    def set_owner(self, cluster_id: str) -> None:
        """Name the directory that this index is for, when it is new."""
        with self._environment.write() as transaction:
            transaction.put(_OWNER_KEY, cluster_id.encode())

    def checkpoint(self, partition_id: int) -> Checkpoint | None:
        """How far the log of a partition is indexed, None if not at all."""
        with self._environment.read() as transaction:
            value = transaction.get(_PARTITION_KEY.pack(b"C", partition_id))
        return None if value is None else _unpack_checkpoint(value)

    def advance(
        self,
        partition_id: int,
        start: Checkpoint | None,
        end: Checkpoint,
        entries: Sequence[Entry],
        sealed: Sequence[Sealed],
        producers: bytes | None = None,
    ) -> bool:
        """Add what lies between two checkpoints, in one synced transaction.

        With `producers`, these are the ones of all that lies below `end`.

        False, and nothing is changed, if the stored checkpoint is not `start`:
        another process was quicker.
        """
        key = _PARTITION_KEY.pack(b"C", partition_id)
        with self._environment.write() as transaction:
            value = transaction.get(key)
            stored = None if value is None else _unpack_checkpoint(value)
            if stored != start:
                return False
            for entry in entries:
                transaction.put(
                    _ENTRY_KEY.pack(b"E", partition_id, entry.segment, entry.offset),
                    _POSITION.pack(entry.position),
                )
                if entry.max_timestamp != NO_TIMESTAMP:
                    transaction.put(
                        _time_key(partition_id, entry.segment, entry.max_timestamp),
                        _OFFSET_POSITION.pack(entry.offset, entry.position),
                    )
            for segment in sealed:
                transaction.put(
                    _SEGMENT_KEY.pack(b"S", partition_id, segment.segment),
                    _SEALED.pack(segment.end_offset, segment.size_bytes, segment.max_timestamp),
                )
            if producers is not None:
                transaction.put(_PARTITION_KEY.pack(b"P", partition_id), producers)
            transaction.put(key, _pack_checkpoint(end))
        return True

    def producers(self, partition_id: int) -> tuple[Checkpoint, bytes] | None:
        """The producers up to a checkpoint, and that checkpoint; None if there is none."""
        with self._environment.read() as transaction:
            value = transaction.get(_PARTITION_KEY.pack(b"C", partition_id))
            producers = transaction.get(_PARTITION_KEY.pack(b"P", partition_id))
        return None if value is None else (_unpack_checkpoint(value), producers or b"")

    def at_or_before(self, partition_id: int, segment: int, offset: int) -> Found | None:
        """The last entry of a segment whose offset is not above `offset`."""
        with self._environment.read() as transaction:
            pair = transaction.last_before(_ENTRY_KEY.pack(b"E", partition_id, segment, offset + 1))
        if pair is None or len(pair[0]) != _ENTRY_KEY.size:
            return None
        kind, found_id, found_segment, found_offset = _ENTRY_KEY.unpack(pair[0])
        if (kind, found_id, found_segment) != (b"E", partition_id, segment):
            return None
        return Found(found_offset, _POSITION.unpack(pair[1])[0])

    def first_after(self, partition_id: int, segment: int, offset: int) -> Found | None:
        """The first place of a segment whose offset is above `offset`.

        That is an entry, or the checkpoint, which names a place as well. Damaged values
        are passed over.
        """
        key = _ENTRY_KEY.pack(b"E", partition_id, segment, offset + 1)
        end = _SEGMENT_KEY.pack(b"E", partition_id, segment + 1)
        with self._environment.read() as transaction:
            while True:
                try:
                    pair = transaction.first_at_or_after(key, end)
                except ValueDamaged as error:
                    key = error.key + b"\0"
                    continue
                break
            if pair is not None and len(pair[0]) == _ENTRY_KEY.size:
                return Found(_ENTRY_KEY.unpack(pair[0])[3], _POSITION.unpack(pair[1])[0])
            value = transaction.get(_PARTITION_KEY.pack(b"C", partition_id))
        if value is not None:
            checkpoint = _unpack_checkpoint(value)
            if checkpoint.segment == segment and checkpoint.offset > offset:
                return Found(checkpoint.offset, checkpoint.position)
        return None

    def before_time(self, partition_id: int, segment: int, timestamp_ms: int) -> Found | None:
        """A place in a segment before which all timestamps are below `timestamp_ms`."""
        with self._environment.read() as transaction:
            pair = transaction.last_before(_time_key(partition_id, segment, timestamp_ms))
        if pair is None or len(pair[0]) != _ENTRY_KEY.size:
            return None
        kind, found_id, found_segment, _ = _ENTRY_KEY.unpack(pair[0])
        if (kind, found_id, found_segment) != (b"T", partition_id, segment):
            return None
        return Found(*_OFFSET_POSITION.unpack(pair[1]))

    def sealed(self, partition_id: int, segment: int) -> Sealed | None:
        """What is known of a sealed segment, None if it is not wholly indexed."""
        with self._environment.read() as transaction:
            value = transaction.get(_SEGMENT_KEY.pack(b"S", partition_id, segment))
        return None if value is None else Sealed(segment, *_SEALED.unpack(value))

    def forget(self, partition_id: int) -> None:
        """Drop everything about a partition."""
        with self._environment.write() as transaction:
            for kind in (b"C", b"P"):
                transaction.delete(_PARTITION_KEY.pack(kind, partition_id))
            for kind in (b"E", b"T", b"S"):
                transaction.delete_range(
                    _PARTITION_KEY.pack(kind, partition_id),
                    _PARTITION_KEY.pack(kind, partition_id + 1),
                )

    def forget_segments(self, partition_id: int, before_segment: int) -> None:
        """Drop what points into segments below `before_segment`."""
        with self._environment.write() as transaction:
            for kind in (b"E", b"T", b"S"):
                transaction.delete_range(
                    _SEGMENT_KEY.pack(kind, partition_id, 0),
                    _SEGMENT_KEY.pack(kind, partition_id, before_segment),
                )


def _time_key(partition_id: int, segment: int, timestamp_ms: int) -> bytes:
    return _ENTRY_KEY.pack(b"T", partition_id, segment, timestamp_ms + _TIME_BIAS)


def _pack_checkpoint(checkpoint: Checkpoint) -> bytes:
    return _CHECKPOINT.pack(*checkpoint)


def _unpack_checkpoint(value: bytes) -> Checkpoint:
    return Checkpoint(*_CHECKPOINT.unpack(value))
