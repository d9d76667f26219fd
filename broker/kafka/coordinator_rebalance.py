"""How a group gets from one generation to the next.

Everybody is asked to join; once all have, or the time is over, the generation is stored
and begins; its leader divides the partitions, and each member is told its own.
"""

from __future__ import annotations

import math

from seawall.broker.group_kept_format import KeptGroup
from seawall.broker.kafka import codes
from seawall.broker.kafka.coordinator_roster import Roster
from seawall.broker.kafka.coordinator_states import Event, State, move
from seawall.broker.kafka.coordinator_values import (
    JoinAnswer,
    SyncAnswer,
    SyncRequest,
    Trouble,
    Waiter,
    WireMember,
)

# After the disk failed.
RETRY_MS = 1_000
# From when a server comes back, those who join wait so long for members of which nothing was
# heard since: Kafka's default heartbeat.interval.ms. Their clients may have ended, or may be the
# very ones that join, having given up their ids when no server was there for long.
UNHEARD_WAIT_MS = 3_000


class Rebalancing(Roster):
    """A group's generations: see `coordinator_group`."""

    _not_before_ms = -math.inf
    _rebalance_deadline_ms = math.inf
    _sync_deadline_ms = math.inf
    _retry_ms = math.inf
    _unheard_until_ms = -math.inf

    # -- rebalancing -----------------------------------------------------------------

    def _prepare(self, now_ms: float) -> None:
        """Ask everybody to join, if that is not under way."""
        if self.state is State.PREPARING:
            return
        self.state = move(self.state, Event.REBALANCE)
        for each in self.members.values():
            if each.syncing is not None:
                self._answer(each.syncing, SyncAnswer(code=codes.REBALANCE_IN_PROGRESS))
                each.syncing = None
                self._refresh(now_ms, each)
        self._not_before_ms = -math.inf
        self._sync_deadline_ms = math.inf
        self._rebalance_deadline_ms = now_ms + self._rebalance_timeout_ms()

    def _joined_at_ms(self) -> float:
        """From when on those who have joined wait for no others; infinity if that is open."""
        missing = [each for each in self.members.values() if each.joining is None]
        if not missing:
            return -math.inf
        if len(missing) == len(self.members) or any(each.is_heard for each in missing):
            return math.inf
        return self._unheard_until_ms

    def _rebalance_timeout_ms(self) -> float:
        return max((each.rebalance_timeout_ms for each in self.members.values()), default=0)

    def _complete_if_due(self, now_ms: float) -> None:
        """Begin the next generation if all are there, or if it has taken long enough."""
        if self.state is not State.PREPARING or self.unsaved is not None:
            return
        if now_ms < self._rebalance_deadline_ms:
            is_early = now_ms < self._not_before_ms
            if self.members and (
                is_early
                or any(until > now_ms for _, until in self.pending.values())
                or now_ms < self._joined_at_ms()
            ):
                return
        for each in list(self.members.values()):
            if each.joining is None and each.instance_id is None:
                self._remove(each)
        joined = [each for each in self.members.values() if each.joining is not None]
        if self.members and not joined:
            # Static members only, all of them away: until their sessions end.
            self._rebalance_deadline_ms = now_ms + self._rebalance_timeout_ms()
            return
        if not self.members:
            self.state = move(self.state, Event.ALL_GONE)
            self.protocols.name = ""
        else:
            if self.leader not in {each.member_id for each in joined}:
                self.leader = joined[0].member_id
            self.protocols.name = self.protocols.choose(self.members.values(), self.leader)
        self._save(begins=True)

    def _begin(self, now_ms: float) -> None:
        self.state = move(self.state, Event.BEGUN)
        self._sync_deadline_ms = now_ms + self._rebalance_timeout_ms()
        for each in self.members.values():
            each.assignment = b""
            each.owes_sync = each.joining is not None
            if each.joining is not None:
                self._answer(each.joining, self._joined(each))
                each.joining = None
                self._refresh(now_ms, each)

    # -- the leader's assignment -----------------------------------------------------

    def sync(self, now_ms: float, request: SyncRequest, waiter: Waiter) -> None:
        """Ask for what the leader said, or say it. Answered with a `SyncAnswer`."""
        self._check_saved()
        member, code = self._find(request.member_id, request.instance_id)
        if self.state is State.DEAD:
            code = codes.COORDINATOR_NOT_AVAILABLE
        elif member is not None:
            code = self._sync(now_ms, member, request, waiter)
        if code != codes.NONE:
            self._answer(waiter, SyncAnswer(code=code))

    def _sync(self, now_ms: float, member: WireMember, request: SyncRequest, waiter: Waiter) -> int:
        if request.generation != self.generation:
            return codes.ILLEGAL_GENERATION
        if not self.protocols.agree(request.protocol_type, request.protocol):
            return codes.INCONSISTENT_GROUP_PROTOCOL
        if self.state is State.PREPARING:
            if member.joining is None:
                self._refresh(now_ms, member)
            return codes.REBALANCE_IN_PROGRESS
        member.owes_sync = False
        if self.state is State.STABLE:
            self._refresh(now_ms, member)
            self._answer(waiter, self._synced(member))
            return codes.NONE
        self._answer_stale(member)
        member.syncing, member.expires_ms = waiter, math.inf
        if member.member_id == self.leader:
            for each in self.members.values():
                each.assignment = bytes(request.assignments.get(each.member_id, b""))
            self._save(begins=False)
        return codes.NONE

    def _assigned(self, now_ms: float) -> None:
        self.state = move(self.state, Event.ASSIGNED)
        for each in self.members.values():
            if each.syncing is not None:
                self._answer(each.syncing, self._synced(each))
                each.syncing = None
                self._refresh(now_ms, each)

    def _synced(self, member: WireMember) -> SyncAnswer:
        return SyncAnswer(
            code=codes.NONE,
            protocol_type=self.protocols.kind,
            protocol=self.protocols.name,
            assignment=member.assignment,
        )

    # -- after a server that ended ----------------------------------------------------

    def restore(self, now_ms: float, kept: KeptGroup) -> None:
        """Be the group that was stored, with sessions that begin now. For a new one.

        Whoever waited for an answer of the server before asks again. In a generation whose
        leader has not divided yet, it still may.
        """
        self.generation = kept.generation
        self.protocols.kind, self.protocols.name = kept.protocol_type, kept.protocol
        self.leader = kept.leader
        for each in kept.members:
            member = WireMember(
                member_id=each.member_id,
                instance_id=each.instance_id,
                client_id=each.client_id,
                client_host=each.client_host,
                session_timeout_ms=each.session_timeout_ms,
                rebalance_timeout_ms=each.rebalance_timeout_ms,
                protocols=each.protocols,
                assignment=each.assignment,
                owes_sync=each.owes_sync and not kept.is_assigned,
                is_heard=False,
            )
            self.members[each.member_id] = member
            if each.instance_id is not None:
                self._static[each.instance_id] = each.member_id
            self._refresh(now_ms, member)
        self._unheard_until_ms = now_ms + UNHEARD_WAIT_MS
        self.state = move(move(self.state, Event.REBALANCE), Event.BEGUN)
        if kept.is_assigned:
            self.state = move(self.state, Event.ASSIGNED)
        else:
            self._sync_deadline_ms = now_ms + self._rebalance_timeout_ms()

    # -- the store's answers ---------------------------------------------------------

    def saved(self, now_ms: float, generation: int) -> None:
        """`unsaved` is on disk, and this is the group's generation."""
        snapshot, self.unsaved = self.unsaved, None
        self.generation = generation
        self._settle(now_ms, begins=snapshot is not None and snapshot.begins)

    def not_saved(self, now_ms: float, trouble: Trouble) -> None:
        """`unsaved` is not on disk, and never will be as it was."""
        snapshot, self.unsaved = self.unsaved, None
        if trouble is Trouble.HELD:
            self.drop(codes.INCONSISTENT_GROUP_PROTOCOL)
        elif trouble is Trouble.FENCED:
            self.drop(codes.UNKNOWN_MEMBER_ID)
        elif snapshot is not None and snapshot.begins:
            for each in self.members.values():
                self._answer_waiting(each, codes.COORDINATOR_NOT_AVAILABLE)
                self._refresh(now_ms, each)
            self._rebalance_deadline_ms = now_ms + self._rebalance_timeout_ms()
            if not self.members:
                self._retry_ms = now_ms + RETRY_MS
        elif self._held is not None:
            self._answer(self._held[0], JoinAnswer(code=codes.COORDINATOR_NOT_AVAILABLE))
            self._held = None
        else:
            # Nobody is told what a server that comes back would not know.
            for each in self.members.values():
                each.assignment = b""
                if each.syncing is not None:
                    self._answer(each.syncing, SyncAnswer(code=codes.COORDINATOR_NOT_AVAILABLE))
                    each.syncing = None
                    self._refresh(now_ms, each)
            self._prepare(now_ms)

    def _settle(self, now_ms: float, *, begins: bool) -> None:
        if begins:
            if self.members:
                self._begin(now_ms)
        elif self._held is not None:
            self._answer(*self._held)
            self._held = None
        else:
            self._assigned(now_ms)
