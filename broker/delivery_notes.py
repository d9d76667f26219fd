"""How often records were delivered, for whoever reads their partition next.

A process that dies while a handler is at work cannot say any more that it failed. So before a
handler gets a record, a note is made of it, and taken back when it has succeeded: one small
write each into a file of the group's in that partition, ``run/deliveries/ID-GROUP`` (the id of
the partition, a hash of the group's name). Nothing is synced. The notes outlive every process,
however it ends; after a power cut some may be missing, and those deliveries are not counted.

The file is an array of slots; all zeros: free. A slot holds, big endian::

    offset      i64
    deliveries  u32   how often handlers had it, the last time included
    CRC-32C     u32   of these

A slot that is not valid counts for nothing. Only the member that reads the partition writes.
It begins a file of its own with what it finds, and renames that over the old one, so one that
was taken for dead and goes on writes where nobody looks.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import struct
import threading
import uuid
from collections.abc import Collection

import google_crc32c

from seawall.wal.files import (
    CREATE,
    READ_WRITE,
    Descriptor,
    Files,
    make_directory,
    read_file,
    remove_file,
    write_fully,
)

logger = logging.getLogger("seawall.broker")

_SLOT = struct.Struct(">qI")
_CRC = struct.Struct(">I")
SLOT_BYTES = _SLOT.size + _CRC.size
_FREE = bytes(SLOT_BYTES)
# More than that many notes are not looked at: nobody has so many records in flight.
MOST_SLOTS = 100_000


def pack_slot(offset: int, deliveries: int) -> bytes:
    """The bytes of one note."""
    note = _SLOT.pack(offset, min(deliveries, 0xFFFFFFFF))
    return note + _CRC.pack(google_crc32c.value(note))


def unpack_slots(data: bytes) -> dict[int, int]:
    """The notes in a file: offset -> deliveries."""
    found: dict[int, int] = {}
    for position in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        note = data[position : position + _SLOT.size]
        (crc,) = _CRC.unpack_from(data, position + _SLOT.size)
        offset, deliveries = _SLOT.unpack(note)
        if deliveries and offset >= 0 and crc == google_crc32c.value(note):
            found[offset] = max(deliveries, found.get(offset, 0))
    return found


class NotesFolder:
    """The notes of one directory; `folder` is its ``run/deliveries``."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = folder

    def _path(self, group: str, partition_id: int) -> str:
        import hashlib  # not before there is a handler: opening has no use for it

        name = hashlib.blake2b(group.encode(), digest_size=12).hexdigest()
        return os.path.join(self._folder, f"{partition_id}-{name}")

    def open(self, group: str, partition_id: int, committed: int) -> DeliveryNotes:
        """The notes of a group in a partition, without those below what it has committed."""
        return DeliveryNotes(self._files, self._path(group, partition_id), committed)

    def forget(self, group: str, partition_ids: Collection[int]) -> None:
        """Begin anew: the group was set elsewhere, or deleted."""
        for partition_id in partition_ids:
            remove_file(self._files, self._path(group, partition_id))

    def tidy(self, partition_ids: Collection[int]) -> None:
        """Remove notes of partitions that are gone, and what a crash left half written. For a
        sole opener, given the ids that there are."""
        if self._files.is_directory(self._folder):
            for name in self._files.list(self._folder):
                number = name.partition("-")[0]
                is_known = number.isdecimal() and int(number) in partition_ids
                if not is_known or name.endswith(".new"):
                    remove_file(self._files, os.path.join(self._folder, name))


class DeliveryNotes:
    """The notes of the member that reads a partition. Safe to use from any thread.

    What the disk refuses is logged once and goes uncounted: records are handled all the same.
    """

    def __init__(self, files: Files, path: str, committed: int) -> None:
        self._files = files
        self._path = path
        self._lock = threading.Lock()
        self._descriptor: Descriptor | None = None
        self._is_closed = False
        self._has_failed = False
        self._free: list[int] = []
        self._slots = 0
        found: dict[int, int] = {}
        try:
            found = unpack_slots(read_file(files, path, MOST_SLOTS * SLOT_BYTES))
        except FileNotFoundError:
            pass
        except OSError as error:
            self._failed(error)
        # How often records were delivered by those who read the partition before.
        self.deliveries = {o: count for o, count in found.items() if o >= committed}
        self._carried: dict[int, int] = {}
        self._in_use: set[int] = set()

    def note(self, slot: int, offset: int, deliveries: int) -> int:
        """A handler is about to get a record; its slot (-1: it has none yet)."""
        with self._lock:
            if self._is_closed:
                return -1
            try:
                if self._descriptor is None:
                    self._begin()
                if slot < 0:
                    slot = self._carried.pop(offset, -1)
                if slot < 0:
                    slot = self._take_slot()
                self._in_use.add(slot)
                self._write(slot, pack_slot(offset, deliveries))
            except OSError as error:
                self._failed(error)
            return slot

    def store(self, *, polls: bool) -> None:
        """Nothing is left to do: the kernel has each note."""

    def clear(self, slot: int, offset: int) -> None:
        """The record is done with. `slot`: see `note`."""
        with self._lock:
            if self._is_closed:
                return
            try:
                if slot < 0 and offset in self.deliveries:
                    if self._descriptor is None:
                        self._begin()
                    slot = self._carried.pop(offset, -1)
                if slot in self._in_use:
                    self._in_use.discard(slot)
                    heapq.heappush(self._free, slot)
                    self._write(slot, _FREE)
            except OSError as error:
                self._failed(error)

    def _take_slot(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._slots += 1
        return self._slots - 1

    def _write(self, slot: int, data: bytes) -> None:
        if self._descriptor is not None:
            write_fully(self._files, self._descriptor.number, data, slot * SLOT_BYTES)

    def _begin(self) -> None:
        """A file of our own, with what was found in the old one."""
        make_directory(self._files, os.path.dirname(self._path))
        aside = f"{self._path}.{uuid.uuid4().hex}.new"
        descriptor = Descriptor(self._files, aside, READ_WRITE | CREATE)
        try:
            notes = [pack_slot(*each) for each in self.deliveries.items()]
            write_fully(self._files, descriptor.number, b"".join(notes) or _FREE, 0)
            self._files.rename(aside, self._path)
        except BaseException:
            descriptor.abandon()
            with contextlib.suppress(OSError):
                remove_file(self._files, aside)
            raise
        self._carried = {offset: slot for slot, offset in enumerate(self.deliveries)}
        self._in_use = set(self._carried.values())
        self._slots = len(notes)
        self._descriptor = descriptor

    def _failed(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            logger.warning(
                "%s: deliveries are not counted beyond this process: %s", self._path, str(error)
            )

    def close(self, *, is_owner: bool = True) -> None:
        """Let go; the notes stay, or, if there is none and the partition is still the
        caller's, the file goes. Safe to call twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            descriptor, self._descriptor = self._descriptor, None
            if is_owner and descriptor is not None and not self._in_use:
                with contextlib.suppress(OSError):
                    found = self._files.path_identity(self._path)
                    if found == self._files.identity(descriptor.number):
                        remove_file(self._files, self._path)
