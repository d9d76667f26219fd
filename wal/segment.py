"""One segment of a log: a file of record batches, one after the other.

The file is Kafka's: concatenated RecordBatches (see `records`), nothing before,
between or behind them but zeros. Its name is the base offset of its first batch in
20 decimal digits and ``.log``. In a log, segments follow one another without a gap:
the next segment's name is the offset behind this one's last record.

While a segment is the active one, its file is longer than what is in it: blocks are
allocated ahead and read as zeros, which are never a valid batch. A sealed segment is
cut to its length.

Within a segment a batch is valid if and only if it is a valid record batch by itself
and its base offset is the offset that follows the batch before it (the segment's name,
for the first). Scanning ends in one of three ways (`ScanEnd`), never in an exception; bytes
that the disk does not give back are not valid. `walk` goes on behind what is not valid.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from seawall.wal.errors import BatchInvalid
from seawall.wal.files import Files
from seawall.wal.records import HEADER_BYTES, BatchHeader, check_batch, parse_header
from seawall.wal.sectors import read_anyway

SUFFIX = ".log"
BLOCK_BYTES = 1 << 20

# No batch is longer (a topic's max.message.bytes goes no higher): a length beyond it was
# never written as such.
MOST_BATCH_BYTES = 256 << 20

_ZEROS = bytes(BLOCK_BYTES)
_PREFIX = struct.Struct(">qi")


def segment_name(base_offset: int) -> str:
    """The file name of the segment that begins at `base_offset`."""
    return f"{base_offset:020d}{SUFFIX}"


def segment_base(name: str) -> int | None:
    """The base offset in a segment's file name, None if it is no segment's name."""
    digits = name[: -len(SUFFIX)]
    if name.endswith(SUFFIX) and len(digits) == 20 and digits.isascii() and digits.isdigit():
        return int(digits)
    return None


def list_segments(files: Files, folder: str) -> list[int]:
    """The base offsets of all segments in a folder, in order."""
    bases = (segment_base(name) for name in files.list(folder))
    return sorted(base for base in bases if base is not None)


class ScanEnd(enum.Enum):
    """Why a scan went no further."""

    CLEAN = "clean"  # at the limit, or only zeros up to the limit
    TORN = "torn"  # the beginning of a batch that does not fit in what is left
    CORRUPT = "corrupt"  # anything else


class Scanned(NamedTuple):
    """Where a scan ended: the bytes before `position` are valid up to `next_offset`."""

    end: ScanEnd
    position: int
    next_offset: int
    reason: str


class FoundBatch(NamedTuple):
    position: int
    header: BatchHeader


class Scan:
    """Walks the batches of one file from a known place, and remembers where it ended.

    ::

        scan = Scan(files, descriptor, position=0, limit=size, next_offset=base)
        for position, header in scan: …
        scan.result.end
    """

    def __init__(
        self,
        files: Files,
        descriptor: int,
        *,
        position: int,
        limit: int,
        next_offset: int,
        check_crc: bool = True,
    ) -> None:
        self._files = files
        self._descriptor = descriptor
        self._limit = limit
        self._check_crc = check_crc
        self.result = Scanned(ScanEnd.CLEAN, position, next_offset, "")

    def __iter__(self) -> Iterator[FoundBatch]:
        block, start = b"", self.result.position
        position, next_offset = start, self.result.next_offset
        while position < self._limit:
            available = self._limit - position
            inside = position - start
            if len(block) - inside < min(HEADER_BYTES, available):
                block, start, inside = self._read(position, BLOCK_BYTES), position, 0
            try:
                header = parse_header(block, inside)
                if header.size_bytes > available:
                    raise BatchInvalid(reason=f"its length {header.size_bytes} passes the end")
                if self._check_crc:
                    if len(block) - inside < header.size_bytes:
                        size = max(BLOCK_BYTES, header.size_bytes)
                        block, start, inside = self._read(position, size), position, 0
                    check_batch(block, inside, available)
                if header.base_offset != next_offset:
                    raise BatchInvalid(
                        reason=f"its base offset is {header.base_offset}, not {next_offset}"
                    )
            except BatchInvalid as error:
                self._stop(position, next_offset, error.reason)
                return
            yield FoundBatch(position, header)
            position += header.size_bytes
            next_offset = header.next_offset
            self.result = Scanned(ScanEnd.CLEAN, position, next_offset, "")

    def _read(self, position: int, size_bytes: int) -> bytes:
        size_bytes = min(size_bytes, self._limit - position)
        return read_anyway(self._files, self._descriptor, size_bytes, position)

    def _stop(self, position: int, next_offset: int, reason: str) -> None:
        prefix = self._read(position, HEADER_BYTES)
        if not prefix.strip(b"\0") and is_zero(
            self._files, self._descriptor, position, self._limit
        ):
            end = ScanEnd.CLEAN
        elif plausible_extent(prefix, next_offset) > self._limit - position:
            end = ScanEnd.TORN
        else:
            end = ScanEnd.CORRUPT
        self.result = Scanned(end, position, next_offset, reason)


def is_zero(files: Files, descriptor: int, position: int, limit: int) -> bool:
    """Whether all bytes of a file from `position` to `limit` are zero."""
    while position < limit:
        block = read_anyway(files, descriptor, min(BLOCK_BYTES, limit - position), position)
        if not block:
            return True
        # Comparing is memcmp(3), some twenty times as fast as counting.
        if block != (_ZEROS if len(block) == len(_ZEROS) else bytes(len(block))):
            return False
        position += len(block)
    return True


def plausible_extent(prefix: bytes, next_offset: int) -> int:
    """The size of the batch that a damaged header seems to begin, 0 if it seems none.

    A header is plausible if its base offset is the expected one and its length holds at
    least the header and at most `MOST_BATCH_BYTES`.
    """
    if len(prefix) < _PREFIX.size:
        return 0
    base_offset, length = _PREFIX.unpack_from(prefix)
    size_bytes = int(length) + _PREFIX.size
    if base_offset != next_offset or not HEADER_BYTES <= size_bytes <= MOST_BATCH_BYTES:
        return 0
    return size_bytes
