"""Taking in what librdkafka has fetched, also if that is interrupted.

What a signal's handler raises (Ctrl-C) while librdkafka has the thread makes it throw away what it
was about to hand over: records, or a report. Who goes on polling would pass over those records,
and acknowledge them with the ones behind. So after an interruption every partition is read
again from what arrived here last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from seawall.broker.errors import BrokerClosed, BrokerError
from seawall.broker.remote.errors import AWAY, kafka_error, lost_signal
from seawall.wal.records import Record

if TYPE_CHECKING:
    from confluent_kafka import Consumer as Client

Place = tuple[str, int]

# Why a partition cannot be sought in now, and can be a moment later.
_NOT_YET = AWAY | {KafkaError._STATE, KafkaError._PREV_IN_PROGRESS}


def _headers(messages: Sequence[Any]) -> list[Any]:
    """The headers of each message, or the error that confluent-kafka makes of them. It does so
    once for each; and called from Python itself, perhaps out of a later call."""
    found: list[Any] = []
    each = map(Message.headers, messages)
    while True:
        try:
            found.extend(each)
            return found
        except SystemError as error:
            found.append(error)


class Fetching(ABC):
    """The part of a `RemoteConsumer` that has librdkafka call back and hand over."""

    # The next offset to hand out, and the next to come from librdkafka.
    _positions: dict[Place, int]
    _expected: dict[Place, int]
    # Where librdkafka met the end of a partition last.
    _at_end: dict[Place, int]
    _pending: deque[Record]
    # What a poll hands out, until it is in the hands of who polls.
    _taken: list[Record]
    # Whether something may have been thrown away; from where on what is read again.
    _is_interrupted: bool = False
    _behind: dict[Place, int]
    # Out of range, without a rule for that: librdkafka has stopped reading them, and lets nobody
    # seek in them. Until something comes of them.
    _stopped: set[Place]

    @property
    @abstractmethod
    def client(self) -> Client:
        """Raises `BrokerClosed`."""

    @abstractmethod
    def _check_usable(self) -> None: ...

    @abstractmethod
    def _note(self, error: KafkaError, message: Any) -> None: ...

    @abstractmethod
    def _note_names(self, place: Place, offset: int, error: SystemError) -> None: ...

    @abstractmethod
    def _named(
        self, error: KafkaError, topic: str | None, partition: int | None
    ) -> BrokerError: ...

    @abstractmethod
    def give_back(self, records: Sequence[Record]) -> None: ...

    def _serve(self, count: int, wait_s: float) -> None:
        """Let librdkafka call back, and take in what it has: `count` records at the most."""
        client = self.client
        if self._is_interrupted:
            self._recover()
        if self._behind:
            self._go_back(client)
        self._is_interrupted = True  # unless this comes to its end
        try:
            messages = client.consume(count, 0)
            if not messages and wait_s > 0:
                first = client.poll(wait_s)
                if first is not None:
                    messages = [first, *(client.consume(count - 1, 0) if count > 1 else ())]
        except KafkaException as error:
            self._is_interrupted = False
            self._note(kafka_error(error), None)
            return
        except RuntimeError as error:
            self._check_usable()
            raise BrokerClosed(what="consumer") from error
        except SystemError as error:
            raise lost_signal(error) from None
        expected, behind, taken = self._expected, self._behind, []
        reached: dict[Place, int] = {}
        for message, headers in zip(messages, _headers(messages), strict=True):
            place = message.topic(), message.partition()
            if place in behind:
                continue  # it comes again
            failure = message.error()
            if failure is not None:
                expected.update(reached)
                self._note(failure, message)
                continue
            offset = message.offset()
            if offset < reached.get(place, expected.get(place, 1 << 63)):
                continue  # not ours any more, or behind us
            if type(headers) is SystemError:
                expected.update(reached)
                self._note_names(place, offset, headers)
                behind[place] = offset  # it is told again, as long as nobody seeks
                continue
            reached[place] = offset + 1
            taken.append(
                Record(
                    place[0],
                    place[1],
                    offset,
                    message.timestamp()[1],
                    message.key(),
                    message.value(),
                    headers or [],
                )
            )
        self._pending.extend(taken)
        expected.update(reached)
        self._stopped.difference_update(reached.keys() - behind.keys())
        self._is_interrupted = False

    def _take(self, count: int) -> None:
        """Hand out what is pending: `_taken` has so many records at the most then."""
        taken, pending = self._taken, self._pending
        more = list(islice(pending, count - len(taken)))
        taken += more
        for _ in more:
            pending.popleft()
        self._positions.update({(each.topic, each.partition): each.offset + 1 for each in taken})

    def _untake(self) -> None:
        """What was taken just now was not handed out."""
        taken, self._taken = self._taken, []
        if taken:
            known = {id(each) for each in taken}
            still = [each for each in self._pending if id(each) not in known]
            self._pending.clear()
            self._pending.extend(still)
            self.give_back(taken)

    def _fetched(self) -> Iterable[Record]:
        """What was fetched and not handed out, in order."""
        return self._pending

    def _recover(self) -> None:
        """The last turn was interrupted: find out where to go on."""
        behind = dict(self._positions)
        for record in self._fetched():
            behind[record.topic, record.partition] = record.offset + 1
        for place, offset in behind.items():
            if place in self._positions:
                self._expected[place] = self._behind[place] = offset
                self._at_end.pop(place, None)
        self._is_interrupted = False

    def _go_back(self, client: Client) -> None:
        """Have what was thrown away fetched again. What cannot be sought in yet is later."""
        for place, offset in list(self._behind.items()):
            if place in self._positions:
                try:
                    self._seek(client, place, offset)
                except KafkaException as error:
                    failure = kafka_error(error)
                    if failure.code() in _NOT_YET:
                        continue
                    raise self._named(failure, *place) from error
            del self._behind[place]

    def _seek(self, client: Client, place: Place, offset: int) -> None:
        """Have a partition read from there on."""
        if place in self._stopped:
            self._assign_again(client, place, offset)  # it may be stopped again at once
        else:
            client.seek(TopicPartition(*place, offset))

    def _assign_again(self, client: Client, place: Place, offset: int) -> None:
        """Have it read as if it was new."""
        wanted = [TopicPartition(*place, offset)]
        with suppress(KafkaException):  # an attempt before this one was interrupted
            client.incremental_unassign(wanted)
        client.incremental_assign(wanted)
