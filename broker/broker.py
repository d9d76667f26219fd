"""`Broker`: a directory, open.

The facade over everything: topics, producers, consumers, groups, and what an operator
asks. Every error that reaches its users is a `BrokerError`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from seawall.broker.assignors import DEFAULT_ASSIGNOR
from seawall.broker.closing import Closing
from seawall.broker.engine import Engine, acquire_engine
from seawall.broker.errors import BrokerClosed
from seawall.broker.operating import Operating
from seawall.broker.topics import create_topic, finish_unfinished
from seawall.broker.translation import translated
from seawall.wal import forks

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from seawall.broker.catalog import TopicInfo
    from seawall.broker.consumer import Consumer
    from seawall.broker.delivery import Delivery
    from seawall.broker.group_running import Callback
    from seawall.broker.groups import GroupInfo
    from seawall.broker.offsets import Position
    from seawall.broker.producer import Producer
    from seawall.wal.log import LogEnds
    from seawall.wal.lookup import TimeFound

DURABILITIES = ("fsync", "os")


class Broker(Operating, Closing):
    """One directory, open in this process. Safe to use from any thread.

    Open it with `Broker.open`. Any number of processes may have the same directory open,
    and any number of brokers in one process.
    """

    def __init__(self, engine: Engine, *, durability: str) -> None:
        self._engine = engine
        self._durability = durability
        self._lock = threading.Lock()
        self._users: list[Producer | Consumer] = []
        self._closed = False
        forks.register(self)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] = "data",
        *,
        create: bool = True,
        durability: str = "fsync",
        open_timeout_ms: int = 30_000,
        lock_timeout_ms: int = 10_000,
    ) -> Broker:
        """Open a directory; a missing or empty one becomes a broker directory.

        ``create``: False refuses to make a new one.
        ``durability``: the default of this broker's producers, ``"fsync"`` or ``"os"``.
        ``open_timeout_ms``: how long to wait for a process that is recovering it.
        ``lock_timeout_ms``: how long to wait for any lock inside it, such as a
        partition's append lock. If this process has the directory open already, the
        first opener's value holds.

        Raises a `DirectoryError` (foreign, unusable, of another format, open in another
        container, …), `LockTimeout`, a `CatalogError` or `StateDamaged`.
        """
        if durability not in DURABILITIES:
            raise ValueError(f"durability is 'fsync' or 'os', not {durability!r}")
        with translated():
            engine = acquire_engine(
                os.fspath(path),
                create=create,
                open_timeout_ms=open_timeout_ms,
                lock_timeout_ms=lock_timeout_ms,
            )
            try:
                finish_unfinished(engine)
            except BaseException:
                engine.release()
                raise
        return cls(engine, durability=durability)

    @property
    def path(self) -> str:
        """The absolute path of the directory."""
        return self._engine.path

    @property
    def location(self) -> str:
        """Where the broker is: the path. (`connect` opens other places, too.)"""
        return self._engine.path

    @property
    def is_remote(self) -> bool:
        """Whether it is reached over a network."""
        return False

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Where an event loop has things done that wait."""
        with translated():
            return self._engine.executor

    @property
    def cluster_id(self) -> str:
        """The id that the directory got when it was made."""
        return self._engine.cluster_id

    # -- topics ----------------------------------------------------------------------

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        config: Mapping[str, str | int] | None = None,
        *,
        if_not_exists: bool = False,
    ) -> TopicInfo:
        """Create a topic; it is there for every process when this returns.

        ``config`` takes Kafka's names, such as ``segment.bytes`` (see
        ``seawall.broker.config``). With ``if_not_exists`` a topic that is there is
        returned as it is.

        Raises `TopicExists`, `InvalidTopicName`, `InvalidConfig`, `ValueError`.
        """
        with self._usable() as engine:
            return create_topic(engine, name, partitions, config or {}, if_not_exists=if_not_exists)

    def topics(self) -> list[TopicInfo]:
        """All topics, sorted by name."""
        with self._usable() as engine:
            return engine.topics()

    def topic(self, name: str) -> TopicInfo:
        """One topic. Raises `UnknownTopic`."""
        with self._usable() as engine:
            return engine.topic(name)

    def ends(self, topic: str, partition: int) -> LogEnds:
        """Log start, durable end (high watermark) and log end of a partition."""
        with self._usable(topic, partition) as engine:
            return engine.log(engine.partition_id(topic, partition)).ends()

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> TimeFound | None:
        """The first record at or after a time (ms since the epoch), None if there is none."""
        with self._usable(topic, partition) as engine:
            log = engine.log(engine.partition_id(topic, partition))
            return log.offset_for_time(timestamp_ms)

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
        idempotent: bool = False,
        delivery_timeout_ms: float = 120_000,
        on_delivery: Callable[[Delivery], object] | None = None,
        partitioner: Callable[[str, bytes | None, int], int] | None = None,
    ) -> Producer:
        """A producer. Close it, or use it as a context manager.

        ``linger_ms``: how long a record may wait for others to share its batch, unless
        somebody asks for its result. ``batch_bytes``: a batch goes out before it would
        be longer. ``buffer_bytes``: what may be on its way in all; beyond it `send`
        waits up to ``max_block_ms``, then raises `BufferFull`. ``compression``: none,
        gzip, snappy, lz4 or zstd. ``durability``: ``"fsync"`` acknowledges what is on
        disk; ``"os"`` what the kernel has, which a power cut may take back (consumers
        see it once it is synced, some 100 ms later). ``idempotent``: what meets something
        that can pass is tried again for ``delivery_timeout_ms``, and stored once, in order.
        ``on_delivery``: called for each
        record with its `Delivery`, in the thread that wrote it. ``partitioner``: called
        with topic, key and number of partitions instead of murmur2.
        """
        from seawall.broker.producer import Producer  # many commands have no use for one

        with self._usable() as engine, self._lock:
            if self._closed:
                raise BrokerClosed(what="broker")
            producer = Producer(
                engine,
                linger_ms=linger_ms,
                batch_bytes=batch_bytes,
                buffer_bytes=buffer_bytes,
                max_block_ms=max_block_ms,
                compression=compression,
                durability=durability or self._durability,
                idempotent=idempotent,
                delivery_timeout_ms=delivery_timeout_ms,
                on_delivery=on_delivery,
                partitioner=partitioner,
                release=self._forget,
            )
            self._users.append(producer)
            engine.compactor.start()
            return producer

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
    ) -> Consumer:
        """A consumer of all partitions of one or several topics, or of `partitions`.

        Without a ``group`` it begins at ``start`` (an offset, or an expression such as
        ``"end"``, ``"-10"``, ``"@-1h"``), else where ``auto_offset_reset`` says. In a
        group it begins where the group has acknowledged; ``start`` and
        ``auto_offset_reset`` (``"earliest"``, ``"latest"`` or ``"error"``) hold for
        partitions that the group has not been in, and are stored before the first poll.

        ``fetch_bytes`` is how much is read of a partition at once.

        The members of a group share its partitions, in any number of processes. With
        ``partitions`` a member has just these, and nobody else has them.
        ``partition_assignment_strategy``: ``"range"``, ``"roundrobin"``,
        ``"cooperative-sticky"``, or several in order of preference; all members must know
        one. ``group_instance_id`` makes a static member: it may be away for as long as its
        session lasts and keeps its partitions (KIP-345). A member whose process dies loses
        them within a second; one that is not heard of for ``session_timeout_ms``, or does
        not poll for ``max_poll_interval_ms``, is taken for dead as well.

        ``on_assigned``, ``on_revoked`` and ``on_lost`` are called inside `poll` with a list
        of (topic, partition): after partitions have come, before they go (the time to
        acknowledge), and when they are gone already, because this member was taken for dead
        (without ``on_lost``, ``on_revoked`` is told of that, too).
        ``enable_auto_commit``: what earlier polls have handed out is acknowledged by itself,
        every ``auto_commit_interval_ms`` and before partitions go.

        Raises `UnknownTopic`, `UnknownPartition`, `InvalidGroupName`, `NoOffset`,
        `OffsetOutOfRange`, `GroupBusy` (another member has asked for one of
        ``partitions``), `GroupFull`, `InconsistentGroupProtocol`, and ValueError.
        """
        from seawall.broker.consumer import check_auto_offset_reset  # nor for one of these
        from seawall.broker.group_running import GroupOptions
        from seawall.broker.membership import MemberSettings, strategies
        from seawall.broker.subscribe import open_consumer

        check_auto_offset_reset(auto_offset_reset)
        member = MemberSettings(
            client_id=client_id,
            group_instance_id=group_instance_id,
            partition_assignment_strategy=strategies(partition_assignment_strategy),
            session_timeout_ms=session_timeout_ms,
            heartbeat_interval_ms=heartbeat_interval_ms,
            max_poll_interval_ms=max_poll_interval_ms,
        )
        options = GroupOptions(
            on_assigned=on_assigned,
            on_revoked=on_revoked,
            on_lost=on_lost,
            enable_auto_commit=enable_auto_commit,
            auto_commit_interval_ms=auto_commit_interval_ms,
        )
        with self._usable() as engine:
            consumer = open_consumer(
                engine,
                [topics] if isinstance(topics, str) else list(topics),
                group=group,
                partitions=partitions,
                start=start,
                auto_offset_reset=auto_offset_reset,
                fetch_bytes=fetch_bytes,
                member=member,
                options=options,
                release=self._forget,
            )
            with self._lock:
                if not self._closed:
                    self._users.append(consumer)
                    if group is not None:
                        engine.compactor.start()
                    return consumer
            consumer.close()  # `close` did not know of it
            raise BrokerClosed(what="broker")

    def _forget(self, user: Producer | Consumer) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._users.remove(user)

    # -- groups ----------------------------------------------------------------------

    def groups(self) -> list[str]:
        """The names of all groups, sorted."""
        with self._usable() as engine:
            return [group.name for group in engine.groups.groups()]

    def group(self, name: str) -> GroupInfo:
        """Who is in a group, and its place in every partition. Raises `UnknownGroup`."""
        from seawall.broker import groups

        with self._usable() as engine:
            return groups.describe(engine, name)

    def group_offsets(self, name: str) -> dict[tuple[str, int], int]:
        """Where a group is in every partition, as (topic, partition) -> the offset of the next
        record to read; much cheaper than `group`. Raises `UnknownGroup`."""
        from seawall.broker import groups

        with self._usable() as engine:
            return groups.committed(engine, name)

    def reset_group(self, name: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Set a group's place in a topic: partition -> offset of the next record to read.

        Raises `GroupBusy` while the group has members, `UnknownTopic`,
        `UnknownPartition`, and `OffsetOutOfRange`. A group that does not exist is made.
        """
        from seawall.broker import groups

        with self._usable(topic) as engine:
            groups.reset(engine, name, topic, offsets)

    def delete_group(self, name: str) -> None:
        """Forget a group. Raises `UnknownGroup`, and `GroupBusy` while it has members."""
        from seawall.broker import groups

        with self._usable() as engine:
            groups.delete(engine, name)

    @property
    def engine(self) -> Engine:
        """What the directory consists of, for parts of seawall that need more than this."""
        return self._engine

    @contextlib.contextmanager
    def _usable(self, topic: str | None = None, partition: int | None = None) -> Iterator[Engine]:
        if self._closed:
            raise BrokerClosed(what="broker")
        with translated(topic, partition):
            self._engine.check_usable()
            yield self._engine

    def close(self) -> None:
        """Flush and close all producers, close all consumers, let go of the directory.

        Safe to call twice. Raises the first error of a producer's `flush`, or of a
        consumer's callback, after everything is closed.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            users = list(self._users)
        failed: Exception | None = None
        try:
            for user in users:
                try:
                    user.close()
                except Exception as error:  # noqa: BLE001 - a callback's; raised below
                    failed = failed or error
        finally:
            with translated():
                self._engine.release()
        if failed is not None:
            raise failed

    def abandon(self) -> None:
        """In a forked child: another thread may have held the lock when it was forked."""
        self._lock = threading.Lock()
