"""Waking readers, in this and in other processes, when a durable end has moved.

``run/ends`` is written each time a log grows or a durable end is published, and
inotify(7) tells about every write, whichever process made it. One thread per directory
and process reads those events and wakes whoever waits; it starts with the first wait.
Where inotify is not to be had (its limit of instances is reached), the thread wakes
them every `POLL_INTERVAL_S` instead, so that they look for themselves.

To wait without missing anything: take `generation`, look at the log, and only then
`wait` for a generation other than that one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inotify_simple import INotify

POLL_INTERVAL_S = 0.02
# A busy writer makes thousands of events a second; readers gain nothing from being
# woken more often than this.
SHORTEST_INTERVAL_S = 0.0005
# What becomes of `FolderWatch` without inotify.
FOLDER_POLL_INTERVAL_S = 5.0

logger = logging.getLogger("seawall.wal")


class Watcher:
    """Wakes readers when ``run/ends`` is written. Safe to use from any thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._listeners: list[Callable[[], None]] = []
        self._stop_reader = -1
        self._stop_writer = -1
        self._closed = False
        self._waiting = 0
        self.generation = 0

    def wait(self, generation: int, timeout_s: float | None) -> bool:
        """Sleep until `generation` is not the latest any more; False when time ran out."""
        with self._changed:
            self._start()
            self._waiting += 1
            try:
                return self._changed.wait_for(
                    lambda: self.generation != generation or self._closed, timeout_s
                )
            finally:
                self._waiting -= 1

    def notify(self) -> None:
        """Wake everyone who waits in this process."""
        # Without the lock: a waiter counts itself first and looks at the generation then.
        self.generation += 1
        if not self._waiting and not self._listeners:
            return
        with self._changed:
            self._changed.notify_all()
            listeners = tuple(self._listeners)
        for listener in listeners:
            try:
                listener()
            except Exception:
                # It is called in the watcher's thread and in those that commit: neither
                # may fail for it. A closed event loop, for one, raises here.
                logger.exception("a listener of %s failed", self._path)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, in the watcher's thread, at every change."""
        with self._changed:
            self._listeners.append(listener)
            self._start()

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Undo `subscribe`."""
        with self._changed, contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._stop_reader, self._stop_writer = os.pipe()
            thread = threading.Thread(target=self._run, name="seawall-watcher", daemon=True)
            try:
                thread.start()
            except BaseException:
                os.close(self._stop_reader)
                os.close(self._stop_writer)
                raise
            self._thread = thread

    def _run(self) -> None:
        try:
            inotify = _inotify([self._path])
        except (ImportError, OSError):
            self._poll_file()
            return
        with inotify:
            # A write between the last look and the watch has made no event.
            self.notify()
            poller = select.poll()
            poller.register(inotify.fileno(), select.POLLIN)
            poller.register(self._stop_reader, select.POLLIN)
            while True:
                ready = {descriptor for descriptor, _ in poller.poll()}
                if self._stop_reader in ready:
                    return
                inotify.read(timeout=0)
                self.notify()
                if self._stopped_within(SHORTEST_INTERVAL_S):
                    return

    def _poll_file(self) -> None:
        while not self._stopped_within(POLL_INTERVAL_S):
            self.notify()

    def _stopped_within(self, timeout_s: float) -> bool:
        poller = select.poll()
        poller.register(self._stop_reader, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))

    def close(self) -> None:
        """End the thread and wake everyone who waits. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is None:
            return
        os.write(self._stop_writer, b"x")
        thread.join()
        os.close(self._stop_reader)
        os.close(self._stop_writer)

    def abandon(self) -> None:
        """In a forked child, which has no watcher thread: wait for nothing."""
        self._changed = threading.Condition()
        self._closed = True
        if self._thread is not None:
            self._thread = None
            os.close(self._stop_reader)
            os.close(self._stop_writer)


class FolderWatch:
    """Sleeping until something is written in one of a few folders, by whichever process.

    For one thread, which makes it, waits, and closes it; `stop` is for others.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._closing = threading.Lock()
        self._stop_reader, self._stop_writer = os.pipe()
        self._poller = select.poll()
        self._poller.register(self._stop_reader, select.POLLIN)
        self._inotify: INotify | None = None
        try:
            self._inotify = _inotify(folders)
            self._poller.register(self._inotify.fileno(), select.POLLIN)
        except (ImportError, OSError):
            pass  # out of instances, say: `wait` looks by itself

    def wait(self, timeout_s: float) -> bool:
        """Sleep until there was a write since the last call, or may have been one.

        False when time ran out, and after `stop`.
        """
        if self._inotify is None:
            timeout_s = min(timeout_s, FOLDER_POLL_INTERVAL_S)
        ready = {descriptor for descriptor, _ in self._poller.poll(timeout_s * 1000)}
        if self._stop_reader in ready:
            return False
        if self._inotify is None:
            return True
        if ready:
            self._inotify.read(timeout=0)
        return bool(ready)

    def stop(self) -> None:
        """Have `wait` return at once, now and always."""
        with self._closing:
            if self._stop_writer >= 0:
                os.write(self._stop_writer, b"x")

    def close(self) -> None:
        """Close its files. Safe to call twice."""
        with self._closing:
            inotify, self._inotify = self._inotify, None
            if inotify is not None:
                inotify.close()
            if self._stop_reader >= 0:
                os.close(self._stop_reader)
                os.close(self._stop_writer)
                self._stop_reader = self._stop_writer = -1

    def abandon(self) -> None:
        """In a forked child: close our copies of its files."""
        self._closing = threading.Lock()
        self.close()

    def __enter__(self) -> FolderWatch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _inotify(folders: Sequence[str]) -> INotify:
    import ctypes

    import inotify_simple
    from inotify_simple import INotify, flags

    if inotify_simple._libc is None:
        # It would start a program that looks for it; and if this process forks meanwhile, this
        # thread would wait for that child's end.
        inotify_simple._libc = ctypes.CDLL(None, use_errno=True)
    inotify = INotify(nonblocking=True)
    try:
        for folder in folders:
            inotify.add_watch(folder, flags.MODIFY)
    except BaseException:
        inotify.close()
        raise
    return inotify
