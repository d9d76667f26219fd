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
from typing import TYPE_CHECKING, Final, cast

from seawall.broker.errors import BrokerError, UnknownTopic
from seawall.broker.mirror_checkpoint import Checkpoint, Checkpoints, OffsetMap
from seawall.broker.mirror_copy import (
    ClusterWriter,
    DirectoryWriter,
    MirrorWriter,
    as_it_is,
    batch_bytes,
    settle,
    with_provenance,
)
from seawall.broker.mirror_groups import CopiedGroups, copy_groups
from seawall.broker.mirror_plan import PlannedTopic, plan, prepare
from seawall.broker.mirror_read import Side
from seawall.broker.mirror_resume import resume
from seawall.broker.mirror_session import Mirrored, MirrorOptions, MirrorProgress, Session
from seawall.broker.mirror_verify import Difference, compare, is_compacted

if TYPE_CHECKING:
    from seawall.broker.broker import Broker
    from seawall.broker.interface import AnyBroker, Place

_POLL_MS: Final = 200
# How often a mirror that follows looks for new topics and partitions.
_LOOK_AGAIN_S: Final = 10.0
# For so long nothing may come to a cluster after a mirror was killed.
QUIET_S: Final = 3.0


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
            run.is_dry = True
            run.look()
        else:
            run.copy()
        if verify and not run.result.was_stopped:
            with contextlib.suppress(_Stopped):
                run.compare()
    return run.result


class _Stopped(Exception):
    """Somebody wants a comparison to stop."""


class _Run:
    """One call of `mirror`."""

    def __init__(self, source: AnyBroker, target: AnyBroker, options: MirrorOptions) -> None:
        self.source = source
        self.target = target
        self.options = options
        self.result = Mirrored()
        self.checkpoints = Checkpoints(target, source.cluster_id)
        self.known: dict[Place, Checkpoint] = {}
        self.is_dry = False

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
                if number >= each.target_partitions:
                    known.pop(place, None)  # it was copied to what is gone
                elif place in known:
                    self.known[place] = known[place]
                else:
                    first = ends.log_start, self.target.ends(*place).log_start
                    self.known[place] = Checkpoint("", "", OffsetMap([first]))
                at = known[place].mapping.last[0] if place in known else ends.log_start
                left = max(0, ends.durable_end - max(at, ends.log_start))
                self.result.left[each.name] = self.result.left.get(each.name, 0) + left

    # -- copying ---------------------------------------------------------------------

    def copy(self) -> None:
        """Copy until all is copied, or until somebody wants it to stop. A topic that fits a
        pattern, and is deleted at the source meanwhile, ends nothing."""
        while True:
            planned = self._plan()
            self._take_in(planned)
            self.checkpoints.create()
            for each in planned:
                for note in prepare(self.target, each):
                    self._note(f"{each.name}: {note}")
            names = [each.name for each in planned]
            try:
                with self._writer(names) as writer:
                    if self._session(planned, writer):
                        return
            except UnknownTopic as error:
                gone = {*names} - {each.name for each in self.source.topics()}
                if error.topic not in gone:
                    raise
                self._note(f"{error.topic}: deleted at the source; what was copied of it stays")

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
        before = {place: checkpoint.encode() for place, checkpoint in known.items()}
        if self.target.is_remote and self.checkpoints.was_killed:
            there = [(e.name, n) for e in planned for n in range(e.target_partitions)]
            settle(self.target, there, QUIET_S)
        self.checkpoints.mark(is_running=True)
        session = Session(self.source, self.target, writer, self.options, self.result, self._lost)
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
        self.checkpoints.write({p: c for p, c in self.known.items() if before.get(p) != c.encode()})
        self._begin_logs(session, writer)
        names = [each.name for each in planned]
        if not names and not self.options.follow:
            self.checkpoints.mark(is_running=False)
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
        self.checkpoints.mark(is_running=False)
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
        """Compare all that was copied; ends at the first difference. Raises `_Stopped`."""
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
                before = result.compared
                compared = compare(
                    Side(self.source, *place),
                    Side(self.target, *place),
                    self.known[place].mapping,
                    self._stops(place),
                    is_compacted=is_compacted(*policies),
                    keeps_offsets=not self.target.is_remote,
                    on_count=self._counting(before, total),
                )
                result.removed += compared.removed
                result.compared = before + compared.records
                if compared.difference is not None:
                    result.difference = compared.difference
                    return
                self._compared(result.compared, total)

    def _counting(self, before: int, total: int) -> Callable[[int], None]:
        return lambda count: self._compared(before + count, total)

    def _compared(self, count: int, total: int) -> None:
        self.result.compared = count
        self.options.on_progress(MirrorProgress(stage="comparing", records=count, total=total))
        if self.options.should_stop():
            self.result.was_stopped = True
            raise _Stopped

    def _stops(self, place: Place) -> tuple[int, int]:
        """How far both sides are compared: all of the target with what was copied to it; all
        of the source as well if nothing was copied just now."""
        copied = self.known[place].mapping.last[0]
        end = self.source.ends(*place).durable_end if self.is_dry else copied
        return end, self.target.ends(*place).durable_end

    def _target_names(self) -> set[str]:
        return {each.name for each in self.target.topics()}
