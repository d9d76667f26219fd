"""Copying a fixed set of partitions: read, write, and say how far both sides are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from seawall.broker.errors import MirrorConflict, MirrorError, OffsetOutOfRange
from seawall.broker.mirror_copy import DirectoryWriter, MirrorWriter
from seawall.broker.mirror_read import POLL_RECORDS
from seawall.broker.silence import Silence

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker, AnyConsumer, Place
    from seawall.broker.mirror_checkpoint import Checkpoint
    from seawall.broker.mirror_groups import CopiedGroups
    from seawall.broker.mirror_plan import PlannedTopic
    from seawall.broker.mirror_verify import Difference
    from seawall.wal.records import Record

_POLL_MS: Final = 200


@dataclass(slots=True, kw_only=True)
class MirrorProgress:
    """How far a mirror is. ``total`` is 0 while it follows; ``stage`` is one of copying and
    comparing."""

    stage: str
    records: int
    total: int


@dataclass(slots=True, kw_only=True)
class Mirrored:
    """What a mirror did.

    ``records``: copied by this run. ``found``: those that a run before it had left beyond its
    checkpoint. ``lost``: offsets that the source had removed before they could be copied.
    ``left``, of a dry run: offsets that would be copied, by topic. ``compared`` and
    ``difference``: with ``verify``, as far as it came; ``removed`` then counts offsets of which
    one side has removed the records by its own settings. ``notes`` are for people.
    """

    topics: list[PlannedTopic] = field(default_factory=list)
    partitions: int = 0
    records: int = 0
    found: int = 0
    lost: int = 0
    left: dict[str, int] = field(default_factory=dict)
    groups: CopiedGroups | None = None
    compared: int | None = None
    removed: int = 0
    difference: Difference | None = None
    notes: list[str] = field(default_factory=list)
    was_stopped: bool = False

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """See `mirror`."""

    topics: Sequence[str]
    exclude: Sequence[str]
    groups: bool
    follow: bool
    verify: bool
    provenance: bool
    compression: str
    checkpoint_interval_ms: float
    groups_interval_ms: float
    on_progress: Callable[[MirrorProgress], object]
    on_note: Callable[[str], object]
    should_stop: Callable[[], bool]


class Session:
    """Copying a fixed set of partitions. ``places``: where each goes on at the source.
    ``on_lost`` hears of so many offsets that the source has removed before they were copied."""

    def __init__(
        self,
        source: AnyBroker,
        target: AnyBroker,
        writer: MirrorWriter,
        options: MirrorOptions,
        result: Mirrored,
        on_lost: Callable[[Place, int], object],
    ) -> None:
        self._source = source
        self._target = target
        self._writer = writer
        self._options = options
        self._result = result
        self._on_lost = on_lost
        self.places: dict[Place, int] = {}
        self.checkpoints: dict[Place, Checkpoint] = {}
        # Where each partition's copying ends; nowhere while it follows.
        self._until: dict[Place, int] = {}

    def run(self, names: Sequence[str]) -> Iterator[dict[Place, Checkpoint]]:
        """Copy; yields what has to be stored, each time after it is durable."""
        follow = self._options.follow
        if not names:
            while not self._options.should_stop():  # there may be topics later
                time.sleep(_POLL_MS / 1000)
                yield {}
            self._result.was_stopped = True
            return
        if not follow:
            self._until = {p: self._source.ends(*p).durable_end for p in self.places}
        total = sum(max(0, end - self.places[place]) for place, end in self._until.items())
        left = {place for place, end in self._until.items() if self.places[place] < end}
        if not follow and not left:
            yield {}
            return
        with self._source.consumer(names, auto_offset_reset="error") as consumer:
            for place, offset in list(self.places.items()):
                if consumer.position(*place) != offset:
                    self._go_to(consumer, place, offset)
            yield from self._loop(consumer, left, total)

    def _go_to(self, consumer: AnyConsumer, place: Place, offset: int) -> None:
        """Read on from there, or from where the source begins by now."""
        while True:
            try:
                return consumer.seek(*place, offset)
            except OffsetOutOfRange as error:
                offset = self._pass_over(place, error)

    def _pass_over(self, place: Place, error: OffsetOutOfRange) -> int:
        """The source has removed what comes next: where it begins now."""
        if error.offset > error.durable_end:
            topic, partition = place
            raise MirrorConflict(
                topic=topic,
                reason=f"partition {partition} of topic {topic!r} ends at offset "
                f"{error.durable_end} at the source, but was copied up to {error.offset} already: "
                "the source has lost records, or the topic was made anew; delete the topic at the "
                "target to copy it anew",
            )
        begins = max(error.log_start, self.places[place])
        self._on_lost(place, begins - self.places[place])
        self.places[place] = begins
        if isinstance(self._writer, DirectoryWriter):
            self._writer.skip_to(place, begins)
        return begins

    def _loop(
        self, consumer: AnyConsumer, left: set[Place], total: int
    ) -> Iterator[dict[Place, Checkpoint]]:
        interval_s = self._options.checkpoint_interval_ms / 1000
        done_s = time.monotonic()
        silence = Silence(self._source)
        copied = 0
        while left or self._options.follow:
            if self._options.should_stop():
                self._result.was_stopped = True
                break
            try:
                records = consumer.poll(POLL_RECORDS, _POLL_MS)
            except OffsetOutOfRange as error:
                place = str(error.topic), int(error.partition or 0)
                self._go_to(consumer, place, self._pass_over(place, error))
                yield self._checkpoint(consumer)
                continue
            copied += self._write(records, left)
            now_s = time.monotonic()
            if records:
                silence.heard()
                self._options.on_progress(
                    MirrorProgress(stage="copying", records=copied, total=total)
                )
            elif left and silence.is_too_long(*min(left)):
                topic, partition = min(left)
                raise MirrorError(
                    f"{self._source.location} gives no records of partition {partition} of topic "
                    f"{topic!r} from offset {consumer.reached(topic, partition)} on; an open "
                    "transaction may hold them back",
                    topic=topic,
                )
            if not records or now_s - done_s > interval_s:
                left -= {p for p in left if consumer.reached(*p) >= self._until[p]}
            if now_s - done_s > interval_s:
                yield self._checkpoint(consumer)
                done_s = time.monotonic()
        yield self._checkpoint(consumer)

    def _write(self, records: Sequence[Record], left: set[Place]) -> int:
        """Take records that were read; how many of them are copied."""
        by_place: dict[Place, list[Record]] = {}
        for record in records:
            by_place.setdefault((record.topic, record.partition), []).append(record)
        count = 0
        for place, found in by_place.items():
            end = self._until.get(place)
            if end is not None and found[-1].offset >= end:
                found = [record for record in found if record.offset < end]
            if not found:
                left.discard(place)
                continue
            self._writer.write(place, found)
            self.places[place] = found[-1].offset + 1
            count += len(found)
            if end is not None and self.places[place] >= end:
                left.discard(place)
        self._result.records += count
        return count

    def _checkpoint(self, consumer: AnyConsumer) -> dict[Place, Checkpoint]:
        """Make durable what was written, and give what is new to store."""
        writer = self._writer
        for place in self.places:
            reached = min(consumer.reached(*place), self._until.get(place, 1 << 63))
            if reached > self.places[place]:  # offsets without a record
                self.places[place] = reached
                if isinstance(writer, DirectoryWriter):
                    writer.skip_to(place, reached)
        writer.flush()
        changed = {}
        for place, offset in self.places.items():
            mapping = self.checkpoints[place].mapping
            before = mapping.last
            mapping.add(offset, writer.next_offset(place))
            if mapping.last != before:
                changed[place] = self.checkpoints[place]
        return changed
