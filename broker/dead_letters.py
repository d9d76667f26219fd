"""What an operator does with dead letters: look at them, send them back, remove them.

What was *redriven* (sent back) is remembered as the place of a group of its own in the
dead-letter topic, `REDRIVE_GROUP`: its committed offset, and, because a redrive may choose among
the dead letters, what was redriven beyond it (see `redriven`), as the metadata of that offset. So a
redrive goes on where one before was killed, and repeats a batch at the most. The members of that
group are redrives under way: one at a time for a partition.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seawall.broker.dead_letter_format import (
    PREFIX,
    SUFFIX,
    DeadLetter,
    DeadLetterChoice,
    dead_letter_topic,
    parse,
)
from seawall.broker.errors import (
    ConsumeError,
    NoDeadLetters,
    UnknownPartition,
    UnknownTopic,
)
from seawall.broker.redrive import Left, Redriving, Targets
from seawall.broker.stretch import read_stretch
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker
    from seawall.broker.redrive_places import RedrivePlaces

# Whose they are is looked up in so many of them.
MOST_LOOKED_AT = 10_000
# How long it is looked for the first records of topics.
LOOK_S = 10.0
LOOK_MS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterTopic:
    """A dead-letter topic. ``records``: those that were not redriven (a count of offsets);
    ``oldest_ms``: when the oldest of them failed; ``groups`` and ``origins``: of the first
    10,000."""

    name: str
    records: int
    redriven: int
    oldest_ms: int | None
    groups: tuple[str, ...]
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive:
    """How many dead letters of a partition were sent to a topic, and the first and last of
    those that should be. ``refused``: so many the topic did not take, the first one at
    ``refused_offset`` for that ``reason``; they stay where they are."""

    topic: str
    partition: int
    target: str
    records: int
    first_offset: int
    last_offset: int
    refused: int = 0
    refused_offset: int | None = None
    reason: str | None = None


class DeadLetters:
    """The dead letters of one topic. Made by `Broker.dead_letters`."""

    def __init__(self, broker: AnyBroker, places: RedrivePlaces, topic: str) -> None:
        self._broker = broker
        self._places = places
        self.topic = _find_topic(broker, topic)

    def info(self) -> DeadLetterTopic:
        """How many there are, since when, and whose."""
        return _info(self._broker, self._places, self)

    def records(
        self, choice: DeadLetterChoice | None = None, *, with_redriven: bool = False
    ) -> Iterator[DeadLetter]:
        """Those that there are now, partition by partition, in the order of their offsets."""
        choice = choice or DeadLetterChoice()
        partitions = self._broker.topic(self.topic).partitions
        redriven = self._places.redriven(self.topic)  # later, so that it knows all of these
        for partition in partitions:
            number = partition.number
            ends = self._broker.ends(self.topic, number)
            start, stop = ends.log_start, ends.durable_end
            if choice.ranges is not None:
                wanted = choice.ranges.get(number, (0, 0))
                start, stop = max(start, wanted[0]), min(stop, wanted[1])
            if not with_redriven:
                start = max(start, redriven[number].committed)
            for record in read_stretch(self._broker, self.topic, number, start, stop):
                letter = parse(record, is_redriven=record.offset in redriven[number])
                if choice.has(letter) and (with_redriven or not letter.is_redriven):
                    yield letter

    # -- sending back ----------------------------------------------------------------

    def redrive(
        self,
        choice: DeadLetterChoice | None = None,
        *,
        to: str | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int], object] | None = None,
    ) -> list[Redrive]:
        """Send dead letters back to where they were, or to topic `to`, and remember that.

        Each gets its original key, value, timestamp and headers, and the partition that it
        was in (in another topic, the one of its key). All groups of that topic get it; the
        header ``seawall.redrive.group`` says whose handler had failed. Those that come while
        it runs stay. With `dry_run` nothing is sent. `on_progress`: called with the number
        sent so far.

        What its topic does not take, because it has no key and the topic is compacted, say, or
        is too large, stays a dead letter: see `Redrive`.

        At least once: killed in between, it sends up to 500 again when it is called again.
        Raises `UnknownTopic` and `UnknownOrigin` before the first is sent, `GroupBusy` if
        another redrive is under way, and what `Producer.send` raises.
        """
        choice = choice or DeadLetterChoice()
        if to is not None and to == self.topic:
            raise ValueError(f"{to!r} is where the dead letters are")
        targets = Targets(self._broker, to)
        counts, left = self._plan(choice, targets)
        if not dry_run and counts:
            redriving = Redriving(self._broker, self._places, self.topic, choice, targets)
            redriven = self._places.redriven(self.topic)
            redriving.send(redriven, on_progress or (lambda count: None))
            left = redriving.left
        return [_without(each, left.get((each.partition, each.target))) for each in counts]

    def _plan(
        self, choice: DeadLetterChoice, targets: Targets
    ) -> tuple[list[Redrive], dict[tuple[int, str], Left]]:
        """What is to be sent where, and what of it will be refused, as far as that is known."""
        planned: dict[tuple[int, str], list[int]] = {}
        left: dict[tuple[int, str], Left] = {}
        for letter in self.records(choice):
            offset = letter.record.offset
            place = letter.record.partition, targets.of(letter).name
            sums = planned.setdefault(place, [0, offset, offset])
            sums[0], sums[2] = sums[0] + 1, offset
            reason = targets.refusal(letter)
            if reason is not None:
                left.setdefault(place, Left()).add(offset, reason)
        rows = [
            Redrive(
                topic=self.topic,
                partition=partition,
                target=target,
                records=sums[0],
                first_offset=sums[1],
                last_offset=sums[2],
            )
            for (partition, target), sums in planned.items()
        ]
        return rows, left

    # -- removing --------------------------------------------------------------------

    def purge(
        self, offsets: Mapping[int, int] | None = None, *, dry_run: bool = False
    ) -> dict[int, tuple[int, int]]:
        """Remove dead letters for good: all, or those below an offset of some partitions.

        Gives for each partition its first offset before and afterwards. Raises
        `UnknownPartition` and `OffsetOutOfRange`.
        """
        broker, topic = self._broker, self.topic
        numbers = [each.number for each in broker.topic(topic).partitions]
        if offsets is None:
            offsets = {number: broker.ends(topic, number).durable_end for number in numbers}
        for number in offsets:
            if number not in numbers:
                raise UnknownPartition(topic=topic, partition=number, partitions=len(numbers))
        starts = {number: broker.ends(topic, number).log_start for number in offsets}
        after = {number: max(starts[number], offset) for number, offset in offsets.items()}
        if not dry_run:
            after = broker.delete_records(topic, offsets)
        return {number: (starts[number], after[number]) for number in offsets}


def _without(sent: Redrive, left: Left | None) -> Redrive:
    """What was sent, without what was refused."""
    if left is None:
        return sent
    return replace(
        sent,
        records=sent.records - left.count,
        refused=left.count,
        refused_offset=left.offset,
        reason=left.reason,
    )


def find(broker: AnyBroker, places: RedrivePlaces) -> list[DeadLetterTopic]:
    """All topics that hold dead letters: by their name, or by their first record. Those that
    are deleted meanwhile are left out."""
    names = [info.name for info in broker.topics()]
    others = [name for name in names if not name.endswith(SUFFIX)]
    holding = set(names).difference(others)
    while True:
        try:
            holding |= _holding(broker, others)
            break
        except (UnknownTopic, UnknownPartition) as error:
            if error.topic not in others:
                raise
            others.remove(error.topic)
    found = []
    for name in names:
        if name in holding:
            with contextlib.suppress(UnknownTopic, UnknownPartition):
                found.append(DeadLetters(broker, places, name).info())
    return found


def _info(broker: AnyBroker, places: RedrivePlaces, letters: DeadLetters) -> DeadLetterTopic:
    topic = letters.topic
    records = redriven = 0
    for number, place in places.redriven(topic).items():
        ends = broker.ends(topic, number)
        gone = place.count(ends.log_start, ends.durable_end)
        redriven += gone
        records += ends.durable_end - ends.log_start - gone
    groups: set[str] = set()
    origins: set[str] = set()
    oldest_ms: int | None = None
    for count, letter in enumerate(letters.records(), 1):
        groups |= {letter.group} if letter.group is not None else set()
        origins |= {letter.topic} if letter.topic is not None else set()
        failed_ms = letter.record.timestamp if letter.failed_at_ms is None else letter.failed_at_ms
        oldest_ms = failed_ms if oldest_ms is None else min(oldest_ms, failed_ms)
        if count >= MOST_LOOKED_AT:
            break
    return DeadLetterTopic(
        name=topic,
        records=records,
        redriven=redriven,
        oldest_ms=oldest_ms,
        groups=tuple(sorted(groups)),
        origins=tuple(sorted(origins)),
    )


def _find_topic(broker: AnyBroker, topic: str) -> str:
    own = dead_letter_topic(topic)
    if own is not None:
        try:
            return broker.topic(own).name
        except UnknownTopic:
            pass
    name = broker.topic(topic).name
    # Purging a topic of good records by mistake would be bad.
    if own is not None and not _holding(broker, [name]):
        raise NoDeadLetters(topic=name)
    return name


def _holding(broker: AnyBroker, topics: Sequence[str]) -> set[str]:
    """Those of these topics in which the first record of a partition is a dead letter."""
    if not broker.is_remote:
        return {topic for topic in topics if _are_some(_first_records(broker, [topic]))}
    # Connecting takes longer than reading: all at once.
    found = _first_records(broker, topics) if topics else []
    return {record.topic for record in found if _are_some([record])}


def _first_records(broker: AnyBroker, topics: Sequence[str]) -> list[Record]:
    """The first record of each partition that has one; what cannot be read is left out."""
    ends = {
        (topic, each.number): broker.ends(topic, each.number)
        for topic in topics
        for each in broker.topic(topic).partitions
    }
    wanted = {place: each.durable_end for place, each in ends.items() if each.log_start < each[1]}
    found: list[Record] = []
    deadline_s = time.monotonic() + LOOK_S
    with broker.consumer(topics, start="start", fetch_bytes=1) as consumer:
        while wanted and time.monotonic() < deadline_s:
            try:
                records = consumer.poll(len(ends), LOOK_MS)
            except ConsumeError:
                break
            for record in records:
                if wanted.pop((record.topic, record.partition), None) is not None:
                    found.append(record)
            wanted = {place: end for place, end in wanted.items() if consumer.reached(*place) < end}
    return found


def _are_some(records: Sequence[Record]) -> bool:
    return any(name == PREFIX + "topic" for each in records for name, _ in each.headers)
