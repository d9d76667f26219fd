"""aiokafka."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code
from alike import REBALANCE_TIMEOUT_MS, Alike, as_said, as_sent, lag_of, session_settings

PATIENCE_S = 60


class Aiokafka(Alike):
    def about(self) -> dict[str, Any]:
        return {"client": "aiokafka", "version": aiokafka.__version__}

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        method = getattr(self, command["do"], None)
        if method is None or not asyncio.iscoroutinefunction(method):
            return super().answer(command)
        setattr(self, f"_run_{command['do']}", lambda **rest: asyncio.run(method(**rest)))
        return super().answer({**command, "do": f"_run_{command['do']}"})

    # -- producing ---------------------------------------------------------------------

    def _producer(self, codec: str, idempotent: bool) -> AIOKafkaProducer:
        return AIOKafkaProducer(**self.producer_settings(codec, idempotent))

    async def produce(
        self, topic: str, records: list[Any], codec: str = "none", idempotent: bool = False
    ) -> dict[str, Any]:
        async with self._producer(codec, idempotent) as producer:
            sent = [await producer.send(topic, **as_sent(record)) for record in records]
            return {"offsets": [(await each).offset for each in sent]}

    async def stream(
        self, topic: str, count: int, pause_ms: float, partition: int = 0, idempotent: bool = True
    ) -> dict[str, Any]:
        async with self._producer("none", idempotent) as producer:
            sent = []
            for number in range(count):
                sent.append(await producer.send(topic, b"%d" % number, partition=partition))
                await asyncio.sleep(pause_ms / 1000)
                if number % 20 == 0:
                    self.say(event="acked", count=sum(each.done() for each in sent))
            return {"offsets": [(await each).offset for each in sent]}

    # -- consuming ---------------------------------------------------------------------

    def _consumer(self, group: str | None, **settings: Any) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(**self.consumer_settings(group), **settings)

    async def consume(
        self, topic: str, count: int, begin: str | int = "start", partition: int = 0
    ) -> dict[str, Any]:
        async with self._consumer(None) as consumer:
            place = TopicPartition(topic, partition)
            consumer.assign([place])
            if begin == "start":
                await consumer.seek_to_beginning(place)
            elif begin == "end":
                await consumer.seek_to_end(place)
                await consumer.position(place)
            else:
                found = await consumer.offsets_for_times({place: int(begin)})
                consumer.seek(place, found[place].offset)
            self.say(event="ready")
            records: list[dict[str, Any]] = []
            deadline_s = time.monotonic() + PATIENCE_S
            while len(records) < count and time.monotonic() < deadline_s:
                for some in (await consumer.getmany(timeout_ms=200)).values():
                    records += map(as_said, some)
            return {"records": records}

    async def member(self, topic: str, group: str, session_timeout_ms: int) -> dict[str, Any]:
        settings = session_settings(session_timeout_ms)
        settings["rebalance_timeout_ms"] = REBALANCE_TIMEOUT_MS
        consumer = self._consumer(group, **settings)
        consumer.subscribe([topic], listener=self.listener(ConsumerRebalanceListener))
        async with consumer:
            while not self.is_called_away():
                for place, found in (await consumer.getmany(timeout_ms=100)).items():
                    self.say_records(found)
                    behind = found[-1].offset + 1
                    try:
                        await consumer.commit({place: behind})
                    except KafkaError as error:
                        self.say_not_committed(error)
                    else:
                        self.say_committed(place, behind)
        return {"left": True}

    async def lag(self, topic: str, group: str) -> dict[str, Any]:
        async def look(admin: AIOKafkaAdminClient) -> Any:
            return await admin.list_consumer_group_offsets(group)

        committed = await self._administer(look)
        [known] = await self._administer(lambda admin: admin.describe_topics([topic]))
        async with self._consumer(None) as consumer:
            places = [TopicPartition(topic, each["partition"]) for each in known["partitions"]]
            ends = await consumer.end_offsets(places)
            starts = await consumer.beginning_offsets(places)

        def at(place: TopicPartition) -> int | None:
            offset = committed[place].offset if place in committed else -1
            return offset if offset >= 0 else None

        return lag_of(places, starts, ends, at)

    # -- looking after -----------------------------------------------------------------

    async def _administer(self, call: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            return await call(admin)
        finally:
            await admin.close()

    async def create(self, topic: str, partitions: int, config: dict[str, str]) -> dict[str, Any]:
        wanted = NewTopic(topic, partitions, 1, topic_configs=config)
        answer = await self._administer(lambda admin: admin.create_topics([wanted]))
        return raised([each[1] for each in answer.topic_errors])

    async def describe(self, topic: str, names: list[str]) -> dict[str, Any]:
        if topic not in await self._administer(lambda admin: admin.list_topics()):
            return {"partitions": 0}
        [known] = await self._administer(lambda admin: admin.describe_topics([topic]))
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        [answer] = await self._administer(lambda admin: admin.describe_configs([resource]))
        [(code, _, _, _, entries)] = answer.resources
        raised([code])
        config = {entry[0]: entry[1] for entry in entries}
        return {
            "partitions": len(known["partitions"]),
            "config": {name: config[name] for name in names},
        }

    async def alter(self, topic: str, config: dict[str, str]) -> dict[str, Any]:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs=config)
        answers = await self._administer(lambda admin: admin.alter_configs([resource]))
        return raised([each[0] for answer in answers for each in answer.resources])

    async def grow(self, topic: str, partitions: int) -> dict[str, Any]:
        wanted = {topic: NewPartitions(partitions)}
        await self._administer(lambda admin: admin.create_partitions(wanted))
        return {}

    async def delete(self, topic: str) -> dict[str, Any]:
        answer = await self._administer(lambda admin: admin.delete_topics([topic]))
        return raised([each[1] for each in answer.topic_error_codes])

    async def group(self, group: str) -> dict[str, Any]:
        [answer] = await self._administer(lambda admin: admin.describe_consumer_groups([group]))
        [found] = answer.to_object()["groups"]
        return {"state": found["state"], "members": len(found["members"])}


def raised(codes: list[int]) -> dict[str, Any]:
    for code in codes:
        if code:
            raise for_code(code)
    return {}


if __name__ == "__main__":
    Aiokafka(sys.argv[1]).main()
