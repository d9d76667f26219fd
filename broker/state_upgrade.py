"""Bringing ``state.lmdb`` from format 1 to format 2, in one transaction.

In format 1 a group had one consumer at a time. Its value was, big endian::

    generation  u64     holder's pid  u32     held since  i64
    host        u16 length, bytes             protocol    u16 length, bytes

In format 2 it has members (see `group_format`), and nobody of format 1 is one.
"""

from __future__ import annotations

import struct

from seawall.broker import state_format as layout
from seawall.broker.group_format import Group, pack_group
from seawall.wal.kv_view import WriteTransaction

_GENERATION = struct.Struct(">Q")


def upgrade(transaction: WriteTransaction, now_ms: int) -> None:
    """Rewrite what format 1 has otherwise. Offsets and log starts are the same in both."""
    for key, value in list(transaction.iterate(b"G", b"H")):
        if len(value) < _GENERATION.size:
            raise layout.Malformed(f"the entry of group {layout.group_of(key)!r} is too short")
        (generation,) = _GENERATION.unpack_from(value)
        group = Group(name=layout.group_of(key), generation=generation + 1, empty_since_ms=now_ms)
        transaction.put(key, pack_group(group))
    transaction.put(layout.FORMAT_KEY, layout.pack_format(layout.FORMAT))
