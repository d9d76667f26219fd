"""What clients need of a broker, however they are connected to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from seawall.broker.delivery import RecordMetadata
from seawall.broker.groups import GroupInfo
from seawall.wal.log import LogEnds
from seawall.wal.records import Record


class DeliveryLike(Protocol):
    """What becomes of a record that was sent."""

    def result(self, timeout: float | None = None) -> RecordMetadata: ...
    def add_done_callback(self, callback: Callable[[DeliveryLike], object]) -> None: ...


class ProducerLike(Protocol):
    """As `seawall.broker.Producer`."""

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
    ) -> DeliveryLike: ...
    def flush(self, timeout_ms: float | None = None) -> None: ...
    def close(self, timeout_ms: float | None = None) -> None: ...


class ConsumerLike(Protocol):
    """As `seawall.broker.Consumer`."""

    def poll(self, max_records: int = 500, timeout_ms: float | None = 0) -> list[Record]: ...
    def __iter__(self) -> Iterator[Record]: ...
    def assignment(self) -> list[tuple[str, int]]: ...
    def position(self, topic: str, partition: int) -> int: ...
    def committed(self, topic: str, partition: int) -> int | None: ...
    def seek(self, topic: str, partition: int, offset: int) -> None: ...
    def ack(self, records: Record | Sequence[Record] | None = None) -> None: ...
    def close(self) -> None: ...


class Connection(Protocol):
    """As `seawall.broker.Broker`, in so far as clients need it."""

    def producer(
        self,
        *,
        linger_ms: float = 5.0,
        batch_bytes: int = 65_536,
        compression: str = "none",
        durability: str | None = None,
        idempotent: bool = False,
    ) -> ProducerLike: ...
    def consumer(
        self,
        topics: str | Sequence[str],
        *,
        group: str | None = None,
        partitions: Sequence[int] | None = None,
        start: int | str | None = None,
        auto_offset_reset: str = "earliest",
        fetch_bytes: int = 1 << 20,
        on_assigned: Callable[[list[tuple[str, int]]], object] | None = None,
    ) -> ConsumerLike: ...
    def ends(self, topic: str, partition: int) -> LogEnds: ...
    def group(self, name: str) -> GroupInfo: ...
    def reset_group(self, name: str, topic: str, offsets: Mapping[int, int]) -> None: ...
    def delete_group(self, name: str) -> None: ...
    def close(self) -> None: ...
