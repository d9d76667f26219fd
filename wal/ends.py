"""Where every partition's log ends: the file ``run/ends``.

The file belongs to one boot of one machine. It is what makes kill -9 harmless: the
page cache outlives the process, and so does this file, so whoever opens the directory
next reads where the log ends instead of searching for it. After a power cut it means
nothing (it is never synced), and its boot id says so.

Layout, big endian, slots of 128 bytes::

    slot 0     magic  "SWENDS2\\n"    8
               boot id               16
               st_dev of this file    8   a copied file is not this file
               st_ino of this file    8
               st_dev of the broker's directory
                                      8   nor is one that was moved here
               st_ino of that         8
               CRC-32C of the above   4
    slot id    partition id           8
               log start              8   first offset that readers may have
               next offset            8   the offset that the next record gets
               segment                8   base offset of the active segment
               position               8   where the next batch goes in it
               durable offset         8   end of what is on disk (high watermark)
               durable position       8   the same, as a position in that segment
               created                8   when the segment was begun, ms since the epoch
               flags                  4   1 fenced, 2 deleted
               CRC-32C of the above   4

The durable end is always in the active segment: rolling to a new one syncs the old one
first. A row is written under the partition's append lock and read without it; pread
and pwrite of one slot may overlap, so a wrong CRC means: read again.
"""

from __future__ import annotations

import os
import struct
import time
from typing import NamedTuple

import google_crc32c

from seawall.wal.errors import ForkedHandle, HandleClosed
from seawall.wal.files import CREATE, READ_WRITE, TRUNCATE, Descriptor, Files, write_fully

SLOT_BYTES = 128
READ_ATTEMPTS = 200

FENCED = 1
DELETED = 2

_MAGIC = b"SWENDS2\n"
_HEADER = struct.Struct(">8s16sQQQQ")
_ROW = struct.Struct(">QqqqqqqqI")
_CRC = struct.Struct(">I")
_ROW_CRC = struct.Struct(">QqqqqqqqII")


class EndsRow(NamedTuple):
    """One partition's row. Offsets are record offsets, positions are bytes in a file."""

    log_start: int
    next_offset: int
    segment: int
    position: int
    durable_offset: int
    durable_position: int
    created_ms: int
    flags: int

    def appended(self, next_offset: int, position: int) -> EndsRow:
        """This row with another end; several times faster than `_replace`."""
        log_start, _, segment, _, durable_offset, durable_position, created_ms, flags = self
        return EndsRow(
            log_start,
            next_offset,
            segment,
            position,
            durable_offset,
            durable_position,
            created_ms,
            flags,
        )

    def reaches(self, row: EndsRow) -> bool:
        """Whether the log ends where it does in `row`, or further on in the same segment."""
        return (
            self.segment == row.segment
            and self.next_offset >= row.next_offset
            and self.position >= row.position
        )

    def published(self, durable_offset: int, durable_position: int) -> EndsRow:
        """This row with another durable end."""
        log_start, next_offset, segment, position, _, _, created_ms, flags = self
        return EndsRow(
            log_start,
            next_offset,
            segment,
            position,
            durable_offset,
            durable_position,
            created_ms,
            flags,
        )


