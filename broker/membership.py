"""Holding a group: one consumer of one process at a time.

Whoever holds the flock on the group's file under ``run/groups`` holds the group. The
kernel frees it when that process dies, however it dies. Taking it also begins a new
generation in ``state.lmdb``; acknowledgements name theirs, so a holder that lost its
lock in some other way (somebody removed ``run/``) can acknowledge nothing any more.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping

from seawall.broker.errors import GroupBusy
from seawall.broker.state import Holder, State
from seawall.wal.files import CREATE, READ_WRITE, Files, make_directory
from seawall.wal.locks import lock_holder

PAUSE_S = 0.05
# Whoever looks whether a group is held locks its file for a moment; that is waited out.
GLANCE_S = 1.0
GLANCE_PAUSE_S = 0.001


class Membership:
    """A group that is held. `start_offsets` is what it has committed, by partition id."""

    def __init__(
        self, files: Files, state: State, group: str, descriptor: int, generation: int
    ) -> None:
        self._files = files
        self._state = state
        self._descriptor = descriptor
        self.group = group
        self.generation = generation
        self.start_offsets: Mapping[int, int] = {}

    @classmethod
    def take(
        cls, files: Files, state: State, folder: str, group: str, *, wait_ms: float
    ) -> Membership:
        """Take hold of a group; raises `GroupBusy` if it is not free within `wait_ms`."""
        import socket  # not before there is a group: most commands have none

        descriptor = hold(files, state, folder, group, wait_ms=wait_ms)
        try:
            holder = Holder(
                pid=os.getpid(), host=socket.gethostname(), started_ms=time.time_ns() // 1_000_000
            )
            return cls(files, state, group, descriptor, state.claim(group, holder))
        except BaseException:
            files.close(descriptor)
            raise

    def begin(self, starts: Mapping[int, int]) -> None:
        """Store where the group begins in partitions that it has not been in before."""
        self.start_offsets = self._state.initialise(self.group, self.generation, starts)

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Store what the group has acknowledged; raises `GroupFenced`."""
        self._state.commit(self.group, self.generation, offsets)

    def leave(self) -> None:
        """Free the group. Safe to call twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._files.close(descriptor)

    def abandon(self) -> None:
        """In a forked child: close our copy of the lock's descriptor."""
        self.leave()


def hold(files: Files, state: State, folder: str, group: str, *, wait_ms: float) -> int:
    """Lock a group's file; closing the descriptor that this returns frees it.

    Raises `GroupBusy` if somebody else has it for longer than `wait_ms`.
    """
    make_directory(files, folder)
    descriptor = files.open(group_path(folder, group), READ_WRITE | CREATE)
    try:
        deadline_s = time.monotonic() + wait_ms / 1000
        while not files.try_lock(descriptor):
            now_s = time.monotonic()
            if now_s < deadline_s + GLANCE_S and _is_glanced_at(files, descriptor):
                time.sleep(GLANCE_PAUSE_S * random.random())
                continue
            if now_s >= deadline_s:
                holder = state.holder(group)
                raise GroupBusy(
                    group=group,
                    holder_pid=lock_holder(files, descriptor) or (holder.pid if holder else 0),
                    holder_host=holder.host if holder else "",
                )
            time.sleep(PAUSE_S)
    except BaseException:
        files.close(descriptor)
        raise
    return descriptor


def _is_glanced_at(files: Files, descriptor: int) -> bool:
    """Whether a lock that could not be had is only somebody's who looks (see `is_held`)."""
    shared = files.try_lock(descriptor, exclusive=False)
    if shared:
        files.unlock(descriptor)
    return shared


def group_path(folder: str, group: str) -> str:
    """The lock file of a group; names may hold anything, so it is named by a hash."""
    import hashlib  # as above; with OpenSSL it is no small one

    return os.path.join(folder, hashlib.sha256(group.encode()).hexdigest()[:32])


def is_held(files: Files, folder: str, group: str) -> bool:
    """Whether somebody holds a group right now.

    A shared lock finds that out, so those who look are not in each other's way.
    """
    try:
        descriptor = files.open(group_path(folder, group), READ_WRITE)
    except FileNotFoundError:
        return False
    try:
        return not files.try_lock(descriptor, exclusive=False)
    finally:
        files.close(descriptor)
