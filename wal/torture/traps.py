"""Stopping a process at its n-th system call that changes a file, before it happens.

The function to be watched runs in a forked child under a filter of system calls
(seccomp(2), user notification): each call of `seawall.wal.torture.calls`, from any of its
threads, from C libraries too, waits until the parent has seen it and lets it go on. So
the parent sees them in one order, and may kill the child instead of answering.

Only calls on files below a given folder are counted, and a call of one thread may still
be at work when the parent already sees the next, of another thread. What the calls up to
the n-th have done is therefore certain where one thread makes them all; the calls of
other threads may be cut short by the kill, as any process's may.

A child says what it did in *marks*, small dicts that reach the parent even if the child
is killed right after. Linux on x86_64 or aarch64, from 5.5 on, and only where the kernel
(or the container) allows it; `Unavailable` is raised elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import re
import select
import signal
import socket
import struct
import sys
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

from seawall.wal.torture.calls import ARCHITECTURES, Shape, filter_program, shapes_by_number
from seawall.wal.torture.filtered import (
    FAILED,
    LISTENER,
    MARK,
    PACKET_BYTES,
    REFUSED,
    Child,
    be_the_child,
)
from seawall.wal.torture.search import Unavailable

TIMEOUT_S = 60.0

# linux/seccomp.h
_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_IS_VALID = 0x40082102
_SET_FLAGS = 0x40082104
_SYNC_WAKE_UP = 1
_CONTINUE = 1
# struct seccomp_notif: id, pid (of the thread), flags, and struct seccomp_data.
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_AT_FDCWD = -100
_PATH_BYTES = 4096
_PAGE_BYTES = 4096
_MOST_BUFFERS = 1024
_BUFFER = struct.Struct("=QQ")


class ChildFailed(Exception):
    """The watched function raised, took too long, or did not get as far as it should.

    ``marks`` and ``calls`` are what was seen of it.
    """

    def __init__(self, reason: str, watched: Watched) -> None:
        super().__init__(reason)
        self.marks = watched.marks
        self.calls = watched.calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call that changes a file below the folder. ``number`` counts from 1.

    ``path`` and ``target`` (the new name of a rename or a link) are relative to the
    folder, or absolute if they lie elsewhere; ``size`` and ``position`` are bytes, -1
    where the call has none.
    """

    number: int
    name: str
    path: str
    target: str = ""
    size: int = -1
    position: int = -1

    def __str__(self) -> str:
        arrow = f" -> {self.target}" if self.target else ""
        size = f" {self.size} bytes" if self.size >= 0 else ""
        position = f" at {self.position}" if self.position >= 0 else ""
        return f"{self.number}: {self.name} {self.path}{arrow}{size}{position}"


@dataclass(slots=True, kw_only=True)
class Watched:
    """What was seen of a child: its calls in order, and its marks.

    ``killed_at``: the call that it was killed at, which is the last of ``calls`` and did
    not happen. None if the child came to its end.
    """

    calls: list[Call] = field(default_factory=list)
    marks: list[dict[str, Any]] = field(default_factory=list)
    killed_at: Call | None = None


def trace(child: Child, root: str, *, timeout_s: float = TIMEOUT_S) -> Watched:
    """Run `child` to its end in a forked process, and say which calls it made below `root`.

    `child` is called with a function that takes a mark. This process should have one
    thread only, and have imported whatever the child needs.

    Raises `Unavailable`, and `ChildFailed` with the traceback if `child` raises.
    """
    with _Watch(child, root, timeout_s) as watch:
        return watch.run(0)


def kill_at(child: Child, root: str, number: int, *, timeout_s: float = TIMEOUT_S) -> Watched:
    """As `trace`, but kill the child, with all its children, at the call of that number.

    The call itself does not happen, all before it did. Raises `ChildFailed` also if the
    child came to its end before it made so many calls.
    """
    if number < 1:
        raise ValueError(f"calls are counted from 1, not {number}")
    with _Watch(child, root, timeout_s) as watch:
        return watch.run(number)


