"""`Consumer.run`: a loop that polls and acknowledges, and threads that run the handler.

The loop is in the caller's thread and never runs a handler, so that the member stays alive
and partitions can be given up however long a handler takes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING

from seawall.broker.errors import BrokerClosed
from seawall.broker.handling import DeliveredRecord, Handled, HandlingOptions, check_handler
from seawall.broker.handling_core import Handling
from seawall.broker.threads import bounded_s, is_running

if TYPE_CHECKING:
    from seawall.broker.dispatcher import Entry
    from seawall.broker.handling_place import RunPlace

logger = logging.getLogger("seawall.broker")

Handler = Callable[[DeliveredRecord], object]

IS_COROUTINE = "{!r} has to be awaited, which run does not do; use AsyncConsumer.run"


class Runner:
    """Runs a handler in threads of its own, as `Consumer.run` documents it."""

    def __init__(self, consumer: RunPlace, options: HandlingOptions) -> None:
        self.handling = Handling(consumer, options, wake=self._wake)
        # There may be something to take.
        self._work = threading.Condition(self.handling.lock)
        self._is_polling = False
        self._threads: list[threading.Thread] = []

    def _wake(self) -> None:
        self._work.notify_all()
        if self._is_polling:
            self.handling.consumer.interrupt()

    def run(self, handler: Handler) -> Handled:
        """Until a stop condition holds; see `Consumer.run`."""
        handling = self.handling
        check_handler(handler)
        if iscoroutinefunction(handler):
            raise TypeError(IS_COROUTINE.format(handler))
        try:
            handling.begin()
            while not handling.should_end():
                self._turn(handler)
        except BrokerClosed:
            if not handling.consumer.is_closed:
                raise
        finally:
            self._end()
        if handling.fatal is not None:
            raise handling.fatal
        return handling.counts()

    def _turn(self, handler: Handler) -> None:
        handling = self.handling
        handling.acknowledge_if_due()
        for lag in handling.watch_lag():
            handling.tell_lag(lag)
        room = handling.room()
        wait_ms = handling.wait_ms()
        self._is_polling = True
        try:
            came = handling.fetch(room, wait_ms)
        finally:
            self._is_polling = False
        with handling.lock:
            if came:
                self._see_to_threads(handler)
                self._work.notify(came)
            elif not room and not handling.should_end() and not handling.room():
                handling.changed.wait(min(wait_ms, handling.consumer.attend_ms) / 1000)

    def _see_to_threads(self, handler: Handler) -> None:
        """Have as many threads as there is work for, within bounds."""
        handling = self.handling
        wanted = min(handling.options.concurrency, handling.dispatcher.unfinished)
        while len(self._threads) < wanted:
            name = f"seawall-handler-{len(self._threads)}"
            thread = threading.Thread(target=self._run_worker, args=(handler,), name=name)
            thread.daemon = True
            self._threads.append(thread)
            thread.start()

    # -- a worker's thread -----------------------------------------------------------

    def _run_worker(self, handler: Handler) -> None:
        handling = self.handling
        handling.workers.add(threading.get_ident())
        try:
            while (entry := self._next()) is not None:
                try:
                    self.do(entry, handler)
                except BaseException as error:  # noqa: BLE001 - `run` raises it
                    handling.broken(entry, error)
        finally:
            handling.workers.discard(threading.get_ident())

    def _next(self) -> Entry | None:
        """What to do, once there is something; None when it is time to end."""
        handling = self.handling
        with handling.lock:
            while not handling.is_stopping:
                entry = handling.take()
                if entry is not None:
                    return entry
                due_ms = handling.dispatcher.due_ms()
                if due_ms is None or due_ms == float("inf"):
                    self._work.wait()
                else:
                    wait_ms = max(0.0, due_ms - handling.clock_ms())
                    self._work.wait(bounded_s(wait_ms / 1000))
        return None

    def do(self, entry: Entry, handler: Handler) -> None:
        """Do with an entry that was taken what it is due for."""
        handling = self.handling
        if entry.failure is not None:
            for tell in handling.bury(entry):
                tell()
            return
        record = handling.delivered(entry)
        handling.note(entry)
        try:
            result = handler(record)
            if result is not None and isawaitable(result):
                # Nobody awaits it: the record was not handled, and none would be.
                if isinstance(result, Coroutine):
                    result.close()
                handling.interrupted(entry, TypeError(IS_COROUTINE.format(handler)))
                return
        except Exception as error:  # noqa: BLE001 - a handler may raise anything
            handling.failed(entry, record, error)
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            handling.interrupted(entry, error)
        else:
            handling.clear(entry)
            handling.succeeded(entry)

    # -- the end ---------------------------------------------------------------------

    def _end(self) -> None:
        handling = self.handling
        left = 1  # until it is known to be 0
        try:
            handling.stop()
            left = handling.wait_for_running()
            if left:
                logger.warning(
                    "group %s: %d handlers did not finish within %g ms (shutdown_timeout_ms); "
                    "their threads end when they do, and their records come again",
                    handling.consumer.group,
                    left,
                    handling.options.shutdown_timeout_ms,
                )
        finally:
            try:
                handling.end()
            finally:
                self._join(waits=not left)

    def _join(self, *, waits: bool) -> None:
        for thread in self._threads:
            if thread.ident != threading.get_ident() and is_running(thread):
                thread.join(None if waits else 0)
