"""A member of a group over a raw connection, in any version of the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wire import Wire

from seawall.broker.kafka.consumer_protocol import encode_assignment, encode_subscription

# Longer than anybody waits for an answer, and longer than a machine stands still.
SESSION_MS = REBALANCE_MS = 300_000


class WireMember:
    """What one client knows of its place in a group.

    A request that waits for others is sent with ``begin_…`` and received with ``end_…``.
    """

    def __init__(
        self,
        wire: Wire,
        group: str = "g",
        *,
        topics: Sequence[str] = ("orders",),
        instance_id: str | None = None,
        session_ms: int = SESSION_MS,
    ) -> None:
        self.wire = wire
        self.group = group
        self.topics = topics
        self.instance_id = instance_id
        self.session_ms = session_ms
        self.member_id = ""
        self.generation = -1
        self.joined: Any = None

    def begin_join(self, version: int = 9, **changes: Any) -> None:
        metadata = encode_subscription(self.topics)
        fields: dict[str, Any] = {
            "group_id": self.group,
            "session_timeout": self.session_ms,
            "rebalance_timeout": REBALANCE_MS,
            "member_id": self.member_id,
            "group_instance_id": self.instance_id,
            "protocol_type": "consumer",
            "protocols": [{"name": "range", "metadata": metadata}],
            "reason": None,
        }
        self.wire.send(11, version, **{**fields, **changes})

    def end_join(self) -> Any:
        self.joined = answer = self.wire.receive()
        if answer.error_code in (0, 79):
            self.member_id = answer.member_id
        if answer.error_code == 0:
            self.generation = answer.generation_id
        return answer

    def join(self, version: int = 9, **changes: Any) -> Any:
        """Join, with an id first if the version has that."""
        self.begin_join(version, **changes)
        answer = self.end_join()
        if answer.error_code == 79:
            self.begin_join(version, **changes)
            answer = self.end_join()
        return answer

    def begin_sync(
        self,
        version: int = 5,
        shares: Mapping[str, Sequence[tuple[str, int]]] | None = None,
        **changes: Any,
    ) -> None:
        fields: dict[str, Any] = {
            "group_id": self.group,
            "generation_id": self.generation,
            "member_id": self.member_id,
            "group_instance_id": self.instance_id,
            "protocol_type": "consumer",
            "protocol_name": "range",
            "assignments": [
                {"member_id": member_id, "assignment": encode_assignment(places)}
                for member_id, places in (shares or {}).items()
            ],
        }
        self.wire.send(14, version, **{**fields, **changes})

    def sync(
        self,
        version: int = 5,
        shares: Mapping[str, Sequence[tuple[str, int]]] | None = None,
        **changes: Any,
    ) -> Any:
        self.begin_sync(version, shares, **changes)
        return self.wire.receive()

    def enter(self, *places: tuple[str, int]) -> WireMember:
        """Be the only member, and read these partitions."""
        assert self.join().error_code == 0
        assert self.sync(shares={self.member_id: places}).error_code == 0
        return self

    def heartbeat(self, version: int = 4, **changes: Any) -> int:
        fields: dict[str, Any] = {
            "group_id": self.group,
            "generation_id": self.generation,
            "member_id": self.member_id,
            "group_instance_id": self.instance_id,
        }
        return int(self.wire.ask(12, version, **{**fields, **changes}).error_code)

    def commit(
        self,
        offsets: Mapping[tuple[str, int], int],
        version: int = 9,
        metadata: str | None = "",
        **changes: Any,
    ) -> dict[tuple[str, int], int]:
        """A code for each partition."""
        fields: dict[str, Any] = {
            "group_id": self.group,
            "generation_id_or_member_epoch": self.generation,
            "member_id": self.member_id,
            "group_instance_id": self.instance_id,
            "retention_time": -1,
            "topics": [
                {
                    "name": topic,
                    "partitions": [
                        {
                            "partition_index": number,
                            "committed_offset": offset,
                            "committed_leader_epoch": 0,
                            "committed_metadata": metadata,
                        }
                    ],
                }
                for (topic, number), offset in offsets.items()
            ],
        }
        answer = self.wire.ask(8, version, **{**fields, **changes})
        return {
            (topic.name, each.partition_index): int(each.error_code)
            for topic in answer.topics
            for each in topic.partitions
        }

    def leave(self) -> Any:
        members = [{"member_id": self.member_id, "group_instance_id": None, "reason": None}]
        return self.wire.ask(13, 5, group_id=self.group, members=members)


# A whole request of each of the group APIs, for who sends them changed: key, version, fields.
_PLACE = {
    "partition_index": 0,
    "committed_offset": 0,
    "committed_leader_epoch": 0,
    "committed_metadata": "m",
}
_GROUP = {"group_id": "g", "member_id": "", "group_instance_id": None}
GROUP_REQUESTS: list[tuple[int, int, dict[str, Any]]] = [
    (
        8,
        9,
        {
            **_GROUP,
            "generation_id_or_member_epoch": -1,
            "topics": [{"name": "orders", "partitions": [_PLACE]}],
        },
    ),
    (
        9,
        7,
        {
            "group_id": "g",
            "topics": [{"name": "orders", "partition_indexes": (0,)}],
            "require_stable": False,
        },
    ),
    (10, 4, {"key_type": 0, "coordinator_keys": ("g",)}),
    (
        11,
        3,
        {
            **_GROUP,
            "session_timeout": 1_000,
            "rebalance_timeout": 100,
            "protocol_type": "consumer",
            "protocols": [{"name": "range", "metadata": encode_subscription(("orders",))}],
        },
    ),
    (12, 4, {**_GROUP, "generation_id": 1}),
    (13, 2, {"group_id": "g", "member_id": "m"}),
    (
        14,
        5,
        {
            **_GROUP,
            "generation_id": 1,
            "protocol_type": "consumer",
            "protocol_name": "range",
            "assignments": [{"member_id": "m", "assignment": encode_assignment([("orders", 0)])}],
        },
    ),
    (15, 5, {"groups": ("g",), "include_authorized_operations": True}),
    (16, 4, {"states_filter": ("Empty",)}),
    (42, 2, {"groups_names": ("g",)}),
    (
        47,
        0,
        {"group_id": "g", "topics": [{"name": "orders", "partitions": [{"partition_index": 0}]}]},
    ),
]
