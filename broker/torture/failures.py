"""Calls to the operating system that fail, one after the other, and what is there then.

Every sync of a short workload fails with EIO, once or from then on, and leaves its pages
in the cache or takes them away; every write fails or is short. The workload goes on for
a few steps. Then, after a sync, a second process opens the directory, and in the end the
power is cut: what was acknowledged must be on the disk, and not only in the cache. After
a write room comes back, and the same process works again.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Iterator, Sequence

from seawall.broker.broker import Broker
from seawall.broker.errors import BrokerError
from seawall.broker.torture import promises
from seawall.broker.torture.connect import connect, crash
from seawall.broker.torture.marks import Ledger, Mark
from seawall.broker.torture.performer import Performer
from seawall.broker.torture.workload import tour
from seawall.wal.torture.faulty import SYNCS, WRITES, Died, Fault, FaultyCall, FaultyFiles
from seawall.wal.torture.search import Broken, Case, Search, Setting

# After the fault the workload goes on for so many steps.
STEPS_BEHIND = 6


class _Failures(Search):
    """What both searches have in common."""

    counts: frozenset[str]

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._script = tour(setting.seed)
        self._calls: list[FaultyCall] = []

    def prepare(self) -> None:
        with self._folder() as path:
            files = FaultyFiles(path, counts=self.counts)
            worker = Performer(lambda: connect(path, files), lambda mark: None)
            worker.perform(self._script)
            worker.close()
            self._calls = files.calls
        self.figures["calls"] = len(self._calls) if self.setting.share == 0 else 0

    def cases(self) -> Iterator[Case]:
        ways = [(number, way) for number in self._numbers() for way in self._ways(number)]
        # Any beginning is a fair sample.
        random.Random(self.setting.seed).shuffle(ways)
        for at, (number, way) in enumerate(ways):
            if self.setting.mine(at):
                yield {"call": number, **way}

    def _numbers(self) -> Sequence[int]:
        return range(1, len(self._calls) + 1)

    def _ways(self, number: int) -> list[dict[str, int | str]]:
        raise NotImplementedError

    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(dir=self.setting.memory)

    def _worked_until_the_fault(self, files: FaultyFiles, marks: list[Mark]) -> Performer:
        """A performer that met the fault, and a few steps more if that did not kill it."""

        def mark(mark: Mark) -> None:
            if not files.is_dead:
                marks.append(mark)

        worker = Performer(lambda: _connect_at_last(files), mark, tolerant=True)
        steps = iter(self._script)
        for step in steps:
            try:
                worker.do(step)
            except Died:
                pass
            if files.is_dead:
                return worker
            if files.hits:
                break
        for step in itertools.islice(steps, STEPS_BEHIND):
            worker.do(step)
        if not files.hits:
            raise Broken("the call at which the fault was to happen never came")
        return worker


class FailedSyncs(_Failures):
    """Every sync fails with EIO."""

    name = "failed-syncs"
    title = "a sync fails with EIO, once or for good, its pages kept or dropped"
    counts = SYNCS

    def _ways(self, number: int) -> list[dict[str, int | str]]:
        call = self._calls[number - 1]
        ways: list[dict[str, int | str]] = [
            {"for_good": for_good, "drops_pages": drops, "dies": 0}
            for for_good in (0, 1)
            for drops in ((0, 1) if call.kind == "sync" else (0,))
        ]
        if call.kind == "sync" and call.path.startswith("logs/"):
            # Killed before it could say that the sync has failed: nobody knows.
            ways += [{"for_good": 0, "drops_pages": drops, "dies": 1} for drops in (0, 1)]
        return ways

    def run(self, case: Case) -> None:
        fault = Fault(
            number=int(case["call"]),
            for_good=bool(case["for_good"]),
            drops_pages=bool(case["drops_pages"]),
            dies=bool(case["dies"]),
        )
        with self._folder() as path:
            files = FaultyFiles(path, counts=SYNCS, fault=fault)
            marks: list[Mark] = []
            crash(self._worked_until_the_fault(files, marks).broker)
            ledger = Ledger(marks)
            files.is_dead = False
            broker = _connect_at_last(files)  # a second process
            files.heal()
            _check_and_crash(broker, ledger, "second")
            files.power_cut()
            _check_and_crash(connect(path, files), ledger, "booted")


class FailedWrites(_Failures):
    """Every call that writes fails, or is short."""

    name = "failed-writes"
    title = "a write fails or is short (EIO, ENOSPC, 1, n/2, n-1 bytes), then room comes back"
    counts = WRITES

    def _ways(self, number: int) -> list[dict[str, int | str]]:
        is_write = self._calls[number - 1].size_bytes > 1
        ways = ("EIO", "ENOSPC", "1", "half", "all but 1") if is_write else ("EIO", "ENOSPC")
        return [{"how": how} for how in ways]

    def run(self, case: Case) -> None:
        fault = Fault(number=int(case["call"]), how=str(case["how"]))
        with self._folder() as path:
            files = FaultyFiles(path, counts=WRITES, fault=fault)
            marks: list[Mark] = []
            worker = self._worked_until_the_fault(files, marks)
            files.heal()
            ledger = Ledger(marks)
            _check_and_crash(worker.broker, ledger, "same")
            _check_and_crash(connect(path, files), ledger, "second")
            files.power_cut()
            _check_and_crash(connect(path, files), ledger, "booted")


def _connect_at_last(files: FaultyFiles) -> Broker:
    """Open the directory; if the fault keeps us out by a named error, once it is gone."""
    try:
        return connect(files.root, files)
    except BrokerError:
        files.heal()
        return connect(files.root, files)


def _check_and_crash(broker: Broker, ledger: Ledger, word: str) -> None:
    try:
        promises.check(broker, ledger, word=word)
    finally:
        crash(broker)
