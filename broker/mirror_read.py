"""Reading a stretch of one partition, and comparing its records with those of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from seawall.broker.errors import MirrorError
from seawall.broker.stretch import read_stretch
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker

# Headers of this kind are what a mirror added, if it was asked to.
PROVENANCE_PREFIX: Final = "seawall.mirror."
POLL_RECORDS: Final = 2_000


class Side(NamedTuple):
    """A partition of a broker."""

    broker: AnyBroker
    topic: str
    partition: int


def read(side: Side, first: int, stop: int) -> Iterator[Record]:
    """The records from `first` up to, but without, `stop`; of those that are there still."""
    broker, topic, partition = side
    first = max(first, broker.ends(topic, partition).log_start)

    def silent(reached: int) -> MirrorError:
        return MirrorError(
            f"{broker.location} gives no records of partition {partition} of topic "
            f"{topic!r} between offset {reached} and {stop}; "
            "an open transaction may hold them back",
            topic=topic,
        )

    yield from read_stretch(
        broker, topic, partition, first, stop, poll_records=POLL_RECORDS, silent=silent
    )


def difference(source: Record, target: Record, *, may_round: bool) -> str:
    """What differs between two records, empty if nothing does.

    `may_round`: librdkafka sends no timestamps before the first ms of 1970.
    """
    found = []
    if source.key != target.key:
        found.append(f"key {shown(source.key)} / {shown(target.key)}")
    if source.value != target.value:
        found.append(f"value {shown(source.value)} / {shown(target.value)}")
    wanted = max(source.timestamp, 1) if may_round else source.timestamp
    if target.timestamp not in (wanted, source.timestamp):
        found.append(f"timestamp {source.timestamp} / {target.timestamp}")
    headers, copied = tuple(source.headers), tuple(target.headers)
    added = copied[len(headers) :]
    if copied[: len(headers)] != headers or any(
        not name.startswith(PROVENANCE_PREFIX) for name, _ in added
    ):
        found.append(f"headers {shown(headers)} / {shown(copied)}")
    return ", ".join(found)


def shown(value: object) -> str:
    """For people: not too much of it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
