"""The search "stopped-holder": SIGSTOP of a process that holds a lock, then SIGCONT.

Each case brings one process to a stop while it holds one particular lock (and often a few
steps later, in the middle of what it does under it). Another one then tries everything that
needs this lock, and everything that does not: the first must end in the named time-out, in
time and with the right pid, the second must work. Then the stopped one goes on: it ends
what it was doing, the other one succeeds at all that had timed out, and nothing that either
was told is lost.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from seawall.broker.broker import Broker
from seawall.broker.torture import promises
from seawall.broker.torture.actors import Actor, Reply, warm_children
from seawall.broker.torture.children import Children
from seawall.broker.torture.holds import FAMILIES, KINDS
from seawall.broker.torture.marks import Ledger
from seawall.broker.torture.performer import Step
from seawall.wal.files import Files
from seawall.wal.locks import lock_holder
from seawall.wal.torture.search import Broken, Case, Search, Setting, seed_for

QUICK_CASES = 5
FULL_CASES = 200
# How much later than its bound an error may come: machines that test are busy.
SLACK_MS = 30_000
PATIENT_TIMEOUT_MS = 20_000


class StoppedHolder(Search):
    """SIGSTOP of a process that holds a lock, then SIGCONT."""

    name: ClassVar[str] = "stopped-holder"
    title: ClassVar[str] = (
        "SIGSTOP of a process that holds the append lock, an LMDB write or a lease, then SIGCONT"
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._children: Children | None = None
        self._sees_pids = False

    def prepare(self) -> None:
        self._children = warm_children()
        self._sees_pids = _sees_lock_holders(self.setting.memory)

    def cases(self) -> Iterator[Case]:
        count = FULL_CASES if self.setting.full else QUICK_CASES
        order = list(FAMILIES)
        random.Random(seed_for(self.name, self.setting.seed)).shuffle(order)
        for number in range(count):
            seed = seed_for(self.name, self.setting.seed, number)
            if self.setting.mine(number):
                yield _case(seed, order[number % len(order)])

    def smaller(self, case: Case) -> Iterator[Case]:
        for field_name, least in (("patient", 0), ("steps", 0), ("nth", 1), ("attempts", 1)):
            if case[field_name] != least:
                yield {**case, field_name: least}

    def run(self, case: Case) -> None:
        if self._children is None:
            raise RuntimeError("prepare() comes first")
        path = os.path.join(self.setting.memory, "stopped")
        try:
            _Run(self, self._children, case, path).run()
        finally:
            self._children.kill()
            shutil.rmtree(path, ignore_errors=True)

    def count(self, what: str, by: int = 1) -> None:
        """Add to a figure."""
        self.figures[what] = self.figures.get(what, 0) + by

    @property
    def sees_pids(self) -> bool:
        """Whether this machine tells who holds a lock."""
        return self._sees_pids

    def close(self) -> None:
        if self._children is not None:
            self._children.close()
            self._children = None


def _case(seed: int, family: Sequence[str]) -> Case:
    choose = random.Random(seed)
    name = choose.choice(family)
    kind = KINDS[name]
    return {
        "kind": name,
        "seed": seed,
        "holder": choose.choice(kind.holder),
        "nth": choose.randint(1, kind.nth),
        "steps": choose.choice((0, choose.randint(0, kind.steps))),
        "attempts": choose.randint(1, 4),
        "timeout_ms": choose.choice((100, 150, 200)),
        "hold_ms": choose.choice((0, choose.randint(1, 100))),
        "patient": int(kind.is_patient and choose.random() < 0.25),
    }


class _Run:
    """One case."""

    def __init__(self, search: StoppedHolder, children: Children, case: Case, path: str) -> None:
        self._search = search
        self._case = case
        self._kind = KINDS[str(case["kind"])]
        self._choose = random.Random(case["seed"])
        self._path = path
        self._created = 0
        self._is_done = False  # the holder, with the step that made it one
        self.ledger = Ledger()
        self._holder = Actor(children, self.ledger, path, number=1)
        self._other = Actor(children, self.ledger, path, number=2)

    def run(self) -> None:
        case, holder, other = self._case, self._holder, self._other
        is_opening = case["kind"] == "open"
        holder.must({"op": "open", "quiet": True})
        for op in _BEGINNING:
            holder.must(self._step(op))
        if is_opening:
            holder.must({"op": "close"})
        else:
            other.must(self._opening())
        if case["kind"] == "publish":
            self._append_and_stop(other)
        self._bring_to_hold()
        if case["kind"] == "publish":
            self._go_on_to_publish(other)
        if case["patient"]:
            self._outlast_the_stop()
        else:
            self._meet_the_lock()
        for actor in (holder, other):
            actor.end()
        for word in ("after", "again"):
            with Broker.open(self._path) as broker:
                promises.check(broker, self.ledger, word=word)
        self._search.count(str(case["kind"]))

    # -- bringing it about -----------------------------------------------------------

    def _bring_to_hold(self) -> None:
        case, kind, holder = self._case, self._kind, self._holder
        holder.must(
            {
                "op": "trap",
                "call": kind.call,
                "pattern": kind.pattern,
                "nth": case["nth"],
                "steps": case["steps"],
            }
        )
        holder.tell(self._step(str(case["holder"])))
        reply = holder.stopped_or_done()
        if reply is not None:
            if reply.error or case["kind"] != "group":
                raise Broken(f"the holder was not stopped: {reply}")
            self._is_done = True
            holder.stop()  # it holds the group for as long as it likes

    def _append_and_stop(self, other: Actor) -> None:
        """Have the other process stop between its append and its publishing."""
        other.must({"op": "trap", "call": "sync", "pattern": "*-orders-0/*.log"})
        other.tell(self._step("produce"))
        if other.stopped_or_done() is not None:
            raise Broken("the one who appends was not stopped")

    def _go_on_to_publish(self, other: Actor) -> None:
        other.go_on()
        reply = other.reply()
        self._must_have_timed_out(reply, ("OutcomeUnknown",))
        if self._search.sees_pids and f"process {self._holder.pid} " not in reply.text:
            raise Broken(f"the error does not name process {self._holder.pid}: {reply.text}")

    # -- while it is stopped ---------------------------------------------------------

    def _meet_the_lock(self) -> None:
        kind, other, choose = self._kind, self._other, self._choose
        is_member = self._is_done or self._case["kind"] != "group"
        count = min(int(self._case["attempts"]), len(kind.blocked))
        blocked = choose.sample(list(kind.blocked), count)
        free = [choose.choice(kind.free) for _ in blocked] if kind.free else []
        attempts = [*((op, True) for op in blocked), *((op, False) for op in free)]
        choose.shuffle(attempts)
        # A deletion that times out halfway makes whoever comes next finish it first.
        attempts.sort(key=lambda attempt: attempt == ("delete", True))
        for op, is_blocked in attempts:
            reply = other.do(self._step(op))
            if is_blocked and is_member:
                self._must_have_timed_out(reply, kind.blocked[op])
                self._must_name_the_holder(reply)
            elif reply.error:
                raise Broken(
                    f"{op} does not need what is held, and failed: {reply.error}: {reply.text}"
                )
            elif reply.ms > SLACK_MS:
                raise Broken(f"{op} does not need what is held, and took {reply.ms} ms")
        time.sleep(int(self._case["hold_ms"]) / 1000)
        self._go_on()
        for op in blocked:
            other.must(self._step(op))

    def _outlast_the_stop(self) -> None:
        op = self._choose.choice(list(self._kind.blocked))
        self._other.tell(self._step(op))
        time.sleep(int(self._case["hold_ms"]) / 1000)
        self._go_on()
        reply = self._other.reply()
        if reply.error:
            raise Broken(f"{op} had time enough, and failed: {reply.error}: {reply.text}")
        self._search.count("waits that outlasted the stop")

    def _go_on(self) -> None:
        """Let the holder go on; what it was doing, it does to its end."""
        holder = self._holder
        holder.go_on()
        if not self._is_done:
            reply = holder.reply()
            if reply.error:
                raise Broken(
                    f"the stopped process failed to {reply.op}: {reply.error}: {reply.text}"
                )
        if self._case["kind"] == "group":
            holder.must({"op": "trap", "call": "none"})
            holder.must({"op": "let"})

    def _must_have_timed_out(self, reply: Reply, errors: Sequence[str]) -> None:
        bound_ms = int(self._case["timeout_ms"])
        if reply.error not in errors:
            found = f"{reply.error}: {reply.text}" if reply.error else "it was done"
            raise Broken(f"{reply.op} should end in {' or '.join(errors)}: {found}")
        if reply.ms > bound_ms + SLACK_MS:
            raise Broken(f"{reply.op} ended in {reply.error} after {reply.ms}, not {bound_ms} ms")
        self._search.count("named time-outs")

    def _must_name_the_holder(self, reply: Reply) -> None:
        if not self._search.sees_pids or reply.error == "CatalogBusy":
            return
        if reply.holder_pid != self._holder.pid:
            raise Broken(
                f"{reply.error} names process {reply.holder_pid}, but {self._holder.pid} holds it"
            )

    # -- steps -----------------------------------------------------------------------

    def _opening(self) -> Step:
        is_patient = bool(self._case["patient"])
        timeout_ms = PATIENT_TIMEOUT_MS if is_patient else self._case["timeout_ms"]
        return {
            "op": "open",
            "lock_timeout_ms": timeout_ms,
            "open_timeout_ms": timeout_ms,
            "quiet": True,
        }

    def _step(self, word: str) -> Step:
        """A step; what comes behind an underscore says where it is different."""
        if word == "open":
            return self._opening()
        op, _, where = word.partition("_") if word not in _UNDERSCORED else (word, "", "")
        step: dict[str, Any] = {
            "op": op,
            "topic": "orders",
            "partition": 0,
            "records": self._choose.randint(1, 5),
            "size": self._choose.choice((8, 40, 300)),
            "compression": "none",
            "part": self._choose.random(),
            "group": "search" if where == "search" else "billing",
            "appends": [["orders", 1, 2, 40], ["orders", 0, 3, 300]],
            "commit": True,
        }
        if where == "elsewhere":
            step["partition"] = 1
        elif where in ("audit", "carts", "mails"):
            step |= {"topic": where, "partitions": 1 if where == "audit" else 2}
        if word == "create":
            self._created += 1
            step |= {"topic": f"new-{self._created}", "partitions": self._choose.randint(1, 3)}
        elif word == "create_orders":
            step["partitions"] = 2
        elif word == "delete":
            step["topic"] = "mails"
        return step


_UNDERSCORED = ("produce_os",)

_BEGINNING = (
    *("create_orders", "create_audit", "create_carts", "create_mails"),
    *("produce", "produce_elsewhere", "produce_audit", "produce_carts"),
    *("acknowledge", "acknowledge_search", "produce", "produce_elsewhere"),
)


def _sees_lock_holders(folder: str) -> bool:
    """Whether the kernel tells here which process holds a lock."""
    files = Files()
    path = os.path.join(folder, "whose")
    descriptor = files.open(path, os.O_RDWR | os.O_CREAT)
    try:
        return files.try_lock(descriptor) and lock_holder(files, descriptor) == os.getpid()
    finally:
        files.close(descriptor)
        files.unlink(path)
