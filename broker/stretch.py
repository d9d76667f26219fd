"""Reading a stretch of one partition to its end, wherever it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from seawall.broker.errors import RemoteError
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker

POLL_RECORDS = 500
# Servers that answer, but give nothing of what they say they have.
SILENCE_S = 60.0
_POLL_MS = 500


def read_stretch(
    broker: AnyBroker, topic: str, partition: int, first: int, stop: int
) -> Iterator[Record]:
    """The records from offset `first`, which is there, up to, but without, `stop`.

    Raises what reading raises, and `RemoteError` if they do not come for a minute.
    """
    if first >= stop:
        return
    with broker.consumer(topic, partitions=[partition], start=first) as consumer:
        heard_s = time.monotonic()
        while consumer.reached(topic, partition) < stop:
            records = consumer.poll(POLL_RECORDS, _POLL_MS)
            for record in records:
                if record.offset >= stop:
                    return
                yield record
            now_s = time.monotonic()
            if records:
                heard_s = now_s
            elif now_s - heard_s > SILENCE_S:
                raise RemoteError(
                    location=broker.location,
                    code="nothing",
                    reason=f"no records came of partition {partition} of topic {topic!r} below "
                    f"offset {stop}; an open transaction may hold them back",
                    topic=topic,
                )
