"""Reading from a disk that does not give back all that was written to it.

A sector that cannot be read is damage like any other: what it held is gone, and what is
before and behind it is not. So whoever looks for valid batches reads with `read_anyway`,
which puts a filler in the place of what cannot be read: no byte of it is zero, because
zeros would look like the end of a log, and no batch with it has the right CRC.
"""

from __future__ import annotations

import errno

from seawall.wal.files import Files, read_fully

# What a file system answers when the disk does not give back what was on it.
DAMAGE_ERRNOS = frozenset({errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)})

# What is read at once around a sector that cannot be: the kernel reads whole pages.
PAGE_BYTES = 4096
BLOCK_BYTES = 1 << 20
FILLER = b"\xff"


def read_anyway(files: Files, descriptor: int, size_bytes: int, position: int) -> bytes:
    """As `read_fully`, with `FILLER` for whatever the disk does not give back."""
    try:
        return read_fully(files, descriptor, size_bytes, position)
    except OSError as error:
        if error.errno not in DAMAGE_ERRNOS:
            raise
    end = min(position + size_bytes, files.size(descriptor))
    pieces = []
    while position < end:
        count = min(end - position, PAGE_BYTES - position % PAGE_BYTES)
        try:
            piece = read_fully(files, descriptor, count, position)
        except OSError as error:
            if error.errno not in DAMAGE_ERRNOS:
                raise
            piece = FILLER * count
        if not piece:
            break
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


def unreadable(files: Files, descriptor: int, position: int, end: int) -> str:
    """The operating system's words for why a stretch cannot be read, empty if it can."""
    while position < end:
        try:
            block = read_fully(files, descriptor, min(BLOCK_BYTES, end - position), position)
        except OSError as error:
            if error.errno not in DAMAGE_ERRNOS:
                raise
            return error.strerror or str(error)
        if not block:
            break
        position += len(block)
    return ""
