"""The power goes again while the directory is being brought in order after the first time.

A state with something to mend is opened on a recorded disk, and at each operation of that
opening the directory is built once more as a disk may have it then. Recovery may run as
often as it likes: it never makes anything worse.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

from seawall.broker.torture.connect import connect, crash
from seawall.broker.torture.crashes import BOOTS, CrashStates, check_after_boot
from seawall.broker.torture.recorder import Recorder
from seawall.broker.torture.states import States
from seawall.wal.torture.materialise import digest
from seawall.wal.torture.search import Case, Setting, seed_for

STATES = 200
STATES_FULL = 2_000
# Of each opening, at each of its operations.
STATES_PER_POINT = 2
STATES_PER_POINT_FULL = 4

_BASE = "first "  # in front of the names of the case that was opened


class CrashInRecovery(CrashStates):
    """Crash again at each operation of an opening."""

    name = "crash-in-recovery"
    title = "crash again during recovery, at each of its operations"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._target = STATES_FULL if setting.full else STATES
        self._opened: tuple[Case, States] | None = None

    def cases(self) -> Iterator[Case]:
        each = STATES_PER_POINT_FULL if self.setting.full else STATES_PER_POINT
        share = self._target // self.setting.shares
        for number, base in enumerate(self._bases()):
            if not self.setting.mine(number):
                continue
            states = self._opening(base)
            self.figures["openings"] = self.figures.get("openings", 0) + 1
            for point in states.points:
                states.disk.advance(point)
                cases = states.cases(point, seed_for(self.setting.seed, number, point))
                for _, case in zip(range(each), cases, strict=False):
                    state = digest(states.image(case))
                    if state not in self._distinct:
                        self._distinct.add(state)
                        self.figures["distinct states"] = len(self._distinct)
                        yield {**{_BASE + key: value for key, value in base.items()}, **case}
            if len(self._distinct) >= share:
                return

    def _bases(self) -> Iterator[Case]:
        """Without end: states in which something is torn or lost."""
        choose = random.Random(seed_for(self.setting.seed, "bases"))
        while True:
            point = choose.choice(self._states.points)
            self._states.disk.advance(point)
            if not self._states.disk.pending:
                continue
            for _, case in zip(range(20), self._states.cases(point, point), strict=False):
                if case["torn"]:
                    yield case
                    break

    def _opening(self, base: Case) -> States:
        """Every state that a crash while opening this one may leave."""
        if self._opened is None or self._opened[0] != base:
            root = os.path.join(self._folder, "first")
            self._states.build(base, root)
            recorder = Recorder(root, BOOTS[1])
            crash(connect(root, recorder.files))
            recorder.files.mark({"id": 0, "is": "done"})
            self._opened = base, States(recorder.trace, self.setting.seed)
        return self._opened[1]

    def run(self, case: Case) -> None:
        base, again = split(case)
        root = os.path.join(self._folder, "state")
        self._opening(base).build(again, root)
        check_after_boot(root, self.ledger(int(base["point"])), 2)

    def smaller(self, case: Case) -> Iterator[Case]:
        return iter(())


def split(case: Case) -> tuple[Case, Case]:
    """The case that was opened, and what happened while it was."""
    base = {key[len(_BASE) :]: value for key, value in case.items() if key.startswith(_BASE)}
    return base, {key: value for key, value in case.items() if not key.startswith(_BASE)}
