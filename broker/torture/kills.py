"""The search "kill-syscalls": SIGKILL at every call of a workload that changes a file.

The workload is cut into *lives*: processes that open the directory one after the other,
do some steps there and close it. A fault-free traced run of each gives the list of its
calls: they are the kill points, LMDB's and SQLite's among them. A case is one of them: the
directory is put back to how that life found it, the same process runs again and is killed
as it makes that call, and whoever opens the directory next finds every promise kept. There
was no boot in between, so nothing is recovered: what the kernel was given is there.

Both runs begin with the same bytes in the same order, in one thread, and nothing happens
by the clock. So all calls up to the kill point are compared, with sizes and positions,
and no difference is tolerated, but for a process id in the name of a new file.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from seawall.broker import catalog_writes  # noqa: F401 - every child would import it
from seawall.broker.broker import Broker
from seawall.broker.torture import promises
from seawall.broker.torture.connect import connect
from seawall.broker.torture.marks import Ledger, Mark
from seawall.broker.torture.performer import Performer, Step
from seawall.broker.torture.workload import steps
from seawall.wal.ends import SLOT_BYTES, Ends
from seawall.wal.files import Files, write_fully
from seawall.wal.log import Log
from seawall.wal.torture.search import Broken, Case, Search, Setting, seed_for
from seawall.wal.torture.traps import Call, ChildFailed, kill_at, trace

OPERATIONS = 320
STEPS_PER_LIFE = 20
QUICK_PART = 10  # one of so many kill points
# After one of so many kills all is read before something is appended as well, and the
# integrity of each file is asked for.
THOROUGH_PART = 4

_ASIDE = re.compile(r"\.(\d+|[0-9a-f]{32})\.new\b")
_MEMBER = re.compile(r"/members/[0-9a-f]{32}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One process of the workload.

    ``found``: a copy of the directory as it found it, empty if there was none. ``ledger``:
    what was promised until then, pickled. ``first_id`` of its marks. ``calls``: those of a
    fault-free run.
    """

    script: Sequence[Step]
    found: str
    ledger: bytes
    first_id: int
    calls: Sequence[Call]


class KillSyscalls(Search):
    """Each call that changes a file is the last thing that a process ever tried."""

    name = "kill-syscalls"
    title = "SIGKILL at every mutating system call of the workload"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._script = steps(setting.seed, OPERATIONS)
        self._lives: list[Life] = []
        self._folder = ""
        self._path = ""

    def prepare(self) -> None:
        """Trace every life. Raises `Unavailable`."""
        self._folder = tempfile.mkdtemp(prefix="kills-", dir=self.setting.memory)
        self._path = os.path.join(self._folder, "data")
        marks: list[Mark] = []
        found = ""
        for at in range(0, len(self._script), STEPS_PER_LIFE):
            script = self._script[at : at + STEPS_PER_LIFE]
            first_id = max((mark["id"] for mark in marks), default=0)
            put_back(found, self._path)
            watched = trace(self._process(script, first_id), self._path)
            self._lives.append(
                Life(
                    script=script,
                    found=found,
                    ledger=pickle.dumps(Ledger(marks)),
                    first_id=first_id,
                    calls=[_same_in_every_run(call) for call in watched.calls],
                )
            )
            marks += watched.marks
            found = os.path.join(self._folder, f"found-{len(self._lives)}")
            shutil.copytree(self._path, found)
        if self.setting.share == 0:
            self.figures["kill points"] = self._kill_points()

    def _kill_points(self) -> int:
        return sum(len(life.calls) for life in self._lives)

    def cases(self) -> Iterator[Case]:
        """The number of a call, counted over all lives: all of them, or a seeded tenth."""
        numbers = list(range(1, self._kill_points() + 1))
        random.Random(seed_for(self.name, self.setting.seed)).shuffle(numbers)
        if not self.setting.full:
            del numbers[-(-len(numbers) // QUICK_PART) :]
        for at, number in enumerate(numbers):
            if self.setting.mine(at):
                yield {"call": number}

    def run(self, case: Case) -> None:
        """Kill one process at one call, and look at what it left. Raises `Broken`."""
        number = int(case["call"])
        for life in self._lives:
            if number <= len(life.calls):
                self._end(life, number)
                return
            number -= len(life.calls)
        raise Broken(f"the workload makes only {self._kill_points()} calls")

    def _end(self, life: Life, number: int) -> None:
        put_back(life.found, self._path)
        try:
            watched = kill_at(self._process(life.script, life.first_id), self._path, number)
        except ChildFailed as error:
            _compare(error.calls, life.calls)
            raise
        _compare(watched.calls, life.calls[:number])
        self.figures["died at their call"] = self.figures.get("died at their call", 0) + 1
        ledger: Ledger = pickle.loads(life.ledger)
        for mark in watched.marks:
            ledger.take(mark)
        try:
            check(self._path, ledger, thorough=number % THOROUGH_PART == 0)
        except Exception as error:
            raise Broken(f"killed at {life.calls[number - 1]}: {error}") from error

    def _process(
        self, script: Sequence[Step], first_id: int
    ) -> Callable[[Callable[[Mark], None]], None]:
        def live(mark: Callable[[Mark], None]) -> None:
            performer = Performer(lambda: _connect(self._path), mark, first_id=first_id)
            performer.perform(script)
            performer.close()

        return live

    def close(self) -> None:
        """Remove all directories."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._lives.clear()


def check(path: str, ledger: Ledger, *, thorough: bool) -> None:
    """Open a directory that a process died in, and hold it against what was promised."""
    with connect(path) as broker:
        promises.check(broker, ledger, twice=thorough)
        for finding in broker.verify() if thorough else ():
            raise Broken(f"verify finds damage: {finding}")


def put_back(found: str, path: str) -> None:
    """Make a directory what it was when it was copied, as if nothing had happened to it.

    A copy of ``run/ends`` knows that it is one, so its rows go into a new one.
    """
    shutil.rmtree(path, ignore_errors=True)
    if not found:
        return
    shutil.copytree(found, path, copy_function=shutil.copyfile)
    ends_path = os.path.join(path, "run", "ends")
    with open(ends_path, "rb") as file:
        rows = file.read()[SLOT_BYTES:]
    files = Files()
    Ends.create(files, ends_path, files.boot_id()).close()
    descriptor = os.open(ends_path, os.O_RDWR)
    try:
        write_fully(files, descriptor, rows, SLOT_BYTES)
    finally:
        os.close(descriptor)


class _InOrder(set[Log]):
    """Logs in an order that does not depend on where in memory they are."""

    def __iter__(self) -> Iterator[Log]:
        return iter(sorted(super().__iter__(), key=lambda log: log.context.partition_id))


def _connect(path: str) -> Broker:
    broker = connect(path)
    keeper = broker.engine.housekeeper
    keeper._dirty, keeper._unsynced = _InOrder(), _InOrder()
    return broker


def _same_in_every_run(call: Call) -> Call:
    return dataclasses.replace(call, path=_unnamed(call.path), target=_unnamed(call.target))


def _unnamed(path: str) -> str:
    """A path without what is another one in each run."""
    return _MEMBER.sub("/members/MEMBER", _ASIDE.sub(".ID.new", path))


def _compare(calls: Sequence[Call], expected: Sequence[Call]) -> None:
    """Raise `Broken` unless the calls are those of the fault-free run."""
    for found, wanted in zip_longest(map(_same_in_every_run, calls), expected):
        if found is not None and found != wanted:
            raise Broken(f"not the same calls as in the fault-free run: {found}, not {wanted}")
