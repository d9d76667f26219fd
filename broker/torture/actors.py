"""A process that has a directory open and does there what it is told, step by step.

`Actor` is the search's end: it tells the steps, takes the marks into the ledger, and knows
what came of each step. `acting` is the process's end, and says which steps there are.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seawall.broker.torture.acting import act, act_elsewhere
from seawall.broker.torture.children import Child, ChildFailed, Children, Silent
from seawall.broker.torture.marks import Ledger
from seawall.broker.torture.performer import Step
from seawall.wal.torture.search import Broken

MARKS_EACH = 1_000_000  # so many ids of marks are one actor's
PATIENCE_S = 60.0  # no step takes so long: every wait inside is bounded
PAUSE_S = 0.001

# What is only imported when it is first needed; a server of children has it ready.
_LATE_MODULES = (
    "hashlib",
    "inotify_simple",
    "seawall.broker.catalog_writes",
    "seawall.broker.groups",
    "seawall.broker.producer",
    "seawall.broker.subscribe",
    "seawall.broker.torture.workload",
    "seawall.wal.log",
    "seawall.wal.quarantine",
    "socket",
)


def warm_children(prepare: Callable[[], None] = lambda: None) -> Children:
    """A server whose children need import nothing any more; `prepare` as for `Children`."""
    for name in _LATE_MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return Children(prepare)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a step: ``error`` is the name of the `BrokerError`, empty if it was done.

    ``holder_pid``: the process that the error names, 0 if none. ``ms``: how long it took.
    ``found``: what it was asked for.
    """

    op: str
    error: str = ""
    text: str = ""
    holder_pid: int = 0
    ms: int = 0
    found: Any = None


class Actor:
    """A process that does what it is told; its marks go into a ledger."""

    def __init__(
        self,
        children: Children,
        ledger: Ledger,
        path: str,
        *,
        number: int,
        is_foreign: bool = False,
    ) -> None:
        """Start it. ``is_foreign``: in another PID namespace; its first reply, to nothing,
        says whether that is a real one."""
        self._ledger = ledger
        self._op = "start"
        self.child: Child = children.start(
            act_elsewhere if is_foreign else act,
            path,
            number * MARKS_EACH,
            "pid:[1]" if is_foreign else "",
        )
        self.number = number
        self.pid = self.child.pid

    def tell(self, step: Step) -> None:
        """Have it begin with a step."""
        self._op = step["op"]
        self.child.say(dict(step))

    def do(self, step: Step) -> Reply:
        """Have it do a step, and wait for what comes of it."""
        self.tell(step)
        return self.reply()

    def must(self, step: Step) -> Reply:
        """Have it do a step that has to succeed. Raises `Broken`."""
        reply = self.do(step)
        if reply.error:
            raise Broken(f"process {self.number}: {reply.op}: {reply.error}: {reply.text}")
        return reply

    def reply(self, timeout_s: float = PATIENCE_S) -> Reply:
        """What came of the step that it was told last."""
        while True:
            try:
                reply = self._hear(timeout_s)
            except Silent:
                raise Broken(
                    f"process {self.number} was told to {self._op} {timeout_s:g} s ago, and is "
                    "still at it"
                ) from None
            if reply is not None:
                return reply

    def gather(self, timeout_s: float) -> None:
        """Take the marks that come within this time."""
        deadline_s = time.monotonic() + timeout_s
        with contextlib.suppress(Silent):
            while (left_s := deadline_s - time.monotonic()) > 0:
                reply = self._hear(left_s)
                if reply is not None:
                    raise Broken(f"process {self.number} ended its {reply.op}: {reply}")

    def stopped_or_done(self) -> Reply | None:
        """Wait until it has stopped: None; or until its step is done."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            if self.child.is_stopped():
                return None
            try:
                reply = self._hear(PAUSE_S)
            except Silent:
                continue
            if reply is not None:
                return reply
        raise Broken(f"process {self.number} was told to {self._op}, and neither stops nor ends")

    def _hear(self, timeout_s: float) -> Reply | None:
        """Take its next message: a mark, or what came of the step."""
        try:
            message = self.child.hear(timeout_s)
        except ChildFailed as error:
            raise Broken(f"process {self.number}: {self._op}: {error}") from error
        if message is None:
            status = self.child.wait(PATIENCE_S)
            raise Broken(f"process {self.number} died of {status} while it was told {self._op}")
        if "is" in message:
            self._ledger.take(message)
            return None
        return Reply(**message)

    def stop(self) -> None:
        """Stop it where it is."""
        self.child.signal(signal.SIGSTOP)
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.child.is_stopped() and time.monotonic() < deadline_s:
            time.sleep(PAUSE_S)

    def go_on(self) -> None:
        """Let it run on after a stop."""
        self.child.signal(signal.SIGCONT)

    def end(self) -> None:
        """Have it close what it has open, and end."""
        self.must({"op": "close"})
        self.child.line.close()
        self.child.wait(PATIENCE_S)
