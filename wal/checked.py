"""Appending batches of producers that have an id: each of them once.

What `producers` says is asked under the append lock, after catching up with what other
processes have appended (`producer_state`). What it says is believed of batches that stand
in the log: if the append fails, nothing was learnt.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from seawall.wal.appender import Appender
from seawall.wal.context import LogContext
from seawall.wal.ends import EndsRow
from seawall.wal.errors import AppendLockTimeout
from seawall.wal.producer_state import ProducerState
from seawall.wal.producers import Placed, Plan, ProducerEntry
from seawall.wal.records import BatchHeader, parse_header


class CheckedAppender:
    """Appends to one log, in this process. Safe to use from any thread."""

    def __init__(self, context: LogContext, appender: Appender) -> None:
        self._context = context
        self._appender = appender
        self._state = ProducerState(context)
        self._lock = threading.Lock()

    def append(self, batches: Sequence[bytearray]) -> list[Placed]:
        """Append those of some valid batches that are not there yet, all or none.

        Says of each where it is. Neither what was appended nor what was there before is
        durable for certain when this returns: commit the greatest ``next_offset``.

        Raises `OutOfOrderSequence`, `InvalidProducerEpoch`, `BatchInvalid`, and whatever
        `Appender.append` does: nothing was appended then.
        """
        headers = [parse_header(batch) for batch in batches]
        plan = Plan([], {})

        def choose(row: EndsRow) -> list[bytearray]:
            nonlocal plan
            plan = self._plan(headers, row)
            return [
                batch
                for batch, placed in zip(batches, plan.placed, strict=True)
                if not placed.is_duplicate
            ]

        with self._locked():
            self._state.come_near()
            row = self._appender.append_chosen(choose)
            # In this order: whoever interrupts this in between has it read again.
            self._state.producers.apply(plan.changes)
            self._state.reached(row)
        return plan.placed

    def _plan(self, headers: Sequence[BatchHeader], row: EndsRow) -> Plan:
        while not self._state.catch_up(row):
            pass
        now_ms = self._context.now_ms()
        producers = self._state.producers
        producers.forget_idle(now_ms, self._context.config.producer_id_expiration_ms)
        return producers.plan(headers, row.next_offset, now_ms)

    def producers(self) -> dict[int, ProducerEntry]:
        """What is known of each producer that has appended something: by producer id."""
        with self._locked():
            self._state.come_near()
            while not self._state.catch_up(self._context.row()):
                pass
            producers = self._state.producers
            expiration_ms = self._context.config.producer_id_expiration_ms
            producers.forget_idle(self._context.now_ms(), expiration_ms)
            return producers.entries()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        timeout_ms = self._context.append_lock_timeout_ms
        if not self._lock.acquire(timeout=timeout_ms / 1000):
            raise AppendLockTimeout(
                path=self._context.lock_path, holder_pid=os.getpid(), timeout_ms=timeout_ms
            )
        try:
            yield
        finally:
            self._lock.release()

    def abandon(self) -> None:
        """In a forked child, where nobody holds the lock any more."""
        self._lock = threading.Lock()
