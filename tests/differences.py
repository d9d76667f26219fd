"""Where seawall answers otherwise than Apache Kafka on purpose, and why.

`docs/kafka.md` has the sentences under "Differences from Apache Kafka"; a test holds the two
together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """``where``: conversation/step/path, with the wildcards of a shell."""

    where: str
    why: str


WANTED: tuple[Difference, ...] = ()

# Versions that Apache Kafka 4.1 does not advertise.
WIDER: dict[int, list[int]] = {}
