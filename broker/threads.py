"""Threads that a signal's exception may interrupt just as they are started, and waiting."""

from __future__ import annotations

import threading
import time

# How long a thread may take from being made to running its first line.
STARTING_S = 0.2


def bounded_s(timeout_s: float) -> float:
    """A time to wait as locks take it: they refuse more than some centuries, and infinity."""
    return min(timeout_s, threading.TIMEOUT_MAX)


def is_running(thread: threading.Thread) -> bool:
    """Whether there is something to join.

    `Thread.start` waits for the thread to run. If a Ctrl-C cuts that short, the thread may
    run a moment later, or never, and `Thread.join` refuses until it does.
    """
    deadline_s = time.monotonic() + STARTING_S
    while thread.ident is None and time.monotonic() < deadline_s:
        time.sleep(0.001)
    while thread.ident is not None and not thread.is_alive() and time.monotonic() < deadline_s:
        # It has ended, or is just about to say that it runs.
        if thread not in threading.enumerate():
            return False
        time.sleep(0.001)
    return thread.is_alive()
