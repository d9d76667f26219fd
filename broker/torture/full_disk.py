"""The search "full-disk": a disk that is really full, until there is room again.

Produce, acknowledge, checkpoint, roll, create topics and so on, on a small file system or
under a limit of file sizes, until nothing more fits, and on from there. Everything then
ends well or in `StorageFull`, readers go on reading, others may come and go. Once there is
room, all of it works again in the very same processes, and nothing that was acknowledged
is missing, then or after opening again.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
from collections.abc import Iterator
from typing import Any, ClassVar

from seawall.broker.broker import Broker
from seawall.broker.torture import promises, small_disks
from seawall.broker.torture.actors import PATIENCE_S, Actor, warm_children
from seawall.broker.torture.children import Child, Children, Line
from seawall.broker.torture.marks import Ledger, Mark
from seawall.broker.torture.performer import Step
from seawall.wal.torture.search import Broken, Case, Search, Setting, seed_for

MOST_STEPS = 400  # until it is full
STEPS_WHEN_FULL = 40
# Of one topic, so that a limit of file sizes is reached; the others' segments are short.
LONG_SEGMENT_BYTES = 1 << 20
OPEN: Step = {"op": "open"}
CLOSE: Step = {"op": "close"}

_WRITES = (
    *("produce",) * 6,
    *("burst", "produce_os", "acknowledge", "acknowledge", "checkpoint", "create", "delete"),
    *("roll", "drop", "reset", "configure"),
)


class FullDisk(Search):
    """A really full disk, then room again."""

    name: ClassVar[str] = "full-disk"
    title: ClassVar[str] = "a really full disk (small tmpfs or file-size limit), then room again"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._kinds: list[str] = []
        self._folder = os.path.join(setting.memory, "full")
        self._image = os.path.join(setting.memory, "image")

    def prepare(self) -> None:
        os.mkdir(self._folder)
        wanted = ["tmpfs", "ext4", "inodes"] if self.setting.full else ["tmpfs"]
        found = [
            kind for kind in wanted if small_disks.is_possible(kind, self._folder, self._image)
        ]
        # One of the last two, in this order.
        self._kinds = ["limit", *found[: 2 if self.setting.full else 1]]
        self.count("small file systems", len(self._kinds) - 1)

    def cases(self) -> Iterator[Case]:
        # Without the right to mount anything, the limit alone has to do, in other places.
        for number in range(3 if self.setting.full else 2):
            if self.setting.mine(number):
                kind = self._kinds[number % len(self._kinds)]
                yield {"kind": kind, "seed": seed_for(self.name, self.setting.seed, number)}

    def run(self, case: Case) -> None:
        kind = str(case["kind"])
        prepare = functools.partial(small_disks.mount, kind, self._folder, self._image)
        with warm_children(_nothing if kind == "limit" else prepare) as children:
            try:
                _Run(self, children, case, self._folder).run()
            finally:
                children.kill()
                shutil.rmtree(os.path.join(self._folder, "data"), ignore_errors=True)

    def count(self, what: str, by: int = 1) -> None:
        """Add to a figure."""
        self.figures[what] = self.figures.get(what, 0) + by

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if os.path.exists(self._image):
            os.unlink(self._image)


def _nothing() -> None:
    """There is nothing to mount."""


class KeptLedger(Ledger):
    """A ledger that keeps its marks, so that another process can make the same."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        super().__init__()

    def take(self, mark: Mark) -> None:
        self.marks.append(mark)
        super().take(mark)


def check_directory(line: Line, path: str) -> None:
    """In a child, which sees the small file system: hold it against the marks it is told."""
    told = line.hear()
    ledger = Ledger(told["marks"] if told else ())
    try:
        for word in ("after", "again"):
            with Broker.open(path) as broker:
                promises.check(broker, ledger, word=word)
    except Broken as error:
        line.say({"broken": str(error)})
    else:
        line.say({"broken": ""})


