"""Processes that do not outlive whoever started them, and sessions that end as one.

Searches start processes, which start others, stop them (SIGSTOP) and lose them. Two things
see to it that none is left. Each asks the kernel to be killed with its parent. And all that
one worker of a search starts are in its session (setsid(2)), however deep they are and
whoever their parent is by now, so that the session can be killed as a whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

PAUSE_S = 0.001

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int) -> bool:
    """Have the kernel kill this process when its parent ends (Linux only, see prctl(2)).

    Returns False if `parent_pid` is the parent no more. For the kernel the parent is the
    thread that called fork(2): that one should live as long as its process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent_pid


def process_state(pid: int) -> str:
    """The state of a process as in proc_pid_stat(5): R, S, D, T, Z, …; empty if it is gone."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def session_members(leader: int) -> list[int]:
    """The processes of a session that have not ended (Linux only, else none)."""
    members = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                state, _, _, session, *_ = _stat(int(name)) or ["", "", "", ""]
                if session == str(leader) and state not in "ZX":
                    members.append(int(name))
    return members


def kill_session(leader: int, timeout_s: float) -> list[int]:
    """Kill (SIGKILL) a session, and wait until it has ended; who has not in `timeout_s`.

    Nobody may have waited for `leader` yet: until then the number is nobody else's.
    """
    deadline_s = time.monotonic() + timeout_s
    # Elsewhere than on Linux, those that have left its process group are not found.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    while members := session_members(leader):
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= deadline_s:
            break
        time.sleep(PAUSE_S)
    return members


def _stat(pid: int) -> list[str]:
    """What proc_pid_stat(5) says behind the name: state, parent, process group, session, …"""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