class _Watch:
    """One child and what its parent holds of it; ends it and lets go of everything on exit."""

    def __init__(self, child: Child, root: str, timeout_s: float) -> None:
        self._machine = platform.machine()
        if sys.platform != "linux" or self._machine not in ARCHITECTURES:
            machines = " or ".join(ARCHITECTURES)
            raise Unavailable(f"needs Linux on {machines}, not {sys.platform} on {self._machine}")
        self._root = os.path.realpath(root)
        self._shapes = shapes_by_number(self._machine)
        self._deadline_s = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._watched = Watched()
        self._failure = ""
        self._status: int | None = None
        self._listener = -1
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._socket = undo.enter_context(ours)
            self._socket.setblocking(False)
            undo.enter_context(theirs)
            program = filter_program(self._machine)
            parent_pid = os.getpid()
            with warnings.catch_warnings():
                # That this process has threads is its caller's care.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._pid = os.fork()
            if self._pid == 0:
                ours.close()
                be_the_child(child, theirs, program, self._machine, parent_pid)
            undo.callback(self._end)
            theirs.close()
            self._pidfd = os.pidfd_open(self._pid)
            undo.callback(os.close, self._pidfd)
            self._poller = select.poll()
            self._poller.register(self._socket, select.POLLIN)
            self._poller.register(self._pidfd, select.POLLIN)
            self._undo = undo.pop_all()

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    # -- the life of the child -------------------------------------------------------

    def run(self, stop_at: int) -> Watched:
        """Answer the child's calls until it ends, or until it is to be stopped."""
        while True:
            left_s = self._deadline_s - time.monotonic()
            events = dict(self._poller.poll(max(left_s, 0) * 1000))
            if left_s <= 0:
                raise self._failed(f"the child was not done after {self._timeout_s:g} s")
            if self._socket.fileno() in events and not self._receive():
                self._poller.unregister(self._socket)
            asked = events.get(self._listener, 0)
            if asked & select.POLLIN and self._answer(stop_at):
                return self._finish()
            if asked & select.POLLHUP:  # the last of its threads is gone
                self._poller.unregister(self._listener)
            if self._pidfd in events:
                watched = self._finish()
                if stop_at:
                    made = len(watched.calls)
                    raise self._failed(f"the child made {made} calls and ended before {stop_at}")
                return watched

    def _receive(self) -> bool:
        """Take all packets that are there; False at the end of them."""
        while True:
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._socket, PACKET_BYTES, 1)
            except BlockingIOError:
                return True
            kind, content = packet[:1], packet[1:]
            if kind == MARK:
                self._watched.marks.append(json.loads(content))
            elif kind == LISTENER:
                self._listener = descriptors[0]
                self._undo.callback(os.close, self._listener)
                self._poller.register(self._listener, select.POLLIN)
                # Only an optimisation: the two take turns anyway.
                with contextlib.suppress(OSError):
                    fcntl.ioctl(self._listener, _SET_FLAGS, _SYNC_WAKE_UP)
            elif kind == REFUSED:
                raise Unavailable(f"seccomp(2) refuses: {content.decode()}")
            elif kind == FAILED:
                self._failure = content.decode()
            else:
                return False

    def _kill(self) -> None:
        # With those that the child started; it leads a group as soon as it is watched.
        if self._listener >= 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _finish(self) -> Watched:
        """Take what the child left: its last marks, and how it ended."""
        self._kill()  # those that it started, if it has ended by itself
        self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._receive()
        if self._failure:
            raise self._failed(self._failure)
        expected = 0 if self._watched.killed_at is None else -signal.SIGKILL
        if self._status != expected:
            raise self._failed(f"the child ended with {self._status} instead of {expected}")
        return self._watched

    def _failed(self, reason: str) -> ChildFailed:
        if self._watched.calls:
            reason += f" (its last call was {self._watched.calls[-1]})"
        return ChildFailed(reason, self._watched)

    def _end(self) -> None:
        """Whatever happened: no process is left."""
        if self._status is None:  # else the number may be another process's by now
            self._kill()
            os.waitpid(self._pid, 0)

    # -- its calls -------------------------------------------------------------------

    def _answer(self, stop_at: int) -> bool:
        """Take one call and let it go on; True if the child is to be killed at it."""
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, buffer)
        except InterruptedError:
            return False
        except OSError as error:
            if error.errno == errno.ENOENT:  # whoever called is gone
                return False
            raise
        cookie, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        try:
            call = self._call(thread, self._shapes[number], arguments)
            # What was read of a thread is its own only if it still waits for the answer.
            fcntl.ioctl(self._listener, _IS_VALID, struct.pack("=Q", cookie))
        except PermissionError as error:
            raise Unavailable(f"a child's memory cannot be read: {error}") from error
        except (FileNotFoundError, ProcessLookupError):
            return False
        if call is not None:
            self._watched.calls.append(call)
            if call.number == stop_at:
                self._watched.killed_at = call
                return True
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(cookie, 0, 0, _CONTINUE))
        return False

    def _call(self, thread: int, shape: Shape, arguments: list[int]) -> Call | None:
        """What a call does, None if it is of no interest."""
        target = ""
        if shape.file >= 0:
            path = _link(thread, f"fd/{_int(arguments[shape.file])}")
        elif shape.address >= 0:
            path = _mapped(thread, arguments[shape.address])
        else:
            path = self._path(thread, shape.folder, shape.path, arguments)
            if shape.to >= 0:
                target = self._path(thread, shape.to_folder, shape.to, arguments)
        if not self._is_below(path) and not self._is_below(target):
            return None
        size = arguments[shape.size] if shape.size >= 0 else -1
        if shape.buffers >= 0:
            size = _size_of_buffers(thread, *arguments[shape.buffers : shape.buffers + 2])
        return Call(
            number=len(self._watched.calls) + 1,
            name=shape.name,
            path=self._relative(path),
            target=self._relative(target),
            size=size,
            position=arguments[shape.position] if shape.position >= 0 else -1,
        )

    def _path(self, thread: int, folder: int, at: int, arguments: list[int]) -> str:
        path = _text(thread, arguments[at])
        if not path.startswith("/"):
            base = _int(arguments[folder]) if folder >= 0 else _AT_FDCWD
            path = f"{_link(thread, 'cwd' if base == _AT_FDCWD else f'fd/{base}')}/{path}"
        head, tail = os.path.split(path.rstrip("/"))
        return os.path.join(os.path.realpath(head), tail)

    def _is_below(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + "/")

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._root) if self._is_below(path) else path


