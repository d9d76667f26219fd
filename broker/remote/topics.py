"""Topics of a cluster: what there is, and changing it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from confluent_kafka import (
    OFFSET_INVALID,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    ConfigResource,
    ConfigSource,
    OffsetSpec,
    ResourceType,
)

from seawall.broker.errors import (
    BrokerError,
    OffsetOutOfRange,
    UnknownPartition,
    UnknownTopic,
    UnsupportedByLocation,
)
from seawall.broker.names import check_topic_name
from seawall.broker.remote.asking import (
    REQUEST_TIMEOUT_S,
    Asking,
    one,
    request_timeout_s,
    some,
)
from seawall.broker.remote.errors import AWAY, kafka_error
from seawall.broker.topic_info import PartitionInfo, TopicInfo
from seawall.wal.log import LogEnds
from seawall.wal.lookup import TimeFound


class ClusterEnds(LogEnds):
    """The ends of a partition elsewhere. How far it is written there, nobody says."""

    @property
    def log_end(self) -> int:
        raise UnsupportedByLocation(
            operation="tell the end of what is written, durable or not; ask for durable_end",
            location="a cluster",
        )


class Topics:
    """Topics, partitions and their records, as an operator sees them."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    # -- looking ---------------------------------------------------------------------

    def names(self, *, deadline_s: float | None = None) -> list[str]:
        """All topics, those of the cluster's own housekeeping included."""
        listed = self._asking.ask(
            lambda client: client.list_topics(timeout=request_timeout_s(deadline_s)),
            self._asking.facts(),
            deadline_s=deadline_s,
        )
        return sorted(
            name
            for name, topic in listed.topics.items()
            if topic.error is None or topic.error.code() in AWAY  # without a leader just now
        )

    def uuids(
        self, names: Iterable[str], *, deadline_s: float | None = None
    ) -> dict[str, UUID | None]:
        """The ids of those of these topics that there are; None where it cannot be told now."""
        wanted = TopicCollection(list(names))

        def question(client: Any) -> dict[str, UUID | None]:
            answers = client.describe_topics(wanted, request_timeout=request_timeout_s(deadline_s))
            found: dict[str, UUID | None] = {}
            for name, future in answers.items():
                try:
                    uuid = _uuid(future.result().topic_id)
                    found[name] = uuid if uuid.int else None  # 0: servers before Kafka 2.8
                except KafkaException as error:
                    code = kafka_error(error).code()
                    if code < 0:  # that was no server
                        raise
                    if code != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        found[name] = None
            return found

        return self._asking.ask(question, self._asking.facts(), deadline_s=deadline_s)

    def all(self) -> list[TopicInfo]:
        """All topics, sorted by name, without the cluster's own."""
        names = self.names()
        if not names:
            return []
        described: dict[str, Any] = self._asking.ask(
            lambda client: some(
                client.describe_topics(TopicCollection(names), request_timeout=REQUEST_TIMEOUT_S)
            ),
            self._asking.facts(),
        )
        there = {name: each for name, each in described.items() if not each.is_internal}
        configs = self._configs(there)
        return [_info(each, configs.get(name, {})) for name, each in sorted(there.items())]

    def one(self, name: str) -> TopicInfo:
        """One topic. Raises `UnknownTopic`."""
        return self.described(name)[0]

    def described(
        self, name: str, *, deadline_s: float | None = None
    ) -> tuple[TopicInfo, dict[str, str]]:
        """A topic, and all its settings with their defaults. Raises `UnknownTopic`."""
        try:
            check_topic_name(name)
        except BrokerError:
            raise UnknownTopic(topic=name) from None
        facts = self._asking.facts(topic=name)
        found = self._asking.ask(
            lambda client: one(
                client.describe_topics(
                    TopicCollection([name]), request_timeout=request_timeout_s(deadline_s)
                )
            ),
            facts,
            deadline_s=deadline_s,
        )
        entries = self._configs([name]).get(name, {})
        effective = {each.name: each.value or "" for each in entries.values()}
        return _info(found, entries), effective

    def _configs(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The settings of topics; of those that cannot be asked for, none."""
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        if not resources:
            return {}

        def question(client: Any) -> dict[str, dict[str, Any]]:
            answers = client.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_S)
            return {resource.name: entries for resource, entries in some(answers).items()}

        return self._asking.ask(question, self._asking.facts())

    def check_partitions(self, topic: str, numbers: Iterable[int]) -> TopicInfo:
        """Raises `UnknownTopic` and `UnknownPartition`."""
        info = self.one(topic)
        for number in numbers:
            if not 0 <= number < len(info.partitions):
                raise UnknownPartition(
                    topic=topic, partition=number, partitions=len(info.partitions)
                )
        return info

    def ends(
        self, topic: str, numbers: Sequence[int], *, deadline_s: float | None = None
    ) -> dict[int, ClusterEnds]:
        """Log start and durable end of partitions that are known to exist."""
        starts = self._offsets(topic, dict.fromkeys(numbers, OffsetSpec.earliest()), deadline_s)
        latest = self._offsets(topic, dict.fromkeys(numbers, OffsetSpec.latest()), deadline_s)
        return {
            number: ClusterEnds(starts[number].offset, latest[number].offset, latest[number].offset)
            for number in numbers
        }

    def offset_for_time(self, topic: str, number: int, timestamp_ms: int) -> TimeFound | None:
        found = self._offsets(topic, {number: OffsetSpec.for_timestamp(timestamp_ms)})[number]
        return None if found.offset < 0 else TimeFound(found.offset, found.timestamp)

    def _offsets(
        self, topic: str, wanted: Mapping[int, OffsetSpec], deadline_s: float | None = None
    ) -> dict[int, Any]:
        asked = {TopicPartition(topic, number): spec for number, spec in wanted.items()}
        if not asked:
            return {}

        def question(client: Any) -> dict[int, Any]:
            answers = client.list_offsets(
                asked,
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=REQUEST_TIMEOUT_S,
            )
            found = {place.partition: future.result() for place, future in answers.items()}
            # That is what librdkafka makes of an answer that it did not get; none is -1.
            if any(each.offset == OFFSET_INVALID for each in found.values()):
                raise KafkaException(KafkaError(KafkaError._TRANSPORT, "the answer was cut off"))
            return found

        return self._asking.ask(question, self._asking.facts(topic=topic), deadline_s=deadline_s)

    def check_offset(
        self, topic: str, number: int, offset: int, ends: LogEnds, *, from_zero: bool = False
    ) -> None:
        """Raises `OffsetOutOfRange`."""
        if not (0 if from_zero else ends.log_start) <= offset <= ends.durable_end:
            raise OffsetOutOfRange(
                topic=topic,
                partition=number,
                offset=offset,
                log_start=ends.log_start,
                durable_end=ends.durable_end,
            )

    # -- settings of the brokers -----------------------------------------------------

    def nodes(self) -> list[int]:
        """The ids of the brokers."""
        listed = self._asking.ask(
            lambda client: client.list_topics(timeout=REQUEST_TIMEOUT_S), self._asking.facts()
        )
        return sorted(listed.brokers)

    def broker_config(self) -> dict[str, str]:
        """The settings in force of one of the brokers, sorted by name."""
        node = str(min(self.nodes(), default=0))
        entries: dict[str, Any] = self._asking.ask(
            lambda client: one(
                client.describe_configs(
                    [ConfigResource(ResourceType.BROKER, node)],
                    request_timeout=REQUEST_TIMEOUT_S,
                )
            ),
            self._asking.facts(),
        )
        return {name: each.value or "" for name, each in sorted(entries.items())}


def _info(described: Any, entries: Mapping[str, Any]) -> TopicInfo:
    set_here = {
        name: each.value or ""
        for name, each in sorted(entries.items())
        if each.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    }
    return TopicInfo(
        id=0,
        name=described.name,
        uuid=_uuid(described.topic_id),
        state="live",
        created_ms=0,
        partitions=tuple(
            PartitionInfo(id=each.id, number=each.id)
            for each in sorted(described.partitions, key=lambda each: each.id)
        ),
        config=set_here,
        told={name: each.value or "" for name, each in entries.items()},
    )


def _uuid(topic_id: Any) -> UUID:
    """Kafka writes ids in base64 without the padding."""
    return UUID(bytes=base64.urlsafe_b64decode(f"{topic_id}=="))
