"""Dead letters in a cluster: writing them, and remembering which were redriven.

They look as in a directory, and stand in topics of the same names. Where the cluster knows no
``cleanup.policy=acknowledged`` (Apache Kafka), their topic keeps everything for ever: what is
there goes by ``purge`` only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from confluent_kafka import TopicPartition

from seawall.broker import dead_letters
from seawall.broker.dead_letter_writer import LINGER_MS, Burying, limit_for
from seawall.broker.errors import (
    Away,
    BrokerError,
    UnknownTopic,
    UnsupportedByLocation,
)
from seawall.broker.names import REDRIVE_GROUP
from seawall.broker.redriven import Redriven
from seawall.broker.remote.group_consumer import RemoteGroupConsumer
from seawall.broker.remote.only_directories import OnlyDirectories
from seawall.broker.remote.supervisor import Link
from seawall.broker.routes import MOST_TIMESTAMP_MS
from seawall.broker.stretch import read_stretch
from seawall.wal.records import HEADER_BYTES, Header, Record

if TYPE_CHECKING:
    from seawall.broker.dead_letters import DeadLetters, DeadLetterTopic
    from seawall.broker.delivery import RecordMetadata
    from seawall.broker.handling import Failure
    from seawall.broker.redrive_places import RedriveSession
    from seawall.broker.remote.asking import Asking
    from seawall.broker.remote.broker import RemoteBroker
    from seawall.broker.remote.delivery import RemoteDelivery
    from seawall.broker.remote.groups import Groups
    from seawall.broker.remote.producer import RemoteProducer
    from seawall.broker.remote.topic_changes import Configs, TopicChanges
    from seawall.broker.remote.topics import Topics

# How long a handler's thread waits at a time; the dead letter waits for longer.
PATIENCE_S = 2.0
# What is still on its way when a run ends has so long to arrive.
CLOSING_MS = 2_000
# How long a redrive may take to be given all partitions.
JOINING_S = 30.0
# One that was killed is missed soon; 6 s are the least that Apache Kafka grants by default.
SESSION_MS = 6_000
BEAT_MS = 1_000

# So many dead letters are remembered, in case their records come again.
MOST_WRITTEN = 1_000

_Identity = tuple[str, int, int, int, int]
_FOR_EVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


def _identity(record: Record) -> _Identity:
    """Tells a record from another one that has its place, in a topic that was made anew."""
    return (*record[:4], hash((record.key, record.value)))


class RemoteDeadLetterWriter(Burying):
    """Writes the dead letters of a group. Safe to use from any thread.

    It never waits for long: what is not acknowledged in time stays on its way, and the next
    attempt for the same record waits for that one instead of sending it again. A record that
    comes again because its member had to join anew is not written again, either.
    """

    def __init__(
        self,
        asking: Asking,
        topics: Topics,
        changes: TopicChanges,
        make_producer: Callable[[], RemoteProducer],
        group: str,
    ) -> None:
        super().__init__(group)
        self._asking = asking
        self._topics = topics
        self._changes = changes
        self._make_producer = make_producer
        self._lock = threading.Lock()
        self._producer: RemoteProducer | None = None
        self._partitions: dict[str, int] = {}
        self._under_way: dict[_Identity, RemoteDelivery] = {}
        self._written: dict[_Identity, RecordMetadata] = {}

    def write(self, record: Record, failure: Failure, attempts: int, topic: str) -> RecordMetadata:
        """Return once all replicas in sync have it. Raises what keeps it from that, `Away`
        if it may yet arrive."""
        if self._asking.supervisor.link is not Link.UP:
            self._asking.supervisor.suspect()
            raise self._away("no server answers")
        written = self._written.get(_identity(record))
        if written is not None:
            return written
        delivery = self._under_way.get(_identity(record))
        if delivery is not None:
            return self._settled(record, delivery)
        try:
            return self.bury(record, failure, attempts, topic, time.time_ns() // 1_000_000)
        except UnknownTopic:
            self._partitions.pop(topic, None)  # somebody has deleted it
            raise

    def _send(self, record: Record, headers: list[Header], topic: str) -> RecordMetadata:
        with self._lock:
            if self._producer is None:
                # Whoever sends asks for the result, so that nothing waits for so long.
                self._producer = self._make_producer()
            producer = self._producer
        delivery = producer.send(
            topic,
            record.value,
            key=record.key,
            headers=headers,
            partition=record.partition,
            timestamp=record.timestamp if 0 <= record.timestamp < MOST_TIMESTAMP_MS else None,
        )
        self._under_way[_identity(record)] = delivery
        return self._settled(record, delivery)

    def _settled(self, record: Record, delivery: RemoteDelivery) -> RecordMetadata:
        try:
            metadata = delivery.result(PATIENCE_S)
        except TimeoutError:
            raise self._away("a dead letter is not acknowledged") from None
        except BrokerError:
            self._under_way.pop(_identity(record), None)
            raise
        with self._lock:
            self._under_way.pop(_identity(record), None)
            self._written[_identity(record)] = metadata
            if len(self._written) > MOST_WRITTEN:
                del self._written[next(iter(self._written))]
        return metadata

    def _see_to_topic(self, record: Record, topic: str) -> None:
        if record.partition < self._partitions.get(topic, 0):
            return
        deadline_s = time.monotonic() + PATIENCE_S
        try:
            found, _ = self._topics.described(topic, deadline_s=deadline_s)
        except UnknownTopic:
            origin, settings = self._topics.described(record.topic, deadline_s=deadline_s)
            limit = limit_for(int(settings.get("max.message.bytes") or 1_048_588))
            count = len(origin.partitions)
            config: Configs = {"cleanup.policy": "acknowledged", "max.message.bytes": limit}
            try:
                found = self._changes.create(topic, count, config, if_not_exists=True)
            except UnsupportedByLocation:
                config = {**config, **_FOR_EVER}
                found = self._changes.create(topic, count, config, if_not_exists=True)
        if record.partition >= len(found.partitions):
            found = self._changes.add_partitions(topic, record.partition + 1)
        self._partitions[topic] = len(found.partitions)

    def _make_room(self, topic: str, size_bytes: int) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        _, settings = self._topics.described(topic, deadline_s=deadline_s)
        wanted = limit_for(size_bytes + HEADER_BYTES)
        if wanted > int(settings.get("max.message.bytes") or 0):
            self._changes.alter(topic, {"max.message.bytes": wanted})

    def _away(self, reason: str) -> Away:
        return Away(location=self._asking.location, reason=reason)

    def close(self) -> None:
        """Close the producer. What has not arrived by then comes again as its record does."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(CLOSING_MS)
            except (TimeoutError, BrokerError):
                # Of each the outcome is unknown, and none was acknowledged.
                pass


