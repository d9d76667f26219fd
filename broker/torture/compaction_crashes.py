"""The power goes while keys are compacted, at each call of it.

A short workload that does little else is recorded. At each point inside its compactions the
directory is built as a disk may have it; after it was opened and held against its promises,
it is compacted once more, and held against them again: whoever comes next may find segments
that another one reaches over, and has to finish that. A workload has some 400 states; when it
has no more, the next one is recorded.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from seawall.broker.torture import promises
from seawall.broker.torture.connect import connect, crash
from seawall.broker.torture.crashes import AfterBoot, CrashStates
from seawall.broker.torture.marks import Ledger
from seawall.broker.torture.operations import KEYED, TOPICS
from seawall.broker.torture.performer import Step
from seawall.wal.torture.search import Case, Setting, seed_for
from seawall.wal.torture.trace import Mark

STATES = 150
STATES_FULL = 10_000
COMPACTIONS = 6
STATES_PER_POINT = 6


class CrashInCompaction(CrashStates):
    """Crash at each operation of key compactions."""

    name = "crash-in-compaction"
    title = "crash states of key compactions, each call a crash point"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._target = STATES_FULL if setting.full else STATES
        self._workload = 0

    def script(self) -> Sequence[Step]:
        """Records with few keys in small segments, and compactions; sometimes what comes
        between."""
        seed, number = self.setting.seed, self._workload
        choose = random.Random(seed_for(seed, number) if number else seed)
        where = {"topic": KEYED, "partition": 0}
        script: list[Step] = [{"op": "create", "topic": KEYED, "partitions": TOPICS[KEYED]}]
        for _ in range(COMPACTIONS):
            for _ in range(choose.randint(2, 4)):
                size = choose.choice((8, 300, 700))
                codec = choose.choice(("none", "none", "lz4"))
                part = {"part": choose.random(), "compression": codec}
                for _ in range(choose.randint(1, 3)):
                    records = choose.randint(2, 6)
                    script.append(
                        {"op": "produce", **where, "records": records, "size": size, **part}
                    )
                script.append({"op": "roll", **where})
            script.append({"op": "burst", "appends": [[KEYED, 0, 2, 8]], "commit": True})
            if choose.random() < 0.3:
                script.append({"op": "drop", **where, "part": 0.1})
            script.append({"op": "compact", **where})
        return script

    def cases(self) -> Iterator[Case]:
        number = 0
        while len(self._distinct) < self._target // self.setting.shares:
            self._turn_to(number)
            yield from self._cases_of(number)
            number += 1

    def _turn_to(self, workload: int) -> None:
        """Have the states be those of another workload."""
        if workload != self._workload:
            self.close()
            self._workload = workload
            self._ledger = (-1, b"")
            self._so_far, self._taken = Ledger(), 0
            # What the same point of another one has shown says nothing of this one's.
            self._seen.clear()
            self.prepare()

    def _cases_of(self, workload: int) -> Iterator[Case]:
        share = self._target // self.setting.shares
        states, rounds = self._states, 0
        points = self._points()
        while len(self._distinct) < share:
            before = len(self._seen)
            for point in points:
                states.disk.advance(point)
                seed = seed_for(self.setting.seed, point, rounds)
                for _, case in zip(
                    range(STATES_PER_POINT), states.cases(point, seed), strict=False
                ):
                    digest = self._digest(case)
                    if (digest, point) in self._seen or not self.setting.mine(digest[0]):
                        continue
                    self._seen.add((digest, point))
                    self._distinct.add(digest)
                    self.figures["distinct states"] = len(self._distinct)
                    yield {"workload": workload, **case}
            rounds += 1
            if len(self._seen) == before:
                return

    def _points(self) -> list[int]:
        """The crash points inside of compactions, in an order that follows from the seed."""
        points: list[int] = []
        compacting = 0
        for number, event in enumerate(self._states.trace.events):
            if isinstance(event, Mark):
                if event.mark.get("op") == "compact":
                    compacting = event.mark["id"]
                elif event.mark.get("id") == compacting:
                    points.append(number)
                    compacting = 0
            if compacting and number in self._states.points:
                points.append(number)
        random.Random(self.setting.seed).shuffle(points)
        return points

    def run(self, case: Case) -> None:
        self._turn_to(int(case["workload"]))
        root = f"{self._folder}/state"
        self._states.build(case, root)
        ledger = self.ledger(int(case["point"]))
        broker = connect(root, AfterBoot(1))
        try:
            promises.check(broker, ledger, word="boot1")
            for partition in ledger.topics[KEYED].partitions.values():
                partition.is_compacted = True
            broker.compact(KEYED)
            promises.check(broker, ledger, word="compacted")
        finally:
            crash(broker)
