"""Consumers in a group, of the Kafka clients that people use, all with the same few methods.

Their sessions are longer than tests wait for anything: what happens did not wait for one to
end, and none ends because the machine stands still.

Run as a script it is one that reads until it is killed, and commits nothing. Its session is
short, so that this is noticed soon:
``kafka_members.py KIND ADDRESS TOPIC GROUP``; it prints its partitions when they change.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

SESSION_MS = 180_000
KILLED_SESSION_MS = 1_500
# How long the others wait for one that was lost: aiokafka and kafka-python forget who they are
# when a commit comes too late for its generation, and join as somebody else.
REBALANCE_TIMEOUT_MS = 20_000
HEARTBEAT_MS = 150
BACKOFF_MS = 100


class KafkaMember(Protocol):
    """`poll` gives (partition, offset) of what was read. `commit` may do nothing: there may
    be nothing to commit, or the group is rebalancing. `calls` counts how often the client
    told of partitions that were assigned, revoked or lost. Settings with the underscores of
    Python's clients are given with dots to librdkafka."""

    calls: int

    def poll(self) -> list[tuple[int, int]]: ...
    def assignment(self) -> set[int]: ...
    def commit(self) -> None: ...
    def close(self) -> None: ...


class Confluent:
    """librdkafka. It joins and heartbeats in threads of its own."""

    def __init__(self, address: str, topic: str, group: str, **settings: Any) -> None:
        from confluent_kafka import Consumer

        self.calls = 0
        self.revoked: list[set[int]] = []
        settings = {name.replace("_", "."): value for name, value in settings.items()}
        self.consumer = Consumer(
            {
                "bootstrap.servers": address,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": HEARTBEAT_MS,
                "reconnect.backoff.max.ms": BACKOFF_MS,
                "coordinator.query.interval.ms": 500,
                "fetch.wait.max.ms": 50,
                "fetch.error.backoff.ms": 50,
                "log_level": 0,
                **settings,
            }
        )
        self.consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke)

    def _on_assign(self, _: Any, partitions: list[Any]) -> None:
        self.calls += 1

    def _on_revoke(self, _: Any, partitions: list[Any]) -> None:
        self.calls += 1
        self.revoked.append({each.partition for each in partitions})

    def poll(self) -> list[tuple[int, int]]:
        messages = self.consumer.consume(100, 0.05)
        return [(each.partition(), each.offset()) for each in messages if each.error() is None]

    def assignment(self) -> set[int]:
        return {each.partition for each in self.consumer.assignment()}

    def commit(self) -> None:
        from confluent_kafka import KafkaException

        with contextlib.suppress(KafkaException):
            self.consumer.commit(asynchronous=False)

    def close(self) -> None:
        self.consumer.close()


def _listener(kind: Any, member: KafkaMember) -> Any:
    class Counting(kind):  # type: ignore[misc]
        def on_partitions_assigned(self, _: Any) -> None:
            member.calls += 1

        def on_partitions_revoked(self, _: Any) -> None:
            member.calls += 1

    return Counting()


class KafkaPython:
    """Polled by a thread of its own: two that are polled in turn by one thread, for a moment
    each, keep one another from ever joining."""

    def __init__(self, address: str, topic: str, group: str, **settings: Any) -> None:
        from kafka import ConsumerRebalanceListener, KafkaConsumer

        self.calls = 0
        self.consumer = KafkaConsumer(
            bootstrap_servers=address,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            **{
                "session_timeout_ms": SESSION_MS,
                "max_poll_interval_ms": REBALANCE_TIMEOUT_MS,
                "heartbeat_interval_ms": HEARTBEAT_MS,
                "reconnect_backoff_ms": BACKOFF_MS,
                "reconnect_backoff_max_ms": BACKOFF_MS,
                "retry_backoff_ms": BACKOFF_MS,
                "fetch_max_wait_ms": 50,
                **settings,
            },
        )
        # Join with the topic known: else the first assignment may be empty, and the join that
        # mends this is forgotten if it outlasts one poll.
        self.consumer.partitions_for_topic(topic)
        self.consumer.subscribe([topic], listener=_listener(ConsumerRebalanceListener, self))
        self._lock = threading.Lock()  # the consumer is for one thread at a time
        self._found: list[tuple[int, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        from kafka.errors import KafkaConnectionError

        while not self._stop.wait(0.005):
            with self._lock, contextlib.suppress(KafkaConnectionError):  # a server is away
                batches = self.consumer.poll(timeout_ms=50)
                self._found += [
                    (each.partition, each.offset) for batch in batches.values() for each in batch
                ]

    def poll(self) -> list[tuple[int, int]]:
        time.sleep(0.02)
        with self._lock:
            found, self._found = self._found, []
        return found

    def assignment(self) -> set[int]:
        with self._lock:
            return {each.partition for each in self.consumer.assignment()}

    def commit(self) -> None:
        from kafka.errors import KafkaError

        with self._lock, contextlib.suppress(KafkaError):
            self.consumer.commit()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.consumer.close(autocommit=False)


class Aiokafka:
    """Its loop runs in a thread, as it would in a program that does nothing else."""

    def __init__(self, address: str, topic: str, group: str, **settings: Any) -> None:
        self.calls = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        try:
            self.consumer = self._run(self._start(address, topic, group, settings))
        except BaseException:
            self._end()
            raise

    async def _start(self, address: str, topic: str, group: str, settings: Any) -> Any:
        from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener

        consumer = AIOKafkaConsumer(
            bootstrap_servers=address,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            **{
                "session_timeout_ms": SESSION_MS,
                "rebalance_timeout_ms": REBALANCE_TIMEOUT_MS,
                "heartbeat_interval_ms": HEARTBEAT_MS,
                "retry_backoff_ms": BACKOFF_MS,
                "fetch_max_wait_ms": 50,
                **settings,
            },
        )
        consumer.subscribe([topic], listener=_listener(ConsumerRebalanceListener, self))
        await consumer.start()
        return consumer

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(90)

    def poll(self) -> list[tuple[int, int]]:
        batches = self._run(self.consumer.getmany(timeout_ms=50))
        return [(each.partition, each.offset) for batch in batches.values() for each in batch]

    def assignment(self) -> set[int]:
        return {each.partition for each in self.consumer.assignment()}

    def commit(self) -> None:
        from aiokafka.errors import KafkaError

        with contextlib.suppress(KafkaError):
            self._run(self.consumer.commit())

    def close(self) -> None:
        try:
            self._run(self.consumer.stop())
        finally:
            self._end()

    def _end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


KINDS: dict[str, Callable[..., KafkaMember]] = {
    "confluent-kafka": Confluent,
    "kafka-python": KafkaPython,
    "aiokafka": Aiokafka,
}


def main(kind: str, *arguments: str) -> None:
    member = KINDS[kind](*arguments, session_timeout_ms=KILLED_SESSION_MS)
    printed: set[int] = set()
    while True:
        member.poll()
        if member.assignment() != printed:
            printed = member.assignment()
            print(*sorted(printed), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
