"""Every state that a power cut may leave, and what opening makes of it.

A workload is recorded. At each point of it the directory is built as a disk may have it
when the power goes there, and opened: whatever was acknowledged by then must be there.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Sequence

from seawall.broker.torture import promises
from seawall.broker.torture.connect import connect, crash
from seawall.broker.torture.marks import Ledger
from seawall.broker.torture.performer import Step
from seawall.broker.torture.recorder import record
from seawall.broker.torture.states import States
from seawall.broker.torture.workload import steps
from seawall.wal.files import Files
from seawall.wal.torture.materialise import digest
from seawall.wal.torture.search import Case, Search, Setting, seed_for
from seawall.wal.torture.states import Choice, simpler_choices

OPERATIONS = 320
STATES = 10_000
STATES_FULL = 200_000
# Passes over the trace, each taking every so manieth point: any beginning is a fair sample.
STRIDE = 16
# So many states in a row that are not new: a point has no more.
MOST_REPEATS = 40

BOOTS = [bytes([number]) * 16 for number in range(1, 5)]


class AfterBoot(Files):
    """The real files, on a machine that has been booted so many times."""

    def __init__(self, boots: int) -> None:
        self.boots = boots

    def boot_id(self) -> bytes:
        return BOOTS[self.boots]


class CrashStates(Search):
    """Crash at every point, in every way."""

    name = "crash-states"
    title = "crash states of a workload of 320 operations, each a crash point"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._target = STATES_FULL if setting.full else STATES
        self._seen: set[tuple[bytes, int]] = set()
        self._distinct: set[bytes] = set()
        self._ledger = (-1, b"")
        self._so_far, self._taken = Ledger(), 0  # what the first so many marks have promised

    def prepare(self) -> None:
        self._folder = tempfile.mkdtemp(dir=self.setting.memory)
        root = os.path.join(self._folder, "recorded")
        os.mkdir(root)
        self._states = States(record(root, self.script(), BOOTS[0]), self.setting.seed)
        shutil.rmtree(root)
        if self.setting.share == 0:
            points = self.figures.get("crash points", 0) + len(self._states.points)
            self.figures["crash points"] = points

    def script(self) -> Sequence[Step]:
        """The workload that is recorded."""
        return steps(self.setting.seed, OPERATIONS)

    def cases(self) -> Iterator[Case]:
        states, rounds = self._states, 0
        share = self._target // self.setting.shares
        wanted = 1  # of each point at first, so that all of the trace is soon seen once
        while len(self._distinct) < share:
            before = len(self._seen)
            for first in range(STRIDE):
                for point in states.points[first * 7 % STRIDE :: STRIDE]:
                    yield from self._cases_at(point, rounds, wanted)
                    if len(self._distinct) >= share:
                        return
            rounds += 1
            wanted = max(1, 2 * self._target // len(states.points))
            if len(self._seen) == before:
                return  # there are no more

    def _cases_at(self, point: int, rounds: int, wanted: int) -> Iterator[Case]:
        """New states at one point that are this process's; about `wanted` of all processes'."""
        states = self._states
        states.disk.advance(point)
        promised = sum(mark["is"] == "done" for mark in states.disk.marks)
        found = repeats = 0
        for case in states.cases(point, seed_for(self.setting.seed, point, rounds)):
            # The same bytes are another case once more has been promised of them.
            state = self._digest(case)
            is_new = (state, promised) not in self._seen
            if is_new and self.setting.mine(int.from_bytes(state[:4], "big")):
                self._seen.add((state, promised))
                self._distinct.add(state)
                self.figures["distinct states"] = len(self._distinct)
                yield case
                found, repeats = found + self.setting.shares, 0
            else:
                repeats += 1
            if found >= wanted or repeats >= MOST_REPEATS * self.setting.shares:
                return

    def _digest(self, case: Case) -> bytes:
        """A hash of the state's logs, and of what else is not a cache."""
        snapshots = self._states.disk.snapshots
        tree = self._states.image(case)
        for name in ("state", "catalog"):
            tree.update(snapshots.get(name, {}))
        return digest(tree)

    def run(self, case: Case) -> None:
        root = os.path.join(self._folder, "state")
        self._states.build(case, root)
        point = int(case["point"])
        check_after_boot(root, self.ledger(point), 1, twice=point % 4 == 0)

    def ledger(self, point: int) -> Ledger:
        """What has been promised up to a point, to be used up by one check."""
        if self._ledger[0] != point:
            disk = self._states.disk
            disk.advance(point)
            if len(disk.marks) < self._taken:
                self._so_far, self._taken = Ledger(), 0
            for mark in disk.marks[self._taken :]:
                if mark["id"]:
                    self._so_far.take(mark)
            self._taken = len(disk.marks)
            self._ledger = point, pickle.dumps(self._so_far)
        ledger: Ledger = pickle.loads(self._ledger[1])
        return ledger

    def smaller(self, case: Case) -> Iterator[Case]:
        disk = self._states.disk
        disk.advance(int(case["point"]))
        choices = list(simpler_choices(disk, Choice.from_case(case)))
        for choice in choices:
            yield {**case, **choice.as_case()}

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def check_after_boot(root: str, ledger: Ledger, boots: int, *, twice: bool = True) -> None:
    """Open a directory after so many boots, and hold it against the ledger."""
    broker = connect(root, AfterBoot(boots))
    try:
        promises.check(broker, ledger, word=f"boot{boots}", twice=twice)
    finally:
        crash(broker)
