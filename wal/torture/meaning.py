"""Which bytes of a log mean something, and which batches are hit when bytes change.

`MEANINGLESS` names every byte of a log's files that may change without anybody being told,
and says why nobody has to be.
"""

from __future__ import annotations

from collections.abc import Mapping

from seawall.wal.torture.specimen import KnownBatch, Specimen

LEADER_EPOCH = slice(12, 16)
MEANINGLESS = {
    "leader_epoch": "bytes 12 to 15 of each batch: which of several replicas led when it was "
    "written. There are none, so it is 0 and nobody looks at it",
    "behind_the_end": "bytes of the newest segment behind the end of the log: blocks that are "
    "allocated ahead, never read; the next append, or recovery, makes them zeros again",
}


def meaningless(specimen: Specimen, segment: int, position: int) -> str | None:
    """Why the byte at a position of a segment carries no meaning; None if it carries one.

    The answer is a key of `MEANINGLESS`.
    """
    if segment == specimen.row.segment and position >= specimen.row.durable_position:
        return "behind_the_end"
    for batch in specimen.batches:
        if batch.segment == segment and batch.position <= position < batch.end:
            inside = position - batch.position
            return "leader_epoch" if LEADER_EPOCH.start <= inside < LEADER_EPOCH.stop else None
    return None


def hit_batches(specimen: Specimen, changed: Mapping[int, bytes]) -> list[KnownBatch]:
    """The batches of which bytes that carry a meaning are others now."""
    hits = []
    for batch in specimen.batches:
        if batch.segment in changed:
            data = changed[batch.segment][batch.position : batch.end]
            if data != batch.data and _meaning(data) != _meaning(batch.data):
                hits.append(batch)
    return hits


def _meaning(data: bytes) -> bytes:
    return data[: LEADER_EPOCH.start] + data[LEADER_EPOCH.stop :]
