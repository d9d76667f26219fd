"""What a run leaves to whoever reads a partition next: text, as the metadata of its offset.

A cluster has no place of ours, but Kafka keeps up to 4,096 bytes with each committed offset.
There stands, behind ``seawall.run:``, how far handlers may have been given records, and how
often some records were delivered::

    seawall.run:750;0:1,3:2

Handlers may have been given the 750 offsets from the committed one on; the one 0 behind it was
delivered once, the one 3 behind that twice. No text: handlers have been given nothing from
there on. Pure values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from seawall.broker.group_state import MAX_METADATA_BYTES

PREFIX = "seawall.run:"
MOST_DELIVERIES = 999_999_999
_COUNT = r"\d{1,18}:\d{1,9}"
_TEXT = re.compile(rf"seawall\.run:(\d{{1,18}})(?:;({_COUNT}(?:,{_COUNT})*))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """``until``: no handler has had a record from this offset on. ``deliveries``: of offsets."""

    until: int = 0
    deliveries: Mapping[int, int] = field(default_factory=dict)


def pack(committed: int, carried: Carried) -> str:
    """The text beside a committed offset; empty if there is nothing to say.

    If there is no room for all, those stay out that were delivered least, from the last on.
    """
    said = {o: min(n, MOST_DELIVERIES) for o, n in carried.deliveries.items() if o >= committed}
    ahead = max(0, carried.until - committed)
    if not said and not ahead:
        return ""
    text = f"{PREFIX}{ahead}"
    room = MAX_METADATA_BYTES - len(text)
    kept = []
    for offset in sorted(said, key=lambda each: (-said[each], each)):
        # As if it stood alone: next to others its number is no longer.
        room -= len(f";{offset - committed}:{said[offset]}")
        if room < 0:
            break
        kept.append(offset)
    at, pieces = committed, []
    for offset in sorted(kept):
        pieces.append(f"{offset - at}:{said[offset]}")
        at = offset
    return f"{text};{','.join(pieces)}" if pieces else text


def unpack(committed: int, text: str) -> Carried:
    """What a text says; one that is none of ours says nothing."""
    found = _TEXT.fullmatch(text)
    if found is None:
        return Carried()
    deliveries: dict[int, int] = {}
    at = committed
    for piece in (found[2] or "").split(","):
        gap, _, count = piece.partition(":")
        if count:
            at += int(gap)
            deliveries[at] = int(count)
    return Carried(until=committed + int(found[1]), deliveries=deliveries)
