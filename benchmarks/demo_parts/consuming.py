"""The consumer's process: receive, write down, acknowledge.

It takes several portions to an acknowledgement, as many a consumer does. So a kill mostly
finds it with records that it has received and not acknowledged; the next one gets these
again.
"""

from __future__ import annotations

import contextlib

from demo_parts.deliveries import DeliveryWriter, as_copy
from demo_parts.job import GROUP, PARTITIONS, TOPIC, Job
from demo_parts.leash import Leash

from seawall.broker import Broker

POLLS_PER_ACK = 4
POLL_TIMEOUT_MS = 100


def consume(job: Job, run: int, leash: Leash) -> None:
    """Go on until the conductor says that there is nothing more to come.

    Its first word is how many records to take between two acknowledgements.
    """
    ack_records = int(leash.read(wait=True)[0])
    poll_records = max(1, ack_records // POLLS_PER_ACK)
    pending = 0  # received and written down, but not acknowledged
    with (
        contextlib.closing(DeliveryWriter(job.deliveries_path(run))) as deliveries,
        Broker.open(job.broker_path, create=False) as broker,
        broker.consumer(TOPIC, group=GROUP) as consumer,
    ):
        places = [consumer.committed(TOPIC, number) for number in range(PARTITIONS)]
        deliveries.begin([place or 0 for place in places])
        while not leash.read(wait=False):
            records = consumer.poll(poll_records, 0 if pending else POLL_TIMEOUT_MS)
            if records:
                deliveries.add(map(as_copy, records))
                pending += len(records)
            if pending >= ack_records or (pending and not records):
                deliveries.sync()
                consumer.ack()
                pending = 0
