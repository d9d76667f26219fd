"""The room that records leave on the disk to what lets them go again.

To acknowledge, to trim and to open a directory take a few pages: of LMDB, of SQLite, of
``run/``. If records took the last block, nothing could be acknowledged and so nothing
trimmed, and a disk that holds nothing else would stay full for ever. So they stop before.
"""

from __future__ import annotations

import errno

from seawall.wal.files import Files

# SQLite's write-ahead log has 4 MiB before it is taken in; several partitions may grow at once.
RESERVE_BYTES = 16 << 20
# A small disk keeps so manieth part of it.
RESERVE_PART = 32


def leave_reserve(files: Files, descriptor: int, size_bytes: int) -> None:
    """Raise OSError (ENOSPC) if `size_bytes` more in that file would take from the reserve."""
    try:
        total_bytes, free_bytes = files.disk_bytes(descriptor)
    except OSError:
        return  # who cannot be asked will say so when it is full
    reserve_bytes = min(RESERVE_BYTES, total_bytes // RESERVE_PART)
    if free_bytes - size_bytes < reserve_bytes:
        kept = "the rest is kept for acknowledging and trimming"
        raise OSError(errno.ENOSPC, f"{free_bytes:,} bytes are left on its disk, and {kept}")
