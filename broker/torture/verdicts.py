"""What a history says of records and values, and the judgement over it at the end."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from seawall.broker.torture.anomalies import Operation, Report

NOBODY: Operation = ("", -1)


class KnownRecord:
    """What is known of one offset: who was told of it first, and which reading met it."""

    __slots__ = ("acked", "polled", "read", "value")

    def __init__(self, value: str) -> None:
        self.value = value
        self.acked = NOBODY
        self.polled = NOBODY
        self.read = 0
        """The number of the last final reading that met it."""

    @property
    def known_by(self) -> Operation:
        """The operation that is the best evidence of it."""
        return self.polled if self.polled is not NOBODY else self.acked


class KnownValue:
    """What is known of one value: how often, and to which partitions, it was sent, how
    often that certainly failed, and at which offsets of which partitions it was found."""

    __slots__ = ("failed", "partitions", "places", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.failed = 0
        self.partitions: tuple[str, ...] = ()
        self.places: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class KnownPartition:
    """What is known of one partition."""

    records: dict[int, KnownRecord] = field(default_factory=dict)
    dropped: int = 0
    """Below this, records may have been removed."""
    top_polled: int = -1
    gaps: dict[tuple[int, int, bool], Operation] = field(default_factory=dict)
    """Offsets that a consumer passed over, from the first up to, but without, the second;
    and whether within one poll."""
    end: tuple[int, int, int] | None = None
    """The number of the last final reading, and from where to where it went."""


def judge_partition(report: Report, name: str, partition: KnownPartition) -> None:
    """Whether all that was promised is there, and was handed out."""
    there: list[int] = []  # what consumers were given, and was not lost
    for offset, record in partition.records.items():
        if _is_missing(partition, offset, record):
            _report_missing(report, name, partition, offset, record)
        elif record.polled is not NOBODY:
            there.append(offset)
    if partition.gaps:
        there.sort()
        for (first, after, is_inside), operation in partition.gaps.items():
            at = bisect_left(there, first)
            if at < len(there) and there[at] < after:
                skipped = partition.records[there[at]]
                report.add(
                    "int-poll-skip" if is_inside else "poll-skip",
                    name,
                    f"a consumer that was at offset {first} was given {after}, without "
                    f"{there[at]} ({skipped.value!r}), which others were given",
                    operation,
                    skipped.polled,
                    offsets=(there[at], after),
                    values=(skipped.value,),
                )


def _is_missing(partition: KnownPartition, offset: int, record: KnownRecord) -> bool:
    if offset < partition.dropped:
        return False
    if partition.end is not None:
        return record.read != partition.end[0]
    return record.polled is NOBODY


def _report_missing(
    report: Report, name: str, partition: KnownPartition, offset: int, record: KnownRecord
) -> None:
    anomaly = "lost-write"
    if partition.end is not None:
        _, start, end = partition.end
        how = f"reading everything, from {start} to {end}, did not meet it"
    elif offset < partition.top_polled:
        how = f"offsets up to {partition.top_polled} were read, and never this one"
    else:
        anomaly, how = "unseen", "nobody has read it so far"
    whose = "acknowledged" if record.acked is not NOBODY else "handed out"
    report.add(
        anomaly,
        name,
        f"offset {offset} ({record.value!r}) was {whose}, but {how}",
        record.acked if record.acked is not NOBODY else record.polled,
        offsets=(offset,),
        values=(record.value,),
    )


def judge_value(
    report: Report, value: str, known: KnownValue, partitions: Mapping[str, KnownPartition]
) -> None:
    """Whether a value is only where it was sent to, and not more often than it was sent."""
    places, effective = known.places, known.sent - known.failed
    if any(not _was_sent_to(known, name) for name, _ in places):
        anomaly, sentence = "unexpected", "nobody sent it there"
    elif places and not effective:
        anomaly, sentence = "aborted-read", "sending it certainly failed"
    elif len(places) > effective:
        anomaly = "duplicate"
        sentence = "it was sent only " + ("once" if effective == 1 else f"{effective} times")
    else:
        return
    where = ", ".join(f"{name} offset {offset}" for name, offset in places)
    report.add(
        anomaly,
        places[-1][0],
        f"{value!r} is at {where}, but {sentence}",
        *(partitions[name].records[offset].known_by for name, offset in places),
        offsets=tuple(offset for _, offset in places),
        values=(value,),
    )


def _was_sent_to(known: KnownValue, name: str) -> bool:
    """A name of "orders/" stands for any partition of that topic."""
    return name in known.partitions or any(
        wanted.endswith("/") and name.startswith(wanted) for wanted in known.partitions
    )


def judge_order(
    report: Report, process: str, name: str, sends: Sequence[tuple[int, int, int]]
) -> None:
    """Whether one producer's records stand in the order in which they were sent.

    `sends` are the number, the first and the last offset of each that was acknowledged.
    """
    # Nearly in order already: completions come about as sends were invoked.
    for (before, _, last), (after, first, _) in pairwise(sorted(sends)):
        if first <= last:
            report.add(
                "nonmonotonic-send",
                name,
                f"what was sent earlier got offset {last}, what was sent later {first}",
                (process, before),
                (process, after),
                offsets=(last, first),
            )
