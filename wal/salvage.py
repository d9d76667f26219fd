"""Finding the batch behind damage, where nothing says any more where it begins.

The bytes behind the damage are searched for one that is valid in itself, whose offset can
have been reached, and that does not lie where a record's value may: a value may itself
be a record batch.

Looking for headers is one regular expression; which of them begin a batch whose CRC is
right takes a time that grows with the bytes searched and not with their square, whatever
was put there on purpose (see `stretch_crc`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from seawall.wal.errors import BatchInvalid
from seawall.wal.files import Files
from seawall.wal.records import HEADER_BYTES, BatchHeader, check_batch, parse_header
from seawall.wal.sectors import read_anyway
from seawall.wal.segment import FoundBatch, plausible_extent
from seawall.wal.stretch_crc import StretchCrc

BLOCK_BYTES = 1 << 20

# How many offsets a byte of lost data can have held at the most. An uncompressed record
# takes 7 bytes; compression packs many equal ones into one byte. A batch behind a gap
# whose offset is further away than this did not follow it.
MOST_OFFSETS_PER_BYTE = 256

# The CRC of a candidate of so many bytes is computed from its bytes, which is quicker.
DIRECT_BYTES = 16 << 10

_MAGIC_AT = 16
_CRC_FROM = 21
_MOST_OFFSETS = 1 << 63


def find_batch(
    files: Files,
    descriptor: int,
    *,
    position: int,
    limit: int,
    after_offset: int,
    before_offset: int = _MOST_OFFSETS,
) -> FoundBatch | None:
    """The first valid batch behind damage at `position` that ends at `limit` or before.

    `after_offset` is the offset that should have stood at `position`, `before_offset` the
    one that stands at `limit`, if that is known. A batch counts only if its base offset
    lies behind `after_offset` and can have been reached within the bytes skipped, and if
    it holds nothing from `before_offset` on. Nothing counts that lies inside the extent
    of a plausible header, or of a batch that is valid but for its offset, because a
    record's value may itself be a record batch. One that nothing follows gives way to a
    later one that contradicts its offsets and that others follow.
    """
    if limit <= position:
        return None  # the file has shrunk
    found = _candidates(files, descriptor, position, limit, after_offset, before_offset)
    first = next(found, None)
    if first is None or _goes_on(files, descriptor, first, limit):
        return first
    # It may be a value whose own batch is lost: a batch that others follow knows better.
    for other in found:
        if _goes_on(files, descriptor, other, limit):
            return other if other.header.base_offset < first.header.next_offset else first
    return first


def _goes_on(files: Files, descriptor: int, found: FoundBatch, limit: int) -> bool:
    """Whether behind a batch stands what can only follow a real one: the next one, or the end."""
    end = found.position + found.header.size_bytes
    behind = read_anyway(files, descriptor, min(HEADER_BYTES, limit - end), end)
    if not behind.strip(b"\0"):
        return len(behind) == min(HEADER_BYTES, limit - end)
    return plausible_extent(behind, found.header.next_offset) > 0


def _candidates(
    files: Files,
    descriptor: int,
    position: int,
    limit: int,
    after_offset: int,
    before_offset: int,
) -> Iterator[FoundBatch]:
    """Every batch that `find_batch` may find, from the front."""
    crc = StretchCrc(files, descriptor, position)
    start = position + max(1, _extent(files, descriptor, position, limit, after_offset))
    most = after_offset + (limit - position) * MOST_OFFSETS_PER_BYTE
    pattern = _header_pattern(after_offset + 1, min(most, before_offset - 1), limit - position)
    for at, header in _headers(files, descriptor, pattern, start, limit):
        jump = header.base_offset - after_offset
        if not 0 < jump <= (at - position) * MOST_OFFSETS_PER_BYTE:
            continue
        if header.size_bytes > limit - at or header.next_offset > before_offset:
            continue
        if not _has_sane_counts(header):
            continue
        if header.size_bytes > DIRECT_BYTES and header.crc != crc.value(
            at + _CRC_FROM, at + header.size_bytes
        ):
            continue
        with contextlib.suppress(BatchInvalid):
            batch = read_anyway(files, descriptor, header.size_bytes, at)
            yield FoundBatch(at, check_batch(batch, 0, len(batch)))


def _extent(files: Files, descriptor: int, position: int, limit: int, after_offset: int) -> int:
    """How many bytes at `position` may be a record's value, as far as can be seen."""
    prefix = read_anyway(files, descriptor, HEADER_BYTES, position)
    extent = plausible_extent(prefix, after_offset)
    with contextlib.suppress(BatchInvalid):
        header = parse_header(prefix)
        if not extent and header.size_bytes <= limit - position:
            batch = read_anyway(files, descriptor, header.size_bytes, position)
            extent = check_batch(batch, 0, len(batch)).size_bytes
    return extent


def _header_pattern(lowest: int, highest: int, most_bytes: int) -> re.Pattern[bytes]:
    """What the magic byte of a header looks like from behind.

    Before it stand a base offset from `lowest` to `highest`, a length of at most
    `most_bytes`, and four bytes without meaning.
    """
    low, high = lowest.to_bytes(9, "big")[1:], max(highest, lowest).to_bytes(9, "big")[1:]
    same = 0
    while same < len(low) and low[same] == high[same]:
        same += 1
    longest = min(most_bytes >> 24, 127)
    base_offset = re.escape(low[:same]) + b".{%d}" % (len(low) - same)
    length = b"[\\x00-\\x%02x].{3}" % longest
    return re.compile(b"\\x02(?<=" + base_offset + length + b".{4}\\x02)", re.DOTALL)


def _headers(
    files: Files, descriptor: int, pattern: re.Pattern[bytes], position: int, limit: int
) -> Iterator[tuple[int, BatchHeader]]:
    """Whatever from `position` on looks like a header, and where it stands."""
    while position < limit:
        size_bytes = min(BLOCK_BYTES + HEADER_BYTES, limit - position)
        block = read_anyway(files, descriptor, size_bytes, position)
        if len(block) < HEADER_BYTES:
            return
        starts = min(BLOCK_BYTES, len(block) - HEADER_BYTES + 1)
        match = pattern.search(block, _MAGIC_AT, starts + _MAGIC_AT)
        while match is not None:
            inside = match.start() - _MAGIC_AT
            with contextlib.suppress(BatchInvalid):
                yield position + inside, parse_header(block, inside)
            match = pattern.search(block, match.end(), starts + _MAGIC_AT)
        position += starts


def _has_sane_counts(header: BatchHeader) -> bool:
    """What `check_batch` asks of the fields of a header, before its CRC is computed."""
    span = header.last_offset_delta + 1
    return 0 <= header.record_count <= span >= 1
