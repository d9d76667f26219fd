"""The bytes of groups and their members in ``state.lmdb``: see `state_format` for the keys.

A group, big endian::

    generation     u64
    empty since    i64 ms since the epoch; 0 while it has members that may live
    assignor       u16 length, bytes   who divides its partitions

A member is a JSON object with sorted keys and without spaces, one for each field of
`Member` under the field's name; it is written when somebody comes or goes, and not for an
acknowledgement. A client of `seawall serve` is a member, too: its one assignor is "kafka:" and
its group's protocol type, its process the server's, its host where it connects from; and its
id ends with what the server's sign of life is called, which is the same for all servers of the
directory, one after the other (see `liveness`).
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, fields

from seawall.broker.state_format import Malformed

_GROUP = struct.Struct(">QqH")

MAX_CLIENT_ID_BYTES = 255
MAX_HOST_BYTES = 255

# No assignor's name has a colon: so who shares partitions among embedded members, and knows
# nothing of servers, finds no assignor in common with these.
WIRE_ASSIGNOR = "kafka:"

# Member ids of clients end with it.
SERVER_LIFE = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A registered group.

    ``generation`` grows whenever its partitions are divided anew. ``empty_since_ms`` is 0
    while it has members; not if they are a server's, and it was seen that there is none.
    ``assignor`` divided its partitions last, "" before that.
    """

    name: str
    generation: int
    empty_since_ms: int = 0
    assignor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One consumer in a group, of whichever process.

    ``boot``: which boot of the machine it is of. ``partitions``: those that it asked for by
    number, as ids, if it wants no others. ``target``: what it is to have; ``owned``: what it
    has, and nobody else reads meanwhile. Both are partition ids.
    """

    member_id: str
    client_id: str
    instance_id: str | None
    pid: int
    host: str
    boot: str
    joined_ms: int
    session_timeout_ms: int
    topics: tuple[str, ...]
    partitions: tuple[int, ...] | None
    assignors: tuple[str, ...]
    target: tuple[int, ...] = ()
    owned: tuple[int, ...] = ()

    @property
    def is_wire(self) -> bool:
        """Whether it is a client of a server, and not a consumer that has the directory open."""
        return any(name.startswith(WIRE_ASSIGNOR) for name in self.assignors)


_FIELDS = {field.name for field in fields(Member)}
_LISTS = ("topics", "assignors", "target", "owned")


def pack_group(group: Group) -> bytes:
    assignor = group.assignor.encode()
    return _GROUP.pack(group.generation, group.empty_since_ms, len(assignor)) + assignor


def unpack_group(name: str, data: bytes) -> Group:
    if len(data) < _GROUP.size:
        raise Malformed(f"a value has {len(data)} bytes of {_GROUP.size}")
    generation, empty_since_ms, size = _GROUP.unpack_from(data)
    assignor = data[_GROUP.size :]
    if len(assignor) != size:
        raise Malformed(f"the entry of group {name!r} has the wrong length")
    return Group(
        name=name,
        generation=generation,
        empty_since_ms=empty_since_ms,
        assignor=assignor.decode("utf-8", "replace"),
    )


def pack_member(member: Member) -> bytes:
    return json.dumps(asdict(member), sort_keys=True, separators=(",", ":")).encode()


def unpack_member(data: bytes) -> Member:
    try:
        values = json.loads(data)
        if values.keys() != _FIELDS:
            raise ValueError("it has other fields")
        for name in _LISTS:
            values[name] = tuple(values[name])
        if values["partitions"] is not None:
            values["partitions"] = tuple(values["partitions"])
        return Member(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise Malformed(f"the entry of a member cannot be read: {error}") from error
