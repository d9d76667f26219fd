"""Being a member of a group: what one consumer knows of it, and does about it.

Everything that counts is in ``state.lmdb`` (see `group_state`); here is what the consumer
has of it, and its sign of life (see `liveness`). The `keeper` looks after both and says,
by `needs_attention`, when the consumer has to look at its group again.
"""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.broker.assignors import ASSIGNORS, DEFAULT_ASSIGNOR
from seawall.broker.group_format import Member
from seawall.broker.group_state import Commit, Joined
from seawall.broker.liveness import NS_PER_MS
from seawall.broker.rebalance import takeable
from seawall.broker.translation import translated

if TYPE_CHECKING:
    from seawall.broker.engine import Engine
    from seawall.broker.liveness import Life

SHORTEST_SESSION_MS = 500
MAX_CLIENT_ID_BYTES = 100


def strategies(names: str | Sequence[str]) -> Sequence[str]:
    """One assignor's name or several, as a sequence."""
    return (names,) if isinstance(names, str) else names


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSettings:
    """Kafka's settings of the same names."""

    client_id: str = "seawall"
    group_instance_id: str | None = None
    partition_assignment_strategy: Sequence[str] = (DEFAULT_ASSIGNOR,)
    session_timeout_ms: int = 45_000
    heartbeat_interval_ms: int = 3_000
    max_poll_interval_ms: int = 300_000

    def __post_init__(self) -> None:
        for name in self.partition_assignment_strategy:
            if name not in ASSIGNORS:
                known = ", ".join(ASSIGNORS)
                raise ValueError(
                    f"partition_assignment_strategy is one or several of {known}, not {name!r}"
                )
        if not self.partition_assignment_strategy:
            raise ValueError("partition_assignment_strategy names at least one assignor")
        if self.session_timeout_ms < SHORTEST_SESSION_MS:
            raise ValueError(
                f"session_timeout_ms is at least {SHORTEST_SESSION_MS}, "
                f"not {self.session_timeout_ms}"
            )
        if not 0 < self.heartbeat_interval_ms < self.session_timeout_ms:
            raise ValueError(
                "heartbeat_interval_ms is above 0 and below session_timeout_ms "
                f"({self.session_timeout_ms}), not {self.heartbeat_interval_ms}"
            )
        if self.max_poll_interval_ms < 1:
            raise ValueError(f"max_poll_interval_ms is at least 1, not {self.max_poll_interval_ms}")
        if not 0 < len(self.client_id.encode()) <= MAX_CLIENT_ID_BYTES or "\0" in self.client_id:
            raise ValueError(f"client_id has 1 to {MAX_CLIENT_ID_BYTES} bytes, none of them zero")
        if self.group_instance_id == "":
            raise ValueError("group_instance_id is not empty")


