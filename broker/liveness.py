"""Whether a member of a group is alive, as any process can see it.

Each member has a file of its own under ``run/members``, named by the unique part of its
member id. It holds an flock on it for as long as it is a member, so when its process dies,
however it dies, the lock is free at once: that needs no pids, which are used again. A
process that is stopped keeps its lock; but it does not *beat*: in the file stands when the
member was last heard of::

    CLOCK_MONOTONIC   u64 nanoseconds   the same clock in every process of one boot
    CRC-32C           u32

A static member (one with an instance id, KIP-345) may be away for as long as its session
lasts, so for it a free lock means nothing. The clients of a server have one life in common,
the server's: while nobody holds that, none of them counts as a member, static or not. The
next server holds it under the same name, and so they are members again, unless somebody has
changed the group meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
import uuid
from collections.abc import Callable, Collection

import google_crc32c

from seawall.broker.group_format import SERVER_LIFE, Member
from seawall.wal import forks
from seawall.wal.files import (
    CREATE,
    READ_WRITE,
    Descriptor,
    Files,
    make_directory,
    remove_file,
    write_fully,
)

_BEAT = struct.Struct(">Q")
_CRC = struct.Struct(">I")

NS_PER_MS = 1_000_000


class Life:
    """One member's sign of life, as long as it is held."""

    def __init__(self, files: Files, path: str, clock_ns: Callable[[], int]) -> None:
        self._files = files
        self._path = path
        self._clock_ns = clock_ns
        self._descriptor: Descriptor | None = Descriptor(files, path, READ_WRITE | CREATE)
        # The name is new, so nobody looks at it yet.
        files.try_lock(self._descriptor.number)
        self.beat()
        forks.register(self)

    def beat(self) -> None:
        """Be alive now."""
        descriptor = self._descriptor
        if descriptor is not None:
            self.beaten_ns = self._clock_ns()
            beat = _BEAT.pack(self.beaten_ns)
            beat += _CRC.pack(google_crc32c.value(beat))
            write_fully(self._files, descriptor.number, beat, 0)

    def take_name(self, path: str) -> None:
        """Be found under this name from now on, whoever had it before."""
        self._files.rename(self._path, path)
        self._path = path

    def silent_ns(self) -> int:
        """How long ago it last was."""
        return self._clock_ns() - self.beaten_ns

    def end(self, *, keeps_file: bool = False) -> None:
        """Free the lock; with `keeps_file` the last beat stands. Safe to call twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and not keeps_file:
            with contextlib.suppress(OSError):
                remove_file(self._files, self._path)

    def abandon(self) -> None:
        """In a forked child: close our copy, or the lock would outlive the parent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            descriptor.abandon()


class Lives:
    """The members' files of one directory."""

    def __init__(
        self,
        files: Files,
        folder: str,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._files = files
        self._folder = folder
        self._clock_ns = clock_ns
        self.boot = files.boot_id().hex()

    def begin(self, member_id: str) -> Life:
        """A new member's life."""
        make_directory(self._files, self._folder)
        return Life(self._files, self._path(member_id), self._clock_ns)

    def begin_server(self) -> Life:
        """The life of all clients of a server, for whoever holds the server's lease.

        The file is a new one in the place of the old: those who are just looking at that hold
        its lock for a moment, and must not keep us from having ours.
        """
        life = self.begin(f"new-{uuid.uuid4().hex}")
        try:
            life.take_name(self._path(SERVER_LIFE))
        except BaseException:
            life.end()
            raise
        return life

    def is_dead(self, member: Member) -> bool:
        """Whether a member's process died, or was not heard of for its session."""
        if member.boot != self.boot:
            return True
        try:
            descriptor = Descriptor(self._files, self._path(member.member_id), READ_WRITE)
        except FileNotFoundError:
            return True
        # A shared lock: those who look are not in each other's way.
        ends_with_process = member.instance_id is None or member.is_wire
        if ends_with_process and self._files.try_lock(descriptor.number, exclusive=False):
            return True
        heard_ns = self._heard_ns(descriptor.number)
        if heard_ns is None:
            return False  # it is just being written
        return self._clock_ns() - heard_ns > member.session_timeout_ms * NS_PER_MS

    def _heard_ns(self, descriptor: int) -> int | None:
        data = self._files.pread(descriptor, _BEAT.size + _CRC.size, 0)
        beat = data[: _BEAT.size]
        if len(data) < _BEAT.size + _CRC.size:
            return None
        if _CRC.unpack_from(data, _BEAT.size)[0] != google_crc32c.value(beat):
            return None
        heard_ns: int = _BEAT.unpack(beat)[0]
        return heard_ns

    def clear(self, member: Member) -> None:
        """Remove what is left of a member that is none any more."""
        if member.is_wire:
            return  # the file is its server's, which may have been stopped for a while only
        with contextlib.suppress(OSError):
            remove_file(self._files, self._path(member.member_id))

    def tidy(self, members: Collection[str]) -> None:
        """Remove files of nobody, given the ids of all members. For a sole opener."""
        if self._files.is_directory(self._folder):
            known = {self._path(member_id) for member_id in members}
            for name in self._files.list(self._folder):
                path = os.path.join(self._folder, name)
                if path not in known:
                    remove_file(self._files, path)

    def _path(self, member_id: str) -> str:
        return os.path.join(self._folder, member_id.rpartition("-")[2])
