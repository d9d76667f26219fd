"""Topics of a cluster: what there is, and changing it."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import IsolationLevel, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from seawall.broker.errors import (
    BrokerError,
    InvalidConfig,
    InvalidPartitions,
    OffsetOutOfRange,
    RemoteError,
    TopicExists,
    UnknownPartition,
    UnknownTopic,
    UnsupportedByLocation,
)
from seawall.broker.names import check_topic_name
from seawall.broker.remote.asking import REQUEST_TIMEOUT_S, Asking, one
from seawall.broker.topic_info import PartitionInfo, TopicInfo
from seawall.wal.log import LogEnds
from seawall.wal.lookup import TimeFound

if TYPE_CHECKING:
    from uuid import UUID

# How long a change may take to be seen by all that are asked.
SETTLING_S = 15.0
_LOOK_AGAIN_S = 0.05
MOST_PARTITIONS = 10_000

Configs = Mapping[str, str | int | None]


class ClusterEnds(LogEnds):
    """The ends of a partition elsewhere. How far it is written there, nobody says."""

    location = "the cluster"

    @property
    def log_end(self) -> int:  # type: ignore[override]
        raise UnsupportedByLocation(
            operation="tell the end of what is written, durable or not", location=self.location
        )


class Topics:
    """Topics, partitions and their records, as an operator sees them."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    # -- looking ---------------------------------------------------------------------

    def names(self) -> list[str]:
        """All topics, those of the cluster's own housekeeping included."""
        listed = self._asking.ask(
            lambda client: client.list_topics(timeout=REQUEST_TIMEOUT_S), self._asking.facts()
        )
        return sorted(name for name, topic in listed.topics.items() if topic.error is None)

    def all(self) -> list[TopicInfo]:
        """All topics, sorted by name, without the cluster's own."""
        names = self.names()
        if not names:
            return []
        described = self._asking.ask(
            lambda client: {
                name: future.exception() or future.result()
                for name, future in client.describe_topics(
                    TopicCollection(names), request_timeout=REQUEST_TIMEOUT_S
                ).items()
            },
            self._asking.facts(),
        )
        there = {
            name: each
            for name, each in described.items()
            if not isinstance(each, BaseException) and not each.is_internal
        }
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
                    TopicCollection([name]), request_timeout=REQUEST_TIMEOUT_S
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
            return {
                resource.name: future.result()
                for resource, future in answers.items()
                if future.exception() is None
            }

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

    def ends(self, topic: str, numbers: Sequence[int]) -> dict[int, ClusterEnds]:
        """Log start and durable end of partitions that are known to exist."""
        starts = self._offsets(topic, dict.fromkeys(numbers, OffsetSpec.earliest()))
        latest = self._offsets(topic, dict.fromkeys(numbers, OffsetSpec.latest()))
        return {
            number: ClusterEnds(starts[number].offset, latest[number].offset, latest[number].offset)
            for number in numbers
        }

    def offset_for_time(self, topic: str, number: int, timestamp_ms: int) -> TimeFound | None:
        found = self._offsets(topic, {number: OffsetSpec.for_timestamp(timestamp_ms)})[number]
        return None if found.offset < 0 else TimeFound(found.offset, found.timestamp)

    def _offsets(self, topic: str, wanted: Mapping[int, OffsetSpec]) -> dict[int, Any]:
        asked = {TopicPartition(topic, number): spec for number, spec in wanted.items()}
        if not asked:
            return {}
        return self._asking.ask(
            lambda client: {
                place.partition: future.result()
                for place, future in client.list_offsets(
                    asked,
                    isolation_level=IsolationLevel.READ_UNCOMMITTED,
                    request_timeout=REQUEST_TIMEOUT_S,
                ).items()
            },
            self._asking.facts(topic=topic),
        )

    # -- changing --------------------------------------------------------------------

    def create(
        self, name: str, partitions: int, config: Configs, *, if_not_exists: bool
    ) -> TopicInfo:
        """See `Broker.create_topic`."""
        check_topic_name(name)
        if not 1 <= partitions <= MOST_PARTITIONS:
            raise ValueError(f"a topic has 1 to {MOST_PARTITIONS} partitions, not {partitions}")
        values = {key: str(value) for key, value in config.items() if value is not None}
        unsure: list[bool] = []
        try:
            self._asking.ask(
                lambda client: one(
                    client.create_topics(
                        [NewTopic(name, partitions, -1, config=values)],
                        request_timeout=REQUEST_TIMEOUT_S,
                    )
                ),
                self._asking.facts(topic=name),
                on_unsure=lambda: unsure.append(True),
            )
        except TopicExists:
            if not if_not_exists and not unsure:  # else it may well be our own
                raise
        except RemoteError as error:
            raise self._about_config(error, values) from error
        return self._settled(name, partitions)

    def _settled(self, name: str, partitions: int) -> TopicInfo:
        """The topic, once all of its partitions can be used."""
        deadline_s = time.monotonic() + SETTLING_S
        while True:
            try:
                info, _ = self.described(name)
                if self._has_leaders(name) or time.monotonic() > deadline_s:
                    return info
            except UnknownTopic:
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(_LOOK_AGAIN_S)

    def _has_leaders(self, name: str) -> bool:
        listed = self._asking.ask(
            lambda client: client.list_topics(name, timeout=REQUEST_TIMEOUT_S),
            self._asking.facts(topic=name),
        )
        partitions = listed.topics[name].partitions
        return bool(partitions) and all(each.leader >= 0 for each in partitions.values())

    def alter(self, name: str, config: Configs) -> TopicInfo:
        """See `Broker.alter_topic`."""
        self.one(name)
        self.change_config(ConfigResource(ResourceType.TOPIC, name), config, topic=name)
        return self.one(name)

    def change_config(self, resource: Any, config: Configs, *, topic: str | None = None) -> None:
        """Set and take back settings. Raises `InvalidConfig`."""
        for key, value in config.items():
            kind = AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
            text = "" if value is None else str(value)
            resource.add_incremental_config(
                ConfigEntry(key, text, incremental_operation=kind)
            )
        if not config:
            return
        try:
            self._asking.ask(
                lambda client: one(
                    client.incremental_alter_configs(
                        [resource], request_timeout=REQUEST_TIMEOUT_S
                    )
                ),
                self._asking.facts(topic=topic),
            )
        except RemoteError as error:
            values = {key: "" if value is None else str(value) for key, value in config.items()}
            raise self._about_config(error, values) from error

    def _about_config(self, error: RemoteError, values: Mapping[str, str]) -> BrokerError:
        """The same error that a directory has for it, as far as the message says what it is."""
        if error.code not in ("INVALID_CONFIG", "INVALID_REQUEST"):
            return error
        if "acknowledged" in values.get("cleanup.policy", ""):
            return UnsupportedByLocation(
                operation="remove records by acknowledgement (cleanup.policy=acknowledged)",
                location=self._asking.location,
            )
        named = [key for key in values if key in error.reason] or list(values)
        known = "nknown" not in error.reason
        return InvalidConfig(
            key=named[0] if named else "",
            value=values[named[0]] if named else "",
            allowed=f"what the server takes ({error.reason})",
            known=known,
        )

    def delete(self, name: str, wanted: UUID | None) -> None:
        """See `Broker.delete_topic`."""
        found = self.one(name)
        if wanted is not None and found.uuid != wanted:
            raise UnknownTopic(topic=name)
        unsure: list[bool] = []
        try:
            self._asking.ask(
                lambda client: one(
                    client.delete_topics([name], request_timeout=REQUEST_TIMEOUT_S)
                ),
                self._asking.facts(topic=name),
                on_unsure=lambda: unsure.append(True),
            )
        except UnknownTopic:
            if not unsure:
                raise
        deadline_s = time.monotonic() + SETTLING_S
        while time.monotonic() < deadline_s:
            try:
                if self.one(name).uuid != found.uuid:
                    return
            except UnknownTopic:
                return
            time.sleep(_LOOK_AGAIN_S)

    def add_partitions(self, name: str, total: int) -> TopicInfo:
        """See `Broker.add_partitions`."""
        present = len(self.one(name).partitions)
        if not present <= total <= MOST_PARTITIONS:
            raise InvalidPartitions(
                topic=name, partitions=present, wanted=total, most=MOST_PARTITIONS
            )
        if total > present:
            self._asking.ask(
                lambda client: one(
                    client.create_partitions(
                        [NewPartitions(name, total)], request_timeout=REQUEST_TIMEOUT_S
                    )
                ),
                self._asking.facts(topic=name),
            )
        deadline_s = time.monotonic() + SETTLING_S
        while True:
            info = self._settled(name, total)
            if len(info.partitions) >= total or time.monotonic() > deadline_s:
                return info
            time.sleep(_LOOK_AGAIN_S)

    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
        """See `Broker.delete_records`."""
        self.check_partitions(topic, offsets)
        ends = self.ends(topic, list(offsets))
        wanted = []
        for number, offset in offsets.items():
            if offset != -1:
                self.check_offset(topic, number, offset, ends[number], from_zero=True)
            wanted.append(TopicPartition(topic, number, offset))
        if not wanted:
            return {}
        return self._asking.ask(
            lambda client: {
                place.partition: future.result().low_watermark
                for place, future in client.delete_records(
                    wanted, request_timeout=REQUEST_TIMEOUT_S
                ).items()
            },
            self._asking.facts(topic=topic),
        )

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

    def broker_config(self) -> dict[str, str]:
        """The settings in force of one of the brokers, sorted by name."""
        listed = self._asking.ask(
            lambda client: client.list_topics(timeout=REQUEST_TIMEOUT_S), self._asking.facts()
        )
        node = str(min(listed.brokers, default=0))
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
    )


def _uuid(topic_id: Any) -> uuid.UUID:
    """Kafka writes ids in base64 without the padding."""
    return uuid.UUID(bytes=base64.urlsafe_b64decode(f"{topic_id}=="))
