"""What the consumer received, in order, as it writes it down before it acknowledges.

A file is a sequence of frames: a head, then a body of as many bytes.

    head          body length, CRC-32 of the body                     >II
    first frame   the group's place in each partition, as the run
                  found it when it began                              >Q each
    other frames  the records of one poll: partition, offset, line,
                  key length, value length                            >HQIHI, then key, value

A frame is written, and the file synced, before its records are acknowledged. So a frame
that SIGKILL cut short was never acknowledged: the file then ends in it, and it does not
count. A frame that is all there and has another CRC is damage.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from demo_parts.job import LINE_HEADER

from seawall.wal.records import Record

HEAD = struct.Struct(">II")
RECORD = struct.Struct(">HQIHI")
PLACE = struct.Struct(">Q")
LINE_MAX = 2**32 - 1

sync_file = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Copy(NamedTuple):
    """One copy of a line, where it stands in the log."""

    partition: int
    offset: int
    key: bytes
    line: int
    value: bytes


class DeliveriesDamaged(Exception):
    """A frame is not what was written."""


def as_copy(record: Record) -> Copy:
    """A record as the demo's producer made it; raises `ValueError` if it did not."""
    numbers = [value for name, value in record.headers if name == LINE_HEADER]
    line = int(numbers[0]) if len(numbers) == 1 and numbers[0] is not None else 0
    if not 0 < line <= LINE_MAX or record.key is None or record.value is None:
        raise ValueError(f"partition {record.partition}, offset {record.offset}: not the demo's")
    return Copy(record.partition, record.offset, record.key, line, record.value)


def encode_frame(body: bytes) -> bytes:
    return HEAD.pack(len(body), zlib.crc32(body)) + body


def encode_copies(copies: Iterable[Copy]) -> bytes:
    parts: list[bytes] = []
    for partition, offset, key, line, value in copies:
        parts += (RECORD.pack(partition, offset, line, len(key), len(value)), key, value)
    return b"".join(parts)


class DeliveryWriter:
    """The file of one run of the consumer."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by close()

    def begin(self, start: Sequence[int]) -> None:
        """Write down where the group is, before anything else."""
        self._write(b"".join(PLACE.pack(offset) for offset in start))

    def add(self, copies: Iterable[Copy]) -> None:
        """Write down what one poll gave."""
        self._write(encode_copies(copies))

    def _write(self, body: bytes) -> None:
        left = memoryview(encode_frame(body))
        while left:
            left = left[self._file.write(left) :]

    def sync(self) -> None:
        sync_file(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class DeliveryFile:
    """The file of one run, to be read. `cut_bytes` is known once all `copies` were read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cut_bytes = 0

    def start(self) -> list[int]:
        """Where the group was when the run began; raises `DeliveriesDamaged` if cut short."""
        for body in self._bodies():
            return [offset for (offset,) in PLACE.iter_unpack(body)]
        raise DeliveriesDamaged(f"{self._path}: the run did not say where it began")

    def copies(self) -> Iterator[Copy]:
        bodies = self._bodies()
        next(bodies, b"")
        for body in bodies:
            yield from decode_copies(body)

    def _bodies(self) -> Iterator[bytes]:
        with open(self._path, "rb") as file:
            left = os.fstat(file.fileno()).st_size
            while left:
                head = file.read(HEAD.size)
                size, crc = HEAD.unpack(head) if len(head) == HEAD.size else (0, 0)
                if len(head) < HEAD.size or size > left - HEAD.size:
                    self.cut_bytes = left
                    return
                body = file.read(size)
                if zlib.crc32(body) != crc:
                    raise DeliveriesDamaged(f"{self._path}: a frame has another CRC")
                yield body
                left -= HEAD.size + size


def decode_copies(body: bytes) -> Iterator[Copy]:
    at = 0
    while at < len(body):
        partition, offset, line, key_bytes, value_bytes = RECORD.unpack_from(body, at)
        key_at = at + RECORD.size
        value_at = key_at + key_bytes
        at = value_at + value_bytes
        yield Copy(partition, offset, body[key_at:value_at], line, body[value_at:at])
