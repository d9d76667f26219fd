"""How much memory all connections together may use."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Budget:
    """So many bytes for whoever asks first.

    One that would pass the limit waits its turn, unless nothing else is there: so what was
    admitted can always be finished, and every wait ends as long as what was admitted does.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: deque[tuple[int, Callable[[], object]]] = deque()
        self.used_bytes = 0

    def reserve(self, size: int, admitted: Callable[[], object]) -> bool:
        """Whether there is room now; if not, `admitted` is called once there is."""
        if not self._waiting and self._fits(size):
            self.used_bytes += size
            return True
        self._waiting.append((size, admitted))
        return False

    def add(self, size: int) -> None:
        """Count what is taken in any case."""
        self.used_bytes += size

    async def acquire(self, size: int) -> None:
        """Wait for room. Whoever was cancelled meanwhile holds nothing."""
        future = asyncio.get_running_loop().create_future()

        def admitted() -> None:
            if future.done():
                self.release(size)
            else:
                future.set_result(None)

        if self.reserve(size, admitted):
            return
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release(size)
            raise

    def release(self, size: int) -> None:
        """Give back; whoever waits and fits now is admitted."""
        self.used_bytes -= size
        while self._waiting and self._fits(self._waiting[0][0]):
            size, admitted = self._waiting.popleft()
            self.used_bytes += size
            admitted()

    def _fits(self, size: int) -> bool:
        return not self.used_bytes or self.used_bytes + size <= self._limit_bytes
