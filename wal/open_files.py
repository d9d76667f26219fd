"""How many files of logs this process keeps open, however many partitions there are.

For each partition that it uses, a process keeps its lock's file open, the segment that it
appends to, and one for each reader: with some hundred partitions more than the 1,024 that most
systems allow by default. So whoever keeps one open between two uses is a `Holder`, and says
so when it opens it (`keep_open`). If they are too many, those that were not used for the longest
let go of theirs, and open them again when they need them.

Half of what the process may have open (RLIMIT_NOFILE, getrlimit(2)) is theirs. The rest is for
LMDB, SQLite, sockets and the program that seawall is a part of; if that takes so much that
nothing can be opened, more is let go of (`make_room`).
"""

from __future__ import annotations

import os
import resource
import threading
import weakref
from collections import deque

# With less, nothing would work.
LEAST = 16
# So many of those that are kept go at once, so that it is not one by one.
SHARE_LET_GO = 8


class Holder:
    """What keeps a file open between two uses, and could do without."""

    # Whether it is among those that are kept, and was used since somebody looked.
    is_kept_open = False
    was_used = False

    def let_go(self) -> None:
        """Close the file, unless it is in use just now. From any thread, at any moment."""
        raise NotImplementedError


# Re-entrant, for the sake of signal handlers.
_changing = threading.RLock()
# From the one that was opened the longest ago; those that were used since get a second chance.
_holders: deque[weakref.ref[Holder]] = deque()


def keep_open(holder: Holder) -> None:
    """It has opened its file, and keeps it."""
    holder.was_used = True
    if holder.is_kept_open:
        return
    with _changing:
        holder.is_kept_open = True
        _holders.append(weakref.ref(holder))
        most = _most()
        if len(_holders) > most:
            _let_go(most - most // SHARE_LET_GO)


def make_room() -> bool:
    """Let half of them go, because nothing more can be opened; whether there were any."""
    with _changing:
        for _ in range(len(_holders)):
            reference = _holders.popleft()
            if reference() is not None:
                _holders.append(reference)
        count = len(_holders)
        _let_go(count // 2)
    return count > 0


def _most() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(LEAST, soft // 2) if soft != resource.RLIM_INFINITY else 1 << 20


def _let_go(wanted: int) -> None:
    for _ in range(2 * len(_holders)):
        if len(_holders) <= wanted:
            return
        reference = _holders.popleft()
        holder = reference()
        if holder is None:
            continue
        if holder.was_used:
            holder.was_used = False
            _holders.append(reference)
        else:
            holder.is_kept_open = False
            holder.let_go()


def _after_fork_in_child() -> None:
    global _changing
    _changing = threading.RLock()
    _holders.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
