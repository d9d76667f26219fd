"""Conversations with a Kafka server, written down so that two servers can be compared.

A `Talk` sends requests and writes down the answers without what must differ between two
servers: addresses, ids that a server makes up, times, error texts. Ids are named in the order
in which they turn up, so that they still say who is meant.
"""

from __future__ import annotations

import datetime
import struct
import time
import uuid
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from operator import itemgetter
from typing import Any

from wire import Wire, batches_in

# The versions that a conversation may use, from the oldest to the newest that both Apache
# Kafka 4.1 and seawall answer.
VERSIONS = {
    0: (3, 13),
    1: (4, 17),
    2: (1, 9),
    3: (0, 13),
    8: (2, 9),
    9: (1, 9),
    10: (0, 6),
    11: (0, 9),
    12: (0, 4),
    13: (0, 5),
    14: (0, 5),
    15: (0, 6),
    16: (0, 5),
    18: (0, 4),
    19: (2, 7),
    20: (1, 6),
    21: (0, 2),
    22: (0, 5),
    23: (2, 4),
    32: (1, 4),
    33: (0, 2),
    35: (1, 4),
    37: (0, 3),
    42: (0, 2),
    44: (0, 1),
    47: (0, 0),
    60: (0, 2),
    61: (0, 0),
    75: (0, 0),
}
PICKS = OLDEST, NEWEST = "oldest", "newest"

# Texts differ, and so does what a broker is called and where it is.
LEFT_OUT = {
    *("throttle_time", "error_message", "host", "port", "rack", "cluster_id", "client_host"),
    *("leader_epoch", "current_leader", "preferred_read_replica", "log_append_time_ms"),
    *("node_endpoints", "finalized_features", "supported_features", "documentation"),
    *("finalized_features_epoch", "zk_migration_ready", "total_bytes", "usable_bytes"),
    *("size", "last_timestamp", "committed_leader_epoch", "batch_index_error_message"),
    *("client_id", "is_future_key", "offset_lag"),
}
# Ids that servers make up, by the names of their fields.
MADE_UP = {
    "member_id": "member",
    "leader": "member",
    "producer_id": "producer",
    "log_dir": "folder",
    "node_id": "node",
    "broker_id": "node",
    "leader_id": "node",
    "controller_id": "node",
}
EVERYWHERE = ("replica_nodes", "isr_nodes", "offline_replicas")
_NO_ID = (None, "", -1, uuid.UUID(int=0))


class Talk:
    """One conversation, in the oldest or the newest versions."""

    def __init__(self, address: str, pick: str) -> None:
        self.pick = pick
        self.steps: list[dict[str, Any]] = []
        self.topic_ids: dict[str, uuid.UUID] = {}
        self._address = address
        self._wires: dict[str, Wire] = {}
        self._names: dict[tuple[str, Any], str] = {}

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()

    def wire(self, who: str = "") -> Wire:
        """One of the connections."""
        if who not in self._wires:
            self._wires[who] = Wire(self._address)
        return self._wires[who]

    def version(self, key: int) -> int:
        return VERSIONS[key][0 if self.pick == OLDEST else 1]

    def name(self, text: str) -> str:
        """A topic or a group of this conversation alone."""
        return f"{text}-{self.pick}"

    def ask(
        self, step: str, key: int, /, *, version: int | None = None, who: str = "", **rest: Any
    ) -> Any:
        """Send a request, and write the answer down under the name of the step."""
        self.send(key, version=version, who=who, **rest)
        return self.hear(step, who)

    def send(self, key: int, /, *, version: int | None = None, who: str = "", **rest: Any) -> None:
        self.wire(who).send(key, self.version(key) if version is None else version, **rest)

    def hear(self, step: str, who: str = "") -> Any:
        wire = self.wire(who)
        version = wire._sent[0][1]
        answer = wire.receive()
        said = {"step": step, "api": type(answer).__name__, "version": version}
        self.steps.append({**said, "answer": self._plain(answer)})
        return answer

    def ask_quietly(self, key: int, version: int, /, **rest: Any) -> Any:
        """Send a request that only prepares something."""
        return self.wire().ask(key, version, **rest)

    def until(self, key: int, version: int, is_so: Any, /, **rest: Any) -> Any:
        """Ask again until something is so; the last answer."""
        deadline_s = time.monotonic() + 60
        while True:
            answer = self.ask_quietly(key, version, **rest)
            if is_so(answer) or time.monotonic() > deadline_s:
                return answer
            time.sleep(0.02)

    # -- what both servers must say alike ------------------------------------------------

    def _plain(self, value: Any, name: str = "") -> Any:
        if is_dataclass(value):
            return {
                each.name: self._plain(getattr(value, each.name), each.name)
                for each in fields(value)
                if each.name not in LEFT_OUT
            }
        if name == "aborted_transactions":
            return value or ()  # null and none are the same
        if name == "records":
            return self._batches(value)
        if isinstance(value, tuple):
            if name in EVERYWHERE:
                return [self._called("node", each) for each in value]
            return in_order([self._plain(each, name) for each in value], name)
        if name in MADE_UP:
            return self._called(MADE_UP[name], value)
        if isinstance(value, datetime.datetime):
            is_now = abs(value.timestamp() - time.time()) < 3600
            return "now" if is_now else int(value.timestamp() * 1000)
        if isinstance(value, datetime.timedelta):
            return int(value.total_seconds() * 1000)
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value).hex()
        if name == "topic_id":
            return None if value in _NO_ID else "an id"
        if isinstance(value, int) and not isinstance(value, bool):
            return int(value)
        return value

    def _called(self, kind: str, value: Any) -> Any:
        if value in _NO_ID:
            return None
        return self._names.setdefault(
            (kind, value), f"{kind} {sum(each[0] == kind for each in self._names) + 1}"
        )

    def _batches(self, data: bytes | None) -> list[Mapping[str, int]] | None:
        if data is None:
            return None
        found = []
        for each in batches_in(bytes(data)):
            base, length, _, _, _, attributes, last, first_ms, top_ms, _, epoch, sequence, count = (
                struct.unpack_from(">qiibIhiqqqhii", each)
            )
            stamped = attributes & 8  # by the server, at a time of its own
            found.append(
                {
                    "base_offset": base,
                    "length": length,
                    "attributes": attributes,
                    "last_offset_delta": last,
                    "base_timestamp": first_ms,
                    "max_timestamp": 0 if stamped else top_ms,
                    "producer_epoch": epoch,
                    "base_sequence": sequence,
                    "count": count,
                }
            )
        return found


def in_order(values: list[Any], name: str) -> list[Any]:
    """Partitions and members by their names: Kafka has them in any order."""
    if name == "partitions" and values and "partition_index" in values[0]:
        return sorted(values, key=itemgetter("partition_index"))
    if name == "members" and values and "member_id" in values[0]:
        return sorted(values, key=lambda each: str(each["member_id"]))
    return values