def _int(argument: int) -> int:
    """A C int that came in a register of 64 bits."""
    return ctypes.c_int(argument & 0xFFFFFFFF).value


def _link(thread: int, name: str) -> str:
    """Where a link of /proc leads; empty for a descriptor that is not open."""
    try:
        return os.readlink(f"/proc/{thread}/{name}").removesuffix(" (deleted)")
    except FileNotFoundError:
        return ""


def _memory(thread: int, address: int, size: int) -> bytes:
    """Up to `size` bytes of a process's memory; empty where nothing is mapped."""
    descriptor = os.open(f"/proc/{thread}/mem", os.O_RDONLY)
    try:
        return os.pread(descriptor, size, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(descriptor)


def _text(thread: int, address: int) -> str:
    """A path in a process's memory. Read up to the page's end first: what follows may not be."""
    data = _memory(thread, address, _PAGE_BYTES - address % _PAGE_BYTES)
    if b"\0" not in data:
        data += _memory(thread, address + len(data), _PATH_BYTES - len(data))
    return os.fsdecode(data.partition(b"\0")[0])


def _size_of_buffers(thread: int, address: int, count: int) -> int:
    """How many bytes an array of ``struct iovec`` stands for."""
    data = _memory(thread, address, _BUFFER.size * min(count, _MOST_BUFFERS))
    whole = len(data) - len(data) % _BUFFER.size
    return sum(size for _, size in _BUFFER.iter_unpack(data[:whole]))


def _mapped(thread: int, address: int) -> str:
    """The file that is mapped at an address."""
    with open(f"/proc/{thread}/maps") as maps:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)", line)
            if found and int(found[1], 16) <= address < int(found[2], 16):
                return found[3].removesuffix(" (deleted)")
    return ""
