"""Kafka clients of a service that comes and goes; ``python visitors.py HOST:PORT JOURNAL``.

An idempotent producer sends numbered records to `payments` as fast as it may, and a consumer in
a group reads them and commits. When stdin ends, the producer sends nothing more and waits for
all its reports, and the consumer reads and commits what is left, up to the last record that was
reported. The journal is as the service's.
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


def produce(address: str, note: Any, leaving: threading.Event, ends: dict[int, int]) -> None:
    """`ends` is where the partitions end, by the reports."""
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
            ends[message.partition()] = max(ends.get(message.partition(), 0), message.offset() + 1)
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


def consume(address: str, note: Any, done: threading.Event, ends: dict[int, int]) -> None:
    """Until all up to `ends` is handled and committed, once these are `done`."""
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
    committed: dict[int, int] = {}
    moved_s = time.monotonic()
    try:
        while not done.is_set() or committed != ends:
            if time.monotonic() - moved_s > PATIENCE_S:
                raise TimeoutError(f"committed {committed} of {ends}")
            messages = [m for m in consumer.consume(500, 0.1) if m.error() is None]
            handled: dict[int, int] = {}
            for message in messages:
                note("handled", message.partition(), message.offset())
                handled[message.partition()] = message.offset() + 1
            try:
                if messages:
                    moved_s = time.monotonic()
                    wanted = [TopicPartition(TOPIC, p, offset) for p, offset in handled.items()]
                    answer = consumer.commit(offsets=wanted, asynchronous=False)
                elif done.is_set():
                    # The answer to the last commit may have got lost.
                    answer = consumer.committed([TopicPartition(TOPIC, p) for p in ends], 5)
                else:
                    continue
            except KafkaException:
                continue  # the service is away: whatever it was, it comes again or it does not
            for each in answer or ():
                if each.error is None and each.offset > committed.get(each.partition, 0):
                    note("acknowledged", each.partition, each.offset - 1)
                    committed[each.partition] = each.offset
    finally:
        consumer.close()


def main(address: str, journal: IO[str]) -> None:
    lock = threading.Lock()

    def note(*entry: Any) -> None:
        with lock:
            print(json.dumps(entry), file=journal)

    leaving, done = threading.Event(), threading.Event()
    ends: dict[int, int] = {}
    producing = threading.Thread(target=produce, args=(address, note, leaving, ends))
    consuming = threading.Thread(target=consume, args=(address, note, done, ends))
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
