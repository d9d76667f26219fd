"""What the demo prints, and the rates in it, measured from outside."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from demo_parts.checking import DeliveryFacts, LogFacts
from demo_parts.deliveries import sync_file
from demo_parts.job import CONSUMER, PARTITIONS, TOPIC, Job, Kill

SYNC_PROBES = 15


class Meter:
    """Work over time of one role's successive processes, as an observer sees it.

    The clock of a process runs from the last look at which it had done nothing yet to its
    death, or the last look at which it had done more: starting up is not in it, waiting
    for others is.
    """

    def __init__(self) -> None:
        self.work = 0
        self.busy_s = 0.0
        self._position = 0
        self._looked_s: float | None = None
        self._began_s: float | None = None
        self._moved_s = 0.0

    def observe(self, now_s: float, position: int) -> None:
        if position > self._position:
            if self._began_s is None:
                self._began_s = now_s if self._looked_s is None else self._looked_s
            self.work += position - self._position
            self._position = position
            self._moved_s = now_s
        self._looked_s = now_s

    def end_life(self) -> None:
        """The process has ended; what comes now is another one's."""
        if self._began_s is not None:
            self.busy_s += self._moved_s - self._began_s
        self._began_s = self._looked_s = None

    @property
    def rate(self) -> float:
        """Work per second."""
        return self.work / self.busy_s if self.busy_s else 0.0


def sync_ms(folder: Path) -> float:
    """What one small write and sync takes here, the median of a few, in ms."""
    path = folder / "probe"
    times = []
    with open(path, "wb", buffering=0) as file:
        for _ in range(SYNC_PROBES):
            began_s = time.perf_counter()
            file.write(b"x" * 100)
            sync_file(file.fileno())
            times.append(time.perf_counter() - began_s)
    os.unlink(path)
    return statistics.median(times) * 1000


def print_head(job: Job, files: int, lines: int, size_bytes: int) -> None:
    print(
        f"input    {files:,} files, {lines:,} lines, {size_bytes / 1e6:.1f} MB: "
        f"every .py below {job.source}\n"
        f"log      topic {TOPIC!r} with {PARTITIONS} partitions in {job.broker_path}\n"
        f"disk     write and sync of 100 bytes: {sync_ms(job.folder):.2f} ms\n\n"
        "course   produce and consume at the same time, with kill -9",
        flush=True,
    )


def print_kill(at_s: float, kill: Kill, places: Sequence[int], total: int) -> None:
    what = "acknowledged" if kill.who == CONSUMER else "durable"
    print(
        f"  {at_s:5.1f} s  {kill.who} killed at {kill.reached:,} of {total:,}; "
        f"{what} offsets: {' '.join(f'{offset:,}' for offset in places)}",
        flush=True,
    )


def print_rates(meters: Mapping[str, Meter], bytes_per_line: float, wall_s: float) -> None:
    print("\nrates    each while it was at work, the two at the same time")
    for who, meter in meters.items():
        print(
            f"  {who}  {meter.work:,} lines in {meter.busy_s:.1f} s: {meter.rate:,.0f} lines/s, "
            f"{meter.rate * bytes_per_line / 1e6:.1f} MB/s"
        )
    print(f"  in all    {wall_s:.1f} s, with all deaths and new starts", flush=True)


def print_findings(
    files: int, lines: int, log: LogFacts, seen: DeliveryFacts, cut_files: int
) -> None:
    print(
        f"  per file     first deliveries of {files:,} files: {lines:,} lines\n"
        f"  in the log   {log.repeats:,} repeats among {log.records:,} records: "
        "sent again after the producer's death\n"
        f"  redelivered  {seen.redelivered:,} repeats among {seen.deliveries:,} deliveries: "
        "received by a dead consumer, not acknowledged"
    )
    if cut_files:
        print(f"  cut short    {cut_files} delivery files end in a record that was never whole")
