"""What a consumer is given instead of a record, and what becomes of it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError

from seawall.broker.errors import (
    BrokerError,
    ConnectionLost,
    OffsetOutOfRange,
    RecordDecodeError,
    UnknownTopic,
)
from seawall.broker.remote.errors import AWAY, named
from seawall.broker.remote.supervisor import Link

if TYPE_CHECKING:
    from uuid import UUID

    from seawall.broker.remote.asking import Asking
    from seawall.broker.remote.supervisor import Supervisor
    from seawall.broker.remote.topics import Topics

logger = logging.getLogger("seawall.broker")

LOOK_INTERVAL_S = 3.0
# How long what comes or is acknowledged is taken for that of the same topic.
SAME_INTERVAL_S = 1.0
LOOK_TIMEOUT_S = 1.0
_UNKNOWN = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_PARTITION,
)
_OUT_OF_RANGE = (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET)
_BAD_BATCH = (KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION)


class Troubles:
    """The part of a `RemoteConsumer` that takes in errors. `_raised` is for the next `poll`."""

    _asking: Asking
    _supervisor: Supervisor
    _topics: Topics
    _positions: dict[tuple[str, int], int]
    _expected: dict[tuple[str, int], int]
    _at_end: dict[tuple[str, int], int]
    _behind: dict[tuple[str, int], int]
    _stopped: set[tuple[str, int]]
    _raised: Exception | None
    # When something came last, or was looked for.
    _heard_s: float
    # What the topics are that it reads, and when that was last seen to be so.
    _uuids: dict[str, UUID]
    _same_s: float
    # The one that is another one by now.
    _replaced: str | None = None

    def _note(self, error: KafkaError, message: Any) -> None:
        """Something else than a record came."""
        topic = message.topic() if message is not None else None
        partition = message.partition() if message is not None else None
        code = error.code()
        if code == KafkaError._PARTITION_EOF and topic is not None and partition is not None:
            # What comes before it has come, and behind the last record may be offsets without.
            self._at_end[topic, partition] = message.offset()
        elif code == KafkaError._MAX_POLL_EXCEEDED:
            logger.warning("%s", error.str())
        elif code in AWAY:
            self._supervisor.suspect(is_use=False)  # whoever polls sees to the rest
        elif code in _UNKNOWN:
            self._raised = self._raised or self._gone(topic)
        elif code in _OUT_OF_RANGE and topic is not None and partition is not None:
            place = topic, partition
            if place not in self._expected:
                return  # not ours any more
            # Asked for again by the next poll, which tells again, as long as nobody seeks.
            at = self._behind[place] = self._expected[place]
            self._stopped.add(place)
            try:
                self._look_whether_same()
            except UnknownTopic as gone:
                self._raised = self._raised or gone
                return
            ends = self._topics.ends(topic, [partition])[partition]
            if ends.log_start <= at <= ends.durable_end:
                return  # somebody has sought meanwhile
            self._raised = self._raised or OffsetOutOfRange(
                topic=topic,
                partition=partition,
                offset=at,
                log_start=ends.log_start,
                durable_end=ends.durable_end,
            )
        elif code in _BAD_BATCH and topic is not None:
            at = message.offset() if message.offset() is not None else -1
            self._raised = self._raised or RecordDecodeError(
                topic=topic,
                partition=partition,
                offset=at,
                next_offset=at + 1,
                reason=error.str(),
            )
        else:
            self._raised = self._raised or self._named(error, topic, partition)

    def _note_names(self, place: tuple[str, int], offset: int, error: SystemError) -> None:
        """confluent-kafka cannot give the headers of a record."""
        cause = error.__cause__
        if not isinstance(cause, UnicodeDecodeError):
            raise error
        self._raised = self._raised or RecordDecodeError(
            topic=place[0],
            partition=place[1],
            offset=offset,
            next_offset=offset + 1,
            reason=f"the name of a header is not UTF-8: {cause.object!r}",
        )

    def _gone(self, topic: str | None) -> BrokerError | None:
        """The error if a topic is really gone: for a moment it may only not be known."""
        for each in {topic} if topic else {name for name, _ in self._positions}:
            try:
                self._topics.one(each)
            except UnknownTopic as error:
                return error
        return None

    def _look_for_topics(self) -> None:
        """Nothing comes: see now and then whether the topics are there still, because of one
        that was deleted librdkafka tells nothing for a long time."""
        now_s = time.monotonic()
        if self._heard_s + LOOK_INTERVAL_S <= now_s and self._supervisor.link is Link.UP:
            self._heard_s = now_s
            self._look_whether_same()

    def _check_same(self) -> None:
        """Before something is handed out or acknowledged: see now and then whether the topics are
        those that it began to read. librdkafka goes on in one that was made anew as if it were the
        old one, in the middle, and says nothing. Raises `UnknownTopic`."""
        if self._replaced is not None:
            raise UnknownTopic(topic=self._replaced, is_another=True)
        is_due = time.monotonic() - self._same_s > SAME_INTERVAL_S
        if is_due and self._supervisor.link is Link.UP:
            self._look_whether_same()

    def _look_whether_same(self) -> None:
        now_s = time.monotonic()
        try:
            there = self._topics.uuids(self._uuids, deadline_s=now_s + LOOK_TIMEOUT_S)
        except ConnectionLost:
            self._same_s = time.monotonic()  # or everybody would wait for that, each time
            return  # which the supervisor sees to
        self._same_s = now_s
        for topic, uuid in self._uuids.items():
            if topic not in there:
                raise UnknownTopic(topic=topic)
            if uuid.int and there[topic] not in (uuid, None):
                self._replaced = topic
                raise UnknownTopic(topic=topic, is_another=True)

    def _named(self, error: KafkaError, topic: str | None, partition: int | None) -> BrokerError:
        return named(error, self._asking.facts(topic=topic, partition=partition))
