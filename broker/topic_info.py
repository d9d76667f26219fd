"""A topic and its partitions, as the catalogue gives them to everybody else."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from seawall.broker.config import TopicConfig, effective_config, parse_config


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionInfo:
    """A partition: its id, which is never used again, and its number in the topic."""

    id: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicInfo:
    """A topic as the catalogue has it. ``config`` holds what was set, not the defaults.

    ``told`` is everything that servers say to be in force, defaults included.
    """

    id: int
    name: str
    uuid: uuid.UUID
    state: str
    created_ms: int
    partitions: tuple[PartitionInfo, ...]
    config: Mapping[str, str]
    told: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def settings(self) -> TopicConfig:
        """The settings in force, parsed."""
        return parse_config(self.config)

    @property
    def in_force(self) -> Mapping[str, str]:
        """The settings in force as text, wherever the topic is."""
        return self.told or effective_config(self.config)
