"""Fetches that wait for more: woken when the durable end of a partition of theirs has moved.

What this server stores it hears of at once (`published`). What other processes store changes
``run/ends``, which the engine's watcher sees: then one thread of the executor looks at the ends
of all partitions that somebody waits for. However many wait, and however often that file
changes, looking takes a bounded share of the time (`REST_FACTOR`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from seawall.broker.errors import BrokerClosed
from seawall.broker.raw import durable_ends

if TYPE_CHECKING:
    from seawall.broker.kafka.node import Node

logger = logging.getLogger("seawall.kafka")

REST_FACTOR: Final = 4
SHORTEST_REST_S: Final = 0.002


class _Waiter:
    __slots__ = ("known", "woken")

    def __init__(self, known: Mapping[int, int], woken: asyncio.Future[None]) -> None:
        self.known = known
        self.woken = woken

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


class Wakes:
    """A `Part` of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiters: dict[int, set[_Waiter]] = {}
        # Another one after each change that the watcher has seen; to be noted before the
        # ends are read.
        self.changes: object = object()
        self._is_told = False
        self._looking: asyncio.Task[None] | None = None
        self._watcher = node.broker.engine.watcher
        self._watcher.subscribe(self._on_change)
        self._ending = node.loop.create_task(self._wake_all_at_the_end())

    def _on_change(self) -> None:
        # In the watcher's thread, or in one that has committed. Who begins to wait just now
        # is either seen here, or sees that there was a change.
        self.changes = object()
        if (
            self._waiters
            and self._looking is None  # else it looks again by itself
            and not self._is_told
            and not self._node.loop.is_closed()
        ):
            self._is_told = True
            with contextlib.suppress(RuntimeError):  # closed just now
                self._node.loop.call_soon_threadsafe(self._changed)

    def _changed(self) -> None:
        self._is_told = False
        self._look_soon()

    def _look_soon(self) -> None:
        if self._waiters and self._looking is None:
            self._looking = self._node.loop.create_task(self._look())

    async def _look(self) -> None:
        seen: object = None
        try:
            while self._waiters and seen is not self.changes:
                seen = self.changes
                began_s = self._node.loop.time()
                ends = await self._node.run(
                    durable_ends, self._node.broker.engine, tuple(self._waiters)
                )
                self._compare(ends)
                took_s = self._node.loop.time() - began_s
                await asyncio.sleep(max(SHORTEST_REST_S, REST_FACTOR * took_s))
        except BrokerClosed:
            seen = self.changes
        except Exception:
            logger.exception("cannot look for new records; fetches wait for their time-outs")
            seen = self.changes
        finally:
            self._looking = None
        if seen is not self.changes:
            self._look_soon()

    def _compare(self, ends: Mapping[int, int | None]) -> None:
        for partition_id, durable_end in ends.items():
            for waiter in tuple(self._waiters.get(partition_id, ())):
                if waiter.known.get(partition_id) != durable_end:
                    waiter.wake()

    def published(self, partition_id: int, durable_end: int) -> None:
        """This server has made records visible."""
        for waiter in tuple(self._waiters.get(partition_id, ())):
            if waiter.known.get(partition_id) != durable_end:
                waiter.wake()

    async def wait(self, known: Mapping[int, int], changes: object, timeout_s: float) -> None:
        """Sleep until a durable end is not the one in `known` any more, or for `timeout_s`.

        `known`: partition id -> durable end, as read when ``self.changes`` was `changes`.
        """
        loop = self._node.loop
        waiter = _Waiter(known, loop.create_future())
        self._add(waiter, known)
        timer = loop.call_later(timeout_s, waiter.wake)
        try:
            if changes is not self.changes:
                self._look_soon()
            if not self._node.stopping.is_set():
                await waiter.woken
        finally:
            timer.cancel()
            self._remove(waiter, known)

    async def _wake_all_at_the_end(self) -> None:
        await self._node.stopping.wait()
        for waiters in tuple(self._waiters.values()):
            for waiter in waiters:
                waiter.wake()

    def _add(self, waiter: _Waiter, partition_ids: Iterable[int]) -> None:
        for partition_id in partition_ids:
            self._waiters.setdefault(partition_id, set()).add(waiter)

    def _remove(self, waiter: _Waiter, partition_ids: Iterable[int]) -> None:
        for partition_id in partition_ids:
            others = self._waiters[partition_id]
            others.discard(waiter)
            if not others:
                del self._waiters[partition_id]

    async def close(self) -> None:
        self._watcher.unsubscribe(self._on_change)
        tasks = [task for task in (self._ending, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
