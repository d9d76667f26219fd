"""Repairing a directory that nobody else has open.

Damage in a log becomes a hole (see ``wal.repair``), after a copy to ``quarantine/``; a
damaged index goes there as a whole and is built again. The truths, ``state.lmdb`` and
``catalog.db``, are never touched: only a backup has what they lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from seawall.broker.broker import Broker
from seawall.broker.catalog import PartitionInfo, TopicInfo
from seawall.broker.errors import UnknownTopic
from seawall.broker.inspect import Finding, finding, verify_index, verify_truths
from seawall.broker.opening import Opening
from seawall.broker.translation import translated
from seawall.wal.checkpoint import checkpoint
from seawall.wal.ends import FENCED
from seawall.wal.files import Files
from seawall.wal.repair import repair as repair_log


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What was found, and what was done about it, or would be.

    ``action`` is ``"hole"``: readers pass over it now; ``"cut"``: the log ends there now;
    ``"rebuilt"``: made anew; ``"left"``: that is for a backup to mend. ``quarantined`` is
    where the bytes are now.
    """

    finding: Finding
    action: str
    quarantined: str | None = None


def repair(
    path: str | os.PathLike[str] = "data",
    topic: str | None = None,
    *,
    dry_run: bool = False,
    open_timeout_ms: int = 30_000,
    lock_timeout_ms: int = 10_000,
    files: Files | None = None,
) -> Iterator[Repaired]:
    """Repair a directory, or one topic of it; yield each thing once it is done.

    Nobody may have the directory open. With ``dry_run`` others may, and nothing is
    changed. Whoever stops in the middle, or is stopped, may begin again.

    Raises `DirectoryInUse`, `UnknownTopic`, and what `Broker.open` raises.
    """
    if dry_run:
        with Broker.open(
            path, create=False, open_timeout_ms=open_timeout_ms, lock_timeout_ms=lock_timeout_ms
        ) as broker:
            for found in broker.verify(topic):
                yield Repaired(finding=found, action=_action(found))
        return
    with translated(topic):
        opening = Opening(
            files or Files(),
            os.fspath(path),
            create=False,
            open_timeout_ms=open_timeout_ms,
            lock_timeout_ms=lock_timeout_ms,
            alone=True,
        )
        try:
            yield from _repair(opening, topic)
        finally:
            opening.close()


def _action(found: Finding) -> str:
    if found.offset is not None:
        return "cut" if found.next_offset in (None, found.offset) else "hole"
    return "rebuilt" if found.verdict == "index" else "left"


def _repair(opening: Opening, topic: str | None) -> Iterator[Repaired]:
    topics = [each for each in opening.catalog.topics() if topic in (None, each.name)]
    if topic is not None and not topics:
        raise UnknownTopic(topic=topic)
    if topic is None:
        for found in verify_truths(opening):
            yield Repaired(finding=found, action="left")
        yield from _rebuild_index(opening, topics)
    for each in topics:
        for partition in each.partitions:
            yield from _repair_partition(opening, each, partition)


def _rebuild_index(opening: Opening, topics: list[TopicInfo]) -> Iterator[Repaired]:
    found = list(verify_index(opening))
    if found:
        quarantined = opening.replace_index()
        for topic in topics:
            for partition in topic.partitions:
                checkpoint(opening.context(topic, partition))
        for each in found:
            yield Repaired(finding=each, action="rebuilt", quarantined=quarantined)


def _repair_partition(
    opening: Opening, topic: TopicInfo, partition: PartitionInfo
) -> Iterator[Repaired]:
    context = opening.context(topic, partition)
    row = opening.ends.read(partition.id)
    if row is not None and row.flags & FENCED:
        # Opening it has found its end unreadable, and would not decide this.
        for judged in opening.recover(context, row, gives_up_unreadable=True):
            if judged.quarantined is not None:
                found = finding(judged, topic, partition)
                yield Repaired(finding=found, action=_action(found), quarantined=judged.quarantined)
    for done in repair_log(context, opening.quarantine):
        found = finding(done.damage, topic, partition)
        yield Repaired(finding=found, action=_action(found), quarantined=done.quarantined)
