"""Putting records that cannot be handled into their dead-letter topic, durably."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from seawall.broker import topics
from seawall.broker.config import SETTINGS
from seawall.broker.dead_letter_format import FULL, ORIGIN_ONLY, headers_of
from seawall.broker.delivery import RecordMetadata
from seawall.broker.errors import BrokerClosed, RecordTooLarge, UnknownTopic
from seawall.broker.handling import Failure
from seawall.broker.producer import Producer
from seawall.broker.routes import MOST_HEADERS, MOST_TIMESTAMP_MS
from seawall.broker.translation import translated
from seawall.wal.records import HEADER_BYTES, Header, Record

if TYPE_CHECKING:
    from seawall.broker.engine import Engine

# How much larger than its origin's a dead-letter topic's records may be: for the headers.
HEADROOM_BYTES = 64 << 10
LINGER_MS = 1_000
_OWN_HEADERS = 12


class Burying:
    """How a record becomes a dead letter, wherever its topic is.

    The topic is made when it is first needed, with as many partitions as the origin has; a
    record keeps its partition's number.
    """

    def __init__(self, group: str) -> None:
        self._group = group

    def bury(
        self, record: Record, failure: Failure, attempts: int, topic: str, failed_at_ms: int
    ) -> RecordMetadata:
        """Write it with all that there is room for, and return once it is durable."""
        self._see_to_topic(record, topic)
        for detail in range(FULL, ORIGIN_ONLY + 1):
            headers = headers_of(
                record,
                failure,
                group=self._group,
                attempts=attempts,
                failed_at_ms=failed_at_ms,
                detail=detail,
            )
            try:
                return self._send(record, _bounded(headers), topic)
            except RecordTooLarge as error:
                if detail == ORIGIN_ONLY:
                    self._make_room(topic, error.size_bytes)
        return self._send(record, _bounded(headers), topic)

    def _see_to_topic(self, record: Record, topic: str) -> None:
        """Have the topic, with enough partitions."""
        raise NotImplementedError

    def _send(self, record: Record, headers: list[Header], topic: str) -> RecordMetadata:
        raise NotImplementedError

    def _make_room(self, topic: str, size_bytes: int) -> None:
        """Have the topic take a record that large."""
        raise NotImplementedError


class DeadLetterWriter(Burying):
    """Writes the dead letters of a group. Safe to use from any thread.

    Their topic's ``cleanup.policy`` is ``acknowledged``, so what nobody has sent back, purged
    or acknowledged stays.
    """

    def __init__(self, engine: Engine, group: str) -> None:
        super().__init__(group)
        self._engine = engine
        self._making = threading.Lock()
        self._producer: Producer | None = None
        self._is_closed = False

    def write(self, record: Record, failure: Failure, attempts: int, topic: str) -> RecordMetadata:
        """Return once the dead letter is on disk. Raises what keeps it from that."""
        with translated(topic, record.partition):
            return self.bury(record, failure, attempts, topic, self._engine.state.clock_ms())

    def _send(self, record: Record, headers: list[Header], topic: str) -> RecordMetadata:
        with self._making:
            if self._is_closed:  # a worker that `run` did not wait for
                raise BrokerClosed(what="consumer")
            if self._producer is None:
                # Whoever sends asks for the result, so that nothing waits for so long.
                self._producer = Producer(self._engine, linger_ms=LINGER_MS)
            producer = self._producer
        return producer.send(
            topic,
            record.value,
            key=record.key,
            headers=headers,
            partition=record.partition,
            timestamp=record.timestamp if abs(record.timestamp) < MOST_TIMESTAMP_MS else None,
        ).result()

    def _see_to_topic(self, record: Record, topic: str) -> None:
        """Have the topic, with enough partitions."""
        engine = self._engine
        try:
            found = engine.topic(topic)
        except UnknownTopic:
            origin = engine.topic(record.topic)
            found = topics.create_topic(
                engine,
                topic,
                len(origin.partitions),
                {
                    "cleanup.policy": "acknowledged",
                    "max.message.bytes": limit_for(origin.settings.max_message_bytes),
                },
                if_not_exists=True,
            )
        if record.partition >= len(found.partitions):
            topics.add_partitions(engine, topic, record.partition + 1)

    def _make_room(self, topic: str, size_bytes: int) -> None:
        """Have the topic take a record that large: it came compressed, or its origin's limit
        was raised since."""
        found = self._engine.topic(topic).settings.max_message_bytes
        wanted = limit_for(size_bytes + HEADER_BYTES)
        if wanted > found:
            topics.alter_topic(self._engine, topic, {"max.message.bytes": wanted})

    def close(self) -> None:
        """Close the producer. Safe to call twice."""
        with self._making:
            self._is_closed = True
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()


def limit_for(size_bytes: int) -> int:
    """The ``max.message.bytes`` of a dead-letter topic, for records that large."""
    return min(SETTINGS["max.message.bytes"].maximum, size_bytes + HEADROOM_BYTES)


def _bounded(headers: list[Header]) -> list[Header]:
    """No more headers than a record may have: the last of the original ones go."""
    excess = len(headers) - MOST_HEADERS
    if excess <= 0:
        return headers
    first_own = len(headers) - _OWN_HEADERS
    return headers[: max(0, first_own - excess)] + headers[max(0, first_own) :]
