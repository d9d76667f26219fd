"""Checking a history: was every promise kept to everyone?

The checker knows nothing of how the clients were connected, or to what. It takes the events
that they wrote down (`seawall.broker.torture.events`) in the order of time, and judges when
it has all of them, because an acknowledgement may say only later what a consumer was given
before. It takes linear time, and memory for each record, not for each event.

What is legal, and therefore no anomaly: offsets that nobody ever saw (holes that recovery
left); records again after a consumer began anew, sought, or was reset; sends with an unknown
outcome that show up, or do not; a value at as many offsets as it was sent; log starts that
rise no higher than somebody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from seawall.broker.torture.anomalies import Anomaly, Operation, Report
from seawall.broker.torture.commits import CommitChecker
from seawall.broker.torture.events import Event, HistoryError
from seawall.broker.torture.verdicts import (
    NOBODY,
    KnownPartition,
    KnownRecord,
    KnownValue,
    judge_order,
    judge_partition,
    judge_value,
)


@dataclass(slots=True)
class _Reader:
    """A process that polls, and how far it is; absent where that is unknown."""

    positions: dict[str, int] = field(default_factory=dict)
    final: int = 0
    """The number of the final reading that it is, 0 if it is none."""


class Checker:
    """Takes a history event by event; `finish` says what is wrong with it.

    ``report.counts`` then has the number of each anomaly, of which only so many are listed.
    """

    def __init__(self) -> None:
        self.report = Report()
        self.events = 0
        self._commits = CommitChecker(self.report)
        self._partitions: dict[str, KnownPartition] = {}
        self._values: dict[str, KnownValue] = {}
        self._singles: dict[str, tuple[str, ...]] = {}
        self._readers: dict[str, _Reader] = {}
        self._finals = 0
        # Invocations whose completion has not come yet.
        self._open: dict[Operation, Event] = {}
        self._counts: dict[str, int] = {}
        # By producer and partition: number, first and last offset of each send.
        self._sends: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        commits = self._commits
        self._invoked: dict[str, Callable[[Event], None]] = {
            "send": self._send_invoked,
            "assign": self._assign_invoked,
            "ack": commits.ack_invoked,
            "committed": commits.look_invoked,
            "reset": commits.reset_invoked,
            "forget": commits.reset_invoked,
            "drop": self._drop_invoked,
        }
        self._completed: dict[tuple[str, str], Callable[[Event, Event], None]] = {
            ("send", "ok"): self._sent,
            ("send", "fail"): self._send_failed,
            ("assign", "ok"): self._assigned,
            ("assign", "fail"): self._assign_failed,
            ("assign", "info"): self._assign_failed,
            ("poll", "ok"): self._polled,
            ("poll", "info"): lambda invocation, event: self._forget_positions(event),
            ("seek", "ok"): self._sought,
            ("seek", "info"): lambda invocation, event: self._forget_positions(event),
            ("ack", "ok"): lambda invocation, event: commits.acked(invocation),
            ("ack", "fail"): lambda invocation, event: commits.ack_failed(invocation),
            ("ack", "info"): lambda invocation, event: commits.ack_failed(invocation),
            ("committed", "ok"): lambda invocation, event: commits.looked(invocation, event.places),
            ("committed", "fail"): lambda invocation, event: commits.look_failed(invocation),
            ("committed", "info"): lambda invocation, event: commits.look_failed(invocation),
            ("reset", "ok"): lambda invocation, event: commits.was_reset(invocation),
            ("reset", "fail"): lambda invocation, event: commits.reset_failed(invocation),
            ("forget", "ok"): lambda invocation, event: commits.was_reset(invocation),
            ("forget", "fail"): lambda invocation, event: commits.reset_failed(invocation),
            ("end", "ok"): self._read_to_end,
        }

    # -- feeding ---------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Take the next event. Raises `HistoryError` for one that cannot come here."""
        self.events += 1
        process, number, op = event.process, event.number, event.op
        if op == "crash":
            self._crashed(process)
        elif event.kind == "invoke":
            if number < self._counts.get(process, 0):
                raise HistoryError(f"{process}#{number} begins out of order, or twice")
            self._counts[process] = number + 1
            self._open[process, number] = event
            invoked = self._invoked.get(op)
            if invoked is not None:
                invoked(event)
        else:
            invocation = self._open.pop((process, number), None)
            if invocation is None or invocation.op != op:
                raise HistoryError(f"{process}#{number} ends as {op!r}, but never began so")
            completed = self._completed.get((op, event.kind))
            if completed is not None:
                completed(invocation, event)

    def _crashed(self, process: str) -> None:
        self._readers.pop(process, None)
        self._commits.crashed(process)
        for operation in [each for each in self._open if each[0] == process]:
            del self._open[operation]

    def _partition(self, name: str) -> KnownPartition:
        partition = self._partitions.get(name)
        if partition is None:
            partition = self._partitions[name] = KnownPartition()
        return partition

    def _value(self, value: str) -> KnownValue:
        known = self._values.get(value)
        if known is None:
            known = self._values[value] = KnownValue()
        return known

    def _place(
        self, name: str, partition: KnownPartition, offset: int, value: str, operation: Operation
    ) -> KnownRecord:
        """Somebody says that this value stands here."""
        record = partition.records.get(offset)
        if record is not None and record.value == value:
            return record
        known = self._value(value)
        if (name, offset) not in known.places:
            known.places = (*known.places, (name, offset))
            if record is not None:
                self.report.add(
                    "inconsistent-offsets",
                    name,
                    f"offset {offset} is {record.value!r}, and {value!r}",
                    record.known_by,
                    operation,
                    offsets=(offset,),
                    values=(record.value, value),
                )
        if record is None:
            record = partition.records[offset] = KnownRecord(value)
        return record

    # -- sending ---------------------------------------------------------------------

    def _send_invoked(self, invocation: Event) -> None:
        # One tuple for all values that are sent to a partition.
        partitions = self._singles.setdefault(invocation.partition, (invocation.partition,))
        for value in invocation.values:
            known = self._value(value)
            known.sent += 1
            if not known.partitions:
                known.partitions = partitions
            elif invocation.partition not in known.partitions:
                known.partitions = (*known.partitions, invocation.partition)

    def _send_failed(self, invocation: Event, event: Event) -> None:
        for value in invocation.values:
            self._value(value).failed += 1

    def _sent(self, invocation: Event, event: Event) -> None:
        name, offsets = event.partition or invocation.partition, event.offsets
        operation = event.process, event.number
        if len(offsets) != len(invocation.values) or not offsets:
            raise HistoryError(f"{event.process}#{event.number}: an offset for each value")
        partition = self._partition(name)
        partition.end = None  # whoever read everything did not expect this
        for value, offset in zip(invocation.values, offsets, strict=True):
            record = self._place(name, partition, offset, value, operation)
            if record.acked is NOBODY:
                record.acked = operation
        for before, after in pairwise(offsets):
            if after <= before:
                self.report.add(
                    "int-nonmonotonic-send",
                    name,
                    f"one send got offset {before}, and then {after}",
                    operation,
                    offsets=(before, after),
                )
        self._sends.setdefault((event.process, name), []).append(
            (event.number, offsets[0], offsets[-1])
        )

    # -- reading ---------------------------------------------------------------------

    def _assign_invoked(self, invocation: Event) -> None:
        self._readers.pop(invocation.process, None)
        if invocation.group:
            self._commits.look_invoked(invocation)

    def _assign_failed(self, invocation: Event, event: Event) -> None:
        if invocation.group:
            self._commits.look_failed(invocation)

    def _assigned(self, invocation: Event, event: Event) -> None:
        reader = self._readers[event.process] = _Reader(positions=dict(event.places))
        if invocation.final:
            self._finals += 1
            reader.final = self._finals
        if invocation.group:
            self._commits.looked(invocation, event.places)

    def _sought(self, invocation: Event, event: Event) -> None:
        reader = self._readers.setdefault(event.process, _Reader())
        reader.positions.update(invocation.places)

    def _forget_positions(self, event: Event) -> None:
        reader = self._readers.get(event.process)
        if reader is not None:
            reader.positions.clear()

    def _polled(self, invocation: Event, event: Event) -> None:
        reader = self._readers.setdefault(event.process, _Reader())
        operation = event.process, event.number
        for name, records in event.records.items():
            partition = self._partition(name)
            known = partition.records
            position = reader.positions.get(name)
            prefix = ""
            for offset, value in records:
                record = known.get(offset)
                if record is None or record.value != value:
                    record = self._place(name, partition, offset, value, operation)
                if record.polled is NOBODY:
                    record.polled = operation
                if reader.final:
                    record.read = reader.final
                if position is not None and offset != position:
                    self._jumped(name, partition, prefix, (position, offset), operation, reader)
                if offset > partition.top_polled:
                    partition.top_polled = offset
                position = offset + 1
                prefix = "int-"
            if position is not None:
                reader.positions[name] = position

    def _jumped(
        self,
        name: str,
        partition: KnownPartition,
        prefix: str,
        jump: tuple[int, int],
        operation: Operation,
        reader: _Reader,
    ) -> None:
        """A consumer was given another offset than the one that it is at."""
        position, offset = jump
        if offset < position:
            self.report.add(
                f"{prefix}nonmonotonic-poll",
                name,
                f"offset {offset} was handed out although the next was {position}",
                operation,
                offsets=(position, offset),
            )
            return
        position = max(position, partition.dropped)
        # What a final reading does not meet is lost, and reported as that.
        if position < offset and not reader.final:
            partition.gaps.setdefault((position, offset, bool(prefix)), operation)

    def _drop_invoked(self, invocation: Event) -> None:
        for name, offset in invocation.places.items():
            partition = self._partition(name)
            partition.dropped = max(partition.dropped, offset)

    def _read_to_end(self, invocation: Event, event: Event) -> None:
        reader = self._readers.get(event.process)
        if reader is None or not reader.final:
            raise HistoryError(f"{event.process}#{event.number}: not a final reading")
        for name, end in event.places.items():
            self._partition(name).end = reader.final, event.starts.get(name, 0), end

    # -- judging ---------------------------------------------------------------------

    def finish(self) -> list[Anomaly]:
        """What is wrong, once all events were fed. To be called once."""
        report = self.report
        for name, partition in self._partitions.items():
            judge_partition(report, name, partition)
        for value, known in self._values.items():
            judge_value(report, value, known, self._partitions)
        for (process, name), sends in self._sends.items():
            judge_order(report, process, name, sends)
        self._commits.finish(
            {
                name: partition.end[2]
                for name, partition in self._partitions.items()
                if partition.end is not None
            }
        )
        return report.found


def check(history: Iterable[Event]) -> list[Anomaly]:
    """What is wrong with a history, in the order of time. Raises `HistoryError`."""
    checker = Checker()
    for event in history:
        checker.feed(event)
    return checker.finish()