class Membership:
    """One consumer's place in a group.

    `find_starts` says where the group begins in partitions in which it has committed
    nothing. `partitions` (ids) are those it asks for by number; None: its share of `topics`.
    """

    def __init__(
        self,
        engine: Engine,
        group: str,
        settings: MemberSettings,
        *,
        topics: Sequence[str],
        partitions: Sequence[int] | None,
        find_starts: Callable[[], Mapping[int, int]],
    ) -> None:
        self._engine = engine
        self._find_starts = find_starts
        self._partitions = partitions
        self._life: Life | None = None
        self.group = group
        self.settings = settings
        self.topics = tuple(topics)
        self.member_id = ""
        self.generation = 0
        # Set by the keeper's thread, taken back by the consumer's.
        self.needs_attention = False
        # Whether there is something it is to have and somebody else has still.
        self.is_waiting = False
        # While the consumer is in `poll` it is at work, however long that takes.
        self.polled_s = math.inf

    def join(self, *, again: bool = False) -> Joined:
        """Become a member, a new one each time; see `GroupState.join`.

        `again`: because it was taken for dead. Then one that has its instance id is the
        rightful one, and this raises `FencedInstanceId`.
        """
        import socket  # not before there is a group: most commands have none

        engine, settings = self._engine, self.settings
        starts = self._find_starts()
        self.end_life()
        self.member_id = f"{settings.client_id}-{uuid.uuid4().hex}"
        with translated():  # run/ may have been removed
            life = engine.lives.begin(self.member_id)
        try:
            joined = engine.groups.join(
                self.group,
                Member(
                    member_id=self.member_id,
                    client_id=settings.client_id,
                    instance_id=settings.group_instance_id,
                    pid=os.getpid(),
                    host=socket.gethostname(),
                    boot=engine.lives.boot,
                    joined_ms=time.time_ns() // 1_000_000,
                    session_timeout_ms=settings.session_timeout_ms,
                    topics=self.topics,
                    partitions=None if self._partitions is None else tuple(self._partitions),
                    assignors=tuple(settings.partition_assignment_strategy),
                ),
                starts,
                engine.layout(),
                engine.lives.is_dead,
                again=again,
            )
        except BaseException:
            life.end()
            self.needs_attention = True  # the next poll tries again
            raise
        self._life = life
        for each in joined.gone:
            engine.lives.clear(each)
        self.needs_attention = False
        self._remember(joined)
        engine.keeper.add(self)
        engine.keeper.poke(self)
        return joined

    def look(self) -> tuple[Member | None, set[int]]:
        """This member as it is stored (None: it is none any more), and what it could take."""
        generation, members = self._engine.groups.members(self.group)
        found = [each for each in members if each.member_id == self.member_id]
        if not found:
            return None, set()
        others = [each for each in members if each.member_id != self.member_id]
        self.generation = generation
        self.is_waiting = set(found[0].target) != set(found[0].owned)
        return found[0], takeable(found[0], others)

    def reconcile(self, gives_up: Sequence[int]) -> Joined:
        """See `GroupState.reconcile`."""
        joined = self._engine.groups.reconcile(self.group, self.member_id, gives_up)
        self._remember(joined)
        if gives_up:
            self._engine.keeper.poke(self)
        return joined

    def _remember(self, joined: Joined) -> None:
        self.generation = joined.generation
        self.is_waiting = set(joined.member.target) != set(joined.member.owned)

    def commit(self, offsets: Mapping[int, int], metadata: str | None = None) -> None:
        """Store what the group has acknowledged, and a text of its own; raises `GroupFenced`."""
        self._engine.acknowledger.commit(
            Commit(
                group=self.group,
                member_id=self.member_id,
                offsets=offsets,
                metadata=metadata or "",
                replaces_metadata=metadata is not None,
            )
        )

    def beat_if_due(self) -> None:
        """Be heard of, at every ``heartbeat_interval_ms``."""
        life = self._life
        if life is not None:
            if self.was_silent():
                self.needs_attention = True
            if life.silent_ns() >= self.settings.heartbeat_interval_ms * NS_PER_MS:
                life.beat()

    def was_silent(self) -> bool:
        """Whether it has not been heard of for so long that others may take it for dead."""
        life = self._life
        return life is not None and life.silent_ns() > self.settings.session_timeout_ms * NS_PER_MS

    def is_overdue(self) -> bool:
        """Whether the consumer has not polled for ``max_poll_interval_ms``."""
        return time.monotonic() - self.polled_s > self.settings.max_poll_interval_ms / 1000

    def leave(self) -> None:
        """Stop being a member; a static one only goes away for a while (KIP-345).

        Safe to call twice. It is none any more even if this raises.
        """
        self._engine.keeper.remove(self)
        is_static = self.settings.group_instance_id is not None
        if self._life is None:
            return
        try:
            if is_static:
                self._life.beat()
            else:
                engine = self._engine
                engine.groups.leave(
                    self.group, self.member_id, engine.layout(), engine.lives.is_dead
                )
                engine.keeper.poke(self)
        finally:
            self.end_life(keeps_file=is_static)

    def vanish(self) -> None:
        """Go as a process goes that is killed: for those who test that."""
        self._engine.keeper.remove(self)
        self.end_life(keeps_file=True)

    def end_life(self, *, keeps_file: bool = False) -> None:
        """Free the lock that says that this member is alive."""
        life, self._life = self._life, None
        if life is not None:
            life.end(keeps_file=keeps_file)
