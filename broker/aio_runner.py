"""`AsyncConsumer.run`: the handler's coroutines as tasks, everything that does I/O elsewhere.

Each turn of the loop is one call in the broker's executor, which polls, acknowledges and
notes what is to be handled; then the loop starts tasks for that, and sleeps until one of them
has ended, there is something new, or something is due.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from seawall.broker.aio_events import wait_until_set
from seawall.broker.dispatcher import Entry
from seawall.broker.errors import BrokerClosed
from seawall.broker.handling import DeliveredRecord, Handled, HandlingOptions, Lag, check_handler
from seawall.broker.handling_core import Handling

if TYPE_CHECKING:
    from seawall.broker.handling_place import RunPlace

logger = logging.getLogger("seawall.broker")

# How often it is looked for new records where nobody tells of them.
LOOK_MS = 20.0

Result = TypeVar("Result")
Handler = Callable[[DeliveredRecord], Awaitable[object] | object]
# Runs a call in a thread of the executor.
Execute = Callable[[Callable[[], Result]], Awaitable[Result]]


class AsyncRunner:
    """Runs a handler in tasks of the caller's loop. For that loop only."""

    def __init__(
        self,
        consumer: RunPlace,
        options: HandlingOptions,
        *,
        poll_in_turn: Execute[object],
        execute: Execute[object],
        changed: asyncio.Event,
        wake: Callable[[], None],
    ) -> None:
        """`poll_in_turn` and `execute` run calls in the executor, the first ones one by one.
        `changed` is set by `wake`, from any thread, and when there may be new records."""
        self._handling = Handling(consumer, options, wake=wake)
        self._handling.defers_clearing = True
        self._poll_in_turn = poll_in_turn
        self._execute = execute
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()
        # Set once the handlers have ended, or were told to by being cancelled.
        self._had_their_time = asyncio.Event()

    def is_in_handler(self) -> bool:
        """Whether it is one of the handlers that asks."""
        return asyncio.current_task() in self._tasks

    def expect_close(self) -> None:
        """A handler closes the consumer: that must not wait for the handler to end."""
        self._handling.closers += 1

    async def stop(self) -> None:
        """Have `run` return, and wait for its handlers, ``shutdown_timeout_ms`` at the most."""
        self._handling.stop()
        await self._had_their_time.wait()

    async def run(self, handler: Handler) -> Handled:
        """Until a stop condition holds; see `Consumer.run`."""
        handling = self._handling
        check_handler(handler)
        try:
            await self._poll_in_turn(handling.begin)
            while not handling.should_end():
                await self._turn(handler)
        except BrokerClosed:
            if not handling.consumer.is_closed:
                raise
        finally:
            await self._end()
        if handling.fatal is not None:
            raise handling.fatal
        return handling.counts()

    async def _turn(self, handler: Handler) -> None:
        handling = self._handling
        self._changed.clear()
        lag: list[Lag] = []
        free = handling.options.concurrency - len(self._tasks)
        taken: list[Entry] = []
        try:
            await self._poll_in_turn(lambda: self._work(free, taken, lag))
        finally:
            # Also if this was cancelled meanwhile: what was taken is seen to in the end.
            for entry in taken:
                task = asyncio.get_running_loop().create_task(self._do(entry, handler))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
        for each in lag:
            handling.tell_lag(each)
        if not taken and not self._changed.is_set():
            wait_ms = handling.wait_ms()
            with handling.lock:
                due_ms = handling.dispatcher.due_ms()
            if handling.consumer.idle_wait_ms:
                wait_ms = min(wait_ms, LOOK_MS)
            if due_ms is not None and len(self._tasks) < handling.options.concurrency:
                wait_ms = min(wait_ms, due_ms - handling.clock_ms())
            await wait_until_set(self._changed, max(0.0, wait_ms) / 1000)

    def _work(self, free: int, taken: list[Entry], lag: list[Lag]) -> None:
        """In a thread of the executor: all I/O of a turn."""
        handling = self._handling
        is_over = handling.is_stopping
        if is_over:
            return  # it was cancelled: what is read now would be nobody's
        handling.clear_deferred()
        handling.acknowledge_if_due()
        lag += handling.watch_lag()
        room = handling.room()
        is_idle = room > 0 and not handling.is_stopping and not handling.dispatcher.unfinished
        idle_ms = min(handling.consumer.idle_wait_ms, handling.wait_ms()) if is_idle else 0
        handling.fetch(room, idle_ms)
        with handling.lock:
            while len(taken) < free and (entry := handling.take()) is not None:
                taken.append(entry)
        handling.note(*(each for each in taken if each.failure is None), polls=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._handling.stop(error)

    # -- a task ----------------------------------------------------------------------

    async def _do(self, entry: Entry, handler: Handler) -> None:
        handling = self._handling
        if entry.failure is not None:
            told: list[Callable[[], None]] = []
            await self._execute(lambda: told.extend(handling.bury(entry)))
            for tell in told:
                tell()
            return
        record = handling.delivered(entry)
        try:
            result = handler(record)
            if inspect.isawaitable(result):
                await result
        except asyncio.CancelledError as error:
            if handling.is_stopping:
                handling.put_off(entry)
            else:
                cancelled = RuntimeError("the handler was cancelled")
                cancelled.__cause__ = error
                handling.failed(entry, record, cancelled)
        except Exception as error:  # noqa: BLE001 - a handler may raise anything
            handling.failed(entry, record, error)
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            handling.interrupted(entry, error)
        else:
            handling.clear(entry)
            handling.succeeded(entry)

    # -- the end ---------------------------------------------------------------------

    async def _end(self) -> None:
        handling = self._handling
        try:
            handling.stop()
            if self._tasks:
                timeout_s = handling.options.shutdown_timeout_ms / 1000
                await asyncio.wait(set(self._tasks), timeout=timeout_s)
        finally:
            left = set(self._tasks)
            if left:
                logger.warning(
                    "group %s: %d handlers did not finish within %g ms (shutdown_timeout_ms): "
                    "cancelled; their records come again",
                    handling.consumer.group,
                    len(left),
                    handling.options.shutdown_timeout_ms,
                )
                for task in left:
                    task.cancel()
            self._had_their_time.set()
            try:
                if left:
                    await asyncio.wait(left)
            finally:
                await self._give_back()

    async def _give_back(self) -> None:
        try:
            await self._poll_in_turn(self._handling.end)
        except BrokerClosed:
            self._handling.end()  # the executor is gone, and so is everything to wait for
