"""What users really run: librdkafka, aiokafka and kafka-python against the server."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import Any

import pytest
from brokers import read_all

from seawall.broker import Broker
from seawall.broker.kafka.threaded import ServerThread

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
# key, value, headers
RECORDS: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = [
    (b"key", b"value", [("a", b"1"), ("a", b"2"), ("b", b"")]),
    (None, b"no key", []),
    (b"tombstone", None, []),
    (b"", b"", []),
    (b"long", b"x" * 50_000, []),
]
TIMEOUT_S = 60.0

Found = list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]


@pytest.fixture
def topic(broker: Broker) -> str:
    broker.create_topic("clients", 1, {"cleanup.policy": "delete"})
    return "clients"


def stored(broker: Broker, topic: str) -> Found:
    return [
        (each.key, each.value, [(name, content or b"") for name, content in each.headers])
        for each in read_all(broker, topic)
    ]


# -- confluent-kafka (librdkafka) ------------------------------------------------------


def confluent_consume(server: ServerThread, topic: str, offset: int, count: int) -> Found:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": server.address, "group.id": "g", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, 0, offset)])
    found: Found = []
    deadline = time.monotonic() + TIMEOUT_S
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            found.append((message.key(), message.value(), list(message.headers() or [])))
    consumer.close()
    return found


@pytest.mark.parametrize(
    ("codec", "acks"), [*((codec, "all") for codec in CODECS), ("none", 0), ("zstd", 1)]
)
def test_confluent(server: ServerThread, broker: Broker, topic: str, codec: str, acks: Any) -> None:
    from confluent_kafka import Producer

    failures: list[Any] = []
    settings = {"bootstrap.servers": server.address, "compression.type": codec, "acks": acks}
    producer = Producer(settings)
    for key, value, headers in RECORDS:
        producer.produce(
            topic,
            key=key,
            value=value,
            headers=headers,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
    assert producer.flush(TIMEOUT_S) == 0
    assert failures == []
    assert confluent_consume(server, topic, 0, len(RECORDS)) == RECORDS
    assert stored(broker, topic) == RECORDS


def test_confluent_offsets(server: ServerThread, topic: str) -> None:
    from confluent_kafka import Consumer, Producer, TopicPartition

    producer = Producer({"bootstrap.servers": server.address, "linger.ms": 0})
    for number in range(5):
        producer.produce(topic, value=b"%d" % number, timestamp=1000 + number)
    assert producer.flush(TIMEOUT_S) == 0
    consumer = Consumer({"bootstrap.servers": server.address, "group.id": "g"})
    place = TopicPartition(topic, 0, 1003)
    assert consumer.get_watermark_offsets(place, timeout=TIMEOUT_S) == (0, 5)
    [at_time] = consumer.offsets_for_times([place], timeout=TIMEOUT_S)
    assert at_time.offset == 3
    metadata = consumer.list_topics(timeout=TIMEOUT_S)
    assert list(metadata.topics[topic].partitions) == [0]
    consumer.close()
    assert [value for _, value, _ in confluent_consume(server, topic, 3, 2)] == [b"3", b"4"]


def test_confluent_idempotent(server: ServerThread, broker: Broker, topic: str) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": server.address, "enable.idempotence": True})
    for number in range(200):
        producer.produce(topic, value=b"%d" % number)
    assert producer.flush(TIMEOUT_S) == 0
    assert [value for _, value, _ in stored(broker, topic)] == [b"%d" % n for n in range(200)]


# -- aiokafka --------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_aiokafka(server: ServerThread, broker: Broker, topic: str, codec: str) -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

    async def scenario() -> tuple[Found, int, int]:
        compression = None if codec == "none" else codec
        async with AIOKafkaProducer(
            bootstrap_servers=server.address, compression_type=compression
        ) as producer:
            for key, value, headers in RECORDS:
                await producer.send_and_wait(topic, key=key, value=value, headers=headers)
        place = TopicPartition(topic, 0)
        async with AIOKafkaConsumer(bootstrap_servers=server.address) as consumer:
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            found: Found = []
            while len(found) < len(RECORDS):
                record = await asyncio.wait_for(consumer.getone(), TIMEOUT_S)
                found.append((record.key, record.value, list(record.headers)))
            [end] = (await consumer.end_offsets([place])).values()
            [at_time] = (await consumer.offsets_for_times({place: 0})).values()
        return found, end, at_time.offset

    found, end, at_time = asyncio.run(scenario())
    assert found == RECORDS == stored(broker, topic)
    assert (end, at_time) == (len(RECORDS), 0)


# -- kafka-python ----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning")
# for the others it wants libraries of its own
@pytest.mark.parametrize("codec", ["none", "gzip", "lz4"])
def test_kafka_python(server: ServerThread, broker: Broker, topic: str, codec: str) -> None:
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition

    compression = None if codec == "none" else codec
    with closing(
        KafkaProducer(bootstrap_servers=server.address, compression_type=compression)
    ) as producer:
        for key, value, headers in RECORDS:
            producer.send(topic, key=key, value=value, headers=headers).get(TIMEOUT_S)
    place = TopicPartition(topic, 0)
    found: Found = []
    with closing(
        KafkaConsumer(bootstrap_servers=server.address, consumer_timeout_ms=60_000)
    ) as consumer:
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        for record in consumer:
            found.append((record.key, record.value, list(record.headers)))
            if len(found) == len(RECORDS):
                break
        assert consumer.end_offsets([place]) == {place: len(RECORDS)}
    assert found == RECORDS == stored(broker, topic)
