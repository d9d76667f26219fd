"""The bytes of what a server goes on from: a group of its clients, as it last stored it.

Members of such a group are members as all others are (see `group_format`): that is what other
processes look at. Beside them, under "W" (see `state_format`), lies what only a server needs to
be their coordinator again. Numbers are big endian; a string or bytes have their length before
them, as u32; strings are UTF-8. Under "W" group 0x00::

    version        u8, 1
    is assigned    u8         1 once the leader has divided, 0 since the generation began
    generation     u64        of the group when this was stored
    members        u32        how many there are
    protocol type  string     "consumer", "connect", …
    protocol       string     the one that they voted for
    leader         string     its member id

and under "W" group 0x00 member id, for each::

    version        u8, 1
    flags          u8         1: it has an instance id; 2: it owes a SyncGroup
    session timeout, rebalance timeout        i32 each, ms
    instance id, client id, client host       strings
    protocols      u32 count, then for each   string, bytes: its name and metadata
    assignment     bytes      what the leader gave it; none since the generation began

Nothing follows. This counts only together with the group's own entry and those of its members:
if the generation is the group's, and the members are the same. So whatever begins a generation,
also a program that knows nothing of these entries, has made them void.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from seawall.broker.state_format import Malformed

VERSION = 1

_GROUP = struct.Struct(">BBQI")
_MEMBER = struct.Struct(">BBii")
_SIZE = struct.Struct(">I")

_HAS_INSTANCE = 1
_OWES_SYNC = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMember:
    """A client in a group. ``protocols`` are metadata by name, the one it likes best first.

    ``owes_sync``: it was told of the generation, and has not asked yet what the leader said.
    """

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: Mapping[str, bytes]
    assignment: bytes = b""
    owes_sync: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptGroup:
    """A group that has members. ``is_assigned``: its leader has divided the partitions."""

    generation: int
    is_assigned: bool
    protocol_type: str
    protocol: str
    leader: str
    members: tuple[KeptMember, ...]


def pack_kept(group: KeptGroup) -> bytes:
    """The group's own entry."""
    head = _GROUP.pack(VERSION, group.is_assigned, group.generation, len(group.members))
    return head + b"".join(map(_sized, (group.protocol_type, group.protocol, group.leader)))


def pack_kept_member(member: KeptMember) -> bytes:
    """The entry of one of its members."""
    flags = _HAS_INSTANCE * (member.instance_id is not None) + _OWES_SYNC * member.owes_sync
    parts = [
        _MEMBER.pack(VERSION, flags, member.session_timeout_ms, member.rebalance_timeout_ms),
        _sized(member.instance_id or ""),
        _sized(member.client_id),
        _sized(member.client_host),
        _SIZE.pack(len(member.protocols)),
    ]
    for name, metadata in member.protocols.items():
        parts += [_sized(name), _sized(metadata)]
    parts.append(_sized(member.assignment))
    return b"".join(parts)


def unpack_kept(data: bytes, members: Mapping[str, bytes]) -> KeptGroup:
    """A group, from its entry and those of its members by their ids.

    Raises `Malformed` also for what no server has stored: a leader who is no member, or a
    member that does not know the protocol.
    """
    reader = _Reader(data)
    is_assigned, generation, count = reader.fields(_GROUP)
    group = KeptGroup(
        generation=generation,
        is_assigned=bool(is_assigned),
        protocol_type=reader.text(),
        protocol=reader.text(),
        leader=reader.text(),
        members=tuple(_unpack_member(each, members[each]) for each in sorted(members)),
    )
    reader.end()
    if count != len(members):
        raise Malformed(f"{len(members)} of {count} members are there")
    if group.leader not in members:
        raise Malformed("its leader is no member")
    if any(group.protocol not in each.protocols for each in group.members):
        raise Malformed(f"a member does not know the protocol {group.protocol!r}")
    return group


def _unpack_member(member_id: str, data: bytes) -> KeptMember:
    reader = _Reader(data)
    flags, session_timeout_ms, rebalance_timeout_ms = reader.fields(_MEMBER)
    instance_id, client_id, client_host = reader.text(), reader.text(), reader.text()
    protocols = {}
    for _ in range(reader.size()):
        name = reader.text()
        protocols[name] = reader.sized()
    member = KeptMember(
        member_id=member_id,
        instance_id=instance_id if flags & _HAS_INSTANCE else None,
        client_id=client_id,
        client_host=client_host,
        session_timeout_ms=session_timeout_ms,
        rebalance_timeout_ms=rebalance_timeout_ms,
        protocols=protocols,
        assignment=reader.sized(),
        owes_sync=bool(flags & _OWES_SYNC),
    )
    reader.end()
    return member


def _sized(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _SIZE.pack(len(data)) + data


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def _take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise Malformed(f"a value ends at {len(self._data)} bytes, before {end}")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        """The fixed fields behind the version."""
        version, *found = layout.unpack(self._take(layout.size))
        if version != VERSION:
            raise Malformed(f"it has version {version}, and this program knows {VERSION}")
        return tuple(found)

    def size(self) -> int:
        size: int = _SIZE.unpack(self._take(_SIZE.size))[0]
        return size

    def sized(self) -> bytes:
        return self._take(self.size())

    def text(self) -> str:
        try:
            return self.sized().decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"a string cannot be read: {error}") from error

    def end(self) -> None:
        if self._position != len(self._data):
            raise Malformed(f"{len(self._data) - self._position} bytes follow")
