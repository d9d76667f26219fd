"""Copying where groups are: their committed offsets, as offsets of the target.

A group never moves backwards at the target, and not at all while it has members there.

In a directory a record may go once all registered groups have acknowledged it. So that the
first group to be set lets nothing go that the next one needs, all groups that are new there are
first set to where the last of them is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.broker.errors import GroupBusy, UnknownGroup
from seawall.broker.mirror_read import Side, read

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker, Place
    from seawall.broker.mirror_checkpoint import Checkpoint

Positions = dict["Place", int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedGroups:
    """``set``: how many positions were written. ``busy``: groups with members at the target.
    ``ahead``: groups that are further there than at the source, in some partition."""

    set: int
    busy: tuple[str, ...]
    ahead: tuple[str, ...]


def positions(broker: AnyBroker) -> dict[str, Positions]:
    """Where the groups are, by their names."""
    found = {}
    for name in broker.groups():
        with contextlib.suppress(UnknownGroup):  # deleted meanwhile
            found[name] = broker.group_offsets(name)
    return found


def copy_groups(
    source: AnyBroker, target: AnyBroker, checkpoints: Mapping[Place, Checkpoint]
) -> CopiedGroups:
    """Set the groups' positions in what was copied."""
    there = positions(target)
    wanted = {
        name: {
            place: _translated(source, target, place, offset, checkpoints[place])
            for place, offset in offsets.items()
            if place in checkpoints
        }
        for name, offsets in positions(source).items()
    }
    lowest: Positions = {}
    for offsets in wanted.values():
        for place, offset in offsets.items():
            lowest[place] = min(offset, lowest.get(place, offset))
    busy, ahead, changes = [], [], {}
    for name, offsets in wanted.items():
        present = there.get(name, {})
        changes[name] = {p: o for p, o in offsets.items() if o > present.get(p, -1)}
        if any(offset < present.get(place, -1) for place, offset in offsets.items()):
            ahead.append(name)
        if changes[name] and name in there and target.group(name).members:
            busy.append(name)
            del changes[name]
    for name, offsets in changes.items():
        new = {p: lowest[p] for p in offsets if p not in there.get(name, {})}
        if not _set(target, name, new):
            busy.append(name)
    count = 0
    for name, offsets in changes.items():
        if name not in busy and not _set(target, name, offsets):
            busy.append(name)
        elif name not in busy:
            count += len(offsets)
    return CopiedGroups(set=count, busy=tuple(busy), ahead=tuple(ahead))


def _translated(
    source: AnyBroker, target: AnyBroker, place: Place, offset: int, checkpoint: Checkpoint
) -> int:
    """The position at the target, within what it has."""
    side = Side(source, *place)
    translated = checkpoint.mapping.translate(
        offset, lambda first, stop: sum(1 for _ in read(side, first, stop))
    )
    ends = target.ends(*place)
    return min(max(translated, ends.log_start), ends.durable_end)


def _set(target: AnyBroker, name: str, offsets: Positions) -> bool:
    """Set a group's positions; False if somebody is in it."""
    by_topic: dict[str, dict[int, int]] = {}
    for (topic, partition), offset in offsets.items():
        by_topic.setdefault(topic, {})[partition] = offset
    try:
        for topic, wanted in by_topic.items():
            target.reset_group(name, topic, wanted)
    except GroupBusy:
        return False
    return True
