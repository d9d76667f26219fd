"""How much memory all connections together may use."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Budget:
    """So many bytes for whoever asks first.

    One that would pass the limit waits its turn, unless nothing else is there: so what was
    admitted can always be finished, and every wait ends as long as what was admitted does. Who
    waits may hold something already. If all that is used is held by those who wait, nobody would
    ever give back, and the first of them that holds something passes the limit.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        # How much for whom, and what each holds meanwhile.
        self._waiting: deque[tuple[int, int, Callable[[], object]]] = deque()
        self._held_by_waiting = 0
        self.used_bytes = 0

    def reserve(
        self, size: int, admitted: Callable[[], object], *, more: int = 0, held: int = 0
    ) -> bool:
        """Whether there is room now; if not, `admitted` is called once there is.

        ``more``: if it has to be waited for, then so much besides. ``held``: what the caller
        gives back only after it was admitted.
        """
        if not self._waiting and self._fits(size):
            self.used_bytes += size
            return True
        self._waiting.append((size + more, held, admitted))
        self._held_by_waiting += held
        self._admit()
        return False

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
        self._admit()

    def give_up(self, admitted: Callable[[], object]) -> None:
        """Wait no more: who was to be told with `admitted`."""
        for number, (_, held, told) in enumerate(self._waiting):
            if told == admitted:
                del self._waiting[number]
                self._held_by_waiting -= held
                break
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            number = 0
            if not self._fits(self._waiting[0][0]):
                if self.used_bytes > self._held_by_waiting:
                    return
                number = next(n for n, (_, held, _) in enumerate(self._waiting) if held)
            size, held, admitted = self._waiting[number]
            del self._waiting[number]
            self._held_by_waiting -= held
            self.used_bytes += size
            admitted()

    def _fits(self, size: int) -> bool:
        return not self.used_bytes or self.used_bytes + size <= self._limit_bytes
