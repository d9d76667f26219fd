"""Produce requests of all connections, gathered by partition: one write and one sync for many.

What comes while a round of a partition is written and synced goes into the next one. A round
takes one thread of the executor, and only so many run at a time that reads find a free one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from seawall.broker.errors import BrokerClosed, BrokerError, OutcomeUnknown
from seawall.broker.kafka import codes
from seawall.broker.kafka.wakes import Wakes
from seawall.broker.raw import Outcome, RawPlace, Stored, append_batches
from seawall.broker.raw_batches import RawRules

if TYPE_CHECKING:
    from seawall.broker.kafka.node import Node

logger = logging.getLogger("seawall.kafka")

# Rounds at the same time: half of the executor's threads.
MOST_ROUNDS: Final = 4
ROUND_BYTES: Final = 8 << 20
# Clients repeat what could not be stored many times a second, and in silence.
SHORTEST_SILENCE_S: Final = 10.0


class _Entry(NamedTuple):
    data: bytes | None
    rules: RawRules
    place: RawPlace
    outcome: asyncio.Future[Outcome]


class Lanes:
    """A `Part` of the node: a lane for each partition that is written to."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._wakes = node.part(Wakes)
        self._lanes: dict[int, deque[_Entry]] = {}
        self._running = 0
        # Partitions with entries whose round could not begin yet.
        self._ready: deque[int] = deque()
        self._rounds: set[asyncio.Task[None]] = set()
        # When which kind of failure was last in the log.
        self._told_s: dict[type[Exception], float] = {}

    def append(
        self, place: RawPlace, data: bytes | None, rules: RawRules
    ) -> asyncio.Future[Outcome]:
        """Store what came for a partition, behind what was given before.

        The future gives the outcome, also that of a failure.
        """
        outcome: asyncio.Future[Outcome] = self._node.loop.create_future()
        entry = _Entry(data, rules, place, outcome)
        lane = self._lanes.get(place.partition_id)
        if lane is not None:
            lane.append(entry)
            return outcome
        self._lanes[place.partition_id] = deque([entry])
        self._ready.append(place.partition_id)
        self._begin_rounds()
        return outcome

    def _begin_rounds(self) -> None:
        while self._ready and self._running < MOST_ROUNDS:
            self._running += 1
            task = self._node.loop.create_task(self._round(self._ready.popleft()))
            self._rounds.add(task)
            task.add_done_callback(self._rounds.discard)

    async def _round(self, partition_id: int) -> None:
        lane = self._lanes[partition_id]
        if not lane:  # given up just before this began
            del self._lanes[partition_id]
            self._running -= 1
            return
        entries = _take(lane)
        try:
            outcomes = await self._node.run(
                append_batches,
                self._node.broker.engine,
                entries[0].place,
                [each.data for each in entries],
                now_ms=self._node.now_ms(),
                rules=[each.rules for each in entries],
            )
        except Exception as error:  # noqa: BLE001 - whoever waits gets to know, whatever it is
            outcomes = [error] * len(entries)
        for entry, outcome in zip(entries, outcomes, strict=True):
            if not entry.outcome.done():
                entry.outcome.set_result(outcome)
            if isinstance(outcome, Stored):
                self._wakes.published(partition_id, outcome.durable_end)
            elif isinstance(outcome, BrokerError):
                self._tell(outcome)
        self._running -= 1
        if lane:
            self._ready.append(partition_id)
        else:
            del self._lanes[partition_id]
        self._begin_rounds()

    def _tell(self, error: BrokerError) -> None:
        """Say what the disk did; what is wrong with a batch concerns its client alone."""
        is_ours = codes.code_of(error) == codes.KAFKA_STORAGE_ERROR
        if not (is_ours or isinstance(error, OutcomeUnknown)):
            return
        now_s = self._node.loop.time()
        if now_s - self._told_s.get(type(error), -SHORTEST_SILENCE_S) >= SHORTEST_SILENCE_S:
            self._told_s[type(error)] = now_s
            logger.error("a produce request failed: %s", error)

    async def close(self) -> None:
        """Wait for what was begun; what it stores is stored, whoever still listens.

        The rest is begun as long as the server may take to stop; then there may be hundreds of
        rounds left, of clients that are gone.
        """
        giving_up = self._node.loop.call_at(self._node.grace_ends_s, self._give_up)
        while self._rounds:
            await asyncio.wait(self._rounds)
        giving_up.cancel()

    def _give_up(self) -> None:
        """Begin no more rounds."""
        for lane in self._lanes.values():
            for entry in lane:
                if not entry.outcome.done():
                    entry.outcome.set_result(BrokerClosed(what="broker"))
            lane.clear()
        while self._ready:
            del self._lanes[self._ready.popleft()]


def _take(lane: deque[_Entry]) -> list[_Entry]:
    """What goes into one round: one write, so no more than fits in a segment."""
    entries: list[_Entry] = []
    place = lane[0].place
    most = min(ROUND_BYTES, place.config.segment_bytes)
    size = 0
    while lane and lane[0].place is place:
        size += len(lane[0].data or b"")
        if entries and size > most:
            break
        entries.append(lane.popleft())
    return entries
