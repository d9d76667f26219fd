"""confluent-kafka (librdkafka)."""

from __future__ import annotations

import sys
import time
from functools import cached_property
from typing import Any

import confluent_kafka
from agent import Agent, to_bytes, to_text
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

PATIENCE_S = 60


class Confluent(Agent):
    def about(self) -> dict[str, Any]:
        librdkafka = confluent_kafka.libversion()[0]
        version = f"{confluent_kafka.__version__} (librdkafka {librdkafka})"
        return {"client": "confluent-kafka", "version": version}

    def name_of(self, error: Exception) -> str:
        if isinstance(error, KafkaException):
            return str(error.args[0].name())
        return super().name_of(error)

    # -- producing ---------------------------------------------------------------------

    def produce(
        self, topic: str, records: list[Any], codec: str = "none", idempotent: bool = False
    ) -> dict[str, Any]:
        producer = self._producer(codec, idempotent)
        offsets: list[int | None] = [None] * len(records)
        errors: list[Any] = []
        for number, record in enumerate(records):

            def delivered(error: Any, message: Any, number: int = number) -> None:
                if error:
                    errors.append(error)
                else:
                    offsets[number] = message.offset()

            producer.produce(
                topic,
                partition=record["partition"],
                key=to_bytes(record.get("key")),
                value=to_bytes(record["value"]),
                headers=[(name, to_bytes(value)) for name, value in record.get("headers", ())],
                timestamp=record.get("timestamp", 0),
                on_delivery=delivered,
            )
        producer.flush(PATIENCE_S)
        if errors:
            raise KafkaException(errors[0])
        return {"offsets": offsets}

    def _producer(self, codec: str, idempotent: bool) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "compression.type": codec,
                "enable.idempotence": idempotent,
                "linger.ms": 5,
                "reconnect.backoff.max.ms": 200,
            }
        )

    def stream(
        self, topic: str, count: int, pause_ms: float, partition: int = 0, idempotent: bool = True
    ) -> dict[str, Any]:
        producer = self._producer("none", idempotent)
        offsets: list[int | None] = [None] * count
        errors: list[Any] = []
        acked = 0
        for number in range(count):

            def delivered(error: Any, message: Any, number: int = number) -> None:
                nonlocal acked
                if error:
                    errors.append(error)
                else:
                    offsets[number] = message.offset()
                    acked += 1

            producer.produce(
                topic, partition=partition, value=b"%d" % number, on_delivery=delivered
            )
            producer.poll(pause_ms / 1000)
            if number % 20 == 0:
                self.say(event="acked", count=acked)
        producer.flush(3 * PATIENCE_S)
        if errors:
            raise KafkaException(errors[0])
        return {"offsets": offsets}

    # -- consuming ---------------------------------------------------------------------

    def consume(
        self, topic: str, count: int, begin: str | int = "start", partition: int = 0
    ) -> dict[str, Any]:
        consumer = self._consumer("unused")
        try:
            place = TopicPartition(topic, partition)
            if begin == "start":
                place.offset = confluent_kafka.OFFSET_BEGINNING
            elif begin == "end":
                place.offset = consumer.get_watermark_offsets(place, timeout=PATIENCE_S)[1]
            else:
                place.offset = int(begin)
                [place] = consumer.offsets_for_times([place], timeout=PATIENCE_S)
            consumer.assign([place])
            self.say(event="ready")
            records: list[dict[str, Any]] = []
            deadline_s = time.monotonic() + PATIENCE_S
            while len(records) < count and time.monotonic() < deadline_s:
                records += map(as_said, self._checked(consumer.consume(count, timeout=0.2)))
            return {"records": records}
        finally:
            consumer.close()

    def _consumer(self, group: str, session_timeout_ms: int = 10_000) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": session_timeout_ms,
                "heartbeat.interval.ms": min(1000, session_timeout_ms // 4),
                "reconnect.backoff.max.ms": 200,
            }
        )

    def _checked(self, messages: list[Any]) -> list[Any]:
        for message in messages:
            if message.error() and message.error().fatal():
                raise KafkaException(message.error())
        return [message for message in messages if not message.error()]

    def member(self, topic: str, group: str, session_timeout_ms: int) -> dict[str, Any]:
        consumer = self._consumer(group, session_timeout_ms)

        def assigned(_: Consumer, places: list[TopicPartition]) -> None:
            self.say(event="assigned", partitions=[place.partition for place in places])

        def revoked(_: Consumer, places: list[TopicPartition]) -> None:
            self.say(event="revoked", partitions=[place.partition for place in places])

        consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=revoked)
        while not self.is_called_away():
            for message in self._checked(consumer.consume(50, timeout=0.1)):
                self.say(
                    event="record",
                    partition=message.partition(),
                    offset=message.offset(),
                    value=to_text(message.value()),
                )
                place = TopicPartition(topic, message.partition(), message.offset() + 1)
                try:
                    consumer.commit(offsets=[place], asynchronous=False)
                except KafkaException as error:
                    self.say(event="not committed", error=self.name_of(error))
                else:
                    self.say(
                        event="committed", partition=place.partition, offset=message.offset() + 1
                    )
        consumer.close()
        return {"left": True}

    def lag(self, topic: str, group: str) -> dict[str, Any]:
        consumer = self._consumer(group)
        try:
            partitions = consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions
            places = [TopicPartition(topic, number) for number in partitions]
            lag = {}
            for place in consumer.committed(places, timeout=PATIENCE_S):
                start, end = consumer.get_watermark_offsets(place, timeout=PATIENCE_S)
                lag[str(place.partition)] = end - (place.offset if place.offset >= 0 else start)
            return {"lag": lag}
        finally:
            consumer.close()

    # -- looking after -----------------------------------------------------------------

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap})

    def create(self, topic: str, partitions: int, config: dict[str, str]) -> dict[str, Any]:
        wanted = NewTopic(topic, partitions, 1, config=config)
        self._admin.create_topics([wanted])[topic].result(PATIENCE_S)
        return {}

    def describe(self, topic: str, names: list[str]) -> dict[str, Any]:
        admin = self._admin
        known = admin.list_topics(timeout=PATIENCE_S).topics.get(topic)
        if known is None:
            return {"partitions": 0}
        resource = ConfigResource(ResourceType.TOPIC, topic)
        config = admin.describe_configs([resource])[resource].result(PATIENCE_S)
        return {
            "partitions": len(known.partitions),
            "config": {name: config[name].value for name in names},
        }

    def alter(self, topic: str, config: dict[str, str]) -> dict[str, Any]:
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        self._admin.incremental_alter_configs([resource])[resource].result(PATIENCE_S)
        return {}

    def grow(self, topic: str, partitions: int) -> dict[str, Any]:
        self._admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(PATIENCE_S)
        return {}

    def delete(self, topic: str) -> dict[str, Any]:
        self._admin.delete_topics([topic])[topic].result(PATIENCE_S)
        return {}

    def group(self, group: str) -> dict[str, Any]:
        found = self._admin.describe_consumer_groups([group])[group].result(PATIENCE_S)
        return {"state": found.state.name, "members": len(found.members)}

    def delete_group(self, group: str) -> dict[str, Any]:
        self._admin.delete_consumer_groups([group])[group].result(PATIENCE_S)
        return {}


def as_said(message: Any) -> dict[str, Any]:
    return {
        "offset": message.offset(),
        "timestamp": message.timestamp()[1],
        "key": to_text(message.key()),
        "value": to_text(message.value()),
        "headers": [[name, to_text(value)] for name, value in message.headers() or ()],
    }


if __name__ == "__main__":
    Confluent(sys.argv[1]).main()
