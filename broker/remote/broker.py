"""`RemoteBroker`: a cluster, with the interface of a directory.

One client of librdkafka for questions and changes, one for each producer and consumer, and
one supervisor over all of them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import Consumer as ConsumerClient
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as ProducerClient
from confluent_kafka.admin import AdminClient

from seawall.broker.assignors import DEFAULT_ASSIGNOR
from seawall.broker.closing import Closing
from seawall.broker.consumer import check_auto_offset_reset
from seawall.broker.errors import (
    BrokerClosed,
    ForkedBroker,
    InvalidLocation,
    UnsupportedByLocation,
)
from seawall.broker.group_running import Callback, GroupOptions
from seawall.broker.groups import GroupInfo
from seawall.broker.location import Cluster
from seawall.broker.membership import MemberSettings, strategies
from seawall.broker.names import check_group_name
from seawall.broker.offsets import Position, parse_position
from seawall.broker.remote import settings
from seawall.broker.remote.aside import aside
from seawall.broker.remote.asking import REQUEST_TIMEOUT_S, Asking
from seawall.broker.remote.consumer import RemoteConsumer
from seawall.broker.remote.dead_letters import DeadLetterKeeping
from seawall.broker.remote.delivery import RemoteDelivery
from seawall.broker.remote.errors import refusal
from seawall.broker.remote.groups import Groups
from seawall.broker.remote.opening import Opening
from seawall.broker.remote.producer import RemoteProducer
from seawall.broker.remote.supervisor import ReconnectSettings, Supervisor
from seawall.broker.remote.topic_changes import TopicChanges
from seawall.broker.remote.topics import ClusterEnds, Topics
from seawall.broker.topic_info import TopicInfo
from seawall.wal import forks
from seawall.wal.lookup import TimeFound
from seawall.wal.records import COMPRESSION_CODES

if TYPE_CHECKING:
    from uuid import UUID

User = TypeVar("User", RemoteProducer, RemoteConsumer)

logger = logging.getLogger("seawall.broker")

MOST_THREADS = 8


class RemoteBroker(DeadLetterKeeping, Closing):
    """A cluster, open in this process. Safe to use from any thread. Made by `connect`.

    Nothing is waited for here: the first use connects.
    """

    def __init__(self, cluster: Cluster, reconnect: ReconnectSettings) -> None:
        self._cluster = cluster
        self.location = str(cluster)
        self._lock = threading.Lock()
        self._users: list[RemoteProducer | RemoteConsumer] = []
        self._executor: ThreadPoolExecutor | None = None
        probing, security = settings.probing(cluster, reconnect), settings.security(cluster)
        self._supervisor = Supervisor(
            self.location, lambda: list(cluster.servers), probing, security=security
        )
        self._asking = Asking(
            self._supervisor,
            lambda: self._made(AdminClient, settings.for_admin(cluster, self._on_admin_error)),
            self.location,
        )
        self._topics = Topics(self._asking)
        self._changes = TopicChanges(self._asking, self._topics)
        self._groups = Groups(self._asking, self._topics)
        forks.register(self)

    def _made(self, kind: Callable[[dict[str, Any]], Any], given: dict[str, Any]) -> Any:
        """A client of librdkafka. Raises `InvalidLocation` for settings of the location that it
        refuses, and ValueError for arguments."""
        try:
            return aside(kind, given)
        except (KafkaException, TypeError, ValueError) as error:
            reason = error.args[0] if error.args else error
            text = (reason.str() if isinstance(reason, KafkaError) else str(reason)).strip()
            if kind is not AdminClient and not any(n in text for n in self._cluster.settings):
                raise ValueError(f"librdkafka does not take this: {text}") from error
            raise InvalidLocation(location=self.location, reason=text) from error

    def _on_admin_error(self, error: KafkaError) -> None:
        self._asking.is_stale = True
        self._on_error(error)

    def _on_error(self, error: KafkaError) -> None:
        """librdkafka's report on the whole of a client, in whatever thread polls it."""
        refused = refusal(error, self.location)
        if refused is not None:
            self._supervisor.refuse(refused)
        logger.debug("%s: %s", self.location, error.str())
        self._supervisor.suspect(is_use=False)

    @property
    def cluster_id(self) -> str:
        """The id that the cluster gave itself."""
        return str(
            self._asking.ask(
                lambda client: client.cluster_id(timeout=REQUEST_TIMEOUT_S), self._asking.facts()
            )
        )

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Where an event loop has things done that wait."""
        self._asking.check_usable()
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(MOST_THREADS, "seawall-remote")
            return self._executor

    # -- topics ----------------------------------------------------------------------

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        config: Mapping[str, str | int] | None = None,
        *,
        if_not_exists: bool = False,
    ) -> TopicInfo:
        """Create a topic; it can be used when this returns. See `Broker.create_topic`.

        What ``config`` does not say, replication included, is the cluster's choice.
        """
        return self._changes.create(name, partitions, config or {}, if_not_exists=if_not_exists)

    def topics(self) -> list[TopicInfo]:
        """All topics, sorted by name, without those of the cluster's own housekeeping."""
        return self._topics.all()

    def topic(self, name: str) -> TopicInfo:
        """One topic. Raises `UnknownTopic`."""
        return self._topics.one(name)

    def alter_topic(self, name: str, config: Mapping[str, str | int | None]) -> TopicInfo:
        """Change settings of a topic. See `Broker.alter_topic`."""
        return self._changes.alter(name, config)

    def delete_topic(self, name: str, *, uuid: UUID | None = None) -> None:
        """Delete a topic, for good. See `Broker.delete_topic`; `uuid` is compared before."""
        self._changes.delete(name, uuid)

    def add_partitions(self, name: str, total: int) -> TopicInfo:
        """Give a topic partitions until it has `total`. See `Broker.add_partitions`."""
        return self._changes.add_partitions(name, total)

    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
        """Remove the records below an offset. See `Broker.delete_records`."""
        return self._changes.delete_records(topic, offsets)

    def ends(self, topic: str, partition: int) -> ClusterEnds:
        """Log start and durable end (high watermark); asking for the log end raises
        `UnsupportedByLocation`."""
        self._topics.check_partitions(topic, [partition])
        return self._topics.ends(topic, [partition])[partition]

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> TimeFound | None:
        """The first record at or after a time (ms since the epoch), None if there is none."""
        self._topics.check_partitions(topic, [partition])
        return self._topics.offset_for_time(topic, partition, timestamp_ms)

    def config(self) -> dict[str, str]:
        """The settings of one of the brokers, sorted by name; secrets are empty."""
        return self._topics.broker_config()

    def set_config(self, changes: Mapping[str, str | int | None]) -> None:
        """Change settings of all brokers. Raises `InvalidConfig`, also for fixed ones."""
        self._changes.set_broker_config(changes)

    # -- producers and consumers -----------------------------------------------------

    def producer(
        self,
        *,
        linger_ms: float = 5.0,
        batch_bytes: int = 65_536,
        buffer_bytes: int = 32 << 20,
        max_block_ms: float = 60_000,
        compression: str = "none",
        durability: str | None = None,
        idempotent: bool = True,
        delivery_timeout_ms: float | None = None,
        on_delivery: Callable[[RemoteDelivery], object] | None = None,
        partitioner: Callable[[str, bytes | None, int], int] | None = None,
    ) -> RemoteProducer:
        """A producer. Close it, or use it as a context manager. See `Broker.producer`.

        Here it is ``idempotent``, and without a ``delivery_timeout_ms`` a record waits in
        the buffer for as long as no server answers.
        """
        if compression not in COMPRESSION_CODES:
            raise ValueError(
                f"unknown compression {compression!r}; use one of {', '.join(COMPRESSION_CODES)}"
            )
        if durability not in (None, "fsync"):
            raise UnsupportedByLocation(
                operation=f"acknowledge with durability {durability!r}; a record is acknowledged "
                "when all replicas in sync have it",
                location=self.location,
            )
        if linger_ms < 0 or batch_bytes < 1 or buffer_bytes < 1 or max_block_ms < 0:
            raise ValueError("linger_ms, batch_bytes, buffer_bytes, max_block_ms: too small")
        if delivery_timeout_ms is not None and delivery_timeout_ms < 0:
            raise ValueError(f"delivery_timeout_ms is not negative, but {delivery_timeout_ms}")
        given = settings.for_producer(
            self._cluster,
            self._on_error,
            linger_ms=linger_ms,
            batch_bytes=batch_bytes,
            buffer_bytes=buffer_bytes,
            compression=compression,
            idempotent=idempotent,
            delivery_timeout_ms=delivery_timeout_ms,
        )
        self._asking.check_usable()
        return self._kept(
            RemoteProducer(
                self._asking,
                self._topics,
                lambda: self._made(ProducerClient, given),
                buffer_bytes=buffer_bytes,
                max_block_ms=max_block_ms,
                on_delivery=on_delivery,
                partitioner=partitioner,
                release=self._forget,
            )
        )

    def consumer(
        self,
        topics: str | Sequence[str],
        *,
        group: str | None = None,
        partitions: Sequence[int] | None = None,
        start: int | str | Position | None = None,
        auto_offset_reset: str = "earliest",
        fetch_bytes: int = 1 << 20,
        client_id: str = "seawall",
        group_instance_id: str | None = None,
        partition_assignment_strategy: str | Sequence[str] = DEFAULT_ASSIGNOR,
        session_timeout_ms: int = 45_000,
        heartbeat_interval_ms: int = 3_000,
        max_poll_interval_ms: int = 300_000,
        enable_auto_commit: bool = False,
        auto_commit_interval_ms: int = 5_000,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
    ) -> RemoteConsumer:
        """A consumer of all partitions of one or several topics. See `Broker.consumer`.

        In a group ``partitions`` raise `UnsupportedByLocation`, because no coordinator keeps
        others from them, and so do eager and cooperative strategies together.
        """
        names = list(dict.fromkeys([topics] if isinstance(topics, str) else topics))
        if not names:
            raise ValueError("a consumer needs at least one topic")
        check_auto_offset_reset(auto_offset_reset)
        member = MemberSettings(
            client_id=client_id,
            group_instance_id=group_instance_id,
            partition_assignment_strategy=strategies(partition_assignment_strategy),
            session_timeout_ms=session_timeout_ms,
            heartbeat_interval_ms=heartbeat_interval_ms,
            max_poll_interval_ms=max_poll_interval_ms,
        )
        if group is not None:
            check_group_name(group)
        self._asking.check_usable()
        given = settings.for_consumer(
            self._cluster,
            self._on_error,
            group=group,
            auto_offset_reset=auto_offset_reset,
            fetch_bytes=fetch_bytes,
            member=member,
        )
        opening = Opening(self._asking, self._topics, self._groups, self._forget, self.letter_sink)
        consumer = opening.open(
            lambda **more: self._made(ConsumerClient, {**given, **more}),
            names,
            group=group,
            partitions=partitions,
            position=parse_position(start) if isinstance(start, (int, str)) else start,
            auto_offset_reset=auto_offset_reset,
            member=member,
            options=GroupOptions(
                on_assigned=on_assigned,
                on_revoked=on_revoked,
                on_lost=on_lost,
                enable_auto_commit=enable_auto_commit,
                auto_commit_interval_ms=auto_commit_interval_ms,
            ),
        )
        return self._kept(consumer)

    def _kept(self, user: User) -> User:
        with self._lock:
            if self._asking.unusable is None:
                self._users.append(user)
                return user
        user.close()
        raise BrokerClosed(what="broker")

    def _forget(self, user: RemoteProducer | RemoteConsumer) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._users.remove(user)

    # -- groups ----------------------------------------------------------------------

    def groups(self) -> list[str]:
        """The names of all groups, sorted."""
        return self._groups.names()

    def group(self, name: str) -> GroupInfo:
        """Who is in a group, and its place in every partition. Raises `UnknownGroup`.

        What only a directory knows is 0 or None: generations, processes, times.
        """
        return self._groups.describe(name)

    def group_offsets(self, name: str) -> dict[tuple[str, int], int]:
        """Where a group is. See `Broker.group_offsets`."""
        return self._groups.offsets(name)

    def reset_group(self, name: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Set a group's place in a topic. See `Broker.reset_group`."""
        self._groups.reset(name, topic, offsets)

    def delete_group(self, name: str) -> None:
        """Forget a group. Raises `UnknownGroup`, and `GroupBusy` while it has members."""
        self._groups.delete(name)

    # -- the end ---------------------------------------------------------------------

    def check_usable(self) -> None:
        self._asking.check_usable()

    def _close_interrupted(self, error: BaseException) -> None:
        """See `Closing`."""
        for user in list(self._users):
            user._close_interrupted(error)
        self.close()

    def close(self) -> None:
        """Flush and close all producers, close all consumers. Safe to call twice.

        Raises the first error of a producer's `flush`, or of a consumer's callback, after
        everything is closed.
        """
        with self._lock:
            users = list(self._users)
            if self._asking.unusable is not None:
                return
        failed: Exception | None = None
        try:
            for user in users:
                try:
                    user.close()
                except Exception as error:  # noqa: BLE001 - a callback's; raised below
                    failed = failed or error
        finally:
            closed = BrokerClosed(what="broker")
            with self._lock:
                self._asking.unusable = closed
                executor = self._executor
            self._supervisor.end(closed)
            if executor is not None:
                executor.shutdown(wait=True)
            self._asking.client = None
        if failed is not None:
            raise failed

    def abandon(self) -> None:
        """In a forked child: refuse everything. librdkafka's threads are not there."""
        forks.keep_for_ever(self._asking.client)
        self._lock = threading.Lock()
        self._asking.unusable = error = ForkedBroker(what="broker", opened_by_pid=0)
        self._supervisor.abandon(error)
