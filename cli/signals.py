"""Ctrl-C, SIGTERM and SIGHUP: the first asks the command to finish, another one kills it.

A signal handler that raises may do so between any two instructions, in the middle of the
broker's own work too. So the handler here takes a note, and raises only while the command
says that it is waiting for the outside world, where nothing can be left half done.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

from seawall.cli.errors import Stopped

P = ParamSpec("P")
T = TypeVar("T")

# `timeout` and some supervisors send the same signal twice at once: to the process and to
# its group. Only a later one is somebody who has lost patience.
IMPATIENT_AFTER_S = 0.5
# How soon it is noticed that a command takes too long to end.
_LOOK_S = 0.1

_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


class Interrupted(Exception):
    """A signal arrived before or while waiting."""


class Signals:
    """While entered: notes the signals that ask to stop.

    `received` is the number of the first such signal, 0 before. A signal that the parent
    chose to ignore (`nohup`, a background job) stays ignored. Main thread only.

    ``can_be_killed=False``: a command that stops soon in any case, and has to clear up before
    it does, takes note of the first signal, and of no other.
    """

    def __init__(self, *, can_be_killed: bool = True) -> None:
        self._can_be_killed = can_be_killed
        self.received = 0
        self._received_at_s = 0.0
        self._waiting = False
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Signals:
        for number in _NAMES:
            before = signal.getsignal(number)
            if before != signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @property
    def what(self) -> str:
        """What happened, as a word: interrupted, terminated, hung up."""
        return _NAMES[signal.Signals(self.received)]

    def wait(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that waits for the outside world; return what it returns.

        Raises Interrupted at once if a signal has come or comes meanwhile. The function's
        effects are then unknown: it may or may not have finished.
        """
        self._waiting = True
        try:
            if self.received:
                raise Interrupted
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            if self.received:
                raise Interrupted from None  # what was raised here was lost, and this made of it
            raise
        finally:
            self._waiting = False

    def first(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Like `wait`, for what comes before anything was done: a signal ends the command."""
        try:
            return self.wait(function, *args, **kwargs)
        except Interrupted:
            raise Stopped(f"{self.what}; nothing was done", signal_number=self.received) from None

    @contextlib.contextmanager
    def ending_within(self, patience_s: float, last_words: Callable[[], object]) -> Iterator[None]:
        """What runs inside ends this soon after the first signal, or the process does.

        For what may be killed at any moment, and may have to wait for as long as a server is
        away. `last_words` is called before that, in a thread of its own.
        """
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(_LOOK_S):
                if self.received and time.monotonic() - self._received_at_s > patience_s:
                    last_words()
                    os._exit(128 + self.received)

        watching = threading.Thread(target=watch, name="seawall-signals", daemon=True)
        watching.start()
        try:
            yield
        finally:
            is_over.set()
            watching.join()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self._received_at_s = time.monotonic()
            self.received = number
        elif self._can_be_killed and time.monotonic() - self._received_at_s > IMPATIENT_AFTER_S:
            os._exit(128 + number)
        if self._waiting:
            self._waiting = False
            raise Interrupted
