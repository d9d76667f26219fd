"""Committing together: one transaction, and so one sync, for all connections that wait.

Whoever finds nothing under way goes at once; what comes meanwhile goes together after it, in
the order in which it came.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from seawall.broker.errors import BrokerError
from seawall.broker.kafka.coordinator_store import CommitRequest, CommitResult

logger = logging.getLogger("seawall.kafka")

# In one transaction; the rest goes with the next.
MOST_TOGETHER: Final = 1_000
SHORTEST_SILENCE_S: Final = 10.0


class CommitQueue:
    """`store` stores requests and gives a result for each; if it raises, nothing was stored."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Callable[[Sequence[CommitRequest]], Awaitable[Sequence[CommitResult]]],
    ) -> None:
        self._loop = loop
        self._store = store
        self._waiting: list[tuple[CommitRequest, asyncio.Future[CommitResult]]] = []
        self._storing: asyncio.Task[None] | None = None
        self._told_s = -SHORTEST_SILENCE_S

    async def commit(self, request: CommitRequest) -> CommitResult:
        """Return once it is on disk. Raises what `store` raises."""
        waiter: asyncio.Future[CommitResult] = self._loop.create_future()
        self._waiting.append((request, waiter))
        if self._storing is None:
            self._storing = self._loop.create_task(self._run())
        return await waiter

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken = self._waiting[:MOST_TOGETHER]
                del self._waiting[:MOST_TOGETHER]
                try:
                    results = await self._store([request for request, _ in taken])
                except Exception as error:  # noqa: BLE001 - whoever waits is told
                    self._tell(error)
                    for _, waiter in taken:
                        if not waiter.done():
                            waiter.set_exception(error)
                    continue
                for (_, waiter), result in zip(taken, results, strict=True):
                    if not waiter.done():
                        waiter.set_result(result)
        finally:
            self._storing = None

    def _tell(self, error: Exception) -> None:
        """Say it in the log: clients try again in silence."""
        now_s = self._loop.time()
        if isinstance(error, BrokerError) and now_s - self._told_s >= SHORTEST_SILENCE_S:
            self._told_s = now_s
            logger.error("what groups have read could not be stored: %s", error)

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._storing is not None:
            await asyncio.wait([self._storing])
