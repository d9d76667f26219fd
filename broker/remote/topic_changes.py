"""Topics of a cluster: creating, changing and deleting them, and their records.

A change is asked for once, and then looked at until all that is asked for can be used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from seawall.broker.errors import (
    BrokerError,
    InvalidConfig,
    InvalidPartitions,
    RemoteError,
    TopicExists,
    UnknownTopic,
    UnsupportedByLocation,
)
from seawall.broker.names import check_topic_name
from seawall.broker.remote.asking import REQUEST_TIMEOUT_S, Asking, one
from seawall.broker.remote.topics import Topics
from seawall.broker.topic_info import TopicInfo

if TYPE_CHECKING:
    from uuid import UUID

# How long a change may take to be seen by all that are asked.
SETTLING_S = 15.0
_LOOK_AGAIN_S = 0.05
MOST_PARTITIONS = 10_000

Configs = Mapping[str, str | int | None]


class TopicChanges:
    """What an operator changes."""

    def __init__(self, asking: Asking, topics: Topics) -> None:
        self._asking = asking
        self._topics = topics

    def create(
        self, name: str, partitions: int, config: Configs, *, if_not_exists: bool
    ) -> TopicInfo:
        """See `Broker.create_topic`."""
        check_topic_name(name)
        if not 1 <= partitions <= MOST_PARTITIONS:
            raise ValueError(f"a topic has 1 to {MOST_PARTITIONS} partitions, not {partitions}")
        values = _texts({key: value for key, value in config.items() if value is not None})
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
                info, _ = self._topics.described(name)
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
        self._topics.one(name)
        self.change_config(ConfigResource(ResourceType.TOPIC, name), config, topic=name)
        return self._topics.one(name)

    def set_broker_config(self, config: Configs) -> None:
        """Change settings of every broker of the cluster. Raises `InvalidConfig`."""
        for node in self._topics.nodes():
            self.change_config(ConfigResource(ResourceType.BROKER, str(node)), config)

    def change_config(self, resource: Any, config: Configs, *, topic: str | None = None) -> None:
        """Set and take back settings. Raises `InvalidConfig`."""
        values = _texts(config)
        for key, text in values.items():
            kind = AlterConfigOpType.DELETE if config[key] is None else AlterConfigOpType.SET
            resource.add_incremental_config(ConfigEntry(key, text, incremental_operation=kind))
        if not config:
            return
        try:
            self._asking.ask(
                lambda client: one(
                    client.incremental_alter_configs([resource], request_timeout=REQUEST_TIMEOUT_S)
                ),
                self._asking.facts(topic=topic),
            )
        except RemoteError as error:
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
            allowed="what the server takes",
            known=known,
            said=error.reason,
        )

    def delete(self, name: str, wanted: UUID | None) -> None:
        """See `Broker.delete_topic`."""
        found = self._topics.one(name)
        if wanted is not None and found.uuid != wanted:
            raise UnknownTopic(topic=name)
        unsure: list[bool] = []
        try:
            self._asking.ask(
                lambda client: one(client.delete_topics([name], request_timeout=REQUEST_TIMEOUT_S)),
                self._asking.facts(topic=name),
                on_unsure=lambda: unsure.append(True),
            )
        except UnknownTopic:
            if not unsure:
                raise
        deadline_s = time.monotonic() + SETTLING_S
        while time.monotonic() < deadline_s:
            try:
                if self._topics.one(name).uuid != found.uuid:
                    return
            except UnknownTopic:
                return
            time.sleep(_LOOK_AGAIN_S)

    def add_partitions(self, name: str, total: int) -> TopicInfo:
        """See `Broker.add_partitions`."""
        present = len(self._topics.one(name).partitions)
        if not present <= total <= MOST_PARTITIONS:
            raise InvalidPartitions(
                topic=name, partitions=present, wanted=total, most=MOST_PARTITIONS
            )
        if total > present:
            unsure: list[bool] = []
            try:
                self._asking.ask(
                    lambda client: one(
                        client.create_partitions(
                            [NewPartitions(name, total)], request_timeout=REQUEST_TIMEOUT_S
                        )
                    ),
                    self._asking.facts(topic=name),
                    on_unsure=lambda: unsure.append(True),
                )
            except RemoteError as error:
                # That there are so many already is what an attempt before may have done.
                if not unsure or error.code != "INVALID_PARTITIONS":
                    raise
        deadline_s = time.monotonic() + SETTLING_S
        while True:
            info = self._settled(name, total)
            if len(info.partitions) >= total or time.monotonic() > deadline_s:
                return info
            time.sleep(_LOOK_AGAIN_S)

    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
        """See `Broker.delete_records`."""
        self._topics.check_partitions(topic, offsets)
        ends = self._topics.ends(topic, list(offsets))
        wanted = []
        for number, offset in offsets.items():
            if offset != -1:
                self._topics.check_offset(topic, number, offset, ends[number], from_zero=True)
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


def _texts(config: Configs) -> dict[str, str]:
    """Settings as they are sent; empty where there is None. Raises `InvalidConfig` for what
    confluent-kafka would crash at, or cut."""
    texts = {}
    for key, value in config.items():
        text = texts[key] = "" if value is None else str(value)
        try:
            is_text = b"\0" not in f"{key}{text}".encode()
        except UnicodeEncodeError:
            is_text = False
        if not is_text:
            raise InvalidConfig(key=key, value=text, allowed="UTF-8 without NUL in both")
    return texts