class _Run:
    """One case."""

    def __init__(self, search: FullDisk, children: Children, case: Case, folder: str) -> None:
        self._search = search
        self._kind = str(case["kind"])
        self._choose = random.Random(case["seed"])
        self._children = children
        self._folder = folder
        self._path = os.path.join(folder, "data")
        self._created = 0
        self._ledger = KeptLedger()
        self._writer = Actor(children, self._ledger, self._path, number=1)
        self._reader = Actor(children, self._ledger, self._path, number=2)
        self._filler: Child | None = None
        if self._kind != "limit":
            self._filler = children.start(small_disks.fill, folder)

    def run(self) -> None:
        writer, reader = self._writer, self._reader
        writer.must(OPEN)
        for topic, partitions in (("orders", 2), ("audit", 1)):
            writer.must({**self._step("create"), "topic": topic, "partitions": partitions})
        writer.must({"op": "enlarge", "topic": "audit", "bytes": LONG_SEGMENT_BYTES})
        for op in ("produce", "burst", "acknowledge", "checkpoint"):
            writer.must(self._step(op))
        reader.must(OPEN)
        self._take_the_room()
        self._until_full()
        for number in range(STEPS_WHEN_FULL):
            self._write(self._step(self._choose.choice(_WRITES)))
            if number % 4 == 0:
                self._read()
        self._come_and_go()
        self._give_room()
        for op in dict.fromkeys(_WRITES):
            writer.must(self._step(op))
            reader.must(self._step("consume"))
        for actor in (writer, reader):
            actor.end()
        self._check()

    # -- the room --------------------------------------------------------------------

    def _take_the_room(self) -> None:
        if self._filler is None:
            # What is longer than that now can be written below it, and no further.
            limit = self._choose.choice((3_000, 10_000, 20_000, 40_000))
            self._writer.must({"op": "limit", "bytes": limit})
        else:
            keep = {"keep_bytes": self._choose.randrange(0, 200_000)}
            if self._kind == "inodes":
                keep = {"keep_bytes": 1 << 30, "keep_files": self._choose.randrange(0, 6)}
            self._tell_filler(keep)

    def _give_room(self) -> None:
        if self._filler is None:
            self._writer.must({"op": "limit", "bytes": -1})
        else:
            self._tell_filler({"free": 1})

    def _tell_filler(self, told: dict[str, int]) -> None:
        if self._filler is not None:
            self._filler.say(told)
            self._filler.hear(PATIENCE_S)

    # -- while it gets full, and is ----------------------------------------------------

    def _until_full(self) -> None:
        for number in range(MOST_STEPS):
            step = self._step("produce" if number % 2 else self._choose.choice(_WRITES))
            if number % 2:
                step |= {"topic": "audit", "records": 6, "size": 1500}
            if self._write(step) == "produce":
                self._search.count("disks filled")
                return
        raise Broken(f"{MOST_STEPS} steps did not fill {self._kind}")

    def _write(self, step: Step) -> str:
        """Do something that needs room; its name if there was none."""
        reply = self._writer.do(step)
        if not reply.error:
            return ""
        if reply.error != "StorageFull":
            raise Broken(f"on a full disk, {reply.op} gives {reply.error}: {reply.text}")
        self._search.count(f"no room to {reply.op}")
        return reply.op

    def _read(self) -> None:
        reply = self._reader.do(self._step("consume"))
        if reply.error:
            raise Broken(f"reading on a full disk gives {reply.error}: {reply.text}")

    def _come_and_go(self) -> None:
        """Others open it while it is full, beside those who have it open, and alone."""
        visitor = Actor(self._children, self._ledger, self._path, number=3)
        if self._kind == "limit":
            visitor.must(OPEN)  # it has no such limit
            visitor.must(self._step("produce"))
        elif not visitor.do(OPEN).error:
            visitor.must(self._step("consume"))
        visitor.end()
        if self._choose.random() < 0.5:
            return
        self._reader.do(CLOSE)
        self._writer.do(CLOSE)
        opened = not self._writer.do(OPEN).error
        self._search.count("opened when full" if opened else "refused by name when full")
        if not opened:
            self._give_room()
            self._writer.must(OPEN)
        self._reader.must(OPEN)

    def _step(self, op: str) -> dict[str, Any]:
        choose = self._choose
        step: dict[str, Any] = {
            "op": op,
            "topic": choose.choice(("orders", "audit", "audit")),
            "partition": 0,
            "partitions": 2,
            "records": choose.randint(1, 6),
            "size": choose.choice((8, 300, 1500)),
            "compression": "none",
            "part": choose.random(),
            "group": choose.choice(("billing", "search")),
            "appends": [["orders", 0, 4, 1500], ["orders", 1, 3, 300], ["audit", 0, 1, 40]],
            "commit": True,
        }
        if op == "create":
            self._created += 1
            step["topic"] = f"new-{self._created}"
        elif op == "delete":
            step["topic"] = f"new-{choose.randint(1, self._created)}"
        elif op == "configure":
            step["topic"] = "orders"
        return step

    def _check(self) -> None:
        checker = self._children.start(check_directory, self._path)
        checker.say({"marks": [dict(mark) for mark in self._ledger.marks]})
        answer = checker.hear(PATIENCE_S)
        if answer is None:
            raise Broken(f"the process that opened it again died of {checker.wait(PATIENCE_S)}")
        if answer["broken"]:
            raise Broken(answer["broken"])
