"""The power goes while a directory is repaired, at each call of that.

A short workload leaves segments and groups, and is closed in good order. Then batches are
damaged, and segments vanish. Their repair is recorded, and at each operation of it the
directory is built as a disk may have it then. It is opened, where nothing else may be damaged,
and repaired once more. After that all is whole, but for what was damaged; no offset of that is
given again, and its bytes are in ``quarantine/``.

The caches are not damaged here (see `caches`), nor are lengths, nor what is last in a log: a
power cut may hide what lies behind those (docs/durability.md).
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from seawall.broker.broker import Broker
from seawall.broker.repair import repair
from seawall.broker.torture import promises
from seawall.broker.torture.connect import connect, crash
from seawall.broker.torture.crashes import BOOTS, AfterBoot
from seawall.broker.torture.marks import Ledger
from seawall.broker.torture.operations import TOPICS
from seawall.broker.torture.performer import Step
from seawall.broker.torture.recorder import Recorder, record
from seawall.broker.torture.states import States
from seawall.wal.records import BatchHeader, parse_header
from seawall.wal.segment import SUFFIX
from seawall.wal.torture.materialise import digest
from seawall.wal.torture.search import Broken, Case, Search, Setting, seed_for
from seawall.wal.torture.trace import Mark, Trace

STATES = 60
STATES_FULL = 2_000
STATES_PER_POINT = 2
STATES_PER_POINT_FULL = 4
OPERATIONS = 40
MOST_DAMAGES = 3
TOPIC = "orders"

_OPS = (*("produce",) * 4, *("roll",) * 3, "burst", "acknowledge", "checkpoint", "reset")
_BEHIND_CRC = 21  # in a batch: from here on the CRC covers everything


@dataclass(slots=True)
class _Damaged:
    """What was done to a directory."""

    lost: dict[int, set[int]] = field(default_factory=dict)
    """Partition -> the offsets of what is damaged."""
    pieces: list[bytes] = field(default_factory=list)
    """The damaged batches, as they are now."""


class CrashInRepair(Search):
    """Crash at each operation of a repair."""

    name = "crash-in-repair"
    title = "crash states of repairs, each call a crash point"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._target = STATES_FULL if setting.full else STATES
        self._repaired: tuple[int, States, Trace, _Damaged] | None = None

    def prepare(self) -> None:
        self._folder = tempfile.mkdtemp(dir=self.setting.memory)

    def cases(self) -> Iterator[Case]:
        each = STATES_PER_POINT_FULL if self.setting.full else STATES_PER_POINT
        share = self._target // self.setting.shares
        number = self.setting.share
        distinct: set[bytes] = set()
        while len(distinct) < share:
            states, _, damaged = self._repair(number)
            self._count("repairs", 1)
            self._count("offsets lost", sum(map(len, damaged.lost.values())))
            points = list(states.points)
            random.Random(number).shuffle(points)
            for point in points[: share - len(distinct)]:
                states.disk.advance(point)
                cases = states.cases(point, seed_for(self.setting.seed, number, point))
                for _, case in zip(range(each), cases, strict=False):
                    state = digest(states.image(case))
                    if state not in distinct:
                        distinct.add(state)
                        self.figures["distinct states"] = len(distinct)
                        yield {"damage": number, **case}
            number += self.setting.shares

    def _count(self, what: str, by: int) -> None:
        self.figures[what] = self.figures.get(what, 0) + by

    def _repair(self, number: int) -> tuple[States, Trace, _Damaged]:
        """Every state that a crash in the repair of the damage of this number may leave, the
        workload before it, and the damage."""
        if self._repaired is None or self._repaired[0] != number:
            root = os.path.join(self._folder, "first")
            shutil.rmtree(root, ignore_errors=True)
            os.mkdir(root)
            choose = random.Random(seed_for(self.setting.seed, number))
            before = record(root, _script(choose), BOOTS[0])
            damaged = _damage(root, choose, _ledger(before))
            recorder = Recorder(root, BOOTS[0])
            done = list(repair(root, files=recorder.files))
            if bool(done) != bool(damaged.lost):
                raise Broken(f"damaged is {damaged.lost}, and was repaired {done}")
            recorder.files.mark({"id": 0, "is": "done"})
            states = States(recorder.trace, self.setting.seed)
            self._repaired = number, states, before, damaged
        return self._repaired[1:]

    def run(self, case: Case) -> None:
        root = os.path.join(self._folder, "state")
        states, before, damaged = self._repair(int(case["damage"]))
        states.build({key: value for key, value in case.items() if key != "damage"}, root)
        ledger = _ledger(before)
        partitions = ledger.topics[TOPIC].partitions
        ends = {number: max(each.known, default=-1) + 1 for number, each in partitions.items()}
        broker = connect(root, AfterBoot(1))
        try:
            _find_nothing_else(broker, damaged)
        finally:
            crash(broker)
        for _ in repair(root, files=AfterBoot(1)):
            self._count("holes and cuts of a second repair", 1)
        for partition, lost in damaged.lost.items():
            for offset in lost:
                partitions[partition].known.pop(offset, None)
        broker = connect(root, AfterBoot(1))
        try:
            for found in broker.verify():
                raise Broken(f"after repair there is still {found}")
            for number, end in ends.items():
                if (log_end := broker.ends(TOPIC, number).log_end) < end:
                    raise Broken(f"{TOPIC}/{number} ended at {end}, and now at {log_end}")
            promises.check(broker, ledger, word="repaired")
        finally:
            crash(broker)
        _find_copies(os.path.join(root, "quarantine"), damaged)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _script(choose: random.Random) -> list[Step]:
    """Records in several segments, groups, and sometimes a log start."""
    script: list[Step] = [{"op": "create", "topic": TOPIC, "partitions": TOPICS[TOPIC]}]
    ops = ["produce", "roll"] + [choose.choice(_OPS) for _ in range(OPERATIONS)]
    if choose.random() < 0.3:
        ops.insert(OPERATIONS // 2, "drop")
    for op in ops:
        script.append(
            {
                "op": op,
                "topic": TOPIC,
                "partition": choose.randrange(TOPICS[TOPIC]),
                "records": choose.randint(1, 6),
                "size": choose.choice((8, 40, 300)),
                "compression": choose.choice(("none", "none", "lz4")),
                "part": choose.random() / 2,
                "group": "billing",
                "appends": [[TOPIC, number, 2, 40] for number in range(TOPICS[TOPIC])],
                "commit": True,
            }
        )
    # The last batches stay whole, so that it is certain where the logs end.
    for number in range(TOPICS[TOPIC]):
        script.append({**script[-1], "op": "produce", "partition": number})
    return script


def _ledger(trace: Trace) -> Ledger:
    marks = (event.mark for event in trace.events if isinstance(event, Mark))
    return Ledger(mark for mark in marks if mark["id"])


# -- what is damaged ---------------------------------------------------------------------------


def _damage(root: str, choose: random.Random, ledger: Ledger) -> _Damaged:
    """Flip bits of some batches, remove some sealed segments."""
    damaged = _Damaged()
    segments: list[tuple[int, str, list[tuple[int, BatchHeader]], bool]] = []
    for folder in sorted(os.scandir(os.path.join(root, "logs")), key=lambda entry: entry.name):
        partition = int(folder.name.rpartition("-")[2])
        start = ledger.topics[TOPIC].partitions[partition].greatest_start
        names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))
        for name in names:
            path = os.path.join(folder.path, name)
            batches = [each for each in _batches(path) if each[1].base_offset >= start]
            is_newest = name == names[-1]
            if batches[: -1 if is_newest else None]:
                segments.append((partition, path, batches, is_newest))
    for partition, path, batches, is_newest in choose.sample(
        segments, min(len(segments), choose.randint(1, MOST_DAMAGES))
    ):
        lost = damaged.lost.setdefault(partition, set())
        if not is_newest and batches[0][0] == 0 and choose.random() < 0.25:
            os.unlink(path)
            lost.update(range(batches[0][1].base_offset, batches[-1][1].next_offset))
            continue
        position, header = choose.choice(batches[: -1 if is_newest else None])
        at = position + choose.randrange(_BEHIND_CRC, header.size_bytes)
        with open(path, "r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1 << choose.randrange(8)]))
            file.seek(position)
            damaged.pieces.append(file.read(header.size_bytes))
        lost.update(range(header.base_offset, header.next_offset))
    return damaged


def _batches(path: str) -> list[tuple[int, BatchHeader]]:
    """The batches of a segment that is whole, and where they stand in it."""
    with open(path, "rb") as file:
        data = file.read()
    batches: list[tuple[int, BatchHeader]] = []
    position = 0
    while data[position:].strip(b"\0"):
        header = parse_header(data, position)
        batches.append((position, header))
        position += header.size_bytes
    return batches


# -- what must be so ---------------------------------------------------------------------------


def _find_nothing_else(broker: Broker, damaged: _Damaged) -> None:
    """Whatever is found now was damaged before the power went."""
    for found in broker.verify():
        lost = damaged.lost.get(found.partition if found.partition is not None else -1, set())
        if found.offset is None or not lost.issuperset(
            range(found.offset, found.next_offset or found.offset + 1)
        ):
            raise Broken(f"{damaged.lost} was damaged, and there is {found}")


def _find_copies(quarantine: str, damaged: _Damaged) -> None:
    """The damaged bytes are in quarantine, wherever."""
    kept = []
    for entry in os.scandir(quarantine):
        if entry.is_file():
            with open(entry.path, "rb") as file:
                kept.append(file.read())
    for piece in damaged.pieces:
        # Zeros at the end are not copied.
        if not any(piece.rstrip(b"\0") in each for each in kept):
            raise Broken(f"{len(piece)} damaged bytes were taken away, and nobody kept them")
