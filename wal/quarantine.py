"""Where bytes go before recovery or repair takes them out of a log.

Nothing is ever cut off or overwritten without a copy here. Each file's name says when
it was made, which log and segment it is from, and at which position.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from seawall.wal.files import (
    CREATE,
    EXCLUSIVE,
    READ_WRITE,
    Files,
    make_directory,
    write_fully,
)
from seawall.wal.sectors import read_anyway

BLOCK_BYTES = 1 << 20


class Quarantine:
    """The folder ``quarantine/`` of a broker directory."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self.path = path

    def keep(
        self, descriptor: int, *, folder: str, segment: int, position: int, end: int, now_ms: int
    ) -> str:
        """Copy the bytes from `position` to `end` of an open segment, synced; return the path.

        Zeros at the end are not copied. What the disk does not give back is filled in
        (`sectors.FILLER`).
        """
        end = self._without_zeros(descriptor, position, end)
        log = os.path.basename(folder)
        stem = os.path.join(self.path, f"{now_ms}-{log}-{segment:020d}-{position}")
        target, path = self._create(stem)
        try:
            try:
                copied = position
                while copied < end:
                    size_bytes = min(BLOCK_BYTES, end - copied)
                    block = read_anyway(self._files, descriptor, size_bytes, copied)
                    if not block:
                        break
                    write_fully(self._files, target, block, copied - position)
                    copied += len(block)
                self._files.sync(target)
            finally:
                self._files.close(target)
        except OSError:
            # Half a copy is of no use, and on a full disk it would take what others need.
            with contextlib.suppress(OSError):
                self._files.unlink(path)
            raise
        self._files.sync_directory(self.path)
        return path

    def discard(self, paths: Iterable[str | None]) -> None:
        """Remove copies of what stays where it is, as far as that is possible."""
        for path in filter(None, paths):
            with contextlib.suppress(OSError):
                self._files.unlink(path)

    def keep_folder(self, path: str, *, now_ms: int) -> str:
        """Move a folder that belongs to nothing here; return its new path."""
        make_directory(self._files, self.path)
        target = os.path.join(self.path, f"{now_ms}-{os.path.basename(path)}")
        self._files.rename(path, target)
        self._files.sync_directory(self.path)
        self._files.sync_directory(os.path.dirname(path))
        return target

    def _create(self, stem: str) -> tuple[int, str]:
        make_directory(self._files, self.path)
        number = 0
        while True:
            path = f"{stem}-{number}.bin" if number else f"{stem}.bin"
            try:
                return self._files.open(path, READ_WRITE | CREATE | EXCLUSIVE), path
            except FileExistsError:
                number += 1

    def _without_zeros(self, descriptor: int, position: int, end: int) -> int:
        while end > position:
            start = max(position, end - BLOCK_BYTES)
            block = read_anyway(self._files, descriptor, end - start, start)
            kept = len(block.rstrip(b"\0"))
            if kept:
                return start + kept
            end = start
        return position
