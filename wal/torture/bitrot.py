"""The search "bit-rot": bytes of a log that change on the disk, without anybody writing them.

Every byte of a small log flipped, every bit of every batch header, its files cut off at
every length, and blocks of 4 KiB that are again what they were in an older version of the
file. Each of them in each of the ways to open the log (`specimen.MODES`); a quick search
takes a tenth of the bytes and lengths, all header bits, and one way to open for each,
such that every bit of a header meets every way in some batch.

What must hold is in `trial`. Every change is named there, or shown to lie in a byte of
`meaning.MEANINGLESS`.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence

from seawall.wal.records import HEADER_BYTES
from seawall.wal.torture.meaning import meaningless
from seawall.wal.torture.search import Broken, Case, Search, Setting, seed_for
from seawall.wal.torture.specimen import MODES, Specimen
from seawall.wal.torture.trial import Trial

BLOCK_BYTES = 4096
ROLL_BACKS = {True: 1000, False: 50}  # in full, and in a quick search
QUICK_PART = 10  # of the bytes and lengths, in a quick search
THOROUGH_PART = {True: 1 / 4, False: 1 / 25}  # of the cases are looked at from all sides
LENGTH_FIELD = range(8, 12)

# Segment, block, and the version that the block is rolled back to.
RollBack = tuple[int, int, int]


class BitRot(Search):
    """One case: one change, and one way to open the log afterwards."""

    name = "bit-rot"
    title = "bit rot: flipped bytes and header bits, cut-off files, blocks rolled back"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._root = os.path.join(setting.memory, "bit-rot")
        self._specimen: Specimen | None = None

    def prepare(self) -> None:
        os.makedirs(self._root)
        self._specimen = Specimen(self._root)

    @property
    def specimen(self) -> Specimen:
        """The log that is damaged. Only after `prepare`."""
        if self._specimen is None:
            raise RuntimeError("prepare() comes first")
        return self._specimen

    # -- which -----------------------------------------------------------------------

    def cases(self) -> Iterator[Case]:
        """All of the search in an order that the seed decides, one kind among the others."""
        randomness = random.Random(seed_for(self.setting.seed, self.name))
        changes = [*self._bytes(randomness), *self._header_bits(), *self._roll_backs(randomness)]
        modes = len(MODES) if self.setting.full else 1
        order = randomness.sample(range(len(changes) * modes), len(changes) * modes)
        for number, drawn in enumerate(order):
            thorough = randomness.random() < THOROUGH_PART[self.setting.full]
            if not self.setting.mine(number):
                continue
            at, mode = divmod(drawn, modes)
            if not self.setting.full:
                # Neighbours differ, and so do equal bits of neighbouring batches.
                mode = (at + at // (8 * HEADER_BYTES) + self.setting.seed) % len(MODES)
            yield {**changes[at], "mode": MODES[mode], "thorough": int(thorough)}

    def _bytes(self, randomness: random.Random) -> Iterator[Case]:
        places = [
            (segment, position)
            for segment, content in self.specimen.pristine.items()
            for position in range(len(content))
        ]
        part = 1 if self.setting.full else QUICK_PART
        for segment, position in randomness.sample(places, len(places) // part):
            mask = randomness.randrange(1, 256)
            yield {"kind": "flip", "segment": segment, "position": position, "mask": mask}
        for segment, position in randomness.sample(places, len(places) // part):
            yield {"kind": "cut", "segment": segment, "position": position}

    def _header_bits(self) -> Iterator[Case]:
        for batch in self.specimen.batches:
            for bit in range(8 * HEADER_BYTES):
                yield {
                    "kind": "header-bit",
                    "segment": batch.segment,
                    "position": batch.position + bit // 8,
                    "mask": 1 << bit % 8,
                }

    def _roll_backs(self, randomness: random.Random) -> Iterator[Case]:
        """All that differ with one block; then pairs of blocks, until there are enough."""
        single = self._single_roll_backs()
        wanted = ROLL_BACKS[self.setting.full]
        for segment, block, version in randomness.sample(single, min(wanted, len(single))):
            yield {"kind": "roll-back", "segment": segment, "block": block, "version": version}
        for _ in range(wanted - len(single)):
            first, second = randomness.sample(single, 2)
            while first[:2] == second[:2]:
                first, second = randomness.sample(single, 2)
            yield {
                "kind": "roll-back",
                **dict(zip(("segment", "block", "version"), first, strict=True)),
                **dict(zip(("segment2", "block2", "version2"), second, strict=True)),
            }

    def _single_roll_backs(self) -> Sequence[RollBack]:
        specimen = self.specimen
        seen: dict[tuple[int, int, bytes], int] = {}
        for number, version in enumerate(specimen.versions):
            for segment, content in specimen.pristine.items():
                for block in range(-(-len(content) // BLOCK_BYTES)):
                    now = _block(content, block)
                    old = _block(version.get(segment, b""), block).ljust(len(now), b"\0")
                    if old[: len(now)] != now:
                        seen.setdefault((segment, block, old), number)
        return [(segment, block, number) for (segment, block, _), number in seen.items()]

    # -- one case --------------------------------------------------------------------

    def run(self, case: Case) -> None:
        specimen, kind, mode = self.specimen, str(case["kind"]), str(case["mode"])
        changed = self._changed(case)
        loses_places = kind == "roll-back"
        reason = None
        if "mask" in case:
            segment, position = int(case["segment"]), int(case["position"])
            reason = meaningless(specimen, segment, position)
            loses_places = any(
                position - batch.position in LENGTH_FIELD
                for batch in specimen.batches
                if batch.segment == segment
            )
        result = Trial(
            specimen,
            changed,
            mode,
            loses_places=loses_places,
            thorough=bool(case["thorough"]),
        ).run()
        if "mask" in case and bool(result.hit_batches) == bool(reason):
            raise Broken(f"{result.hit_batches} batches were hit, but the byte is {reason}")
        self._count(kind)
        if not result.hit_batches:
            self._count(f"{kind}: without meaning")
        elif result.leaves_no_trace:
            self._count(f"{kind}: end, index and run/ lost together")
        else:
            self._count(f"{kind}: found")
        if reason:
            self._count(f"without meaning: {reason}")
        self._count(f"hidden records ({mode})", result.hidden_records)
        if result.guessed:
            self._count("guessed batches read between two damaged ones")

    def _count(self, name: str, count: int = 1) -> None:
        self.figures[name] = self.figures.get(name, 0) + count

    def _changed(self, case: Case) -> dict[int, bytes]:
        """The new bytes of the segments that a case changes."""
        specimen = self.specimen
        segment = int(case["segment"])
        content = bytearray(specimen.pristine[segment])
        if case["kind"] == "cut":
            return {segment: bytes(content[: int(case["position"])])}
        if case["kind"] != "roll-back":
            content[int(case["position"])] ^= int(case["mask"])
            return {segment: bytes(content)}
        changed: dict[int, bytes] = {}
        for suffix in ("", "2"):
            if f"segment{suffix}" in case:
                segment, block, version = (
                    int(case[f"{name}{suffix}"]) for name in ("segment", "block", "version")
                )
                old = specimen.versions[version].get(segment, b"")
                now = changed.get(segment, specimen.pristine[segment])
                changed[segment] = _rolled_back(now, old, block)
        return changed

    def smaller(self, case: Case) -> Iterator[Case]:
        """One bit instead of several, and one block instead of two."""
        mask = int(case.get("mask", 0))
        if mask & (mask - 1):
            for bit in range(8):
                if mask >> bit & 1:
                    yield {**case, "mask": 1 << bit}
        if "block2" in case:
            alone = {key: value for key, value in case.items() if not key.endswith("2")}
            yield alone
            yield {**alone, **{key: case[f"{key}2"] for key in ("segment", "block", "version")}}

    def close(self) -> None:
        if self._specimen is not None:
            self._specimen.close()
            self._specimen = None
        shutil.rmtree(self._root, ignore_errors=True)


def _block(content: bytes, block: int) -> bytes:
    return content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]


def _rolled_back(now: bytes, old: bytes, block: int) -> bytes:
    """`now` with one block as it was in `old`; what `old` did not reach was zeros."""
    size = len(_block(now, block))
    start = block * BLOCK_BYTES
    return now[:start] + _block(old, block)[:size].ljust(size, b"\0") + now[start + size :]
