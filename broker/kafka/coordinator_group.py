"""One group of Kafka's classic protocol, as a state machine: no sockets, no clock, no disk.

Requests come in with the present time and a *waiter*; `take_answers` gives what is to be
told to whom. Whatever has to be on disk before that stands in `unsaved`: then nothing is
asked of the group before `saved` or `not_saved` says how it went. Nobody waits for ever:
`deadline_ms` is when `tick` has something to do at the latest.

The rules are Kafka's (``GroupMetadataManager``, KIP-62, KIP-345, KIP-394, KIP-814), but for
these, which suit a broker at hand: the initial delay is counted from the last newcomer; a
client that was given an id and does not join is waited for one second at the most; one whose
connection closes while its join waits has a session from then on, and no longer than that; one
of which nothing was heard since the server came back is waited for three seconds from then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from seawall.broker.kafka import codes
from seawall.broker.kafka.coordinator_rebalance import Rebalancing
from seawall.broker.kafka.coordinator_states import State
from seawall.broker.kafka.coordinator_values import JoinAnswer, JoinRequest, Waiter, WireMember

# How long others wait for a client that was given an id, and has not joined with it yet.
PENDING_WAIT_MS = 1_000
# The initial delay begins anew with each newcomer, so many times over at the most.
MOST_DELAYS = 10


class Group(Rebalancing):
    """A group, as requests and the time see it."""

    _delay_end_ms = math.inf

    # -- what becomes of it ----------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost by forgetting it."""
        if self.state is State.DEAD:
            return True
        is_empty = self.state is State.EMPTY and not self.pending
        return is_empty and self.unsaved is None and self._retry_ms == math.inf

    @property
    def deadline_ms(self) -> float:
        """When `tick` is due."""
        times = [self._retry_ms, *(each.expires_ms for each in self.members.values())]
        times += [holds for holds, _ in self.pending.values()]
        if self.state is State.PREPARING:
            times.append(self._rebalance_deadline_ms)
            waits = [until for _, until in self.pending.values()]
            times.append(max([self._not_before_ms, self._joined_at_ms(), *waits]))
        elif self.state in (State.COMPLETING, State.STABLE):
            times.append(self._sync_deadline_ms)
        return min(times)

    # -- joining ---------------------------------------------------------------------

    def join(self, now_ms: float, request: JoinRequest, waiter: Waiter) -> None:
        """Become a member, or ask again what it is to do. Answered with a `JoinAnswer`."""
        self._check_saved()
        code = self._join(now_ms, request, waiter)
        if code != codes.NONE:
            self._answer(waiter, JoinAnswer(code=code, member_id=request.member_id))

    def _join(self, now_ms: float, request: JoinRequest, waiter: Waiter) -> int:
        settings, member_id = self._settings, request.member_id
        if self.state is State.DEAD:
            return codes.COORDINATOR_NOT_AVAILABLE
        shortest, longest = (
            settings.group_min_session_timeout_ms,
            settings.group_max_session_timeout_ms,
        )
        if not shortest <= request.session_timeout_ms <= longest:
            return codes.INVALID_SESSION_TIMEOUT
        known = self.members.get(member_id)
        if not member_id and request.instance_id is not None:
            known = self.members.get(self._static.get(request.instance_id, ""))
        others = [each for each in self.members.values() if each is not known]
        if not self.protocols.accepts(request, others):
            return codes.INCONSISTENT_GROUP_PROTOCOL
        if not others:
            self.protocols.kind = request.protocol_type
        if not member_id:
            if known is not None:
                self._replace_static(now_ms, known, request, waiter)
                return codes.NONE
            if len(self.members) + len(self.pending) >= settings.group_max_size:
                return codes.GROUP_MAX_SIZE_REACHED
            new_id = self._new_member_id(request.instance_id or request.client_id)
            if request.instance_id is None and request.takes_id_first:
                self.pending[new_id] = (
                    now_ms + request.session_timeout_ms,
                    now_ms + min(PENDING_WAIT_MS, request.session_timeout_ms),
                )
                answer = JoinAnswer(code=codes.MEMBER_ID_REQUIRED, member_id=new_id)
                self._answer(waiter, answer)
                return codes.NONE
            self._add(now_ms, new_id, request, waiter)
            return codes.NONE
        if member_id in self.pending and request.instance_id is None:
            del self.pending[member_id]
            self._add(now_ms, member_id, request, waiter)
            return codes.NONE
        member, code = self._find(member_id, request.instance_id)
        if member is not None:
            self._rejoin(now_ms, member, request, waiter)
        return code

    def _add(self, now_ms: float, member_id: str, request: JoinRequest, waiter: Waiter) -> None:
        member = WireMember(
            member_id=member_id,
            instance_id=request.instance_id,
            client_id=request.client_id,
            client_host=request.client_host,
            session_timeout_ms=request.session_timeout_ms,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            protocols=dict(request.protocols),
        )
        self.members[member_id] = member
        if member.instance_id is not None:
            self._static[member.instance_id] = member_id
        if self.leader is None:
            self.leader = member_id
        self._wait_for_join(now_ms, member, waiter, is_new=True)

    def _wait_for_join(
        self, now_ms: float, member: WireMember, waiter: Waiter, *, is_new: bool = False
    ) -> None:
        self._answer_stale(member)
        member.joining, member.expires_ms = waiter, math.inf
        delay_ms = self._settings.group_initial_rebalance_delay_ms
        was_empty = self.state is State.EMPTY
        self._prepare(now_ms)
        if was_empty:
            self._delay_end_ms = now_ms + MOST_DELAYS * delay_ms
        if was_empty or (is_new and now_ms < self._not_before_ms):
            # Others may be just about to come: several are started together.
            self._not_before_ms = min(
                now_ms + delay_ms, self._delay_end_ms, self._rebalance_deadline_ms
            )
        self._complete_if_due(now_ms)

    def _rejoin(
        self, now_ms: float, member: WireMember, request: JoinRequest, waiter: Waiter
    ) -> None:
        is_same = list(member.protocols.items()) == list(request.protocols.items())
        is_leader = member.member_id == self.leader
        if (self.state is State.COMPLETING and is_same) or (
            self.state is State.STABLE and is_same and not is_leader
        ):
            # It has not seen the answer, or asks twice.
            self._refresh(now_ms, member)
            self._answer(waiter, self._joined(member))
            return
        member.take(request)
        self._wait_for_join(now_ms, member, waiter)

    def _replace_static(
        self, now_ms: float, old: WireMember, request: JoinRequest, waiter: Waiter
    ) -> None:
        """Somebody comes with an instance id that is there: it was started again (KIP-345)."""
        self._answer_waiting(old, codes.FENCED_INSTANCE_ID)
        new = replace(
            old,
            member_id=self._new_member_id(request.instance_id or ""),
            joining=None,
            syncing=None,
            is_heard=True,
        )
        new.take(request)
        del self.members[old.member_id]
        self.members[new.member_id] = new
        self._static[request.instance_id or ""] = new.member_id
        was_leader = self.leader == old.member_id
        if was_leader:
            self.leader = new.member_id
        keeps = self.protocols.choose(self.members.values(), self.leader) == self.protocols.name
        if self.state is not State.STABLE or not keeps:
            self._wait_for_join(now_ms, new, waiter)
            return
        self._refresh(now_ms, new)
        answer = self._joined(new)
        if was_leader:
            # It is not to divide anything: that would be a rebalance. One that does not know
            # of that takes itself for a follower.
            skips = request.can_skip_assignment
            answer = replace(
                answer,
                leader=new.member_id if skips else old.member_id,
                members=answer.members if skips else (),
                skip_assignment=skips,
            )
        self._held = waiter, answer
        self._save(begins=False)

    # -- staying and going -----------------------------------------------------------

    def heartbeat(
        self, now_ms: float, member_id: str, generation: int, instance_id: str | None = None
    ) -> int:
        """Be heard of; the code says whether it has to join again."""
        self._check_saved()
        code = self._check(member_id, generation, instance_id)
        if code == codes.NONE:
            self._refresh(now_ms, self.members[member_id])
            if self.state is State.PREPARING:
                return codes.REBALANCE_IN_PROGRESS
        return code

    def check_commit(
        self, now_ms: float, member_id: str, generation: int, instance_id: str | None = None
    ) -> int:
        """Whether a member may commit. That it still is one, the store checks once more."""
        self._check_saved()
        if generation < 0 and not self.members and self.state is not State.DEAD:
            return codes.NONE  # a consumer that assigns itself, while nobody else is there
        code = self._check(member_id, generation, instance_id)
        if code == codes.NONE:
            self._refresh(now_ms, self.members[member_id])
            if self.state is State.COMPLETING:
                return codes.REBALANCE_IN_PROGRESS
        return code

    def leave(self, now_ms: float, leaving: Sequence[tuple[str, str | None]]) -> list[int]:
        """Members (their id, or none, and their instance id) go; a code for each."""
        self._check_saved()
        found = []
        is_less = False
        for member_id, instance_id in leaving:
            if self.state is State.DEAD:
                found.append(codes.COORDINATOR_NOT_AVAILABLE)
                continue
            if not member_id and instance_id is not None:
                member_id = self._static.get(instance_id, "")
            if instance_id is None and self.pending.pop(member_id, None) is not None:
                is_less = True
                found.append(codes.NONE)
                continue
            member, code = self._find(member_id, instance_id)
            found.append(code)
            if member is not None:
                self._remove(member)
                self._prepare(now_ms)
                is_less = True
        if is_less:
            self._complete_if_due(now_ms)
        return found

    def disconnected(self, now_ms: float, waiter: Waiter) -> None:
        """Nobody hears this waiter's answer any more."""
        self._check_saved()
        for each in self.members.values():
            if waiter in (each.joining, each.syncing):
                each.joining = each.joining if each.joining is not waiter else None
                each.syncing = each.syncing if each.syncing is not waiter else None
                if each.joining is None and each.syncing is None:
                    self._refresh(now_ms, each)

    def tick(self, now_ms: float) -> list[WireMember]:
        """Do what is due. Returns the members that were let go for their silence."""
        self._check_saved()
        if self._retry_ms <= now_ms:
            self._retry_ms = math.inf
            if self.state is State.EMPTY:
                self._save(begins=True)
                return []
        self.pending = {
            member_id: times for member_id, times in self.pending.items() if times[0] > now_ms
        }
        gone = [each for each in self.members.values() if each.expires_ms <= now_ms]
        if self._sync_deadline_ms <= now_ms:
            self._sync_deadline_ms = math.inf
            gone += [each for each in self.members.values() if each.owes_sync and each not in gone]
        for each in gone:
            self._remove(each)
        if gone:
            self._prepare(now_ms)
        self._complete_if_due(now_ms)
        return gone
