"""What is to be measured, and what one process is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Of a record whose latency is measured to its consumer: whose it is, and when it was due.
STAMP_BYTES = 16
DEFAULT_DURATION_S = 5.0
DEFAULT_FILL_RECORDS = 200_000
MODES = ("both", "produce", "consume", "end-to-end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole measurement.

    ``mode``: one of `MODES`. ``topic``: None makes a scratch topic of ``partitions``.
    ``records`` and ``duration_s`` bound each phase, whichever comes first; without either it
    is `DEFAULT_DURATION_S`. ``warmup_s`` comes before and is not counted. ``throughput``:
    records a second, of all producers together; None: as fast as they can.
    ``producer``: more settings of `Broker.producer`.
    """

    location: str
    mode: str = "both"
    topic: str | None = None
    partitions: int = 1
    records: int | None = None
    duration_s: float | None = None
    warmup_s: float = 0.0
    record_bytes: int = 100
    producers: int = 1
    consumers: int = 1
    throughput: float | None = None
    producer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def limit_s(self) -> float | None:
        """How long a phase lasts at the most, without its warm-up."""
        if self.duration_s is None and self.records is None:
            return DEFAULT_DURATION_S
        return self.duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one process does. Times are of CLOCK_MONOTONIC, which processes share.

    ``starts``: for a consumer, partition -> offset to begin at. ``until``: where it ends;
    None: it is told later. ``stamp``: of records that carry when they were due, else empty.
    """

    role: str
    location: str
    topic: str
    records: int | None = None
    limit_s: float | None = None
    warmup_s: float = 0.0
    record_bytes: int = 100
    throughput: float | None = None
    stamp: str = ""
    producer: Mapping[str, Any] = field(default_factory=dict)
    starts: Mapping[str, int] = field(default_factory=dict)
    until: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def shares(total: int, count: int) -> list[int]:
    """A total as equal parts as it can be, such as 10 in 3: 4, 3, 3."""
    return [total // count + (number < total % count) for number in range(count)]