class DeadLetterKeeping(OnlyDirectories):
    """The part of a `RemoteBroker` that looks after dead letters."""

    _asking: Asking
    _topics: Topics
    _changes: TopicChanges
    _groups: Groups

    def letter_sink(self, group: str) -> RemoteDeadLetterWriter:
        """What writes the dead letters of a group."""
        return RemoteDeadLetterWriter(
            self._asking,
            self._topics,
            self._changes,
            lambda: cast("RemoteBroker", self).producer(linger_ms=LINGER_MS),
            group,
        )

    def dead_letter_topics(self) -> list[DeadLetterTopic]:
        """The topics that hold dead letters. See `Broker.dead_letter_topics`."""
        broker = cast("RemoteBroker", self)
        return dead_letters.find(broker, ClusterRedrives(broker, self._groups))

    def dead_letters(self, topic: str) -> DeadLetters:
        """The dead letters of a topic. See `Broker.dead_letters`."""
        broker = cast("RemoteBroker", self)
        return dead_letters.DeadLetters(broker, ClusterRedrives(broker, self._groups), topic)


class ClusterRedrives:
    """The group of redrives in a cluster. See `RedrivePlaces`."""

    def __init__(self, broker: RemoteBroker, groups: Groups) -> None:
        self._broker = broker
        self._groups = groups

    def redriven(self, topic: str) -> dict[int, Redriven]:
        """See `RedrivePlaces`."""
        places = self._groups.places(REDRIVE_GROUP)
        return {
            each.number: Redriven(*places.get((topic, each.number), ()))
            for each in self._broker.topic(topic).partitions
        }

    def open(self, topic: str, starts: Mapping[int, int]) -> RedriveSession:
        """See `RedrivePlaces`. No coordinator keeps partitions for one member: whoever is not
        given all of them is not alone."""
        if any(
            name == topic
            for member in self._groups.members(REDRIVE_GROUP)
            for name, _ in member.assignment
        ):
            raise self._groups.busy(REDRIVE_GROUP)
        member = self._broker.consumer(
            topic, group=REDRIVE_GROUP, session_timeout_ms=SESSION_MS, heartbeat_interval_ms=BEAT_MS
        )
        if not isinstance(member, RemoteGroupConsumer):
            raise TypeError("a consumer in a group is none")
        wanted = [(topic, number) for number in sorted(starts)]
        member.held_back = frozenset(wanted)
        try:
            deadline_s = time.monotonic() + JOINING_S
            while member.assignment() != wanted:
                if time.monotonic() > deadline_s:
                    raise self._groups.busy(REDRIVE_GROUP)
                member.poll(timeout_ms=100)
            # It is there to be alone, and to commit; it reads nothing.
            member.client.pause([TopicPartition(*place) for place in wanted])
        except BaseException:
            member.close()
            raise
        return _ClusterSession(self._broker, self._groups, member, topic, starts)


class _ClusterSession:
    def __init__(
        self,
        broker: RemoteBroker,
        groups: Groups,
        member: RemoteGroupConsumer,
        topic: str,
        starts: Mapping[int, int],
    ) -> None:
        self._groups = groups
        self._member = member
        self._topic = topic
        self._wanted = [(topic, number) for number in sorted(starts)]
        self._records: Iterator[Record] = chain.from_iterable(
            read_stretch(broker, topic, number, start, broker.ends(topic, number).durable_end)
            for number, start in starts.items()
        )

    def poll(self, max_records: int) -> Sequence[Record]:
        self._member.attend()
        if self._member.assignment() != self._wanted:
            raise self._groups.busy(REDRIVE_GROUP)
        return list(islice(self._records, max_records))

    def remember(self, number: int, place: Redriven) -> None:
        self._member.commit_beside((self._topic, number), place.committed, str(place))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._member.close()
