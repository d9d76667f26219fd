"""What aiokafka and kafka-python have in common: the one began as a copy of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agent import Agent, to_bytes, to_text

HEARTBEAT_INTERVAL_MS = 1_000
# aiokafka and kafka-python forget who they are when a commit comes too late for its generation,
# and join as somebody else. So long the others wait then for the one that is lost.
REBALANCE_TIMEOUT_MS = 30_000
REQUEST_TIMEOUT_MS = 60_000


class Alike(Agent):
    """The arguments that both take, and the records and partitions that both give."""

    def name_of(self, error: Exception) -> str:
        return getattr(error, "message", None) or super().name_of(error)

    def producer_settings(self, codec: str, idempotent: bool) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.bootstrap,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "acks": "all",
            "compression_type": None if codec == "none" else codec,
            "enable_idempotence": idempotent,
            "linger_ms": 5,
        }

    def consumer_settings(self, group: str | None) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.bootstrap,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "group_id": group,
            "auto_offset_reset": "earliest",
            "enable_auto_commit": False,
        }

    def listener(self, base: type) -> Any:
        """Tells what a member is given and gives up. `base`: the library's own class for it."""
        say = self.say

        def assigned(_: Any, places: Iterable[Any]) -> None:
            say(event="assigned", partitions=[place.partition for place in places])

        def revoked(_: Any, places: Iterable[Any]) -> None:
            say(event="revoked", partitions=[place.partition for place in places])

        methods = {"on_partitions_assigned": assigned, "on_partitions_revoked": revoked}
        return type("Listener", (base,), methods)()

    def say_records(self, records: Iterable[Any]) -> None:
        """That a member was given them."""
        for record in records:
            self.say(
                event="record",
                partition=record.partition,
                offset=record.offset,
                value=to_text(record.value),
            )

    def say_committed(self, place: Any, offset: int) -> None:
        self.say(event="committed", partition=place.partition, offset=offset)

    def say_not_committed(self, error: Exception) -> None:
        self.say(event="not committed", error=self.name_of(error))


def session_settings(session_timeout_ms: int) -> dict[str, int]:
    """Those of a member."""
    return {
        "session_timeout_ms": session_timeout_ms,
        "heartbeat_interval_ms": min(HEARTBEAT_INTERVAL_MS, session_timeout_ms // 4),
    }


def as_sent(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of a command, as the arguments of `send`."""
    return {
        "partition": record["partition"],
        "key": to_bytes(record.get("key")),
        "value": to_bytes(record["value"]),
        "headers": [(name, to_bytes(value)) for name, value in record.get("headers", ())],
        "timestamp_ms": record.get("timestamp"),
    }


def as_said(record: Any) -> dict[str, Any]:
    """A record that was consumed, for the answer."""
    return {
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": to_text(record.key),
        "value": to_text(record.value),
        "headers": [[name, to_text(value)] for name, value in record.headers],
    }


def lag_of(
    places: Sequence[Any],
    starts: Mapping[Any, int],
    ends: Mapping[Any, int],
    committed: Callable[[Any], int | None],
) -> dict[str, Any]:
    """The answer to `lag`. `committed` has None where nothing is."""
    lag = {}
    for place in places:
        at = committed(place)
        lag[str(place.partition)] = ends[place] - (starts[place] if at is None else at)
    return {"lag": lag}
