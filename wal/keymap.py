"""The last offset of each key, in a table of a fixed size.

A dict of five million keys takes most of a gigabyte. This is open addressing in one
bytearray, with 16 bytes for each slot::

    12 bytes  BLAKE2b of the key, salted anew for each table
     4 bytes  the key's last offset, relative to the table's base, plus one; 0: free

so a key of any length takes the same, and three quarters of the slots are used at the most:
128 MiB hold 6.2 million keys. Two of five million keys have the same 96 bits with a chance of
1 in 6 * 10**15, and nobody can look for such a pair who does not know the salt.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import blake2b
from secrets import token_bytes

SLOT_BYTES = 16
DIGEST_BYTES = 12
LEAST_BYTES = 1 << 10
# Offsets further than this from the base do not fit in a slot.
MOST_OFFSETS = (1 << 32) - 2

_SLOT = struct.Struct("<12sI")
_HOME = struct.Struct("<Q")

Span = tuple[int, int, int, int, int, bytes | None, bool]


class KeyMap:
    """Keys, each with the last offset that was put for it. For one thread."""

    def __init__(self, limit_bytes: int, base: int, most_keys: int) -> None:
        """`limit_bytes` bounds the table; it is smaller if `most_keys` need less."""
        wanted_bytes = (most_keys * 4 // 3 + 2) * SLOT_BYTES
        slots = max(LEAST_BYTES, min(limit_bytes, wanted_bytes)) // SLOT_BYTES
        self._slots = slots + 1
        self._table = bytearray(self._slots * SLOT_BYTES)
        self._hash = blake2b(digest_size=DIGEST_BYTES, salt=token_bytes(16))
        self._base = base
        self.most = slots * 3 // 4
        self.count = 0

    def put(self, spans: Iterable[Span], base_offset: int, start: int) -> int | None:
        """Take the keys of a batch's records (see `record_spans`) whose offset is `start` or more.

        Offsets only grow from call to call. Gives the offset of the first record that had no
        room, None if all had.
        """
        unpack, pack, home = _SLOT.unpack_from, _SLOT.pack_into, _HOME.unpack_from
        table, slots, empty = self._table, self._slots, self._hash
        size = len(table)
        for _, _, _, _, delta, key, _ in spans:
            offset = base_offset + delta
            if key is None or offset < start:
                continue
            hashed = empty.copy()
            hashed.update(key)
            digest = hashed.digest()
            at = home(digest)[0] % slots * SLOT_BYTES
            while True:
                stored, number = unpack(table, at)
                if not number:
                    if self.count >= self.most or offset - self._base >= MOST_OFFSETS:
                        return offset
                    self.count += 1
                    break
                if stored == digest:
                    if offset - self._base >= MOST_OFFSETS:
                        return offset
                    break
                at += SLOT_BYTES
                if at == size:
                    at = 0
            pack(table, at, digest, offset - self._base + 1)
        return None

    def last(self, key: bytes) -> int:
        """The last offset that was put for a key, -1 if none was."""
        if not self.count:
            return -1
        hashed = self._hash.copy()
        hashed.update(key)
        digest = hashed.digest()
        table = self._table
        at: int = _HOME.unpack_from(digest)[0] % self._slots * SLOT_BYTES
        while True:
            stored, number = _SLOT.unpack_from(table, at)
            if not number:
                return -1
            if stored == digest:
                offset: int = self._base + number - 1
                return offset
            at += SLOT_BYTES
            if at == len(table):
                at = 0
