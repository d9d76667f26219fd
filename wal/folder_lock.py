"""A lock on a log's folder, for whoever exchanges or removes its segments.

It is the flock on the folder itself, so it needs no file of its own, and goes with the
folder. Key compaction holds it alone, from its first look to its last: so there is one
compaction of a log at a time, and what an earlier one left aside is nobody's. Who removes
segments from a log's beginning shares it: otherwise a segment might be removed by a name
that has just been given to what others were merged into.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from seawall.wal import forks
from seawall.wal.context import LogContext, write_error
from seawall.wal.errors import LogGone
from seawall.wal.files import Descriptor

PAUSE_S = 0.005


class _Held:
    """The open folder: its lock goes when it is closed, in a forked child at once."""

    def __init__(self, context: LogContext) -> None:
        try:
            self.descriptor: Descriptor | None = Descriptor(context.files, context.folder)
        except FileNotFoundError:
            raise LogGone(path=context.folder) from None
        except OSError as error:
            raise write_error(error, context.folder) from error
        forks.register(self)

    def abandon(self) -> None:
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            descriptor.abandon()


@contextmanager
def lock_folder(context: LogContext, *, exclusive: bool, timeout_ms: int = 0) -> Iterator[bool]:
    """Hold the lock in the block, if it is to be had within `timeout_ms`: whether it is held.

    Raises `LogGone` if the folder is gone, `WriteFailed` if it cannot be locked.
    """
    held = _Held(context)
    try:
        deadline_s = time.monotonic() + timeout_ms / 1000
        descriptor = held.descriptor
        while descriptor is not None:
            if _try_lock(context, descriptor, exclusive=exclusive):
                yield True
                return
            if time.monotonic() >= deadline_s:
                break
            time.sleep(PAUSE_S)
        yield False
    finally:
        held.abandon()


def _try_lock(context: LogContext, descriptor: Descriptor, *, exclusive: bool) -> bool:
    try:
        return context.files.try_lock(descriptor.number, exclusive=exclusive)
    except OSError as error:
        raise write_error(error, context.folder) from error
