"""The bare system calls that seawall is held against."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

from seawall.wal.records import encode_batch

# As far ahead as seawall allocates: without, each sync writes the file's size too, and the
# comparison would be easier.
ALLOCATE_BYTES = 4 << 20


class BareFile:
    """A file that is appended to without seawall, on the same file system."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        self._position = 0
        self._allocated = 0

    def append(self, data: bytes) -> None:
        """One pwrite behind what is there."""
        end = self._position + len(data)
        if end > self._allocated:
            os.posix_fallocate(self._descriptor, self._allocated, ALLOCATE_BYTES)
            self._allocated += ALLOCATE_BYTES
        os.pwrite(self._descriptor, data, self._position)
        self._position = end

    def sync(self) -> None:
        """Have it on disk."""
        os.fdatasync(self._descriptor)

    def one_at_a_time(self, data: bytes, count: int) -> float:
        """Append and sync `count` times; return how many that were a second."""
        start = time.perf_counter()
        for _ in range(count):
            self.append(data)
            self.sync()
        return count / (time.perf_counter() - start)

    def __enter__(self) -> BareFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


def batch_of_one(value: bytes) -> bytes:
    """The bytes that one record, published by itself, has on disk."""
    return bytes(encode_batch([(time.time_ns() // 1_000_000, None, value, ())]))
