"""The search "clock": the machine's clock jumps while a log is appended to and rolls by age.

Each case is a script that a seed decides: appends, the clock going on, the clock jumping by
an hour or by ten years in either direction, openings again (closed or killed, with and
without a boot, with and without the index), the oldest segments dropped, and lookups by
time. What must hold:

* Offsets are dense, and everything can be read, whatever its timestamps are.
* A segment is as old as the time since the earliest moment that the clock showed while it
  was the newest one. So a jump forward rolls once, a jump back does not keep a segment from
  ageing, and neither makes a log roll at each append.
* A time leads to the first record, by offset, whose timestamp is at or after it.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator

from seawall.wal.context import LogConfig, LogContext
from seawall.wal.ends import Ends
from seawall.wal.files import Files
from seawall.wal.index import Index
from seawall.wal.kv import Environment
from seawall.wal.log import Log
from seawall.wal.quarantine import Quarantine
from seawall.wal.records import Record, decode_batch, empty_batch, encode_batch
from seawall.wal.recovery import caught_up, recover
from seawall.wal.segment import list_segments
from seawall.wal.torture.search import Broken, Case, Search, seed_for

HOUR_MS = 3600 * 1000
TEN_YEARS_MS = 10 * 365 * 24 * HOUR_MS
SEGMENT_MS = HOUR_MS // 2
START_MS = 1_700_000_000_000

JUMPS = {
    "hour-forward": (HOUR_MS,),
    "hour-back": (-HOUR_MS,),
    "years-forward": (TEN_YEARS_MS,),
    "years-back": (-TEN_YEARS_MS,),
    "all": (HOUR_MS, -HOUR_MS, TEN_YEARS_MS, -TEN_YEARS_MS),
}
SCRIPTS_PER_KIND = 4
STEPS = 150
LATEST_MS = 1 << 61  # what a record can carry
MOST_READS = 1000

_PARTITION = 1
_MAP_BYTES = 1 << 24
_STEPS = (
    # what a script does, and how often
    *["append"] * 12,
    *["tick"] * 5,
    *["jump"] * 2,
    *["reopen"] * 2,
    *["look-up"] * 2,
    "drop",
)


class _BootFiles(Files):
    """The files of a machine that is booted when `boots` grows."""

    def __init__(self) -> None:
        self.boots = 0

    def boot_id(self) -> bytes:
        return self.boots.to_bytes(16, "big")


class Clock(Search):
    """One case: one script."""

    name = "clock"
    title = "clock jumps of an hour and of ten years while appending and rolling by age"

    def cases(self) -> Iterator[Case]:
        """The same number of scripts for each kind of jump; also in a full search."""
        number = 0
        for script in range(SCRIPTS_PER_KIND):
            for kind in JUMPS:
                if self.setting.mine(number):
                    seed = seed_for(self.setting.seed, self.name, kind, script)
                    yield {"jumps": kind, "seed": seed, "steps": STEPS}
                number += 1

    def run(self, case: Case) -> None:
        root = os.path.join(self.setting.memory, "clock")
        os.makedirs(root)
        script = _Script(root, random.Random(int(case["seed"])), JUMPS[str(case["jumps"])])
        try:
            script.run(int(case["steps"]))
        finally:
            script.close()
            shutil.rmtree(root)
        for name, count in script.figures.items():
            self.figures[name] = self.figures.get(name, 0) + count

    def smaller(self, case: Case) -> Iterator[Case]:
        """Its first half, its first three quarters, all but its last step."""
        steps = int(case["steps"])
        for fewer in (steps // 2, steps * 3 // 4, steps - 1):
            if 0 < fewer < steps:
                yield {**case, "steps": fewer}


class _Script:
    """A log, a clock, and what both should have led to."""

    def __init__(self, root: str, randomness: random.Random, jumps: tuple[int, ...]) -> None:
        self._root = root
        self._randomness = randomness
        self._jumps = jumps
        self._files = _BootFiles()
        self._now_ms = START_MS
        # What should be.
        self._records: list[Record] = []
        self._end = self._log_start = self._segment = 0
        self._begun_ms = START_MS
        self.figures = {"appends": 0, "jumps": 0, "rolls": 0, "look-ups": 0, "openings": 0}
        for name in ("logs", "run", "quarantine"):
            os.makedirs(os.path.join(root, name))
        self._open()

    def run(self, steps: int) -> None:
        """Take so many steps; then read everything. Raises `Broken`."""
        for _ in range(steps):
            step = self._randomness.choice(_STEPS)
            if step == "append":
                self._append()
            elif step == "tick":
                # Most often less than a segment's age.
                self._now_ms += self._randomness.choice((1, 1000, 60_000, SEGMENT_MS * 2 // 3))
            elif step == "jump":
                self._jump()
            elif step == "reopen":
                self._reopen()
            elif step == "look-up":
                self._look_up()
            else:
                self._drop()
        self._check_all()

    # -- steps -----------------------------------------------------------------------

    def _jump(self) -> None:
        jump_ms = self._randomness.choice(self._jumps)
        # No clock shows a time before 1970.
        if self._now_ms + jump_ms > 0:
            self._now_ms += jump_ms
            self.figures["jumps"] += 1

    def _append(self) -> None:
        batch, rows = self._new_batch()
        appended = self._log.append([batch])
        self._log.commit(appended.next_offset)
        self.figures["appends"] += 1
        if appended.base_offset != self._end:
            raise Broken(f"the log ended at {self._end}, the next is {appended.base_offset}")
        self._begun_ms = min(self._begun_ms, self._now_ms)
        if self._end > self._segment and self._now_ms - self._begun_ms >= SEGMENT_MS:
            self._segment, self._begun_ms = self._end, self._now_ms
            self.figures["rolls"] += 1
        self._end = appended.next_offset
        self._records += rows
        row = self._context.row()
        if (row.segment, row.created_ms) != (self._segment, self._begun_ms):
            raise Broken(
                f"at {self._now_ms} the newest segment is {row.segment} of {row.created_ms}, "
                f"not {self._segment} of {self._begun_ms}"
            )

    def _new_batch(self) -> tuple[bytearray, list[Record]]:
        """A batch, and the records that it should be read as."""
        randomness, count = self._randomness, self._randomness.randrange(1, 6)
        if randomness.random() < 0.05:
            batch = empty_batch(0, count - 1, self._now_ms)
            return batch, []
        times = [self._now_ms] * count
        if randomness.random() < 0.2:
            # Producers give the times that they like.
            times = [randomness.choice((-1, 0, START_MS, self._now_ms - 5)) for _ in times]
        elif randomness.random() < 0.2:
            times = [self._now_ms + randomness.randrange(-HOUR_MS, HOUR_MS) for _ in times]
        records = [
            Record("", 0, self._end + at, time_ms, None, b"%d" % (self._end + at), ())
            for at, time_ms in enumerate(times)
        ]
        stamp_ms = self._now_ms if randomness.random() < 0.2 else None
        batch = encode_batch(
            [(record.timestamp, None, record.value, ()) for record in records],
            log_append_time_ms=stamp_ms,
        )
        if stamp_ms is not None:
            records = [record._replace(timestamp=stamp_ms) for record in records]
        return batch, records

    def _drop(self) -> None:
        """Drop the oldest segments, some times; the log start is the truth's, here ours."""
        bases = list_segments(self._files, self._context.folder)
        if len(bases) > 3 and self._randomness.random() < 0.5:
            self._log_start = self._randomness.choice(bases[: len(bases) // 2])
            self._log.drop_segments(self._log_start)

    # -- opening ---------------------------------------------------------------------

    def _open(self) -> None:
        path, boot_id = os.path.join(self._root, "run", "ends"), self._files.boot_id()
        is_other_boot = Ends.written_in_another_boot(self._files, path, boot_id)
        ends = Ends.open(self._files, path, boot_id)
        self._ends = ends or Ends.create(self._files, path, boot_id)
        self._environment = Environment(
            os.path.join(self._root, "index.lmdb"), files=Files(), map_size_bytes=_MAP_BYTES
        )
        self._context = LogContext(
            files=self._files,
            folder=os.path.join(self._root, "logs", "1-clock-0"),
            partition_id=_PARTITION,
            ends=self._ends,
            index=Index(self._environment),
            config=LogConfig(segment_ms=SEGMENT_MS, allocate_bytes=4096, index_interval_bytes=256),
            now_ms=lambda: self._now_ms,
        )
        row = self._ends.read(_PARTITION)
        if row is None or caught_up(self._context, row) != row:
            recovered = recover(
                self._context,
                Quarantine(self._files, os.path.join(self._root, "quarantine")),
                log_start=self._log_start,
                floor=row.durable_offset if row else 0,
                cache_is_certain=is_other_boot and row is None,
            )
            if recovered.findings:
                raise Broken(f"nothing was damaged, but recovery finds {recovered.findings}")
            self._ends.write(_PARTITION, recovered.row)
            self._begun_ms = self._now_ms
        self._log = Log(self._context)
        self.figures["openings"] += 1

    def _reopen(self) -> None:
        randomness = self._randomness
        if randomness.random() < 0.5:
            self._log.sync()
            self._log.checkpoint()
        self.close()
        self._files.boots += randomness.randrange(2)
        for name in ("index.lmdb", "run"):
            if randomness.random() < 0.2:
                shutil.rmtree(os.path.join(self._root, name))
        os.makedirs(os.path.join(self._root, "run"), exist_ok=True)
        self._open()
        self._check_all()

    def close(self) -> None:
        """Let go of everything, as a process does that dies."""
        self._log.close()
        self._environment.close()
        self._ends.close()

    # -- checks ----------------------------------------------------------------------

    def _check_all(self) -> None:
        ends = self._log.ends()
        if ends != (self._log_start, self._end, self._end):
            raise Broken(f"the ends are {ends}, not {(self._log_start, self._end, self._end)}")
        found = []
        reader = self._log.reader(self._log_start)
        try:
            for _ in range(MOST_READS):
                chunk = reader.read(1 << 16)
                if not chunk.batches:
                    break
                for position, _ in chunk.batches:
                    found += decode_batch(chunk.data, position, "", 0)
        finally:
            reader.close()
        if found != self._visible():
            raise Broken(f"{len(found)} records are read that are not the {len(self._visible())}")
        damages = list(self._log.verify())
        if damages:
            raise Broken(f"nothing was damaged, but verify finds {damages}")
        self._look_up()

    def _visible(self) -> list[Record]:
        return [record for record in self._records if record.offset >= self._log_start]

    def _look_up(self) -> None:
        visible = self._visible()
        times = {-(1 << 62), -1, 0, START_MS, self._now_ms, LATEST_MS}
        for record in self._randomness.sample(visible, min(8, len(visible))):
            times |= {record.timestamp - 1, record.timestamp, record.timestamp + 1}
        for time_ms in times:
            expected = next(
                ((each.offset, each.timestamp) for each in visible if each.timestamp >= time_ms),
                None,
            )
            found = self._log.offset_for_time(time_ms)
            self.figures["look-ups"] += 1
            if found != expected:
                raise Broken(f"time {time_ms} leads to {found}, not {expected}")
