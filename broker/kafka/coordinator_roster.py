"""Who is in a group, and what they are to be told: the parts that its decisions use."""

from __future__ import annotations

from collections.abc import Callable

from seawall.broker.group_kept_format import KeptGroup, KeptMember
from seawall.broker.kafka import codes
from seawall.broker.kafka.coordinator_protocols import Protocols
from seawall.broker.kafka.coordinator_states import Event, State, move
from seawall.broker.kafka.coordinator_values import (
    GroupSettings,
    JoinAnswer,
    Snapshot,
    SyncAnswer,
    Waiter,
    WireMember,
)


class Roster:
    """The members of a group. `new_member_id` makes an id, given what it should begin with."""

    def __init__(
        self, name: str, settings: GroupSettings, new_member_id: Callable[[str], str]
    ) -> None:
        self.name = name
        self.state = State.EMPTY
        self.generation = 0
        self.protocols = Protocols()
        self.leader: str | None = None
        self.members: dict[str, WireMember] = {}
        self.unsaved: Snapshot | None = None
        # Those that were given an id, until when it holds, and until when they are waited for.
        self.pending: dict[str, tuple[float, float]] = {}
        self._settings = settings
        self._new_member_id = new_member_id
        self._static: dict[str, str] = {}
        self._answers: list[tuple[Waiter, JoinAnswer | SyncAnswer]] = []
        # A join that is answered once its member's new id is stored.
        self._held: tuple[Waiter, JoinAnswer] | None = None

    def take_answers(self) -> list[tuple[Waiter, JoinAnswer | SyncAnswer]]:
        """What is to be answered now, each once."""
        answers, self._answers = self._answers, []
        return answers

    def drop(self, code: int) -> None:
        """Let go of everybody; whoever waits is answered with this code."""
        for each in list(self.members.values()):
            self._answer_waiting(each, code)
        if self._held is not None:
            self._answer(self._held[0], JoinAnswer(code=code))
        self._held, self.unsaved = None, None
        self.members, self._static, self.pending, self.leader = {}, {}, {}, None
        if self.state is not State.DEAD:
            self.state = move(self.state, Event.DROPPED)

    def _joined(self, member: WireMember) -> JoinAnswer:
        is_leader = member.member_id == self.leader
        return JoinAnswer(
            code=codes.NONE,
            member_id=member.member_id,
            generation=self.generation,
            protocol_type=self.protocols.kind,
            protocol=self.protocols.name,
            leader=self.leader or "",
            members=tuple(
                (each.member_id, each.instance_id, each.protocols[self.protocols.name])
                for each in self.members.values()
            )
            if is_leader
            else (),
        )

    # -- parts -----------------------------------------------------------------------

    def _check_saved(self) -> None:
        if self.unsaved is not None:
            raise RuntimeError(f"group {self.name!r} is being stored")

    def _find(self, member_id: str, instance_id: str | None) -> tuple[WireMember | None, int]:
        """A member that asks, or why there is none: UNKNOWN_MEMBER_ID or FENCED_INSTANCE_ID."""
        if instance_id is not None:
            holder = self._static.get(instance_id)
            if holder is None:
                return None, codes.UNKNOWN_MEMBER_ID
            if holder != member_id:
                return None, codes.FENCED_INSTANCE_ID
        member = self.members.get(member_id)
        if member is None:
            return None, codes.UNKNOWN_MEMBER_ID
        member.is_heard = True
        return member, codes.NONE

    def _check(self, member_id: str, generation: int, instance_id: str | None) -> int:
        if self.state is State.DEAD:
            return codes.COORDINATOR_NOT_AVAILABLE
        member, code = self._find(member_id, instance_id)
        if member is None:
            return code
        return codes.NONE if generation == self.generation else codes.ILLEGAL_GENERATION

    def _refresh(self, now_ms: float, member: WireMember) -> None:
        if member.joining is None and member.syncing is None:
            member.expires_ms = now_ms + member.session_timeout_ms

    def _remove(self, member: WireMember) -> None:
        self._answer_waiting(member, codes.UNKNOWN_MEMBER_ID)
        del self.members[member.member_id]
        if member.instance_id is not None:
            del self._static[member.instance_id]
        if self.leader == member.member_id:
            self.leader = next(iter(self.members), None)

    def _answer_stale(self, member: WireMember) -> None:
        """It asks again, over another connection: its older requests are over."""
        self._answer_waiting(member, codes.REBALANCE_IN_PROGRESS)

    def _answer_waiting(self, member: WireMember, code: int) -> None:
        if member.joining is not None:
            answer = JoinAnswer(code=code, member_id=member.member_id)
            self._answer(member.joining, answer)
        if member.syncing is not None:
            self._answer(member.syncing, SyncAnswer(code=code))
        member.joining = member.syncing = None

    def _answer(self, waiter: Waiter, answer: JoinAnswer | SyncAnswer) -> None:
        self._answers.append((waiter, answer))

    def _save(self, *, begins: bool) -> None:
        members = tuple(
            KeptMember(
                member_id=each.member_id,
                instance_id=each.instance_id,
                client_id=each.client_id,
                client_host=each.client_host,
                session_timeout_ms=each.session_timeout_ms,
                rebalance_timeout_ms=each.rebalance_timeout_ms,
                protocols=each.protocols,
                assignment=b"" if begins else each.assignment,
                owes_sync=each.joining is not None if begins else each.owes_sync,
            )
            for each in self.members.values()
        )
        group = KeptGroup(
            generation=self.generation,
            is_assigned=not begins,
            protocol_type=self.protocols.kind,
            protocol=self.protocols.name,
            leader=self.leader or "",
            members=members,
        )
        self.unsaved = Snapshot(begins=begins, group=group)
