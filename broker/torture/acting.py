"""The process's end of an actor: it has a directory open, and does there what it is told.

A step is one of a workload (see
`operations`), or one of these::

    open      lock_timeout_ms, open_timeout_ms, quiet (no checkpoints by the clock)
    close
    trap      call, pattern, nth, steps     where to stop: see `stopping`
    hold      group, topic                  join a group, and stay in it until
    take_held …                             in that group, take what comes next
    ack_held  …                             in that group, acknowledge what was taken last
    let       …                             leave it
    describe  group                         gives the pid of its holder, 0 if none
    wait      topic, partition, timeout_ms  gives how many records came in that time
    limit     bytes                         no file may be longer from now on, -1: no limit
    enlarge   topic, bytes                  segments may be so long from now on
    stream    steps                         do them again and again, until told `enough`
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import time
from collections.abc import Sequence
from typing import Any

from seawall.broker.broker import Broker
from seawall.broker.consumer import Consumer
from seawall.broker.engine import acquire_engine
from seawall.broker.errors import BrokerError
from seawall.broker.topics import finish_unfinished
from seawall.broker.torture.children import ChildFailed, Line, Message, Silent
from seawall.broker.torture.operations import acknowledge_some, join
from seawall.broker.torture.performer import Performer, Step
from seawall.broker.torture.stopping import StoppingFiles, Trap, watch_transactions
from seawall.broker.translation import translated
from seawall.wal.files import Files
from seawall.wal.records import Record
from seawall.wal.torture.processes import die_with_parent

OPEN_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 10_000


class NamespacedFiles(StoppingFiles):
    """Files of a process that is, or says that it is, in another PID namespace."""

    def __init__(self, namespace: str) -> None:
        super().__init__()
        self._namespace = namespace

    def pid_namespace(self) -> str:
        return self._namespace or Files.pid_namespace(self)


def act(line: Line, path: str, first_id: int, namespace: str) -> None:
    """Do what comes over the line until it is closed. ``namespace``: say to be in that one."""
    files = NamespacedFiles(namespace)
    watch_transactions(files)
    actor = _Acting(line, path, first_id, files)
    while (step := line.hear()) is not None:
        answer: Message = {"op": step["op"]}
        began_s = time.monotonic()
        try:
            answer["found"] = actor.do(step)
        except BrokerError as error:
            answer["error"] = type(error).__name__
            answer["text"] = str(error)
            answer["holder_pid"] = getattr(error, "holder_pid", 0)
        answer["ms"] = int((time.monotonic() - began_s) * 1000)
        line.say(answer)


class _Acting:
    def __init__(self, line: Line, path: str, first_id: int, files: StoppingFiles) -> None:
        self._line = line
        self._path = path
        self._id = first_id
        self._files = files
        self._performer: Performer | None = None
        self._held: Consumer | None = None
        self._taken: Sequence[Record] = ()
        self._lock_timeout_ms = LOCK_TIMEOUT_MS
        self._open_timeout_ms = OPEN_TIMEOUT_MS
        self._is_quiet = False

    def do(self, step: Step) -> Any:
        own = getattr(self, f"_do_{step['op']}", None)
        if own is not None:
            return own(step)
        return self.performer.do(step)

    @property
    def performer(self) -> Performer:
        if self._performer is None:
            raise ChildFailed("nothing is open")
        return self._performer

    @property
    def broker(self) -> Broker:
        return self.performer.broker

    def _mark(self, mark: Any) -> None:
        self._id = max(self._id, mark["id"])
        self._line.say(dict(mark))

    def _connect(self) -> Broker:
        with translated():
            engine = acquire_engine(
                self._path,
                create=True,
                open_timeout_ms=self._open_timeout_ms,
                lock_timeout_ms=self._lock_timeout_ms,
                files=self._files,
            )
            try:
                finish_unfinished(engine)
            except BaseException:
                engine.release()
                raise
        if self._is_quiet:
            keeper = engine.housekeeper
            keeper.needs_checkpoint = keeper.needs_sync = _do_nothing  # type: ignore[method-assign]
        return Broker(engine, durability="fsync")

    def _do_trap(self, step: Step) -> None:
        self._files.arm(Trap(**{key: value for key, value in step.items() if key != "op"}))

    def _do_open(self, step: Step) -> None:
        self._lock_timeout_ms = step.get("lock_timeout_ms", LOCK_TIMEOUT_MS)
        self._open_timeout_ms = step.get("open_timeout_ms", OPEN_TIMEOUT_MS)
        self._is_quiet = bool(step.get("quiet", False))
        self._performer = Performer(self._connect, self._mark, first_id=self._id)

    def _do_close(self, step: Step) -> None:
        if self._performer is not None:
            self._performer.close()
            self._performer = None

    def _do_hold(self, step: Step) -> int:
        self._held = join(self.performer, step["group"], step["topic"])
        self._taken = ()
        return len(self._held.assignment())

    def _do_let(self, step: Step) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _do_describe(self, step: Step) -> int:
        members = self.broker.group(step["group"]).members
        return members[0].pid if members else 0

    def _do_wait(self, step: Step) -> int:
        with self.broker.consumer(
            step["topic"], partitions=[step["partition"]], start="end"
        ) as consumer:
            self._line.say({"op": "waiting"})
            records = consumer.poll(timeout_ms=step["timeout_ms"])
            self.performer.see(records)
            return len(records)

    def _do_take_held(self, step: Step) -> int:
        self._taken = self._holder().poll(timeout_ms=0)
        self.performer.see(self._taken)
        return len(self._taken)

    def _do_ack_held(self, step: Step) -> int:
        acknowledge_some(self.performer, self._holder(), step["group"], self._taken)
        return len(self._taken)

    def _holder(self) -> Consumer:
        if self._held is None:
            raise ChildFailed("no group is held")
        return self._held

    def _do_limit(self, step: Step) -> None:
        # Python ignores SIGXFSZ, so a write beyond it fails with EFBIG.
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (step["bytes"], hard))

    def _do_enlarge(self, step: Step) -> None:
        size = str(step["bytes"])
        self.broker.engine.catalog.set_config(step["topic"], {"segment.bytes": size})
        self.performer.reconnect()  # a log keeps the settings that it was opened with

    def _do_stream(self, step: Step) -> int:
        count = 0
        while True:
            for each in step["steps"]:
                self.performer.do(each)
                count += 1
                with contextlib.suppress(Silent):
                    told = self._line.hear(0)
                    if told is None or told["op"] == "enough":
                        return count


def _do_nothing(log: object) -> None:
    """What a housekeeper that does nothing by itself does with a log."""


NEW_PID_NAMESPACE = 0x20000000  # linux/sched.h: CLONE_NEWPID …
NEW_USER_NAMESPACE = 0x10000000  # … and CLONE_NEWUSER


def act_elsewhere(line: Line, path: str, first_id: int, namespace: str) -> None:
    """The same in another PID namespace: a real one if that may be made, else it only says
    that it is in the one named `namespace`."""
    libc = ctypes.CDLL(None, use_errno=True)
    is_real = not libc.unshare(NEW_PID_NAMESPACE) or not libc.unshare(
        NEW_USER_NAMESPACE | NEW_PID_NAMESPACE
    )
    line.say({"op": "start", "found": is_real})
    if not is_real:
        act(line, path, first_id, namespace)
        return
    pid = os.fork()  # it is the children that are in the new one
    if pid:
        os.waitpid(pid, 0)
        return
    die_with_parent(0)  # that is what it sees of a parent outside
    act(line, path, first_id, "")
    os._exit(0)
