"""Checking what groups have committed: never back, never ahead of what was acknowledged.

An acknowledgement that is ``ok`` is a floor: whoever looks afterwards sees that offset or
a higher one. One that was only invoked is a ceiling: nobody ever sees more. A reset may
take effect at any time between its invocation and its completion, so as long as it is
under way the floor is no higher than its target, and after an unknown one until its
process is known to be dead. Forgetting a group is a reset to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from seawall.broker.torture.anomalies import Operation, Report
from seawall.broker.torture.events import Event, Places


@dataclass(slots=True)
class _Group:
    """What is known of one group; by partition where nothing else is said."""

    floors: dict[str, int] = field(default_factory=dict)
    raised_by: dict[str, Operation] = field(default_factory=dict)
    begins: dict[str, int] = field(default_factory=dict)
    """Where it was first seen: it may begin anywhere."""
    tops: dict[str, int] = field(default_factory=dict)
    """The highest offset that anybody wanted to acknowledge, or to reset it to."""
    is_forgotten: bool = False
    """Whether it may have been deleted: then it may begin anywhere, at any time."""
    resets: dict[Operation, Places | None] = field(default_factory=dict)
    """Under way, with their targets; None for forgetting the group."""
    looks: dict[Operation, dict[str, int]] = field(default_factory=dict)
    """Under way, with the floors that each must find."""
    moves: int = 0
    """How often a reset began or ended."""
    moves_before: dict[Operation, int] = field(default_factory=dict)
    """The same when an operation that is under way began: what it was told of another time
    than that of the last reset is no floor."""

    def floor(self, partition: str) -> int:
        """What is certainly committed now, 0 if nothing is."""
        floor = self.floors.get(partition, 0)
        for target in self.resets.values():
            floor = min(floor, _target(target, partition, floor))
        return floor

    def begin(self, operation: Operation) -> None:
        """An operation begins that may raise the floors."""
        self.moves_before[operation] = self.moves

    def raise_floors(self, places: Places, operation: Operation) -> None:
        """The group is here, or further."""
        if self.moves_before.pop(operation) == self.moves:
            for partition, offset in places.items():
                if offset > self.floors.get(partition, 0):
                    self.floors[partition] = offset
                    self.raised_by[partition] = operation

    def lower(self, target: Places | None) -> None:
        """A reset has, or may have, taken effect."""
        self.moves += 1
        _lower(self.floors, target)
        for look in self.looks.values():
            _lower(look, target)


class CommitChecker:
    """The part of the checker that knows of groups."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._groups: dict[str, _Group] = {}
        # The highest offset that was ever committed, by group and partition.
        self._highest: dict[tuple[str, str], tuple[int, Operation]] = {}

    def _group(self, name: str) -> _Group:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group()
        return group

    # -- acknowledging ---------------------------------------------------------------

    def ack_invoked(self, invocation: Event) -> None:
        """From now on the group may be there."""
        group = self._group(invocation.group)
        group.begin((invocation.process, invocation.number))
        _raise(group.tops, invocation.places)

    def acked(self, invocation: Event) -> None:
        """From now on the group is there, or further."""
        group = self._group(invocation.group)
        operation = invocation.process, invocation.number
        group.raise_floors(invocation.places, operation)
        for partition, offset in invocation.places.items():
            self._note_highest(invocation.group, partition, offset, operation)

    def ack_failed(self, invocation: Event) -> None:
        """The group did not move, or nobody knows whether it did."""
        self._group(invocation.group).moves_before.pop((invocation.process, invocation.number))

    # -- looking ---------------------------------------------------------------------

    def look_invoked(self, invocation: Event) -> None:
        """Somebody asks where the group is, or takes it."""
        group = self._group(invocation.group)
        operation = invocation.process, invocation.number
        group.begin(operation)
        group.looks[operation] = {partition: group.floor(partition) for partition in group.floors}

    def looked(self, invocation: Event, places: Places) -> None:
        """Somebody was told where the group is; it need not be all of its partitions."""
        group = self._group(invocation.group)
        operation = invocation.process, invocation.number
        floors = group.looks.pop(operation)
        for partition, offset in places.items():
            floor = floors.get(partition, 0)
            if offset < floor:
                self._report.add(
                    "committed-backwards",
                    partition,
                    f"group {invocation.group!r} is at offset {offset}, but had acknowledged "
                    f"all before {floor}",
                    group.raised_by[partition],
                    operation,
                    offsets=(floor, offset),
                )
            self._note_highest(invocation.group, partition, offset, operation)
        self._check_ceilings(group, invocation, places)
        group.raise_floors(places, operation)

    def _check_ceilings(self, group: _Group, invocation: Event, places: Places) -> None:
        operation = invocation.process, invocation.number
        if group.resets or group.moves_before[operation] != group.moves:
            # Was this where the group began, or where it is by now?
            _raise(group.begins, places)
            return
        for partition, offset in places.items():
            begin = group.begins.setdefault(partition, offset)
            ceiling = max(begin, group.tops.get(partition, 0))
            if offset > ceiling and not group.is_forgotten:
                self._report.add(
                    "committed-ahead",
                    partition,
                    f"group {invocation.group!r} is at offset {offset}, but never acknowledged "
                    f"anything behind {ceiling}",
                    operation,
                    offsets=(ceiling, offset),
                )

    def look_failed(self, invocation: Event) -> None:
        """Nothing was learnt."""
        group = self._group(invocation.group)
        del group.looks[invocation.process, invocation.number]
        del group.moves_before[invocation.process, invocation.number]

    # -- resetting -------------------------------------------------------------------

    def reset_invoked(self, invocation: Event) -> None:
        """The group may be moved, or forgotten, from now on."""
        group = self._group(invocation.group)
        target = None if invocation.op == "forget" else invocation.places
        group.resets[invocation.process, invocation.number] = target
        group.moves += 1
        for look in group.looks.values():
            _lower(look, target)
        if target is None:
            group.is_forgotten = True
        else:
            _raise(group.tops, target)

    def was_reset(self, invocation: Event) -> None:
        """It was moved at some time since the invocation."""
        group = self._group(invocation.group)
        operation = invocation.process, invocation.number
        target = group.resets.pop(operation)
        group.lower(target)
        for partition, offset in (target or {}).items():
            self._note_highest(invocation.group, partition, offset, operation)

    def reset_failed(self, invocation: Event) -> None:
        """It was not moved."""
        self._group(invocation.group).resets.pop((invocation.process, invocation.number))

    # -- ending ----------------------------------------------------------------------

    def crashed(self, process: str) -> None:
        """A process is dead: what it had under way has taken effect by now, or never will."""
        for group in self._groups.values():
            for operation in [each for each in group.resets if each[0] == process]:
                group.lower(group.resets.pop(operation))
            for operation in [each for each in group.moves_before if each[0] == process]:
                del group.moves_before[operation]
                group.looks.pop(operation, None)

    def finish(self, ends: Mapping[str, int]) -> None:
        """Hold what was committed against the durable ends, as far as they are known."""
        for (group, partition), (offset, operation) in self._highest.items():
            end = ends.get(partition)
            if end is not None and offset > end:
                self._report.add(
                    "committed-beyond-end",
                    partition,
                    f"group {group!r} has committed offset {offset}, but the log ends at {end}",
                    operation,
                    offsets=(offset, end),
                )

    def _note_highest(self, group: str, partition: str, offset: int, operation: Operation) -> None:
        known = self._highest.get((group, partition))
        if known is None or offset > known[0]:
            self._highest[group, partition] = offset, operation


def _target(target: Places | None, partition: str, otherwise: int) -> int:
    return 0 if target is None else target.get(partition, otherwise)


def _raise(offsets: dict[str, int], places: Places) -> None:
    for partition, offset in places.items():
        offsets[partition] = max(offset, offsets.get(partition, 0))


def _lower(floors: dict[str, int], target: Places | None) -> None:
    for partition, floor in floors.items():
        floors[partition] = min(floor, _target(target, partition, floor))
