"""A process that stops itself, with SIGSTOP, at the very moment it holds a lock.

`StoppingFiles` are the operating system's files. Armed with a `Trap`, they wait until a lock
(or a sync) of a certain file has succeeded for the n-th time, and stop the whole process
then, or a few steps later, and at the latest before that lock is given up. What LMDB and
SQLite do inside a transaction counts as steps too, once `watch_transactions` was called;
that one changes their classes in this process, so it is for children only.
"""

from __future__ import annotations

import fnmatch
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from seawall.broker import catalog_writes
from seawall.wal import kv_view
from seawall.wal.files import Buffer, Files


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """Where to stop.

    ``pattern``: of the path of what is locked, as in fnmatch(3). ``nth``: at which success,
    1 is the next. ``steps``: so many changes later, 0 is at once. ``call``: "lock" or "sync";
    "share", when the lock is given up for a shared one; or "catalog", the n-th change in a
    catalogue's transaction.
    """

    call: str
    pattern: str = "*"
    nth: int = 1
    steps: int = 0


class StoppingFiles(Files):
    """Files that stop this process where they are told to."""

    def __init__(self) -> None:
        self._trap: Trap | None = None
        self._nth = 0
        self._left = 0  # steps until the stop, once the lock is held
        self._held = -1

    def arm(self, trap: Trap) -> None:
        """Stop there, once."""
        self._trap, self._nth, self._left, self._held = trap, trap.nth, 0, -1

    def _happened(self, call: str, descriptor: int) -> None:
        trap = self._trap
        if trap is None or trap.call != call:
            return
        if descriptor >= 0:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if not fnmatch.fnmatchcase(path, trap.pattern):
                return
        self._nth -= 1
        if self._nth == 0:
            self._trap, self._held, self._left = None, descriptor, trap.steps
            if not trap.steps:
                self._stop()

    def step(self) -> None:
        """Something is about to be changed."""
        if self._left:
            self._left -= 1
            if not self._left:
                self._stop()

    def _gives_up(self, descriptor: int) -> None:
        if self._left and descriptor == self._held:
            self._stop()

    def _stop(self) -> None:
        self._left = 0
        # To this very thread, so that it does not run on while another takes the signal.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def changed_in_catalog(self) -> None:
        """A change is about to be made in a transaction of the catalogue."""
        self._happened("catalog", -1)
        self.step()

    # -- the calls -------------------------------------------------------------------

    def try_lock(self, descriptor: int, *, exclusive: bool = True) -> bool:
        if not exclusive:
            self._gives_up(descriptor)
        is_ours = super().try_lock(descriptor, exclusive=exclusive)
        if is_ours:
            self._happened("lock" if exclusive else "share", descriptor)
        return is_ours

    def unlock(self, descriptor: int) -> None:
        self._gives_up(descriptor)
        super().unlock(descriptor)

    def close(self, descriptor: int) -> None:
        self._gives_up(descriptor)
        super().close(descriptor)

    def sync(self, descriptor: int) -> None:
        self.step()
        super().sync(descriptor)
        self._happened("sync", descriptor)

    def pwrite(self, descriptor: int, data: Buffer, position: int) -> int:
        self.step()
        return super().pwrite(descriptor, data, position)

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], position: int) -> int:
        self.step()
        return super().pwritev(descriptor, buffers, position)

    def allocate(self, descriptor: int, position: int, size_bytes: int) -> None:
        self.step()
        super().allocate(descriptor, position, size_bytes)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        self.step()
        super().truncate(descriptor, size_bytes)

    def rename(self, source: str, target: str) -> None:
        self.step()
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self.step()
        super().unlink(path)

    def mkdir(self, path: str) -> None:
        self.step()
        super().mkdir(path)

    def rmdir(self, path: str) -> None:
        self.step()
        super().rmdir(path)

    def sync_directory(self, path: str) -> None:
        self.step()
        super().sync_directory(path)


def watch_transactions(files: StoppingFiles) -> None:
    """Count what LMDB and SQLite transactions of this process change as steps of `files`."""
    for name in ("put", "delete", "delete_range"):
        _precede(kv_view.WriteTransaction, name, files.step)
    for name in (
        *("create_tables", "add_topic", "set_state"),
        *("remove_topic", "add_settings", "remove_settings"),
    ):
        _precede(catalog_writes.Writer, name, files.changed_in_catalog)


def _precede(kind: type, name: str, first: Callable[[], None]) -> None:
    """Have a method call something else first."""
    method = getattr(kind, name)

    def both(self: object, *arguments: Any, **settings: Any) -> Any:
        first()
        return method(self, *arguments, **settings)

    setattr(kind, name, both)
