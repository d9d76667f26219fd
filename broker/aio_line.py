"""Records of an `AsyncProducer` that could not be taken at once: they wait in line.

A task has them sent one after the other by threads of the executor, so that the loop goes
on. Each of them hears what became of it, also if that task does not come to its end: a
program may cancel all the tasks that it finds, and a broker may be closed under it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from seawall.broker.aio_events import in_executor
from seawall.broker.delivery import RecordMetadata
from seawall.broker.errors import BrokerError
from seawall.broker.interface import AnyDelivery

Acknowledgement = asyncio.Future[RecordMetadata]
Waiting = tuple[Acknowledgement, Callable[[], AnyDelivery]]

# What `Producer.send` raises for a record.
REFUSALS = (BrokerError, TypeError, ValueError)
# How many records that had to wait are sent before their futures hear of it.
MOST_PER_TURN = 500


class Line:
    """The line of one producer. `follow` sees to a future whose record was sent."""

    def __init__(
        self, executor: ThreadPoolExecutor, follow: Callable[[Acknowledgement, AnyDelivery], None]
    ) -> None:
        self._executor = executor
        self._follow = follow
        self._waiting: deque[Waiting] = deque()
        # Those that a thread is sending.
        self._turn: list[Waiting] = []
        self._sending: asyncio.Task[None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits, so that a record may be sent at once."""
        return self._sending is None

    def add(self, future: Acknowledgement, send: Callable[[], AnyDelivery]) -> None:
        """Have a record sent, after those that are here."""
        self._waiting.append((future, send))
        if self._sending is None:
            self._sending = future.get_loop().create_task(self._send_in_turn())
            self._sending.add_done_callback(self._ended)

    async def sent(self) -> None:
        """Return once the line is empty."""
        if self._sending is not None:
            await asyncio.wait([self._sending])

    async def _send_in_turn(self) -> None:
        while self._waiting:
            count = min(len(self._waiting), MOST_PER_TURN)
            turn = self._turn = [self._waiting.popleft() for _ in range(count)]
            outcomes = await in_executor(self._executor, partial(_send_all, turn))
            self._turn = []
            for (future, _), outcome in zip(turn, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    if not future.done():
                        future.set_exception(outcome)
                elif outcome is not None:
                    self._follow(future, outcome)
        self._sending = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._sending is not task:
            return  # it has come to its end
        self._sending = None
        left = (*self._turn, *self._waiting)
        self._turn = []
        self._waiting.clear()
        error = None if task.cancelled() else task.exception()
        for future, _ in left:
            if error is None:
                future.cancel()
            elif not future.done():
                future.set_exception(error)


def _send_all(turn: Sequence[Waiting]) -> list[AnyDelivery | Exception | None]:
    """In a thread of the executor: send in order, for those who still want it."""
    outcomes: list[AnyDelivery | Exception | None] = []
    for future, send in turn:
        try:
            outcomes.append(None if future.cancelled() else send())
        except REFUSALS as error:
            outcomes.append(error)
    return outcomes
