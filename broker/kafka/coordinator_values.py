"""What goes into a group's state machine, and what comes out.

A *waiter* is whatever the caller wants back with an answer; the machine only keeps it.
Times are milliseconds of a clock that never goes back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from seawall.broker.group_kept_format import KeptGroup

Waiter = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """Kafka's settings of the same names, with dots."""

    group_initial_rebalance_delay_ms: int = 100
    group_min_session_timeout_ms: int = 500
    group_max_session_timeout_ms: int = 1_800_000
    group_max_size: int = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """``takes_id_first``: it knows MEMBER_ID_REQUIRED (KIP-394). ``can_skip_assignment``:
    it knows that a leader may have nothing to divide (KIP-814)."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: Mapping[str, bytes]
    takes_id_first: bool = True
    can_skip_assignment: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinAnswer:
    """``members`` are (member id, instance id, metadata), for the leader alone."""

    code: int
    member_id: str = ""
    generation: int = -1
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[tuple[str, str | None, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRequest:
    """``assignments``, by member id, are the leader's. The protocol is None from those who
    do not say it (before version 5)."""

    member_id: str
    instance_id: str | None
    generation: int
    protocol_type: str | None
    protocol: str | None
    assignments: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncAnswer:
    code: int
    protocol_type: str | None = None
    protocol: str | None = None
    assignment: bytes = b""


@dataclass(slots=True, kw_only=True)
class WireMember:
    """A member. While its join or its sync waits it is there, and does not expire."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: Mapping[str, bytes]
    assignment: bytes = b""
    joining: Waiter | None = None
    syncing: Waiter | None = None
    # Whether it still has to ask for what the leader said, in the present generation.
    owes_sync: bool = False
    # Whether it has asked for anything since it became one, or since the server came back.
    is_heard: bool = True
    expires_ms: float = math.inf

    def take(self, request: JoinRequest) -> None:
        """Be as the newest request says."""
        self.client_id = request.client_id
        self.client_host = request.client_host
        self.session_timeout_ms = request.session_timeout_ms
        self.rebalance_timeout_ms = request.rebalance_timeout_ms
        self.protocols = dict(request.protocols)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is to be stored of a group before anybody is answered.

    ``begins``: a generation begins, whose number the store gives; else it is that of
    ``group`` still, and nobody else may have begun one.
    """

    begins: bool
    group: KeptGroup


class Trouble(Enum):
    """Why a snapshot was not stored."""

    HELD = "members of the other kind hold the group"
    FENCED = "somebody else has changed the group since"
    STORAGE = "the disk, or a lock, failed"