class Ends:
    """The open ``run/ends`` file."""

    def __init__(self, files: Files, path: str, *, descriptor: Descriptor) -> None:
        self._files = files
        self._descriptor: Descriptor | None = descriptor
        self._pid_of_opener = 0
        self.path = path

    @classmethod
    def create(cls, files: Files, path: str, boot_id: bytes) -> Ends:
        """A new file without rows, in place of whatever was there. Sole opener only."""
        aside = path + ".new"
        descriptor = Descriptor(files, aside, READ_WRITE | CREATE | TRUNCATE)
        header = _HEADER.pack(_MAGIC, boot_id, *_place(files, descriptor.number, path))
        header += _CRC.pack(google_crc32c.value(header))
        write_fully(files, descriptor.number, header.ljust(SLOT_BYTES, b"\0"), 0)
        files.rename(aside, path)
        return cls(files, path, descriptor=descriptor)

    @classmethod
    def open(cls, files: Files, path: str, boot_id: bytes) -> Ends | None:
        """The file of this boot, None if there is none."""
        try:
            descriptor = Descriptor(files, path, READ_WRITE)
        except FileNotFoundError:
            return None
        header = files.pread(descriptor.number, _HEADER.size + _CRC.size, 0)
        expected = _HEADER.pack(_MAGIC, boot_id, *_place(files, descriptor.number, path))
        if header == expected + _CRC.pack(google_crc32c.value(expected)):
            return cls(files, path, descriptor=descriptor)
        return None

    @staticmethod
    def written_in_another_boot(files: Files, path: str, boot_id: bytes) -> bool:
        """True if this very file was written before the machine was last booted.

        Then every byte that the log's files now show came from the disk, not from a
        cache with un-synced pages in it.
        """
        try:
            descriptor = files.open(path)
        except FileNotFoundError:
            return False
        try:
            header = files.pread(descriptor, _HEADER.size + _CRC.size, 0)
            place = _place(files, descriptor, path)
        finally:
            files.close(descriptor)
        if len(header) < _HEADER.size + _CRC.size:
            return False
        if _CRC.unpack_from(header, _HEADER.size)[0] != google_crc32c.value(header[: _HEADER.size]):
            return False
        magic, other_boot_id, *other_place = _HEADER.unpack_from(header)
        return magic == _MAGIC and other_boot_id != boot_id and tuple(other_place) == place

    def read(self, partition_id: int) -> EndsRow | None:
        """The row of a partition, None if it has none (or none that can be read)."""
        descriptor = self._descriptor or self._usable()
        for attempt in range(READ_ATTEMPTS):
            slot = self._files.pread(descriptor.number, _ROW_CRC.size, partition_id * SLOT_BYTES)
            if len(slot) == _ROW_CRC.size:
                fields = _ROW_CRC.unpack(slot)
                if fields[9] == google_crc32c.value(slot[: _ROW.size]):
                    if fields[0] != partition_id:
                        return None
                    return EndsRow._make(fields[1:9])
            if not slot.strip(b"\0"):
                return None
            if attempt:
                time.sleep(0.00005)
        return None

    def write(self, partition_id: int, row: EndsRow) -> None:
        """Replace a row. The caller holds the partition's append lock."""
        slot = _ROW.pack(partition_id, *row)
        self._write(partition_id, slot + _CRC.pack(google_crc32c.value(slot)))

    def clear(self, partition_id: int) -> None:
        """Remove a row (of a partition whose files are gone)."""
        self._write(partition_id, bytes(SLOT_BYTES))

    def _write(self, partition_id: int, slot: bytes) -> None:
        # The reference keeps the file open: after a close() by another thread its number
        # might be another file's.
        descriptor = self._descriptor or self._usable()
        position = partition_id * SLOT_BYTES
        if self._files.pwrite(descriptor.number, slot, position) != len(slot):
            write_fully(self._files, descriptor.number, slot, position)

    def _usable(self) -> Descriptor:
        descriptor = self._descriptor
        if descriptor is not None:
            return descriptor
        if self._pid_of_opener:
            raise ForkedHandle(what="log", opened_by_pid=self._pid_of_opener)
        raise HandleClosed(what="log")

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._descriptor = None

    def abandon(self, pid_of_opener: int) -> None:
        """In a forked child: close our copy; any further use raises `ForkedHandle`."""
        self._pid_of_opener = pid_of_opener
        self.close()


def _place(files: Files, descriptor: int, path: str) -> tuple[int, int, int, int]:
    """What ``run/ends`` is, and which directory it is in: it is no other's."""
    directory = files.path_identity(os.path.dirname(os.path.dirname(os.path.abspath(path))))
    return *files.identity(descriptor), *(directory or (0, 0))
