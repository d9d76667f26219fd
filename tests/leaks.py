"""What a test left behind: threads, child processes, sockets, file descriptors.

A `Snapshot` is taken before a test and one after; what is only in the second is
a leak. On Linux all of it is read from /proc/self, so that native threads and
descriptors opened by C libraries count too; elsewhere only Python's threads are
seen. Grandchildren count as well: `adopt_orphans` makes the kernel hand those
whose parent died to this process.

The only things that may outlive a test are the helpers of `multiprocessing` (its
resource tracker and its fork server), which live as long as the interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing import forkserver, resource_tracker
from typing import NamedTuple

GRACE_S = 20.0  # how long something that is already on its way out may take
# After so long, what is still there may only be kept by a reference cycle. Not at once: looking
# at all objects takes long, and most is gone in a moment.
_COLLECT_AFTER_S = 0.2
_POLL_S = 0.01
_PR_SET_CHILD_SUBREAPER = 36
_SELF = "/proc/self"
_HAS_PROC = os.path.isdir(f"{_SELF}/fd")


class Snapshot(NamedTuple):
    """What this process holds: ids that a later snapshot can be compared with."""

    threads: frozenset[int]  # native thread ids
    children: frozenset[int]  # process ids, zombies included
    descriptors: frozenset[tuple[int, str]]  # number, and what /proc says it is


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def snapshot() -> Snapshot:
    if not _HAS_PROC:
        ids = frozenset(t.native_id for t in threading.enumerate() if t.native_id is not None)
        return Snapshot(ids, frozenset(), frozenset())
    threads = os.listdir(f"{_SELF}/task")
    children: list[str] = []
    for thread in threads:
        try:
            with open(f"{_SELF}/task/{thread}/children") as file:
                children += file.read().split()
        except FileNotFoundError:  # the thread ended meanwhile
            pass
    opened: list[tuple[int, str]] = []
    for number in os.listdir(f"{_SELF}/fd"):
        try:
            opened.append((int(number), os.readlink(f"{_SELF}/fd/{number}")))
        except FileNotFoundError:  # the one that listdir itself had open
            pass
    return Snapshot(frozenset(map(int, threads)), frozenset(map(int, children)), frozenset(opened))


def leaks_since(before: Snapshot, grace_s: float = GRACE_S) -> list[str]:
    """Describe what came to be since `before` and is still there after the grace period.

    Dead children that nobody waited for are reaped. Living ones are killed after
    they were described, so that they can't disturb the tests that follow.
    """
    began = time.monotonic()
    collect_after_s = min(_COLLECT_AFTER_S, grace_s)
    while True:
        now = snapshot()
        threads = now.threads - before.threads
        children = {p for p in now.children - before.children if not _reap(p)}
        descriptors = now.descriptors - before.descriptors
        if children or descriptors:
            children -= _helper_processes()
            descriptors = frozenset(d for d in descriptors if d[0] not in _helper_pipes())
        if not (threads or children or descriptors):
            return []
        waited_s = time.monotonic() - began
        if waited_s >= collect_after_s:
            # What only a reference cycle kept open is not a leak of its own:
            # Python warns of it, and warnings are errors here. It may become one only later,
            # when a thread that is about to end has let go of it.
            collect_after_s = (
                math.inf if waited_s >= grace_s else min(10 * collect_after_s, grace_s)
            )
            gc.collect()
        elif waited_s >= grace_s:
            break
        else:
            time.sleep(_POLL_S)
    found = [f"thread {_thread_name(t)}" for t in sorted(threads)]
    found += [f"child process {p}: {_command(p)}" for p in sorted(children)]
    found += [_describe_descriptor(n, target) for n, target in sorted(descriptors)]
    for child in children:
        _kill(child)
    return found


def _helper_processes() -> set[int | None]:
    return {
        getattr(resource_tracker._resource_tracker, "_pid", None),
        getattr(forkserver._forkserver, "_forkserver_pid", None),
    }


def _helper_pipes() -> set[int | None]:
    return {
        getattr(resource_tracker._resource_tracker, "_fd", None),
        getattr(forkserver._forkserver, "_forkserver_alive_fd", None),
    }


def _reap(pid: int) -> bool:
    """Whether the child is dead (and is now gone)."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _thread_name(native_id: int) -> str:
    for thread in threading.enumerate():
        if thread.native_id == native_id:
            return repr(thread)
    try:
        with open(f"{_SELF}/task/{native_id}/comm") as file:
            return f"{native_id}, not started by the threading module: {file.read().strip()}"
    except OSError:
        return str(native_id)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    except OSError:
        return "(gone)"


def _describe_descriptor(number: int, target: str) -> str:
    if not target.startswith("socket:"):
        return f"file descriptor {number}: {target}"
    try:
        with socket.socket(fileno=os.dup(number)) as copy:
            return f"socket, file descriptor {number}: {copy!r}"
    except OSError:
        return f"socket, file descriptor {number}: {target}"
