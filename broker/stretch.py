"""Reading a stretch of one partition to its end, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from seawall.broker.errors import RemoteError
from seawall.broker.silence import Silence
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.errors import BrokerError
    from seawall.broker.interface import AnyBroker

POLL_RECORDS = 500
_POLL_MS = 500


def read_stretch(
    broker: AnyBroker,
    topic: str,
    partition: int,
    first: int,
    stop: int,
    *,
    poll_records: int = POLL_RECORDS,
    silent: Callable[[int], BrokerError] | None = None,
) -> Iterator[Record]:
    """The records from offset `first`, which is there, up to, but without, `stop`.

    Raises what reading raises, and if they do not come for a minute in which the servers are
    there, what `silent` makes of the offset that was reached, or else `RemoteError`.
    """
    if first >= stop:
        return
    with broker.consumer(topic, partitions=[partition], start=first) as consumer:
        silence = Silence(broker)
        while consumer.reached(topic, partition) < stop:
            records = consumer.poll(poll_records, _POLL_MS)
            for record in records:
                if record.offset >= stop:
                    return
                yield record
            if records:
                silence.heard()
            elif silence.is_too_long(topic, partition):
                if silent is not None:
                    raise silent(consumer.reached(topic, partition))
                raise RemoteError(
                    location=broker.location,
                    code="nothing",
                    reason=f"no records came of partition {partition} of topic {topic!r} below "
                    f"offset {stop}; an open transaction may hold them back",
                    topic=topic,
                )
