"""The state of a whole directory after a power cut, as files.

The logs are as a `Choice` has them; ``state.lmdb`` and ``catalog.db`` as of their last
commit before it; ``index.lmdb`` and ``run/``, which are caches, absent, as they were at
some time, or garbage.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Mapping

from seawall.broker.torture.recorder import (
    CATALOG,
    INDEX,
    INDEX_FILE,
    RUN,
    RUN_FILE,
    STATE,
    is_elsewhere,
)
from seawall.wal.ends import SLOT_BYTES, Ends
from seawall.wal.files import Files
from seawall.wal.torture.disk import Disk
from seawall.wal.torture.materialise import garbage, image, materialise
from seawall.wal.torture.search import Case
from seawall.wal.torture.states import Choice, enumerate_choices, random_choices
from seawall.wal.torture.trace import Snapshot, Trace, Tree

# What may be in the place of a cache. "old" is a snapshot: its number in the trace follows.
ABSENT, OLD, GARBAGE = "absent", "old", "garbage"
GARBAGE_BYTES = 3 * 4096
FEW = 10
PLACES = {INDEX: INDEX_FILE, RUN: RUN_FILE}
_BOOT_ID = slice(8, 24)  # of run/ends

CachesOf = dict[str, list[int]]


class States:
    """All states that a crash at any point of one trace may leave."""

    def __init__(self, trace: Trace, seed: int) -> None:
        self.trace = trace
        self.disk = Disk(trace, ignore=is_elsewhere)
        self._seed = seed
        self._snapshots = {
            name: [
                event.number
                for event in trace.events
                if isinstance(event, Snapshot) and event.name == name and event.files
            ]
            for name in PLACES
        }

    @property
    def points(self) -> range:
        """The crash points: before each event, and behind the last.

        Not before the snapshots that a recording begins with, if there was something.
        """
        first = next(
            (n for n, event in enumerate(self.trace.events) if not isinstance(event, Snapshot)), 0
        )
        return range(first, len(self.trace.events) + 1)

    def cases(self, point: int, seed: int) -> Iterator[Case]:
        """Without end: first the plain states at a point in a random order, then mixed ones.

        The disk must be at the point.
        """
        choose = random.Random(seed)
        plain = list(enumerate_choices(self.disk))
        choose.shuffle(plain)
        turn = seed
        for choices in (iter(plain), random_choices(self.disk, choose)):
            for choice in choices:
                caches = {name: self._cache(name, point, turn, choose) for name in PLACES}
                yield {"point": point, **choice.as_case(), **caches}
                turn += 1

    def _cache(self, name: str, point: int, turn: int, choose: random.Random) -> str:
        """Absent, old and garbage in turn, the two caches at different paces."""
        before = [number for number in self._snapshots[name] if number < point]
        kinds = (OLD, ABSENT, OLD, GARBAGE)
        kind = kinds[(turn if name == INDEX else turn // len(kinds)) % len(kinds)]
        if kind != OLD:
            return kind
        if not before:
            return ABSENT
        # The newest is what a crash leaves nearly always, else one of the last few.
        oldest = choose.choice((1, 1, 1, FEW, len(before)))
        return f"{OLD}:{choose.choice(before[-oldest:])}"

    def image(self, case: Case) -> Tree:
        """The logs' part of a state; goes to its point."""
        self.disk.advance(int(case["point"]))
        return image(self.disk, Choice.from_case(case))

    def build(self, case: Case, root: str) -> None:
        """Write a state below a folder that is not there."""
        shutil.rmtree(root, ignore_errors=True)
        os.mkdir(root)
        tree = self.image(case)
        materialise(tree, root)
        for name in (STATE, CATALOG):
            _put(root, self.disk.snapshots.get(name, {}))
        for name, path in PLACES.items():
            kind, _, number = str(case[name]).partition(":")
            if kind == OLD:
                event = self.trace.events[int(number)]
                if isinstance(event, Snapshot):
                    _put(root, event.files)
                    if name == RUN:
                        _keep_identity(os.path.join(root, path))
            elif kind == GARBAGE:
                _put(root, {path: garbage(0, GARBAGE_BYTES)})


def _keep_identity(path: str) -> None:
    """Have ``run/ends`` know itself for the very file that it was when the power went.

    It says which file it is, so that a copy is told from it; and this one was copied.
    """
    with open(path, "rb") as file:
        content = file.read()
    Ends.create(Files(), path, content[_BOOT_ID]).close()
    with open(path, "r+b") as file:
        file.seek(SLOT_BYTES)
        file.write(content[SLOT_BYTES:])


def _put(root: str, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        whole = os.path.join(root, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "wb") as file:
            file.write(data)
