"""kafka-python."""

from __future__ import annotations

import sys
import time
from typing import Any

import kafka
from agent import Unsupported
from alike import REBALANCE_TIMEOUT_MS, Alike, as_said, as_sent, lag_of, session_settings
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition, codec
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

PATIENCE_S = 60
BACKOFF = {"reconnect_backoff_ms": 50, "reconnect_backoff_max_ms": 200}


class KafkaPython(Alike):
    def about(self) -> dict[str, Any]:
        return {"client": "kafka-python", "version": kafka.__version__}

    # -- producing ---------------------------------------------------------------------

    def _producer(self, compression: str, idempotent: bool) -> KafkaProducer:
        if not getattr(codec, f"has_{compression}", lambda: True)():
            raise Unsupported(f"needs a package for {compression}")
        return KafkaProducer(**self.producer_settings(compression, idempotent), **BACKOFF)

    def produce(
        self, topic: str, records: list[Any], codec: str = "none", idempotent: bool = False
    ) -> dict[str, Any]:
        producer = self._producer(codec, idempotent)
        try:
            sent = [producer.send(topic, **as_sent(record)) for record in records]
            return {"offsets": [each.get(PATIENCE_S).offset for each in sent]}
        finally:
            producer.close()

    def stream(
        self, topic: str, count: int, pause_ms: float, partition: int = 0, idempotent: bool = True
    ) -> dict[str, Any]:
        producer = self._producer("none", idempotent)
        sent = []
        for number in range(count):
            sent.append(producer.send(topic, partition=partition, value=b"%d" % number))
            time.sleep(pause_ms / 1000)
            if number % 20 == 0:
                self.say(event="acked", count=sum(each.is_done for each in sent))
        offsets = [each.get(3 * PATIENCE_S).offset for each in sent]
        producer.close()
        return {"offsets": offsets}

    # -- consuming ---------------------------------------------------------------------

    def _consumer(self, group: str | None, **settings: Any) -> KafkaConsumer:
        return KafkaConsumer(**self.consumer_settings(group), **BACKOFF, **settings)

    def consume(
        self, topic: str, count: int, begin: str | int = "start", partition: int = 0
    ) -> dict[str, Any]:
        consumer = self._consumer(None)
        try:
            place = TopicPartition(topic, partition)
            consumer.assign([place])
            if begin == "start":
                consumer.seek_to_beginning(place)
            elif begin == "end":
                consumer.seek_to_end(place)
                consumer.position(place)
            else:
                consumer.seek(place, consumer.offsets_for_times({place: int(begin)})[place].offset)
            self.say(event="ready")
            records: list[dict[str, Any]] = []
            deadline_s = time.monotonic() + PATIENCE_S
            while len(records) < count and time.monotonic() < deadline_s:
                for found in consumer.poll(timeout_ms=200).values():
                    records += map(as_said, found)
            return {"records": records}
        finally:
            consumer.close()

    def member(self, topic: str, group: str, session_timeout_ms: int) -> dict[str, Any]:
        settings = session_settings(session_timeout_ms)
        settings["max_poll_interval_ms"] = REBALANCE_TIMEOUT_MS
        consumer = self._consumer(group, **settings)
        consumer.subscribe([topic], listener=self.listener(ConsumerRebalanceListener))
        # Join with the topic known. Otherwise the first assignment may be empty, the join that
        # mends this is forgotten if it outlasts one poll, and the member never reads.
        consumer.partitions_for_topic(topic)
        while not self.is_called_away():
            try:
                polled = consumer.poll(timeout_ms=100)
            except KafkaError as error:
                if not error.retriable:
                    raise
                time.sleep(0.1)  # it leaves going on to its user
                continue
            for place, found in polled.items():
                self.say_records(found)
                behind = found[-1].offset + 1
                try:
                    consumer.commit({place: OffsetAndMetadata(behind, "", -1)})
                except KafkaError as error:
                    self.say_not_committed(error)
                else:
                    self.say_committed(place, behind)
        consumer.close()
        return {"left": True}

    def lag(self, topic: str, group: str) -> dict[str, Any]:
        consumer = self._consumer(group)
        try:
            numbers = consumer.partitions_for_topic(topic) or ()
            places = [TopicPartition(topic, number) for number in numbers]
            ends = consumer.end_offsets(places)
            starts = consumer.beginning_offsets(places)
            return lag_of(places, starts, ends, consumer.committed)
        finally:
            consumer.close()

    # -- looking after -----------------------------------------------------------------

    def _administer(self, call: Any) -> Any:
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            return call(admin)
        finally:
            admin.close()

    def create(self, topic: str, partitions: int, config: dict[str, str]) -> dict[str, Any]:
        wanted = {topic: {"num_partitions": partitions, "replication_factor": 1, "configs": config}}
        self._administer(lambda admin: admin.create_topics(wanted))
        return {}

    def describe(self, topic: str, names: list[str]) -> dict[str, Any]:
        def look(admin: KafkaAdminClient) -> dict[str, Any]:
            if topic not in admin.list_topics():
                return {"partitions": 0}
            [known] = admin.describe_topics([topic])
            resource = ConfigResource(ConfigResourceType.TOPIC, topic)
            described = admin.describe_configs([resource], config_filter="all")
            config = next(iter(described.values()))[topic]
            return {
                "partitions": len(known["partitions"]),
                "config": {name: config[name]["value"] for name in names},
            }

        found: dict[str, Any] = self._administer(look)
        return found

    def alter(self, topic: str, config: dict[str, str]) -> dict[str, Any]:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs=config)
        self._administer(lambda admin: admin.alter_configs([resource]))
        return {}

    def grow(self, topic: str, partitions: int) -> dict[str, Any]:
        self._administer(lambda admin: admin.create_partitions({topic: partitions}))
        return {}

    def delete(self, topic: str) -> dict[str, Any]:
        self._administer(lambda admin: admin.delete_topics([topic]))
        return {}

    def group(self, group: str) -> dict[str, Any]:
        found = self._administer(lambda admin: admin.describe_groups([group]))[group]
        return {"state": found["group_state"], "members": len(found["members"])}

    def delete_group(self, group: str) -> dict[str, Any]:
        said = self._administer(lambda admin: admin.delete_groups([group]))[group]
        return {} if said == "OK" else {"error": said}


if __name__ == "__main__":
    KafkaPython(sys.argv[1]).main()
