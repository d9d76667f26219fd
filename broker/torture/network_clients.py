"""Kafka clients that do at random whatever clients do, and write down what they were told.

They are confluent-kafka's, each in a thread of a process that may be stopped or killed at any
time, as may the server; connections are cut, and answers get lost. So whatever ends in an
error has an unknown outcome. What may not happen is told by the checker of histories; and
some errors may not happen at all: a producer that the server fences or finds out of order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from seawall.broker.torture.clients import Client, make_value, name_of, pause
from seawall.broker.torture.connection import Connection
from seawall.broker.torture.events import Recorder

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, Producer, TopicPartition

COMPRESSIONS = ("none", "none", "gzip", "snappy", "lz4", "zstd")
MOST_VALUE_BYTES = 2_000
SESSION_TIMEOUT_MS = 1_000
# Longer than the server is ever away: then a record is sent, however often that takes.
DELIVERY_TIMEOUT_MS = 60_000
REQUEST_TIMEOUT_S = 10.0
POLL_S = 0.05


class Bad(Exception):
    """Something that no client should ever be told."""


class NetworkClient(Client):
    """One of those below. ``surroundings.connect`` is not used."""

    def run(self) -> None:
        """Go on until it is over. What is raised should not have been."""
        with self.recording():
            while not self.surroundings.is_over():
                self.live()

    def live(self) -> None:
        """Open a client, use it for a while, and close it."""
        raise NotImplementedError

    def turn(self, connection: Connection) -> bool:
        raise NotImplementedError

    def _common(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.surroundings.address,
            "client.id": self.process,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "socket.timeout.ms": 5_000,
            "topic.metadata.refresh.interval.ms": 5_000,
            "log_level": 0,
        }


# -- producing ---------------------------------------------------------------------------


class NetworkProducer(NetworkClient):
    """An idempotent producer: nothing it sends may be there twice, or in another order."""

    _count = 0

    def live(self) -> None:
        """One producer, and some records."""
        from confluent_kafka import Producer

        pick = self.random
        self._failure: str = ""
        self._waiting = 0
        self._lock = threading.Lock()
        producer = Producer(
            {
                **self._common(),
                "enable.idempotence": True,
                "linger.ms": pick.choice([0, 1, 5, 20]),
                "batch.size": pick.choice([500, 5_000, 50_000]),
                "compression.type": pick.choice(COMPRESSIONS),
                "message.timeout.ms": DELIVERY_TIMEOUT_MS,
                "retry.backoff.ms": 20,
            }
        )
        for _ in range(pick.randrange(5, 60)):
            if self.surroundings.is_over():
                break
            for _ in range(pick.choice([1, 1, 5, 50])):
                self._send(producer)
            producer.poll(pick.choice([0, 0, 0.01]))
            if pick.random() < 0.1:
                producer.flush(5)
            pause(pick, 0.02)
        self._finish(producer)

    def _send(self, producer: Producer) -> None:
        pick = self.random
        topic = self._topic()
        partition = pick.randrange(self.surroundings.topics[topic])
        self._count += 1
        size = pick.choice([0, 10, 100, pick.randrange(MOST_VALUE_BYTES)])
        name, value = make_value(self.process, self._count, size)
        number = self.recorder.invoke("send", partition=f"{topic}/{partition}", values=(name,))
        producer.produce(
            topic, value, partition=partition, on_delivery=partial(self._delivered, number)
        )
        self._waiting += 1

    def _delivered(self, number: int, error: Any, message: Message) -> None:
        self._waiting -= 1
        offset = message.offset()
        if error is None and offset is not None:
            self.recorder.ok(
                number,
                "send",
                partition=f"{message.topic()}/{message.partition()}",
                offsets=(offset,),
            )
        else:
            self.recorder.info(number, "send", str(error))
            self._failure = self._failure or f"a record was not delivered: {error}"

    def _finish(self, producer: Producer) -> None:
        deadline_s = time.monotonic() + DELIVERY_TIMEOUT_MS / 1000
        while self._waiting and time.monotonic() < deadline_s:
            producer.flush(0.5)
        if self._failure:
            raise Bad(self._failure)
        if self._waiting:
            raise Bad(f"{self._waiting} records were neither delivered nor given up")


# -- consuming ---------------------------------------------------------------------------


class NetworkConsumer(NetworkClient):
    """Reads from the start, from anywhere, or from the end, without a group."""

    def live(self) -> None:
        """One consumer."""
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        pick = self.random
        topic = self._topic()
        partition = pick.randrange(self.surroundings.topics[topic])
        consumer = Consumer(
            {
                **self._common(),
                "group.id": "nobody",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": pick.choice([5, 100]),
                "max.partition.fetch.bytes": pick.choice([1_000, 1_000_000]),
                "auto.offset.reset": "error",
            }
        )
        try:
            place = TopicPartition(topic, partition)
            try:
                start, end = consumer.get_watermark_offsets(place, timeout=REQUEST_TIMEOUT_S)
            except KafkaException:
                return  # the server is not there
            place.offset = pick.choice([start, end, pick.randint(start, end)])
            number = self.recorder.invoke("assign")
            consumer.assign([place])
            self.recorder.ok(number, "assign", places={f"{topic}/{partition}": place.offset})
            for _ in range(pick.randrange(5, 60)):
                if self.surroundings.is_over():
                    break
                poll(consumer, self.recorder, pick.choice([1, 10, 500]))
        finally:
            consumer.close()


class NetworkMember(NetworkClient):
    """Reads in a group, and commits what it has read."""

    group = ""

    def live(self) -> None:
        """One member; if a commit's outcome is unknown, it gives way to another."""
        from confluent_kafka import Consumer

        pick = self.random
        self.group = self.group or pick.choice(list(self.surroundings.groups))
        consumer = Consumer(
            {
                **self._common(),
                "group.id": self.group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": SESSION_TIMEOUT_MS // 5,
                "fetch.wait.max.ms": pick.choice([5, 100]),
                "partition.assignment.strategy": "range",
            }
        )
        self._positions: dict[str, int] = {}
        self._is_unsure = False
        consumer.subscribe(
            pick.sample(list(self.surroundings.topics), pick.randrange(1, 3)),
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._revoked,
        )
        try:
            for _ in range(pick.randrange(20, 300)):
                if self.surroundings.is_over() or self._is_unsure:
                    break
                for name, records in poll(consumer, self.recorder, pick.choice([1, 10, 500])):
                    self._positions[name] = records[-1][0] + 1
                if self._positions and pick.random() < 0.4:
                    self._commit(consumer)
        finally:
            consumer.close()

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Inside a poll: it reads on where the group is."""
        from confluent_kafka import KafkaException

        number = self.recorder.invoke("assign", group=self.group)
        try:
            found = consumer.committed(places, timeout=REQUEST_TIMEOUT_S)
            if any(each.error for each in found):
                raise KafkaException(next(each.error for each in found if each.error))
        except KafkaException as error:
            self.recorder.info(number, "assign", error)
            consumer.assign([])
            self._is_unsure = True
            return
        for each in found:
            each.offset = max(each.offset, 0)
        begins = {f"{each.topic}/{each.partition}": each.offset for each in found}
        self.recorder.ok(number, "assign", places=begins)
        for unsure in self._unsure:
            # Whatever an earlier member had under way, the new generation has fenced off.
            self.recorder.ok(unsure, "reset")
        self._unsure.clear()
        self._positions = {}
        consumer.assign(found)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._unsure: list[int] = []

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._positions = {}

    def _commit(self, consumer: Consumer) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        places = dict(self._positions)
        number = self.recorder.invoke("ack", group=self.group, places=places)
        wanted = []
        for name, offset in places.items():
            topic, _, partition = name.partition("/")
            wanted.append(TopicPartition(topic, int(partition), offset))
        try:
            done = consumer.commit(offsets=wanted, asynchronous=False)
            refused = next((each.error for each in done if each.error), None)
        except KafkaException as error:
            refused = error.args[0]
        if refused is None:
            self.recorder.ok(number, "ack")
            return
        self.recorder.info(number, "ack", str(refused))
        # It may yet take effect, behind the next one: until this member is fenced.
        self._unsure.append(self.recorder.invoke("reset", group=self.group, places=places))
        self._is_unsure = True


class NetworkOnlooker(NetworkClient):
    """Asks where the groups are."""

    def live(self) -> None:
        """One look at a group."""
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        time.sleep(self.random.random() * 0.3)
        group = self.random.choice(list(self.surroundings.groups))
        consumer = Consumer({**self._common(), "group.id": group})
        places = [
            TopicPartition(topic, number)
            for topic, partitions in self.surroundings.topics.items()
            for number in range(partitions)
        ]
        try:
            for _ in range(self.random.randrange(1, 10)):
                number = self.recorder.invoke("committed", group=group)
                try:
                    found = consumer.committed(places, timeout=REQUEST_TIMEOUT_S)
                    if any(each.error for each in found):
                        raise KafkaException(next(each.error for each in found if each.error))
                except KafkaException as error:
                    self.recorder.info(number, "committed", error)
                    return
                offsets = {f"{e.topic}/{e.partition}": max(e.offset, 0) for e in found}
                self.recorder.ok(number, "committed", places=offsets)
                pause(self.random, 0.1)
        finally:
            consumer.close()


def poll(
    consumer: Consumer, recorder: Recorder, most: int
) -> list[tuple[str, list[tuple[int, str]]]]:
    """Poll once, and write down what came."""
    from confluent_kafka import KafkaError

    number = recorder.invoke("poll")
    records: dict[str, list[tuple[int, str]]] = {}
    for message in consumer.consume(most, timeout=POLL_S):
        error = message.error()
        if error is not None:
            if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                raise Bad(f"a consumer was told {error}, and nothing was ever removed")
            continue
        where = f"{message.topic()}/{message.partition()}"
        named = name_of(message.value())
        records.setdefault(where, []).append((message.offset() or 0, named))
    recorder.ok(number, "poll", records=records)
    return list(records.items())


CLIENTS: Mapping[str, Callable[..., NetworkClient]] = {
    "producer": NetworkProducer,
    "consumer": NetworkConsumer,
    "member": NetworkMember,
    "onlooker": NetworkOnlooker,
}
