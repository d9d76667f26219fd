"""The search "caches": what may be deleted while nobody has a directory open, and worse.

`index.lmdb` and `run/` hold nothing that cannot be had from the segments. So each of them
is taken away, put back as it was earlier, filled with garbage, cut off, or replaced by
another directory's, in all combinations; after a process that closed the directory and
after one that was killed; in the same boot and after another. In the other cases one bit
of one value of an LMDB environment is flipped.

Opening such a directory must succeed, and all promises must hold, twice: caches are built
again. A flipped bit in the index is no reason for an error either, and `verify` names it
if it is still there. One in ``state.lmdb``, which is no cache, is named by an error or does
no harm; with the right file in its place all promises hold.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

from seawall.broker.broker import Broker
from seawall.broker.engine import acquire_engine
from seawall.broker.errors import StateDamaged
from seawall.broker.topics import finish_unfinished
from seawall.broker.torture import promises
from seawall.broker.torture.children import Children, Line
from seawall.broker.torture.connect import LOCK_TIMEOUT_MS, check_here, connect, crash, quiet
from seawall.broker.torture.marks import Ledger, Mark
from seawall.broker.torture.performer import Performer, Step
from seawall.broker.torture.workload import steps
from seawall.broker.translation import translated
from seawall.wal.files import Files
from seawall.wal.kv import Environment
from seawall.wal.kv_check import check_in_child
from seawall.wal.kv_view import DATA_NAME, seal
from seawall.wal.torture.search import Broken, Case, Search, Setting, seed_for

ENDINGS = ("closed", "killed")
INDEX_STATES = ("intact", "absent", "old", "garbage", "truncated", "foreign")
# "put back": the very file, with what it held earlier. "moved": another directory's very
# file, not a copy of it.
RUN_STATES = (*INDEX_STATES, "put back", "moved")
ENVIRONMENTS = ("index.lmdb", "state.lmdb")
CASES = {True: 500, False: 50}  # in full, and in a quick search
QUICK_FLIPS = 25

STEPS = 120
STEPS_BEFORE_COPY = 70
# A log of which nothing but its start has moved since the copy, and one that has grown by a
# little, within its segment.
_FEW = {"op": "produce", "partition": 0, "records": 9, "size": 40, "compression": "none"}
QUIET_BEFORE: list[Step] = [
    *({"op": "create", "topic": topic, "partitions": 1} for topic in ("quiet", "slow")),
    *({**_FEW, "topic": topic} for topic in ("quiet", "slow")),
]
QUIET_BEHIND: list[Step] = [
    {"op": "drop", "topic": "quiet", "partition": 0, "part": 0.5},
    {**_FEW, "topic": "slow"},
]
WAIT_S = 60.0
MAP_BYTES = 1 << 26


class _RebootedFiles(Files):
    """The files of a machine that has been booted since."""

    def boot_id(self) -> bytes:
        return b"another boot's.."


@dataclass(slots=True)
class _Directory:
    """A directory after a workload, how to have it again, and what it promised.

    ``path`` is where it is used, and ``kept`` holds it as it was, ``ends`` being the very
    file ``run/ends``, which means something only while it is that file in that directory.
    ``old`` holds the caches as they were earlier.
    """

    path: str
    marks: list[Mark] = field(default_factory=list)
    values: dict[str, list[bytes]] = field(default_factory=dict)

    @property
    def kept(self) -> str:
        return self.path + ".kept"

    @property
    def old(self) -> str:
        return self.path + ".old"

    @property
    def ends(self) -> str:
        return self.path + ".ends"

    def keep_old(self) -> None:
        """Keep the caches as they are now, for later."""
        for name in ("index.lmdb", "run"):
            shutil.copytree(os.path.join(self.path, name), os.path.join(self.old, name))

    def keep(self) -> None:
        """Keep everything as it is now."""
        shutil.copytree(self.path, self.kept)
        os.link(os.path.join(self.path, "run", "ends"), self.ends)
        for name in ENVIRONMENTS:
            self.values[name] = _sealed_values(os.path.join(self.kept, name))

    def lay_out(self) -> None:
        """Have everything as `keep` found it, in the very directory that it was in."""
        for entry in os.scandir(self.path):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry)
            else:
                os.unlink(entry)
        shutil.copytree(self.kept, self.path, dirs_exist_ok=True)
        self.link_ends(os.path.join(self.path, "run", "ends"), self.kept)

    def link_ends(self, target: str, contents_of: str) -> None:
        """Put the very file in a place, with the contents that it has in a copy."""
        with open(os.path.join(contents_of, "run", "ends"), "rb") as source:
            data = source.read()
        with open(self.ends, "r+b") as file:
            file.truncate(0)
            file.write(data)
        os.unlink(target)
        os.link(self.ends, target)


class Caches(Search):
    """One case: one directory, one way to spoil it, and one way to open it."""

    name = "caches"
    title = "index.lmdb and run/ absent, old, garbage, cut off or foreign; bits flipped in LMDB"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._root = os.path.join(setting.memory, "caches")
        self._directories: dict[str, _Directory] = {}

    def prepare(self) -> None:
        os.makedirs(self._root)
        with Children() as children:
            for number, ending in enumerate((*ENDINGS, "foreign")):
                directory = _Directory(os.path.join(self._root, ending))
                # The foreign one has the same topics and partition ids, and other records.
                script_seed = seed_for(self.setting.seed, self.name, number // len(ENDINGS))
                _work(children, directory, script_seed, kill=ending == "killed")
                directory.keep()
                self._directories[ending] = directory

    # -- which -----------------------------------------------------------------------

    def cases(self) -> Iterator[Case]:
        """In a full search all combinations and flips of all values, as many as there is room."""
        randomness = random.Random(seed_for(self.setting.seed, self.name))
        wanted = CASES[self.setting.full]
        spoilt = [
            {"ending": ending, "index": index, "run": run, "boots": boots}
            for ending in ENDINGS
            for index in INDEX_STATES
            for run in RUN_STATES
            for boots in (0, 1)
        ]
        randomness.shuffle(spoilt)
        # A quick search has each state of run/ with and without a boot, and some more.
        firsts = {(case["run"], case["boots"]): case for case in reversed(spoilt)}.values()
        spoilt = [*firsts, *(case for case in spoilt if case not in firsts)]
        flips = list(self._flips(randomness))
        if not self.setting.full:
            flips = randomness.sample(flips, QUICK_FLIPS)
        chosen: list[Case] = [*spoilt[: max(0, wanted - len(flips))], *flips]
        if self.setting.full:
            chosen = [*spoilt, *flips]
        while len(chosen) < wanted:
            chosen += list(self._flips(randomness))[: wanted - len(chosen)]
        randomness.shuffle(chosen)
        for number, case in enumerate(chosen):
            if self.setting.mine(number):
                yield {**case, "seed": seed_for(self.setting.seed, number)}

    def _flips(self, randomness: random.Random) -> Iterator[Case]:
        """One bit of each value."""
        for ending in ENDINGS:
            for name in ENVIRONMENTS:
                for number, value in enumerate(self._directories[ending].values[name]):
                    yield {
                        "ending": ending,
                        "environment": name,
                        "value": number,
                        "bit": randomness.randrange(8 * len(value)),
                        "boots": randomness.randrange(2),
                    }

    # -- one case --------------------------------------------------------------------

    def run(self, case: Case) -> None:
        directory = self._directories[str(case["ending"])]
        directory.lay_out()
        randomness = random.Random(int(case["seed"]))
        if "environment" not in case:
            self._spoil_index(directory, str(case["index"]), randomness)
            self._spoil_run(directory, str(case["run"]), randomness)
            self._check_all(directory, case)
            return
        name = str(case["environment"])
        value = directory.values[name][int(case["value"])]
        _flip(os.path.join(directory.path, name, DATA_NAME), value, int(case["bit"]))
        if name == "index.lmdb":
            self._check_all(directory, case)
        else:
            self._check_state(directory, case)

    def smaller(self, case: Case) -> Iterator[Case]:
        """One thing less that is not as it was."""
        for name, simplest in (("index", "intact"), ("run", "intact"), ("boots", 0)):
            if case.get(name, simplest) != simplest:
                yield {**case, name: simplest}

    def _spoil_index(self, directory: _Directory, state: str, randomness: random.Random) -> None:
        path = os.path.join(directory.path, "index.lmdb")
        if state in ("garbage", "truncated"):
            _spoil_file(os.path.join(path, DATA_NAME), state, randomness)
        elif state != "intact":
            shutil.rmtree(path)
            source = {"old": directory.old, "foreign": self._directories["foreign"].kept}
            if state in source:
                shutil.copytree(os.path.join(source[state], "index.lmdb"), path)

    def _spoil_run(self, directory: _Directory, state: str, randomness: random.Random) -> None:
        path = os.path.join(directory.path, "run")
        ends = os.path.join(path, "ends")
        if state in ("garbage", "truncated"):
            _spoil_file(ends, state, randomness)
        elif state == "put back":
            directory.link_ends(ends, directory.old)
        elif state == "moved":
            foreign = self._directories["foreign"]
            foreign.link_ends(ends, foreign.kept)
        elif state != "intact":
            shutil.rmtree(path)
            source = {"old": directory.old, "foreign": self._directories["foreign"].kept}
            if state in source:
                shutil.copytree(os.path.join(source[state], "run"), path)

    def _check_all(self, directory: _Directory, case: Case) -> None:
        """Every promise holds, and goes on to hold."""
        ledger = Ledger(directory.marks)
        files = _RebootedFiles() if case["boots"] else Files()
        # Only LMDB's own reader, in another process, may look at what LMDB has not written.
        is_torn = case.get("index") in ("garbage", "truncated")
        for word in ("once", "again"):
            broker = _open(directory.path, files, is_torn=is_torn)
            try:
                promises.check(broker, ledger, word=word)
                damaged = [finding.path for finding in broker.verify()]
            except BaseException:
                crash(broker)
                raise
            # The second opener finds what a process that was killed left.
            crash(broker) if word == "once" else broker.close()
            flipped = os.path.join(directory.path, str(case.get("environment", "")))
            if any(path != flipped for path in damaged):
                raise Broken(f"verify names {damaged}")
            self._count("index values named" if damaged else "caches right")

    def _check_state(self, directory: _Directory, case: Case) -> None:
        """It is named, or does no harm; and with the right file everything is right."""
        ledger = Ledger(directory.marks)
        files = _RebootedFiles() if case["boots"] else Files()
        try:
            broker = _open(directory.path, files, is_torn=False)
        except StateDamaged:
            self._count("state damage named when opening")
        else:
            try:
                self._check_opened(broker, ledger)
            finally:
                crash(broker)
        for name in ENVIRONMENTS[1:]:
            path = os.path.join(directory.path, name)
            shutil.rmtree(path)
            shutil.copytree(os.path.join(directory.kept, name), path)
        broker = _open(directory.path, files, is_torn=False)
        try:
            promises.check(broker, ledger, word="restored")
        finally:
            broker.close()

    def _check_opened(self, broker: Broker, ledger: Ledger) -> None:
        damaged = [finding.path for finding in broker.verify()]
        if damaged != [os.path.join(broker.path, "state.lmdb")]:
            raise Broken(f"a bit of state.lmdb was flipped, and verify names {damaged}")
        try:
            promises.check(broker, ledger, word="damaged")
        except StateDamaged:
            self._count("state damage named when reading")
        else:
            self._count("state damage harmless")

    def _count(self, name: str) -> None:
        self.figures[name] = self.figures.get(name, 0) + 1

    def close(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)


def _open(path: str, files: Files, *, is_torn: bool) -> Broker:
    """Open it as `Broker.open` does; named errors come through."""
    with translated():
        engine = acquire_engine(
            path,
            create=False,
            open_timeout_ms=LOCK_TIMEOUT_MS,
            lock_timeout_ms=LOCK_TIMEOUT_MS,
            files=files,
            check_environment=check_in_child if is_torn else check_here,
        )
        try:
            finish_unfinished(engine)
        except BaseException:
            engine.release()
            raise
    broker = Broker(engine, durability="fsync")
    quiet(broker)
    return broker


# -- making directories ------------------------------------------------------------------


def _work(children: Children, directory: _Directory, seed: int, *, kill: bool) -> None:
    """Have a process do a workload, and keep copies on the way."""
    child = children.start(perform, directory.path, seed)
    while (message := child.hear(WAIT_S)) is not None and "at" not in message:
        directory.marks.append(message)
    if message is None:
        raise Broken("the process that does the workload has died")
    directory.keep_old()
    child.say({"go": "on"})
    while (message := child.hear(WAIT_S)) is not None and "at" not in message:
        directory.marks.append(message)
    if kill:
        child.kill()
    else:
        child.say({"go": "on"})
        child.wait(WAIT_S)


def perform(line: Line, path: str, seed: int) -> None:
    """In a process of its own: the workload, closed in between and, if told so, at the end."""
    script = steps(seed, STEPS)
    performer = Performer(lambda: connect(path), lambda mark: line.say(dict(mark)))
    performer.perform([*script[:STEPS_BEFORE_COPY], *QUIET_BEFORE])
    performer.close()
    line.say({"at": "copy"})
    line.hear(WAIT_S)
    performer.broker = connect(path)
    performer.perform([*script[STEPS_BEFORE_COPY:], *QUIET_BEHIND])
    line.say({"at": "end"})
    line.hear(WAIT_S)
    performer.close()


# -- spoiling ----------------------------------------------------------------------------


def _sealed_values(path: str) -> list[bytes]:
    """Every value of an environment as it is stored."""
    environment = Environment(path, files=Files(), map_size_bytes=MAP_BYTES, create=False)
    try:
        with environment.read() as view:
            return [seal(key, value) for key, value in view.iterate()]
    finally:
        environment.close()


def _flip(path: str, value: bytes, bit: int) -> None:
    """Flip a bit of a value wherever it stands in a file: LMDB keeps old pages as well."""
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    with open(path, "r+b") as file:
        data = file.read()
        if value not in data:
            raise Broken(f"{path!r} does not hold the value")
        file.seek(0)
        file.write(data.replace(value, bytes(changed)))


def _spoil_file(path: str, state: str, randomness: random.Random) -> None:
    """Have garbage in a file, or cut it off; it stays the same file."""
    size = os.path.getsize(path)
    if state == "truncated":
        os.truncate(path, randomness.randrange(size))
        return
    with open(path, "r+b") as file:
        # Of some the beginning is as it should be.
        file.seek(randomness.choice((0, 0, 128)))
        file.write(randomness.randbytes(size - file.tell()))
