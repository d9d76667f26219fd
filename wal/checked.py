"""Appending batches of producers that have an id: each of them once.

What `producers` says is asked under the append lock, after catching up with what other
processes have appended (`producer_state`). What it says is believed of batches that stand
in the log: if the append fails, nothing was learnt.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

from seawall.wal.appender import Appender
from seawall.wal.context import LogContext
from seawall.wal.ends import EndsRow
from seawall.wal.errors import AppendLockTimeout
from seawall.wal.producer_state import ProducerState
from seawall.wal.producers import Placed, Plan, ProducerEntry
from seawall.wal.records import parse_header


class TooFar(Exception):
    """There is more to catch up with than may be read while the append lock is held."""


class _Attempt:
    """Some batches on their way into the log, and what becomes of them."""

    __slots__ = ("_batches", "_context", "_headers", "_state", "may_be_far", "plan")

    def __init__(
        self, context: LogContext, state: ProducerState, batches: Sequence[bytearray]
    ) -> None:
        self._context = context
        self._state = state
        self._batches = batches
        self._headers = [parse_header(batch) for batch in batches]
        self.may_be_far = False
        self.plan = Plan([], {})

    def choose(self, row: EndsRow) -> list[bytearray]:
        """Those that are to be appended. Raises `TooFar`, unless `may_be_far`."""
        state = self._state
        if not self.may_be_far and not state.is_near(row):
            raise TooFar
        while not state.catch_up(row):
            pass
        now_ms = self._context.now_ms()
        state.producers.forget_idle(now_ms, self._context.config.producer_id_expiration_ms)
        self.plan = state.producers.plan(self._headers, row.next_offset, now_ms)
        return [
            batch
            for batch, placed in zip(self._batches, self.plan.placed, strict=True)
            if not placed.is_duplicate
        ]


class CheckedAppender:
    """Appends to one log, in this process. Safe to use from any thread."""

    def __init__(self, context: LogContext, appender: Appender) -> None:
        self._context = context
        self._appender = appender
        self._state = ProducerState(context)
        # Only its owner can release it: see `_acquire`. It is not taken twice.
        self._lock = threading.RLock()
        self._owner = 0

    def append(self, batches: Sequence[bytearray]) -> list[Placed]:
        """Append those of some valid batches that are not there yet, all or none.

        Says of each where it is. Neither what was appended nor what was there before is
        durable for certain when this returns: commit the greatest ``next_offset``.

        Raises `OutOfOrderSequence`, `InvalidProducerEpoch`, `BatchInvalid`, and whatever
        `Appender.append` does: nothing was appended then.
        """
        attempt = _Attempt(self._context, self._state, batches)
        self._acquire()
        try:
            while True:
                try:
                    row = self._appender.append_chosen(attempt.choose)
                except TooFar:
                    self._state.come_near()
                    attempt.may_be_far = True
                    continue
                # In this order: whoever interrupts this in between has it read again.
                self._state.producers.apply(attempt.plan.changes)
                self._state.reached(row)
                return attempt.plan.placed
        finally:
            self._owner = 0
            self._lock.release()

    def producers(self) -> dict[int, ProducerEntry]:
        """What is known of each producer that has appended something: by producer id."""
        self._acquire()
        try:
            while not self._state.catch_up(self._context.row()):
                pass
            producers = self._state.producers
            expiration_ms = self._context.config.producer_id_expiration_ms
            producers.forget_idle(self._context.now_ms(), expiration_ms)
            return producers.entries()
        finally:
            self._owner = 0
            self._lock.release()

    def _acquire(self) -> None:
        timeout_ms, me = self._context.append_lock_timeout_ms, threading.get_ident()
        try:
            is_taken = self._owner != me and self._lock.acquire(timeout=timeout_ms / 1000)
            if is_taken:
                self._owner = me
        except BaseException:
            # A signal's handler has raised, perhaps just after it was taken.
            with contextlib.suppress(RuntimeError):
                self._lock.release()
            raise
        if not is_taken:
            raise AppendLockTimeout(
                path=self._context.lock_path, holder_pid=os.getpid(), timeout_ms=timeout_ms
            )

    def abandon(self) -> None:
        """In a forked child, where nobody holds the lock any more."""
        self._lock, self._owner = threading.RLock(), 0
