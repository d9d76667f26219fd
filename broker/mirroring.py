"""Copying topics and groups from one broker to another, once or for as long as it runs.

``mirror`` is the whole of it. What is copied of a partition is every record, in order: key,
value, headers and timestamp. A directory gets them at the offsets that they have; servers number
them anew, and the checkpoint (`mirror_checkpoint`) says which are which. A mirror that was
killed goes on where it was: what the target holds beyond the checkpoint is compared with the
source first (`mirror_resume`), so nothing is left out and nothing comes twice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from seawall.broker.errors import BrokerError, MirrorError
from seawall.broker.mirror_checkpoint import Checkpoint, Checkpoints, OffsetMap
from seawall.broker.mirror_copy import (
    ClusterWriter,
    DirectoryWriter,
    MirrorWriter,
    as_it_is,
    batch_bytes,
    with_provenance,
)
from seawall.broker.mirror_groups import CopiedGroups, copy_groups
from seawall.broker.mirror_plan import PlannedTopic, plan, prepare
from seawall.broker.mirror_read import POLL_RECORDS, SILENCE_S, Side
from seawall.broker.mirror_resume import resume
from seawall.broker.mirror_verify import Difference, compare, is_compacted

if TYPE_CHECKING:
    from seawall.broker.broker import Broker
    from seawall.broker.interface import AnyBroker, AnyConsumer, Place
    from seawall.wal.records import Record

_POLL_MS: Final = 200
# How often a mirror that follows looks for new topics and partitions.
_LOOK_AGAIN_S: Final = 10.0


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
    ``difference``: with ``verify``; ``removed`` then counts offsets of which one side has
    removed the records by its own settings. ``notes`` are for people.
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


def mirror(
    source: AnyBroker,
    target: AnyBroker,
    *,
    topics: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    groups: bool = False,
    follow: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    provenance: bool = False,
    compression: str = "none",
    checkpoint_interval_ms: float = 1_000,
    groups_interval_ms: float = 10_000,
    on_progress: Callable[[MirrorProgress], object] = lambda progress: None,
    on_note: Callable[[str], object] = lambda note: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Mirrored:
    """Copy topics, and with ``groups`` the positions of all groups in them.

    ``topics`` and ``exclude``: names, or patterns such as ``order*``. Names that begin with two
    underscores are copied only if they are given in full. What the source has when this
    begins is copied; with ``follow`` also what comes later, until ``should_stop()`` is true.
    ``verify`` compares both sides afterwards. ``dry_run`` changes nothing; with ``verify`` it
    compares what is there. ``provenance`` adds the headers ``seawall.mirror.source`` (cluster
    id) and ``seawall.mirror.offset``. ``compression`` is that of the batches in the target.

    Call it again to go on, after a kill as well. Nobody else may write to the copied topics
    at the target meanwhile, nor run a second mirror to them.

    ``on_progress`` is called every now and then; ``on_note`` with what a person should
    know. Raises `UnknownTopic`, `MirrorConflict`, `ForeignRecord`, and what reading and
    writing raise.
    """
    options = MirrorOptions(
        topics=topics,
        exclude=exclude,
        groups=groups,
        follow=follow,
        verify=verify,
        provenance=provenance,
        compression=compression,
        checkpoint_interval_ms=checkpoint_interval_ms,
        groups_interval_ms=groups_interval_ms,
        on_progress=on_progress,
        on_note=on_note,
        should_stop=should_stop,
    )
    run = _Run(source, target, options)
    with contextlib.closing(run.checkpoints):
        if dry_run:
            run.look()
        else:
            run.copy()
        if verify and not run.result.was_stopped:
            run.compare()
    return run.result


class _Run:
    """One call of `mirror`."""

    def __init__(self, source: AnyBroker, target: AnyBroker, options: MirrorOptions) -> None:
        self.source = source
        self.target = target
        self.options = options
        self.result = Mirrored()
        self.checkpoints = Checkpoints(target, source.cluster_id)
        self.known: dict[Place, Checkpoint] = {}

    def _plan(self) -> list[PlannedTopic]:
        return plan(self.source, self.target, self.options.topics, self.options.exclude)

    def _take_in(self, planned: list[PlannedTopic]) -> None:
        self.result.topics = planned
        self.result.partitions = sum(each.partitions for each in planned)
        for each in planned:
            for note in each.notes:
                self._note(f"{each.name}: {note}")

    def _note(self, text: str) -> None:
        if text not in self.result.notes:
            self.result.note(text)
            self.options.on_note(text)

    # -- looking only ----------------------------------------------------------------

    def look(self) -> None:
        """What would be copied; what is there of it is `known` afterwards."""
        self._take_in(self._plan())
        known = self.checkpoints.read()
        for each in self.result.topics:
            for number in range(each.partitions):
                place = each.name, number
                ends = self.source.ends(*place)
                if place in known:
                    self.known[place] = known[place]
                elif number < each.target_partitions:
                    there = self.target.ends(*place)
                    pairs = [
                        (ends.log_start, there.log_start),
                        (ends.durable_end, there.durable_end),
                    ]
                    self.known[place] = Checkpoint("", "", OffsetMap(pairs))
                at = known[place].mapping.last[0] if place in known else ends.log_start
                left = max(0, ends.durable_end - max(at, ends.log_start))
                self.result.left[each.name] = self.result.left.get(each.name, 0) + left

    # -- copying ---------------------------------------------------------------------

    def copy(self) -> None:
        """Copy until all is copied, or until somebody wants it to stop."""
        while True:
            planned = self._plan()
            self._take_in(planned)
            self.checkpoints.create()
            for each in planned:
                for note in prepare(self.target, each):
                    self._note(f"{each.name}: {note}")
            with self._writer([each.name for each in planned]) as writer:
                if self._session(planned, writer):
                    return

    @contextlib.contextmanager
    def _writer(self, names: Sequence[str]) -> Iterator[MirrorWriter]:
        options = self.options
        headers = with_provenance(self.source.cluster_id) if options.provenance else as_it_is
        writer: MirrorWriter
        if self.target.is_remote:
            writer = ClusterWriter(
                self.target,
                batch_bytes=batch_bytes(self.target, names),
                compression=options.compression,
                headers=headers,
            )
        else:
            writer = DirectoryWriter(
                cast("Broker", self.target), compression=options.compression, headers=headers
            )
        try:
            yield writer
        except BaseException:
            with contextlib.suppress(BrokerError, TimeoutError):
                writer.close()
            raise
        writer.close()

    def _session(self, planned: list[PlannedTopic], writer: MirrorWriter) -> bool:
        """Copy these topics. False if there are others by now, or more partitions."""
        known = self.checkpoints.read()
        session = Session(self.source, self.target, writer, self.options, self.result)
        for each in planned:
            topics = self.source.topic(each.name), self.target.topic(each.name)
            for number in range(each.partitions):
                place = each.name, number
                resumed = resume(
                    self.source,
                    self.target,
                    topics,
                    number,
                    known.get(place),
                    keeps_offsets=writer.keeps_offsets,
                )
                self.known[place] = resumed.checkpoint
                self.result.found += resumed.found
                self._lost(place, resumed.lost)
                session.places[place] = resumed.source_next
                writer.begin(place, resumed.target_end)
        # The beginnings are stored before anything is written there.
        session.checkpoints = self.known
        self.checkpoints.write({p: c for p, c in self.known.items() if p not in known})
        self._begin_logs(session, writer)
        names = [each.name for each in planned]
        if not names and not self.options.follow:
            return True
        last_look_s = last_groups_s = time.monotonic()
        for changed in session.run(names):
            self.checkpoints.write(changed)
            now_s = time.monotonic()
            if self.options.groups and now_s - last_groups_s > (
                self.options.groups_interval_ms / 1000
            ):
                last_groups_s = now_s
                self._copy_groups(session)
            if self.options.follow and now_s - last_look_s > _LOOK_AGAIN_S:
                last_look_s = now_s
                if [(e.name, e.partitions) for e in self._plan()] != [
                    (e.name, e.partitions) for e in planned
                ]:
                    return False
        if self.options.groups:
            self._copy_groups(session)
        return True

    def _begin_logs(self, session: Session, writer: MirrorWriter) -> None:
        """In a directory, let the logs begin where those of the source do."""
        if not isinstance(writer, DirectoryWriter):
            return
        for place, source_next in session.places.items():
            writer.skip_to(place, source_next)
        writer.flush()
        for place in session.places:
            first = self.known[place].mapping.pairs[0][1]
            if self.target.ends(*place).log_start < first:
                self.target.delete_records(place[0], {place[1]: first})

    def _lost(self, place: Place, count: int) -> None:
        if count:
            self.result.lost += count
            self._note(
                f"{place[0]}/{place[1]}: the source removed {count} offsets before they were copied"
            )

    def _copy_groups(self, session: Session) -> None:
        copied = copy_groups(
            self.source, self.target, {place: self.known[place] for place in session.places}
        )
        before = self.result.groups.set if self.result.groups else 0
        self.result.groups = CopiedGroups(
            set=copied.set + before, busy=copied.busy, ahead=copied.ahead
        )
        for name in copied.busy:
            self._note(f"group {name!r} has members at the target, so it is left as it is there")
        for name in copied.ahead:
            self._note(f"group {name!r} is ahead at the target, and is not moved backwards")

    # -- comparing -------------------------------------------------------------------

    def compare(self) -> None:
        """Compare all that was copied; ends at the first difference."""
        result = self.result
        result.compared = 0
        total = sum(each.mapping.last[0] - each.mapping.pairs[0][0] for each in self.known.values())
        for planned in result.topics:
            policies = [
                broker.topic(planned.name).in_force.get("cleanup.policy", "")
                for broker in (self.source, self.target)
                if broker is self.source or planned.name in self._target_names()
            ]
            for number in range(planned.partitions):
                place = planned.name, number
                if place not in self.known:
                    result.difference = Difference(
                        topic=planned.name,
                        partition=number,
                        source_offset=None,
                        target_offset=None,
                        what="the target has no such partition",
                    )
                    return
                compared = compare(
                    Side(self.source, *place),
                    Side(self.target, *place),
                    self.known[place].mapping,
                    is_compacted=is_compacted(*policies),
                    keeps_offsets=not self.target.is_remote,
                )
                result.compared += compared.records
                result.removed += compared.removed
                self.options.on_progress(
                    MirrorProgress(stage="comparing", records=result.compared, total=total)
                )
                if compared.difference is not None:
                    result.difference = compared.difference
                    return

    def _target_names(self) -> set[str]:
        return {each.name for each in self.target.topics()}


class Session:
    """Copying a fixed set of partitions. ``places``: where each goes on at the source."""

    def __init__(
        self,
        source: AnyBroker,
        target: AnyBroker,
        writer: MirrorWriter,
        options: MirrorOptions,
        result: Mirrored,
    ) -> None:
        self._source = source
        self._target = target
        self._writer = writer
        self._options = options
        self._result = result
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
        with self._source.consumer(names) as consumer:
            for (topic, partition), offset in self.places.items():
                if consumer.position(topic, partition) != offset:
                    consumer.seek(topic, partition, offset)
            yield from self._loop(consumer, left, total)

    def _loop(
        self, consumer: AnyConsumer, left: set[Place], total: int
    ) -> Iterator[dict[Place, Checkpoint]]:
        interval_s = self._options.checkpoint_interval_ms / 1000
        done_s = heard_s = time.monotonic()
        copied = 0
        while left or self._options.follow:
            if self._options.should_stop():
                self._result.was_stopped = True
                break
            records = consumer.poll(POLL_RECORDS, _POLL_MS)
            copied += self._write(records, left)
            now_s = time.monotonic()
            if records:
                heard_s = now_s
                self._options.on_progress(
                    MirrorProgress(stage="copying", records=copied, total=total)
                )
            elif left and now_s - heard_s > SILENCE_S:
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
