"""Sending dead letters back, and writing down which were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from seawall.broker.dead_letter_format import DeadLetter, DeadLetterChoice, parse, redriven_headers
from seawall.broker.errors import BrokerError, UnknownOrigin
from seawall.broker.group_state import MAX_METADATA_BYTES
from seawall.broker.redriven import Redriven
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker, AnyDelivery, AnyProducer
    from seawall.broker.redrive_places import RedrivePlaces, RedriveSession

# So many are sent back before that is written down.
BATCH_RECORDS = 500


def target_of(letter: DeadLetter, to: str | None) -> str:
    """Where a dead letter is to be sent. Raises `UnknownOrigin`."""
    record = letter.record
    target = to or letter.topic
    if target is None or target == record.topic:
        raise UnknownOrigin(topic=record.topic, partition=record.partition, offset=record.offset)
    return target


class Redriving:
    """One redrive of some dead letters; see `DeadLetters.redrive`."""

    def __init__(
        self,
        broker: AnyBroker,
        places: RedrivePlaces,
        topic: str,
        choice: DeadLetterChoice,
        to: str | None,
    ) -> None:
        self._broker = broker
        self._places = places
        self.topic = topic
        self._choice = choice
        self._to = to

    def send(self, redriven: Mapping[int, Redriven], on_progress: Callable[[int], object]) -> None:
        """Send those that there are now, and write that down, batch by batch."""
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
                    if not letter.is_redriven and choice.has(letter):
                        chosen.append(letter)
                self._check_room(redriven, done, chosen)
                failed = self._send_batch(producer, chosen, done)
                self._remember(session, redriven, done)
                if failed is not None:
                    raise failed
                sent += len(chosen)
                on_progress(sent)
                if all(before[number] >= end for number, end in ends.items()):
                    return

    def _send_batch(
        self,
        producer: AnyProducer,
        chosen: Sequence[DeadLetter],
        done: list[tuple[int, int, int]],
    ) -> BrokerError | None:
        """Send these and wait; add those that are there to `done`. Gives the first error."""
        failed: BrokerError | None = None
        under_way: list[tuple[Record, AnyDelivery]] = []
        for letter in chosen:
            try:
                under_way.append((letter.record, self._send_one(producer, letter)))
            except BrokerError as error:
                failed = error
                break
        for record, delivery in under_way:
            try:
                delivery.result()
            except BrokerError as error:
                failed = failed or error
            else:
                done.append((record.partition, record.offset, record.offset + 1))
        return failed

    def _send_one(self, producer: AnyProducer, letter: DeadLetter) -> AnyDelivery:
        record = letter.record
        target = target_of(letter, self._to)
        partition = letter.partition if target == letter.topic else None
        if partition is not None and partition >= len(self._broker.topic(target).partitions):
            partition = None
        return producer.send(
            target,
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
