"""Making holes of what is damaged, so that readers pass over it. Only when a user asks.

What `verify` finds in a segment is copied to ``quarantine/``, and the segment is written
anew with holes in its place; a segment that is missing becomes one that is only a hole.
Nothing that is valid is touched, and no offset changes. Offsets that were lost are never
given again.

Only the sole opener of a directory does this, once every log in it is judged. It may be
interrupted anywhere and done again: a segment is either as it was or as it shall be, and
the index, whose positions are no longer right, is forgotten before the first is switched.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seawall.wal.appender import Appender
from seawall.wal.checkpoint import checkpoint
from seawall.wal.context import LogContext
from seawall.wal.files import Descriptor
from seawall.wal.quarantine import Quarantine
from seawall.wal.recovery import Verdict
from seawall.wal.rewrite import Hole, remove_asides, write_anew
from seawall.wal.verify import Damage, verify


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A stretch that was made a hole, and where its bytes are now, if there were any."""

    damage: Damage
    quarantined: str | None


def repair(context: LogContext, quarantine: Quarantine) -> Iterator[Repair]:
    """Make a hole of each damaged stretch of a log; yield each once that is durable.

    Raises `OSError` if the disk fails, and what appending raises; it may then be called
    again. The index is up to date when the last one was yielded.
    """
    remove_asides(context)
    damages = [damage for damage in verify(context) if damage.next_offset is not None]
    if not damages:
        return
    if any(damage.segment == context.row().segment for damage in damages):
        # What follows moves. In the newest segment that would be the log's end, too.
        _roll(context)
    context.index.forget(context.partition_id)
    for _, group in itertools.groupby(damages, key=lambda damage: damage.segment):
        yield from _repair_segment(context, quarantine, list(group))
    checkpoint(context)


def _roll(context: LogContext) -> None:
    appender = Appender(context)
    try:
        appender.roll()
    finally:
        appender.close()


def _repair_segment(
    context: LogContext, quarantine: Quarantine, damages: Sequence[Damage]
) -> list[Repair]:
    holes = [
        Hole(each.position, each.end, each.offset, each.next_offset or each.offset)
        for each in damages
    ]
    path = damages[0].path
    if damages[0].verdict is Verdict.MISSING:
        write_anew(context, path, None, holes, 0)
        return [Repair(damage=each, quarantined=None) for each in damages]
    source = Descriptor(context.files, path)
    repairs = []
    for damage in damages:
        quarantined = quarantine.keep(
            source.number,
            folder=context.folder,
            segment=damage.segment,
            position=damage.position,
            end=damage.end,
            now_ms=context.now_ms(),
        )
        repairs.append(Repair(damage=damage, quarantined=quarantined))
    write_anew(context, path, source, holes, context.files.size(source.number))
    return repairs
