"""What can be wrong with a history: the names, and the list of what was found.

The names are those of Jepsen's workload for Kafka, as far as they mean the same::

    lost-write              a record that was acknowledged, or that a consumer was given, is
                            not there any more, or was passed over by everyone who read
    unseen                  an acknowledged record that nobody has been given so far
    duplicate               a value at more offsets than it was sent
    inconsistent-offsets    one offset, several values
    aborted-read            a value is read although sending it certainly failed (G1a)
    unexpected              a value is read that nobody sent, or not to that partition
    nonmonotonic-send       what a producer sent later stands before what it sent earlier
    nonmonotonic-poll       a consumer is given what it is already past, without a seek
    poll-skip               a consumer is not given a record that was there, but later ones

    int-nonmonotonic-send   the same three within one send of several values, or within
    int-nonmonotonic-poll   what one poll returned
    int-poll-skip

    committed-backwards     a group is behind what it has acknowledged, without a reset
    committed-ahead         a group is beyond all that it ever acknowledged, so that it is
                            never given the records in between
    committed-beyond-end    a group has acknowledged what the log does not hold
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = (
    *("lost-write", "unseen", "duplicate", "inconsistent-offsets", "aborted-read"),
    *("unexpected", "nonmonotonic-send", "nonmonotonic-poll", "poll-skip"),
    *("int-nonmonotonic-send", "int-nonmonotonic-poll", "int-poll-skip"),
    *("committed-backwards", "committed-ahead", "committed-beyond-end"),
)
# So many of each name are kept; the others are only counted.
MOST_OF_EACH = 100

# The process and the number of an operation.
Operation = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One thing that must not be. `operations` are those that show it."""

    name: str
    partition: str
    offsets: tuple[int, ...] = ()
    values: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    sentence: str

    def __str__(self) -> str:
        shown = ", ".join(f"{process}#{number}" for process, number in self.operations)
        return f"{self.name} in {self.partition}: {self.sentence} [{shown}]"


class Report:
    """The anomalies of one history, in the order in which they were found."""

    def __init__(self) -> None:
        self.found: list[Anomaly] = []
        self.counts: dict[str, int] = {}

    def add(
        self,
        name: str,
        partition: str,
        sentence: str,
        *operations: Operation,
        offsets: tuple[int, ...] = (),
        values: tuple[str, ...] = (),
    ) -> None:
        """Note one."""
        count = self.counts[name] = self.counts.get(name, 0) + 1
        if count <= MOST_OF_EACH:
            self.found.append(
                Anomaly(
                    name=name,
                    partition=partition,
                    offsets=offsets,
                    values=values,
                    operations=operations,
                    sentence=sentence,
                )
            )
