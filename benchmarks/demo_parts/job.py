"""What all processes of the demo agree on, and the folder that they share.

job.json             what was asked for
broker/              the log
deliveries-1 …       what each run of the consumer received (see deliveries.py)
kills.json           who was killed, and how far things were
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TOPIC = "stdlib"
GROUP = "readers"
PARTITIONS = 4
LINE_HEADER = "line"
CONSUMER, PRODUCER = "consumer", "producer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A process that was killed, and how far things were once it was dead.

    ``started_at`` is the progress that it began with, ``reached`` what it came to:
    acknowledged offsets of a consumer, durable ends of a producer, summed over the
    partitions. ``acknowledged`` is the group's place in each partition.
    """

    who: str
    started_at: int
    reached: int
    acknowledged: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """``limit`` is a number of files, None for all below ``source``."""

    folder: Path
    source: Path
    limit: int | None

    @property
    def broker_path(self) -> Path:
        return self.folder / "broker"

    def deliveries_path(self, run: int) -> Path:
        return self.folder / f"deliveries-{run}"

    def save(self) -> None:
        text = json.dumps({"source": str(self.source), "limit": self.limit})
        (self.folder / "job.json").write_text(text)

    @classmethod
    def load(cls, folder: Path) -> Job:
        found = json.loads((folder / "job.json").read_text())
        return cls(folder=folder, source=Path(found["source"]), limit=found["limit"])

    def save_kills(self, kills: Sequence[Kill]) -> None:
        (self.folder / "kills.json").write_text(json.dumps([asdict(kill) for kill in kills]))

    def load_kills(self) -> list[Kill]:
        rows = json.loads((self.folder / "kills.json").read_text())
        return [Kill(**{**row, "acknowledged": tuple(row["acknowledged"])}) for row in rows]
