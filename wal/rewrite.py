"""Writing a segment anew beside the old one, with holes in the place of what is not valid.

A hole is an empty batch that spans the offsets which are lost, so everything behind it
moves. Therefore the new file is written aside, synced, and renamed over the old one; until
then the old one is untouched, and a file left aside by a crash means nothing.

Whatever a hole takes the place of has to be in ``quarantine/`` before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from seawall.wal.context import LogContext
from seawall.wal.files import (
    CREATE,
    READ_WRITE,
    TRUNCATE,
    Descriptor,
    read_fully,
    remove_file,
    write_fully,
)
from seawall.wal.records import empty_batch

ASIDE_SUFFIX = ".rewrite"
BLOCK_BYTES = 1 << 20
# last_offset_delta is a signed 32-bit field, so a longer hole takes several batches.
MOST_OFFSETS_PER_HOLE = 1 << 31


class Hole(NamedTuple):
    """The bytes from `position` to `end` go; offsets from `offset` to `next_offset` stay unused."""

    position: int
    end: int
    offset: int
    next_offset: int


def write_anew(
    context: LogContext, path: str, source: Descriptor | None, holes: Sequence[Hole], end: int
) -> int:
    """Copy a segment up to `end` with its holes closed, swap it in, and return its length.

    Without a `source` there is nothing to copy. All of it is durable when this returns.
    """
    files = context.files
    aside = path + ASIDE_SUFFIX
    target = files.open(aside, READ_WRITE | CREATE | TRUNCATE)
    try:
        try:
            copied = written = 0
            for hole in holes:
                if source is not None:
                    written = _copy(context, source, target, copied, hole.position, written)
                for batch in _hole_batches(hole, context.now_ms()):
                    write_fully(files, target, batch, written)
                    written += len(batch)
                copied = hole.end
            if source is not None:
                written = _copy(context, source, target, copied, end, written)
            files.sync(target)
        finally:
            files.close(target)
        files.rename(aside, path)
    except OSError:
        # If the disk is full, it must not stay so because of this.
        with contextlib.suppress(OSError):
            files.unlink(aside)
        raise
    files.sync_directory(context.folder)
    return written


def _copy(
    context: LogContext, source: Descriptor, target: int, start: int, end: int, written: int
) -> int:
    while start < end:
        block = read_fully(context.files, source.number, min(BLOCK_BYTES, end - start), start)
        if not block:
            break
        write_fully(context.files, target, block, written)
        start += len(block)
        written += len(block)
    return written


def _hole_batches(hole: Hole, now_ms: int) -> list[bytearray]:
    batches = []
    offset = hole.offset
    while offset < hole.next_offset:
        count = min(hole.next_offset - offset, MOST_OFFSETS_PER_HOLE)
        batches.append(empty_batch(offset, count - 1, now_ms))
        offset += count
    return batches


def remove_asides(context: LogContext) -> None:
    """Remove what an interrupted rewrite left; it is never the only copy."""
    for name in context.files.list(context.folder):
        if name.endswith(ASIDE_SUFFIX):
            remove_file(context.files, os.path.join(context.folder, name))
