"""Sectors that cannot be read: what is around them is read, and nothing else is hidden."""

from __future__ import annotations

import errno
import os

import pytest

from seawall.wal.files import Descriptor, Files
from seawall.wal.sectors import FILLER, PAGE_BYTES, read_anyway, unreadable


class BadPages(Files):
    """A disk that does not give back some pages."""

    def __init__(self, *pages: int, error: int = errno.EIO) -> None:
        self.pages = pages
        self.error = error

    def pread(self, descriptor: int, size_bytes: int, position: int) -> bytes:
        for page in self.pages:
            start = page * PAGE_BYTES
            if position < start + PAGE_BYTES and position + size_bytes > start:
                if position >= start:
                    raise OSError(self.error, os.strerror(self.error))
                size_bytes = start - position  # as the kernel does: what is before it
        return super().pread(descriptor, size_bytes, position)


CONTENT = b"".join(bytes([65 + number]) * PAGE_BYTES for number in range(4)) + b"end"


def opened(folder: str) -> Descriptor:
    path = os.path.join(folder, "file")
    with open(path, "wb") as file:
        file.write(CONTENT)
    return Descriptor(Files(), path)


@pytest.mark.parametrize("pages", [(), (0,), (1,), (1, 2), (0, 3), (4,), (0, 1, 2, 3, 4)])
def test_only_the_bad_pages_are_filled_in(folder: str, pages: tuple[int, ...]) -> None:
    file, files = opened(folder), BadPages(*pages)
    expected = bytearray(CONTENT)
    for page in pages:
        start, end = page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, len(CONTENT))
        expected[start:end] = FILLER * (end - start)
    for position in (0, 1, PAGE_BYTES - 1, PAGE_BYTES, 2 * PAGE_BYTES + 5):
        for size_bytes in (0, 1, PAGE_BYTES, 3 * PAGE_BYTES, 10 * PAGE_BYTES):
            found = read_anyway(files, file.number, size_bytes, position)
            assert found == expected[position : position + size_bytes]
            trouble = unreadable(files, file.number, position, position + size_bytes)
            touched = range(position // PAGE_BYTES, -(-(position + size_bytes) // PAGE_BYTES))
            assert bool(trouble) == (size_bytes > 0 and not {*pages}.isdisjoint(touched))


def test_the_reason_is_the_operating_systems(folder: str) -> None:
    file = opened(folder)
    assert unreadable(BadPages(1), file.number, 0, 10**9) == os.strerror(errno.EIO)
    assert unreadable(BadPages(), file.number, 0, 10**9) == ""


def test_other_errors_are_no_bad_sectors(folder: str) -> None:
    file = opened(folder)
    files = BadPages(1, error=errno.EACCES)
    with pytest.raises(PermissionError):
        read_anyway(files, file.number, 10_000, 0)
    with pytest.raises(PermissionError):
        unreadable(files, file.number, 0, 10_000)
