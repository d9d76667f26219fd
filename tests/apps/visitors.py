"""Kafka clients of a service that comes and goes; ``python visitors.py HOST:PORT JOURNAL``.

An idempotent producer sends numbered records to `payments` as fast as it may, and a consumer in
a group reads them and commits. When stdin ends, the producer sends nothing more and waits for
all its reports, and the consumer reads what is left. The journal is as the service's.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import IO, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

TOPIC, GROUP = "payments", "ledger"
PATIENCE_S = 120.0
OUTSTANDING = 2_000
# A member that gave its id up waits some seconds for its older self before it reads on.
IDLE_S = 8.0
BACKOFF = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "log_level": 0}


def produce(address: str, note: Any, leaving: threading.Event) -> None:
    producer = Producer(
        {
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "linger.ms": 1,
            "message.timeout.ms": int(PATIENCE_S * 1000),
            **BACKOFF,
        }
    )

    def report(error: KafkaError | None, message: Message) -> None:
        value = message.value().decode()
        if error is None:
            note("accepted", value, message.partition(), message.offset())
        else:
            note("refused", value, str(error))

    sent = 0
    while not leaving.is_set():
        while len(producer) < OUTSTANDING:
            producer.produce(TOPIC, b"%d" % sent, on_delivery=report)
            sent += 1
        producer.poll(0.01)
    left = producer.flush(PATIENCE_S)
    note("sent", sent)
    note("unreported", left)


def consume(address: str, note: Any, done: threading.Event) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": GROUP,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 6_000,
            "heartbeat.interval.ms": 200,
            **BACKOFF,
        }
    )
    consumer.subscribe([TOPIC])
    idle_since_s = time.monotonic()
    try:
        while not done.is_set() or time.monotonic() - idle_since_s < IDLE_S:
            messages = [m for m in consumer.consume(500, 0.1) if m.error() is None]
            ends: dict[int, int] = {}
            for message in messages:
                note("handled", message.partition(), message.offset())
                ends[message.partition()] = message.offset() + 1
            if not messages:
                continue
            idle_since_s = time.monotonic()
            wanted = [TopicPartition(TOPIC, p, offset) for p, offset in ends.items()]
            try:
                committed = consumer.commit(offsets=wanted, asynchronous=False)
            except KafkaException:
                # The service is away: whatever it was, it comes again or it does not.
                idle_since_s = time.monotonic()  # it may have waited for long
                continue
            for each in committed or ():
                if each.error is None:
                    note("acknowledged", each.partition, each.offset - 1)
    finally:
        consumer.close()


def main(address: str, journal: IO[str]) -> None:
    lock = threading.Lock()

    def note(*entry: Any) -> None:
        with lock:
            print(json.dumps(entry), file=journal)

    leaving, done = threading.Event(), threading.Event()
    producing = threading.Thread(target=produce, args=(address, note, leaving))
    consuming = threading.Thread(target=consume, args=(address, note, done))
    producing.start()
    consuming.start()
    sys.stdin.read()
    leaving.set()
    producing.join()
    done.set()
    consuming.join()


if __name__ == "__main__":
    _, its_address, path = sys.argv
    with open(path, "w", buffering=1) as its_journal:  # it is read meanwhile
        main(its_address, its_journal)
