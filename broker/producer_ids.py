"""The ids of idempotent producers: who gets which, and what comes after an epoch.

An id is never given out twice, in whatever process, and whatever dies. They are taken from
``state.lmdb`` in blocks, as Kafka's controller gives them to its brokers (KIP-730), so that
not every producer costs a sync; what is left of a block when a process ends is not used.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from seawall.broker.state import State

if TYPE_CHECKING:
    from seawall.wal.log import Log

BLOCK = 1_000
# The greatest epoch that a producer may have. Kafka leaves 32,767 to those that fence.
LAST_EPOCH = (1 << 15) - 2


class ProducerId(NamedTuple):
    """What `InitProducerId` answers in Kafka."""

    producer_id: int
    epoch: int


class ProducerInfo(NamedTuple):
    """What a partition knows of an idempotent producer, as Kafka's DescribeProducers says it.

    ``last_timestamp`` is the greatest one of its last batch, in ms since the epoch.
    """

    producer_id: int
    epoch: int
    last_sequence: int
    last_timestamp: int


def describe(log: Log) -> list[ProducerInfo]:
    """The producers with an id that a log knows, in order of their ids."""
    return [
        ProducerInfo(producer_id, entry.epoch, entry.last_sequence, entry.batches[-1].timestamp)
        for producer_id, entry in sorted(log.producers().items())
    ]


class ProducerIds:
    """Gives out producer ids. Safe to use from any thread."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._block = iter(range(0))

    def next(self) -> ProducerId:
        """An id that nobody ever had, with epoch 0.

        Raises what a write to ``state.lmdb`` raises: `LockTimeout`, `StorageFull`,
        `StateDamaged`, `BrokerClosed`.
        """
        with self._lock:
            producer_id = next(self._block, None)
            if producer_id is None:
                first = self._state.take_producer_ids(BLOCK)
                self._block = iter(range(first, first + BLOCK))
                producer_id = next(self._block)
        return ProducerId(producer_id, 0)

    def after(self, producer_id: int, epoch: int) -> ProducerId:
        """How a producer goes on when it begins to count anew (KIP-360): with the next epoch,
        or with another id when there is none. Raises what `next` does."""
        if 0 <= epoch < LAST_EPOCH:
            return ProducerId(producer_id, epoch + 1)
        return self.next()

    def abandon(self) -> None:
        """In a forked child, to which the block does not belong."""
        self._lock = threading.Lock()
        self._block = iter(range(0))
