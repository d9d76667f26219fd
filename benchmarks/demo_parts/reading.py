"""Reading the whole log outside any group."""

from __future__ import annotations

from collections.abc import Iterator

from demo_parts.job import PARTITIONS, TOPIC

from seawall.broker import Broker
from seawall.wal.records import Record

POLL_RECORDS = 5_000
POLL_TIMEOUT_MS = 1_000


class ReadStalled(Exception):
    """There are records below the durable end that nobody gets."""


def read_all(broker: Broker) -> Iterator[Record]:
    """Every record from the start to the durable ends of this moment."""
    ends = [broker.ends(TOPIC, number).durable_end for number in range(PARTITIONS)]
    with broker.consumer(TOPIC, start="start") as consumer:
        while any(consumer.position(TOPIC, n) < end for n, end in enumerate(ends)):
            records = consumer.poll(POLL_RECORDS, POLL_TIMEOUT_MS)
            if not records:
                places = [consumer.position(TOPIC, n) for n in range(PARTITIONS)]
                raise ReadStalled(f"durable ends {ends}, but reading stops at {places}")
            for record in records:
                if record.offset < ends[record.partition]:
                    yield record
