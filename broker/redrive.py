"""Sending dead letters back, and writing down which were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.broker.dead_letter_format import DeadLetter, DeadLetterChoice, parse, redriven_headers
from seawall.broker.errors import BrokerError, InvalidRecord, RecordTooLarge, UnknownOrigin
from seawall.broker.group_state import MAX_METADATA_BYTES
from seawall.broker.producer import NO_KEY
from seawall.broker.redriven import Redriven

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker, AnyDelivery, AnyProducer
    from seawall.broker.redrive_places import RedrivePlaces, RedriveSession
    from seawall.broker.topic_info import TopicInfo

# So many are sent back before that is written down.
BATCH_RECORDS = 500
# What a topic has against a record, and not against all of them.
REFUSALS = (InvalidRecord, RecordTooLarge)


class Targets:
    """Where dead letters are to be sent: each to its origin, or all to topic `to`."""

    def __init__(self, broker: AnyBroker, to: str | None) -> None:
        self._broker = broker
        self._to = to
        self._topics: dict[str, TopicInfo] = {}

    def of(self, letter: DeadLetter) -> TopicInfo:
        """The topic for a dead letter. Raises `UnknownOrigin` and `UnknownTopic`."""
        record = letter.record
        name = self._to or letter.topic
        if name is None or name == record.topic:
            raise UnknownOrigin(
                topic=record.topic, partition=record.partition, offset=record.offset
            )
        if name not in self._topics:
            self._topics[name] = self._broker.topic(name)
        return self._topics[name]

    def refusal(self, letter: DeadLetter) -> str | None:
        """Why its topic will not have it, as far as that is known beforehand."""
        compacts = "compact" in self.of(letter).in_force.get("cleanup.policy", "")
        return NO_KEY if compacts and letter.record.key is None else None


@dataclass(slots=True)
class Left:
    """Dead letters of a partition that one topic did not take: how many, the first, and why."""

    count: int = 0
    offset: int = -1
    reason: str = ""

    def add(self, offset: int, reason: str) -> None:
        """One more."""
        if not self.count or offset < self.offset:
            self.offset, self.reason = offset, reason
        self.count += 1


class Redriving:
    """One redrive of some dead letters; see `DeadLetters.redrive`."""

    def __init__(
        self,
        broker: AnyBroker,
        places: RedrivePlaces,
        topic: str,
        choice: DeadLetterChoice,
        targets: Targets,
    ) -> None:
        self._broker = broker
        self._places = places
        self.topic = topic
        self._choice = choice
        self._targets = targets
        # By partition and target.
        self.left: dict[tuple[int, str], Left] = {}

    def send(self, redriven: Mapping[int, Redriven], on_progress: Callable[[int], object]) -> None:
        """Send those that there are now, and write that down, batch by batch.

        What its topic refuses stays, and is in `left`; all else that goes wrong is raised.
        """
        broker, topic, choice = self._broker, self.topic, self._choice
        ends = {
            each.number: broker.ends(topic, each.number).durable_end
            for each in broker.topic(topic).partitions
        }
        before = {number: each.committed for number, each in redriven.items()}
        # What lies below was purged.
        starts = {n: max(at, broker.ends(topic, n).log_start) for n, at in before.items()}
        session = self._places.open(topic, starts)
        with session, broker.producer(durability="fsync") as producer:
            sent = 0
            while records := session.poll(BATCH_RECORDS):
                # What is done with, and what lies between two records: nothing.
                done: list[tuple[int, int, int]] = []
                chosen: list[DeadLetter] = []
                for record in records:
                    number, offset = record.partition, record.offset
                    if offset >= ends[number]:
                        continue
                    done.append((number, before[number], offset))
                    before[number] = offset + 1
                    letter = parse(record, is_redriven=offset in redriven[number])
                    if letter.is_redriven or not choice.has(letter):
                        continue
                    refusal = self._targets.refusal(letter)
                    if refusal is None:
                        chosen.append(letter)
                    else:
                        self._leave(letter, refusal)
                self._check_room(redriven, done, chosen)
                more, failed = self._send_batch(producer, chosen)
                self._remember(session, redriven, [*done, *more])
                if failed is not None:
                    raise failed
                sent += len(more)
                on_progress(sent)
                if all(before[number] >= end for number, end in ends.items()):
                    return

    def _leave(self, letter: DeadLetter, reason: str) -> None:
        place = letter.record.partition, self._targets.of(letter).name
        self.left.setdefault(place, Left()).add(letter.record.offset, reason)

    def _send_batch(
        self, producer: AnyProducer, chosen: Sequence[DeadLetter]
    ) -> tuple[list[tuple[int, int, int]], BrokerError | None]:
        """Send these and wait. Gives the places of those that are there, and the first error."""
        there: list[tuple[int, int, int]] = []
        failed: BrokerError | None = None
        under_way: list[tuple[DeadLetter, AnyDelivery]] = []
        for letter in chosen:
            try:
                under_way.append((letter, self._send_one(producer, letter)))
            except REFUSALS as error:
                self._leave(letter, str(error))
            except BrokerError as error:
                failed = error
                break
        for letter, delivery in under_way:
            record = letter.record
            try:
                delivery.result()
            except REFUSALS as error:
                self._leave(letter, str(error))
            except BrokerError as error:
                failed = failed or error
            else:
                there.append((record.partition, record.offset, record.offset + 1))
        return there, failed

    def _send_one(self, producer: AnyProducer, letter: DeadLetter) -> AnyDelivery:
        record = letter.record
        target = self._targets.of(letter)
        partition = letter.partition if target.name == letter.topic else None
        if partition is not None and partition >= len(target.partitions):
            partition = None
        return producer.send(
            target.name,
            record.value,
            key=record.key,
            headers=redriven_headers(letter),
            partition=partition,
            timestamp=record.timestamp,
        )

    def _check_room(
        self,
        redriven: Mapping[int, Redriven],
        done: Sequence[tuple[int, int, int]],
        chosen: Sequence[DeadLetter],
    ) -> None:
        """Raise ValueError if it could not be written down that these were sent."""
        trial = {number: Redriven(each.committed, str(each)) for number, each in redriven.items()}
        marks = [(each.record.partition, each.record.offset) for each in chosen]
        for number, start, stop in [*done, *((n, offset, offset + 1) for n, offset in marks)]:
            trial[number].add(start, stop)
        for number, place in trial.items():
            if len(str(place)) > MAX_METADATA_BYTES:
                raise ValueError(
                    f"{self.topic}/{number} would be redriven in too many pieces to remember; "
                    f"redrive (or purge) all before offset {place.ranges[-1][0]} first"
                )

    def _remember(
        self,
        session: RedriveSession,
        redriven: Mapping[int, Redriven],
        done: Sequence[tuple[int, int, int]],
    ) -> None:
        before = {number: (each.committed, str(each)) for number, each in redriven.items()}
        for number, start, stop in done:
            redriven[number].add(start, stop)
        for number, place in redriven.items():
            if (place.committed, str(place)) != before[number]:
                session.remember(number, place)
