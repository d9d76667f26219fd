"""What a broker is, wherever it is: the interface that a directory and a cluster share.

Type checkers hold both sides against it (`connect` returns it). What `Broker` documents holds
for both, unless `RemoteBroker` says otherwise; docs/scaling.md lists the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from seawall.broker.closing import Closes

if TYPE_CHECKING:
    from uuid import UUID

    from seawall.broker.dead_letters import DeadLetters, DeadLetterTopic
    from seawall.broker.delivery import RecordMetadata
    from seawall.broker.errors import BrokerError
    from seawall.broker.group_running import Callback
    from seawall.broker.groups import GroupInfo
    from seawall.broker.handling import Handled
    from seawall.broker.handling_place import RunPlace
    from seawall.broker.inspect import BrokerInfo, Finding
    from seawall.broker.offsets import Position
    from seawall.broker.producer_ids import ProducerInfo
    from seawall.broker.topic_info import TopicInfo
    from seawall.broker.trimming import Trimmed
    from seawall.wal.log import LogEnds
    from seawall.wal.lookup import TimeFound
    from seawall.wal.records import Record

    Headers = Mapping[str, bytes | None] | Sequence[tuple[str, bytes | None]]

Place = tuple[str, int]


class AnyBatch(Protocol):
    """What settles together."""

    @property
    def error(self) -> BrokerError | None: ...
    def when_done(self, callback: Callable[[], object]) -> None: ...


class AnyDelivery(Protocol):
    """The outcome of one `send`."""

    @property
    def batch(self) -> Any: ...
    def done(self) -> bool: ...
    def result(self, timeout: float | None = None) -> RecordMetadata: ...
    def exception(self, timeout: float | None = None) -> BrokerError | None: ...
    def metadata(self) -> RecordMetadata: ...
    def add_done_callback(self, callback: Callable[[Any], object]) -> None: ...


class AnyProducer(Closes, Protocol):
    """Publishes records."""

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> AnyDelivery: ...
    def put(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers | None,
        partition: int | None,
        timestamp: int | None,
        *,
        may_wait: bool,
    ) -> AnyDelivery: ...
    @property
    def hurry(self) -> Callable[[Any], None]: ...
    def flush(self, timeout_ms: float | None = None) -> None: ...
    def close(self, timeout_ms: float | None = None) -> None: ...


class AnyConsumer(Closes, Protocol):
    """Reads records, alone or in a group."""

    def poll(self, max_records: int = 500, timeout_ms: float | None = 0) -> list[Record]: ...
    def __iter__(self) -> Iterator[Record]: ...
    def hand_out(self, records: Sequence[Record]) -> Iterator[Record]: ...
    def give_back(self, records: Sequence[Record]) -> None: ...
    def assignment(self) -> list[Place]: ...
    @property
    def is_rebalancing(self) -> bool: ...
    @property
    def is_closed(self) -> bool: ...
    def check_usable(self) -> None: ...
    def position(self, topic: str, partition: int) -> int: ...
    def reached(self, topic: str, partition: int) -> int: ...
    def seek(self, topic: str, partition: int, offset: int) -> None: ...
    def committed(self, topic: str, partition: int) -> int | None: ...
    def lag(self) -> dict[Place, int]: ...
    def ack(self, records: Record | Sequence[Record] | None = None) -> None: ...
    @property
    def run(self) -> Callable[..., Handled]: ...
    def place_to_run(self) -> RunPlace: ...
    def close(self) -> None: ...


class AnyBroker(Closes, Protocol):
    """A directory, or a cluster."""

    @property
    def location(self) -> str: ...
    @property
    def is_remote(self) -> bool: ...
    @property
    def cluster_id(self) -> str: ...
    @property
    def executor(self) -> ThreadPoolExecutor: ...

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        config: Mapping[str, str | int] | None = None,
        *,
        if_not_exists: bool = False,
    ) -> TopicInfo: ...
    def topics(self) -> list[TopicInfo]: ...
    def topic(self, name: str) -> TopicInfo: ...
    def alter_topic(self, name: str, config: Mapping[str, str | int | None]) -> TopicInfo: ...
    def delete_topic(self, name: str, *, uuid: UUID | None = None) -> None: ...
    def add_partitions(self, name: str, total: int) -> TopicInfo: ...
    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]: ...
    def ends(self, topic: str, partition: int) -> LogEnds: ...
    def offset_for_time(
        self, topic: str, partition: int, timestamp_ms: int
    ) -> TimeFound | None: ...
    def config(self) -> dict[str, str]: ...
    def set_config(self, changes: Mapping[str, str | int | None]) -> None: ...

    def producer(
        self,
        *,
        linger_ms: float = ...,
        batch_bytes: int = ...,
        buffer_bytes: int = ...,
        max_block_ms: float = ...,
        compression: str = ...,
        durability: str | None = ...,
        idempotent: bool = ...,
        delivery_timeout_ms: float = ...,
        on_delivery: Callable[[Any], object] | None = ...,
        partitioner: Callable[[str, bytes | None, int], int] | None = ...,
    ) -> AnyProducer: ...
    def consumer(
        self,
        topics: str | Sequence[str],
        *,
        group: str | None = ...,
        partitions: Sequence[int] | None = ...,
        start: int | str | Position | None = ...,
        auto_offset_reset: str = ...,
        fetch_bytes: int = ...,
        client_id: str = ...,
        group_instance_id: str | None = ...,
        partition_assignment_strategy: str | Sequence[str] = ...,
        session_timeout_ms: int = ...,
        heartbeat_interval_ms: int = ...,
        max_poll_interval_ms: int = ...,
        enable_auto_commit: bool = ...,
        auto_commit_interval_ms: int = ...,
        on_assigned: Callback | None = ...,
        on_revoked: Callback | None = ...,
        on_lost: Callback | None = ...,
    ) -> AnyConsumer: ...

    def groups(self) -> list[str]: ...
    def group(self, name: str) -> GroupInfo: ...
    def group_offsets(self, name: str) -> dict[Place, int]: ...
    def reset_group(self, name: str, topic: str, offsets: Mapping[int, int]) -> None: ...
    def delete_group(self, name: str) -> None: ...

    # What only a directory can do raises `UnsupportedByLocation` elsewhere.
    def info(self) -> BrokerInfo: ...
    def verify(self, topic: str | None = None) -> Iterator[Finding]: ...
    def compact(self, topic: str | None = None, *, dry_run: bool = False) -> list[Trimmed]: ...
    def producers(self, topic: str, partition: int) -> list[ProducerInfo]: ...
    def dead_letter_topics(self) -> list[DeadLetterTopic]: ...
    def dead_letters(self, topic: str) -> DeadLetters: ...

    def close(self) -> None: ...
