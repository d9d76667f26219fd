"""Publishing over the network: librdkafka gathers, sends and repeats; this waits and tells.

A record is acknowledged when all replicas in sync have it. With ``idempotent`` (the
default here) what is repeated is stored once, and in order. Records wait out an outage in
the buffer, for as long as it takes, or for ``delivery_timeout_ms``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as Client

from seawall.broker.delivery import RecordMetadata
from seawall.broker.errors import (
    BrokerClosed,
    BrokerError,
    BufferFull,
    ForkedBroker,
    InvalidRecord,
    RecordTooLarge,
    UnknownPartition,
    UnknownTopic,
)
from seawall.broker.producer import NO_KEY, RECORD_OVERHEAD_BYTES, MustWait
from seawall.broker.remote.delivery import SUSPICIOUS_S, RemoteDelivery
from seawall.broker.remote.errors import kafka_error, lost_signal, named
from seawall.broker.remote.flushing import Flusher, Flushing
from seawall.broker.remote.supervisor import Link
from seawall.broker.remote.topics import Topics
from seawall.broker.routes import as_header_tuple, check_bytes, check_timestamp
from seawall.wal import forks
from seawall.wal.records import HEADER_BYTES

if TYPE_CHECKING:
    from seawall.broker.remote.asking import Asking

    Headers = Mapping[str, bytes | None] | Sequence[tuple[str, bytes | None]]

logger = logging.getLogger("seawall.broker")

_POLL_S = 0.1
_ROOM_S = 0.02
# How long new partitions may take to be known to librdkafka.
NEWS_S = 5.0
# How soon the servers are tried again for a record that was sent after they were given up.
GIVEN_UP_S = 0.5


BAD_NAME = "the name of the header {!r} has a NUL or is not UTF-8, which librdkafka cannot send"


def _is_sendable(name: str) -> bool:
    """Whether a header may have this name: confluent-kafka crashes at others, or cuts them."""
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            return False
    return "\0" not in name


class Route(NamedTuple):
    """What has to be known of a topic before a record is taken for it."""

    partitions: int
    max_record_bytes: int
    needs_keys: bool


class RemoteProducer(Flushing):
    """Publishes records to the topics of a cluster. Safe to use from any thread.

    Made by `RemoteBroker.producer`. Has what `Producer` has.
    """

    def __init__(
        self,
        asking: Asking,
        topics: Topics,
        make: Callable[[], Client],
        *,
        buffer_bytes: int,
        max_block_ms: float,
        on_delivery: Callable[[RemoteDelivery], object] | None,
        partitioner: Callable[[str, bytes | None, int], int] | None,
        release: Callable[[RemoteProducer], None],
    ) -> None:
        self._asking = asking
        self._topics = topics
        self._buffer_bytes = buffer_bytes
        self._max_block_ms = max_block_ms
        self._on_delivery = on_delivery
        self._partitioner = partitioner
        self._release = release
        self._routes: dict[str, Route] = {}
        self._unusable: BrokerError | None = None
        self._closing = threading.Lock()
        self._failed: list[RemoteDelivery] = []
        self._settled_s = time.monotonic()
        self._given_up: BrokerError | None = None
        self._has_worked = False
        self._client: Client | None = make()
        self._flusher = Flusher(self._client)
        self._ended = threading.Event()
        asking.supervisor.on_given_up.append(self._let_go)
        self._thread = threading.Thread(
            target=self._serve, name="seawall-remote-producer", daemon=True
        )
        self._thread.start()
        self.close_at_exit()
        forks.register(self)

    # -- sending ---------------------------------------------------------------------

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> RemoteDelivery:
        """Publish a record; returns as soon as it is in the buffer. See `Producer.send`.

        The first record for a topic asks the servers about it. If none answers within
        ``max_block_ms``, that raises `ConnectionLost`.
        """
        return self.put(topic, value, key, headers, partition, timestamp, may_wait=True)

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
    ) -> RemoteDelivery:
        """Like `send`, but raises `MustWait` first if it may not wait."""
        client = self._usable()
        route = self._routes.get(topic)
        if route is None:
            route = self._look_up(topic, may_wait)
        size = RECORD_OVERHEAD_BYTES
        if value is not None:
            if type(value) is not bytes:
                value = check_bytes(value, "value")
            size += len(value)
        if key is not None:
            if type(key) is not bytes:
                key = check_bytes(key, "key")
            size += len(key)
        header_list: list[Any] = []
        if headers:
            header_tuple, header_bytes = as_header_tuple(headers)
            header_list = list(header_tuple)
            for name, _ in header_list:
                if not _is_sendable(name):
                    raise InvalidRecord(reason=BAD_NAME.format(name), topic=topic)
            size += header_bytes
        if timestamp is None:
            timestamp = time.time_ns() // 1_000_000
        else:
            check_timestamp(timestamp)
            if timestamp < 0:
                raise ValueError(f"timestamp {timestamp} is not in ms since the epoch")
        if (
            size > route.max_record_bytes
            or (key is None and route.needs_keys)
            or (partition is not None and not 0 <= partition < route.partitions)
        ):
            route = self._look_up(topic, may_wait)  # the topic may have been changed
        if size > route.max_record_bytes:
            raise RecordTooLarge(topic=topic, size_bytes=size, max_bytes=route.max_record_bytes)
        if key is None and route.needs_keys:
            raise InvalidRecord(reason=NO_KEY, topic=topic, partition=partition)
        if partition is None and self._partitioner is not None:
            partition = self._partitioner(topic, key, route.partitions)
        if partition is not None and not 0 <= partition < route.partitions:
            raise UnknownPartition(topic=topic, partition=partition, partitions=route.partitions)
        delivery = RemoteDelivery(self, topic, timestamp, size)
        if self._on_delivery is not None:
            delivery.add_done_callback(self._on_delivery)
        deadline_s: float | None = None
        while True:
            try:
                client.produce(
                    topic,
                    value,
                    key,
                    -1 if partition is None else partition,
                    on_delivery=delivery.report,
                    # 0 stands for now there, so that the first ms of 1970 is the second here.
                    timestamp=timestamp or 1,
                    headers=header_list,
                )
                return delivery
            except BufferError:
                if not may_wait:
                    raise MustWait from None
                now_s = time.monotonic()
                if deadline_s is None:
                    deadline_s = now_s + self._max_block_ms / 1000
                if now_s >= deadline_s:
                    raise BufferFull(
                        buffer_bytes=self._buffer_bytes, max_block_ms=self._max_block_ms
                    ) from None
                self._ended.wait(_ROOM_S)
                client = self._usable()
            except KafkaException as error:
                failure = kafka_error(error)
                if failure.code() == KafkaError._UNKNOWN_PARTITION and partition is not None:
                    # The topic has it, and librdkafka has not heard yet.
                    deadline_s = deadline_s or time.monotonic() + NEWS_S
                    if time.monotonic() < deadline_s:
                        self._hear(client, topic, may_wait)
                        continue
                facts = self._asking.facts(
                    topic=topic,
                    partition=partition,
                    partitions=route.partitions,
                    size_bytes=size,
                    max_bytes=route.max_record_bytes,
                )
                raise named(failure, facts) from error
            except TypeError as error:
                raise lost_signal(error) from None

    def _hear(self, client: Client, topic: str, may_wait: bool) -> None:
        """Have librdkafka ask for the partitions of a topic."""
        if not may_wait:
            raise MustWait
        with suppress(KafkaException):
            client.list_topics(topic, timeout=NEWS_S)
        self._ended.wait(_ROOM_S)

    def _look_up(self, topic: str, may_wait: bool) -> Route:
        if not may_wait:
            raise MustWait
        deadline_s = time.monotonic() + self._max_block_ms / 1000
        info, settings = self._topics.described(topic, deadline_s=deadline_s)
        most = int(settings.get("max.message.bytes") or 1_048_588)
        route = self._routes[topic] = Route(
            len(info.partitions),
            most - HEADER_BYTES,
            "compact" in settings.get("cleanup.policy", "").split(","),
        )
        return route

    def hurry(self, delivery: RemoteDelivery) -> None:
        """Have what waits for company sent now."""
        if isinstance(self._unusable, ForkedBroker):
            raise self._unusable
        if not delivery.done():
            self._flusher.hurry()

    # -- the reports -----------------------------------------------------------------

    def settle(self, delivery: RemoteDelivery, error: KafkaError | None, message: Any) -> None:
        """In the thread that polls: the outcome of a record."""
        self._settled_s = time.monotonic()
        if error is None:
            self._has_worked = True
            kind, timestamp = message.timestamp()
            delivery.settle(
                RecordMetadata(
                    delivery.topic,
                    message.partition(),
                    message.offset(),
                    timestamp if kind == 2 else delivery.timestamp,  # 2: the server's
                ),
                None,
            )
            return
        failure: BrokerError
        if error.code() == KafkaError._PURGE_QUEUE:
            failure = self._unusable or self._given_up or self._asking.supervisor.lost()
        else:
            route = self._routes.get(delivery.topic)
            failure = named(
                error,
                self._asking.facts(
                    topic=delivery.topic,
                    partition=message.partition() if message is not None else None,
                    size_bytes=delivery.size_bytes,
                    max_bytes=route.max_record_bytes if route else 0,
                ),
            )
            if isinstance(failure, (UnknownTopic, UnknownPartition)):
                self._routes.pop(delivery.topic, None)
        self._failed.append(delivery)
        delivery.settle(None, failure)

    def _serve(self) -> None:
        """In the producer's thread: reports, and a look at the connection if none come."""
        client = self._client
        while client is not None and not self._ended.is_set():
            client.poll(_POLL_S)
            self._watch(client)
            now_s = time.monotonic()
            supervisor = self._asking.supervisor
            patience_s = GIVEN_UP_S if supervisor.link is Link.GIVEN_UP else SUSPICIOUS_S
            if len(client) == 0:
                self._settled_s = now_s
            elif now_s - self._settled_s > patience_s:
                self._settled_s = now_s
                supervisor.suspect()

    def _watch(self, client: Client) -> None:
        """See whether the servers let this client in, as far as anything was heard of it."""
        supervisor = self._asking.supervisor
        if self._has_worked:
            self._has_worked = False
            supervisor.worked()
        elif len(client):
            supervisor.refused()

    def _let_go_of_all(self) -> None:
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._asking.supervisor.on_given_up.remove(self._let_go)
        self._release(self)

    def _let_go(self, error: BrokerError) -> None:
        """The connection was given up: nothing more is tried."""
        self._given_up = error
        client = self._client
        if client is not None:
            client.purge()

    # -- the rest --------------------------------------------------------------------

    def _usable(self) -> Client:
        client = self._client
        if self._unusable is not None or client is None:
            raise self._unusable or BrokerClosed(what="producer")
        return client

    def abandon(self) -> None:
        """In a forked child: refuse everything. librdkafka's threads are not there."""
        if self._client is not None:
            forks.keep_for_ever(self._client)
        self._unusable = ForkedBroker(what="producer", opened_by_pid=0)
        self._closing = threading.Lock()
        self.forget_at_exit()
