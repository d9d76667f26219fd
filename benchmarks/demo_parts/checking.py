"""The rules that a finished job is held against. Pure: from what was read, to problems.

A *copy* is one record of the log or one delivery of it. Per file, the first copies must be
its lines 1 … n with equal bytes, in order, both in the log and in what the consumer
received. A later copy of the same line is a repeat, and there are two kinds:

*in the log*    the line stands at a second offset: the producer did not know that its dead
                predecessor had got it into the log, and sent it again
*redelivered*   the same offset was delivered again: the consumer's dead predecessor had
                received it, but had not acknowledged it
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from demo_parts.deliveries import Copy
from demo_parts.job import CONSUMER, PRODUCER, Kill

Sources = Mapping[bytes, Sequence[bytes]]

WANTED_KILLS = {CONSUMER: 3, PRODUCER: 1}
LINE_BITS = 32


class Problems:
    """What is wrong: all of it counted, the first of it in words."""

    SHOWN = 20

    def __init__(self) -> None:
        self.count = 0
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.texts) < self.SHOWN:
            self.texts.append(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the consumer, offsets by partition.

    ``acknowledged``: what the group had acknowledged when the run before was dead.
    ``start``: where the group was by this run's own account. It may be further, because an
    acknowledgement that was under way when its process died counts or does not, and that is
    settled only by whoever writes next. ``copies``: what the run received.
    """

    acknowledged: Sequence[int]
    start: Sequence[int]
    copies: Iterable[Copy]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFacts:
    """``places``: by partition and offset, which line stands there (`Files.place`)."""

    records: int
    repeats: int
    places: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFacts:
    """``unacknowledged``: how many deliveries had to come again, by what the group had
    acknowledged when the consumer died."""

    deliveries: int
    repeats_in_log: int
    redelivered: int
    unacknowledged: int


class Files:
    """The sources, and how far each of them has come in a sequence of copies."""

    def __init__(self, sources: Sources, problems: Problems, where: str) -> None:
        self._sources = sources
        self._numbers = {key: number for number, key in enumerate(sources)}
        self._reached = dict.fromkeys(sources, 0)
        self._problems = problems
        self._where = where

    def place(self, copy: Copy) -> int:
        """File and line in one number; -1 if there is no such line."""
        number = self._numbers.get(copy.key)
        return -1 if number is None else number << LINE_BITS | copy.line

    def equal(self, copy: Copy) -> bool:
        """Whether it is the line that it says; else it is a problem."""
        lines = self._sources.get(copy.key)
        if lines is None or not 1 <= copy.line <= len(lines):
            self._add(copy, "there is no such line")
            return False
        if copy.value != lines[copy.line - 1]:
            self._add(copy, "the bytes differ")
            return False
        return True

    def is_first(self, copy: Copy) -> bool:
        """Whether its line comes for the first time; the file's next line must be it."""
        reached = self._reached.get(copy.key, 0)
        if copy.line <= reached:
            return False
        if copy.line != reached + 1:
            self._add(copy, f"it comes where line {reached + 1} is due")
        self._reached[copy.key] = copy.line
        return True

    def finish(self) -> None:
        """Nothing more comes: every file must be complete."""
        for key, lines in self._sources.items():
            if self._reached[key] != len(lines):
                self._problems.add(
                    f"{self._where}: {key.decode(errors='replace')} ends after line "
                    f"{self._reached[key]} of {len(lines)}"
                )

    def _add(self, copy: Copy, text: str) -> None:
        self._problems.add(
            f"{self._where}: {copy.key.decode(errors='replace')} line {copy.line} "
            f"(partition {copy.partition}, offset {copy.offset}): {text}"
        )


def check_log(
    copies: Iterable[Copy], sources: Sources, partitions: int, problems: Problems
) -> LogFacts:
    """The log itself: dense offsets, every file's lines in order, equal bytes."""
    files = Files(sources, problems, "log")
    places = [array("q") for _ in range(partitions)]
    records = repeats = 0
    for copy in copies:
        records += 1
        here = places[copy.partition]
        if copy.offset != len(here):
            problems.add(
                f"log: partition {copy.partition} has offset {copy.offset} where {len(here)} is due"
            )
            continue
        here.append(files.place(copy))
        if files.equal(copy) and not files.is_first(copy):
            repeats += 1
    files.finish()
    return LogFacts(records=records, repeats=repeats, places=places)


def check_deliveries(
    runs: Iterable[Run], sources: Sources, log: LogFacts, problems: Problems
) -> DeliveryFacts:
    """What the consumer's runs received, one run after the other.

    Each must begin where the group was, and from there on leave out nothing.
    """
    files = Files(sources, problems, "deliveries")
    delivered = [0] * len(log.places)  # behind the last offset that was ever delivered
    deliveries = repeats_in_log = redelivered = unacknowledged = 0
    for number, run in enumerate(runs, 1):
        before, due = list(delivered), list(run.start)
        for partition, (least, start) in enumerate(zip(run.acknowledged, due, strict=True)):
            if not least <= start <= before[partition]:
                problems.add(
                    f"deliveries: run {number} begins at offset {start} of partition {partition}, "
                    f"but {least} was acknowledged and {before[partition]} delivered"
                )
        for copy in run.copies:
            deliveries += 1
            partition, offset = copy.partition, copy.offset
            if offset != due[partition]:
                problems.add(
                    f"deliveries: run {number} has offset {offset} of partition {partition} "
                    f"where {due[partition]} is due"
                )
            due[partition] = offset + 1
            here = log.places[partition]
            if offset >= len(here) or here[offset] != files.place(copy):
                problems.add(
                    f"deliveries: run {number} got another record than the log has "
                    f"at offset {offset} of partition {partition}"
                )
            equal = files.equal(copy)
            if offset < delivered[partition]:
                redelivered += 1
                continue
            delivered[partition] = offset + 1
            if equal and not files.is_first(copy):
                repeats_in_log += 1
        unacknowledged += sum(
            max(0, min(end, old) - begin)
            for begin, end, old in zip(run.start, due, before, strict=True)
        )
    files.finish()
    return DeliveryFacts(
        deliveries=deliveries,
        repeats_in_log=repeats_in_log,
        redelivered=redelivered,
        unacknowledged=unacknowledged,
    )


def check_counts(lines: int, log: LogFacts, seen: DeliveryFacts, problems: Problems) -> None:
    """The books must balance."""
    for text, left, right in (
        ("records in the log = lines + repeats in it", log.records, lines + log.repeats),
        ("repeats delivered = repeats in the log", seen.repeats_in_log, log.repeats),
        (
            "deliveries = records in the log + redelivered",
            seen.deliveries,
            log.records + seen.redelivered,
        ),
        (
            "redelivered = delivered to the dead and not acknowledged",
            seen.redelivered,
            seen.unacknowledged,
        ),
    ):
        if left != right:
            problems.add(f"counts: {text}, but {left:,} is not {right:,}")


def check_kills(kills: Sequence[Kill], records: int, problems: Problems) -> None:
    """Each kill must have hit a process that had made progress and was unfinished."""
    for who, wanted in WANTED_KILLS.items():
        made = sum(1 for kill in kills if kill.who == who)
        if made != wanted:
            problems.add(f"kills: the {who} was killed {made} times, not {wanted}")
    for kill in kills:
        if not kill.started_at < kill.reached < records:
            problems.add(
                f"kills: the {kill.who} began at {kill.started_at:,} and was killed at "
                f"{kill.reached:,} of {records:,}: no progress, or finished"
            )
