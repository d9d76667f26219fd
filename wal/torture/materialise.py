"""Building the state that a choice stands for: as values, as a hash, and as files.

Garbage is the same pattern always, so states that differ in nothing but the garbage in them
are one state. No byte of it is 0 or 2, which keeps it from being read as room not yet
written, or as the magic byte of a record batch.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
from collections.abc import Mapping

from seawall.wal.torture.disk import MOST_CACHED, Disk, DiskFile, apply, write
from seawall.wal.torture.states import Choice, Fill, Tear
from seawall.wal.torture.trace import Tree

Image = Mapping[str, bytes | None]
"""Relative path -> content, None for a folder; folders before what is in them."""

_DIGEST_BYTES = 16
_GARBAGE = random.Random("garbage").randbytes(1 << 16).translate(bytes([1, 1, 3, *range(3, 256)]))


def image(disk: Disk, choice: Choice) -> Tree:
    """What is on the disk at its point if `choice` came true; only what exists.

    Raises `ValueError` if the choice is about changes that are not pending there.
    """
    if choice.kept >> len(disk.pending) or choice.names >> len(disk.pending_names):
        raise ValueError(f"the choice is for another point than {disk.point}")
    return {
        path: None if node is None else _content(disk.file(node), choice)
        for path, node in disk.names(choice.names)
    }


def _content(file: DiskFile, choice: Choice) -> bytes:
    if not file.changes:
        return file.durable
    torn = tuple(tear for tear in choice.torn if file.mask >> tear.index & 1)
    key = choice.kept & file.mask, torn
    found = file.contents.get(key)
    if found is None:
        if len(file.contents) >= MOST_CACHED:
            file.contents.clear()
        found = file.contents[key] = _build(file, choice.kept, torn)
    return found


def _build(file: DiskFile, kept: int, torn: tuple[Tear, ...]) -> bytes:
    tears = {tear.index: tear for tear in torn}
    content = bytearray(file.durable)
    for change in file.changes:
        tear = tears.get(change.index)
        if tear is not None and not change.is_settled:
            _write_torn(content, change.operation.data or b"", change.operation.position, tear)
        elif change.is_settled or kept >> change.index & 1:
            apply(content, change.operation)
    return bytes(content)


def _write_torn(content: bytearray, data: bytes, position: int, tear: Tear) -> None:
    cut, lost = tear.cut_bytes, len(data) - tear.cut_bytes
    match tear.fill:
        case Fill.SHORT:
            write(content, data[:cut], position)
        case Fill.ZEROS:
            write(content, data[:cut] + bytes(max(0, lost)), position)
        case Fill.GARBAGE:
            write(content, data[:cut] + garbage(position + cut, lost), position)
        case Fill.TAIL:
            write(content, data[cut:], position + cut)


def garbage(position: int, size_bytes: int) -> bytes:
    """Bytes that mean nothing, always the same at the same position."""
    start = position % len(_GARBAGE)
    size = max(0, size_bytes)
    return (_GARBAGE * ((start + size) // len(_GARBAGE) + 1))[start : start + size]


def digest(image: Image) -> bytes:
    """A hash of all names, sizes and bytes: two states are distinct if it differs."""
    entries = [_entry_digest(path, content) for path, content in sorted(image.items())]
    return hashlib.blake2b(b"".join(entries), digest_size=_DIGEST_BYTES).digest()


@functools.lru_cache(maxsize=4096)
def _entry_digest(path: str, content: bytes | None) -> bytes:
    """Most files are the same object in most states, and Python hashes an object once."""
    # No name holds a zero byte.
    whole = hashlib.blake2b(os.fsencode(path) + b"\0", digest_size=_DIGEST_BYTES)
    whole.update(b"folder" if content is None else b"file:" + content)
    return whole.digest()


def materialise(image: Image, root: str) -> None:
    """Write a state below the folder `root`, which has nothing of these names; no syncs."""
    for path, content in image.items():
        path = os.path.join(root, path)
        if content is None:
            os.mkdir(path)
            continue
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
