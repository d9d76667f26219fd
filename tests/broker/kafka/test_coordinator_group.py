"""One group as a state machine: the rules one by one, and simulated clients at random."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from seawall.broker.group_kept_format import KeptGroup
from seawall.broker.kafka import codes
from seawall.broker.kafka.coordinator_group import PENDING_WAIT_MS, Group
from seawall.broker.kafka.coordinator_rebalance import RETRY_MS, UNHEARD_WAIT_MS
from seawall.broker.kafka.coordinator_states import TRANSITIONS, Event, IllegalMove, State, move
from seawall.broker.kafka.coordinator_values import (
    GroupSettings,
    JoinAnswer,
    JoinRequest,
    SyncAnswer,
    SyncRequest,
    Trouble,
)

SESSION_MS = 1_000
REBALANCE_MS = 5_000
DELAY_MS = 50


def request(member_id: str = "", **changes: Any) -> JoinRequest:
    fields: dict[str, Any] = {
        "member_id": member_id,
        "instance_id": None,
        "client_id": "c",
        "client_host": "127.0.0.1:5",
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": REBALANCE_MS,
        "protocol_type": "consumer",
        "protocols": {"range": b"r", "sticky": b"s"},
    }
    return JoinRequest(**{**fields, **changes})


class Bench:
    """A group, a clock, and a store that works unless it is told otherwise."""

    def __init__(self, **settings: int) -> None:
        numbers = itertools.count(1)
        self.group = Group(
            "g",
            GroupSettings(**{"group_initial_rebalance_delay_ms": DELAY_MS, **settings}),
            lambda prefix: f"{prefix}-{next(numbers)}",
        )
        self.now_ms = 0.0
        self.stored = 0
        self.answers: dict[object, Any] = {}
        self.kept: KeptGroup | None = None

    def restart(self) -> None:
        """The server ends, whatever it was about, and another one goes on."""
        settings, new_member_id = self.group._settings, self.group._new_member_id
        self.group = Group("g", settings, new_member_id)
        if self.kept is not None and self.kept.members:
            self.group.restore(self.now_ms, self.kept)

    def settle(self, trouble: Trouble | None = None) -> None:
        group = self.group
        while group.unsaved is not None:
            if trouble is None:
                self.stored += group.unsaved.begins
                self.kept = replace(group.unsaved.group, generation=self.stored)
                group.saved(self.now_ms, self.stored)
            else:
                group.not_saved(self.now_ms, trouble)
        for waiter, answer in group.take_answers():
            assert waiter not in self.answers, "answered twice"
            self.answers[waiter] = answer

    def join(self, waiter: str, member_id: str = "", **changes: Any) -> Any:
        self.group.join(self.now_ms, request(member_id, **changes), waiter)
        self.settle()
        return self.answers.get(waiter)

    def enter(self, waiter: str, **changes: Any) -> str:
        """Get an id and join with it; the join waits."""
        answer = self.join(waiter + "?", **changes)
        assert answer.code == codes.MEMBER_ID_REQUIRED
        assert self.join(waiter, answer.member_id, **changes) is None
        return str(answer.member_id)

    def sync(self, waiter: str, member_id: str, **changes: Any) -> Any:
        fields: dict[str, Any] = {
            "member_id": member_id,
            "instance_id": None,
            "generation": self.group.generation,
            "protocol_type": "consumer",
            "protocol": self.group.protocols.name,
            "assignments": {},
        }
        self.group.sync(self.now_ms, SyncRequest(**{**fields, **changes}), waiter)
        self.settle()
        return self.answers.get(waiter)

    def heartbeat(self, member_id: str, **changes: Any) -> int:
        generation = changes.pop("generation", self.group.generation)
        return self.group.heartbeat(self.now_ms, member_id, generation, **changes)

    def commits(self, member_id: str, generation: int | None = None) -> int:
        if generation is None:
            generation = self.group.generation
        return self.group.check_commit(self.now_ms, member_id, generation)

    def leave(self, *leaving: tuple[str, str | None]) -> list[int]:
        found = self.group.leave(self.now_ms, leaving)
        self.settle()
        return found

    def wait(self, ms: float) -> None:
        end_ms = self.now_ms + ms
        for _ in range(10_000):
            due_ms = self.group.deadline_ms
            if due_ms > end_ms:
                break
            self.now_ms = max(self.now_ms, due_ms)
            self.group.tick(self.now_ms)
            self.settle()
        else:
            pytest.fail("it is always due")
        self.now_ms = end_ms

    def stable(self, *names: str) -> list[str]:
        """Members in a stable group; the first is its leader."""
        ids = [self.enter(name) for name in names]
        self.wait(DELAY_MS)
        for name, member_id in reversed(list(zip(names, ids, strict=True))):
            assert self.answers[name].code == codes.NONE
            self.sync(f"{name} sync", member_id, assignments={each: each.encode() for each in ids})
        assert self.group.state is State.STABLE
        return ids


# -- the table -----------------------------------------------------------------------


def test_what_is_not_in_the_table_is_refused() -> None:
    illegal = [(s, e) for s in State for e in Event if (s, e) not in TRANSITIONS]
    assert (State.DEAD, Event.REBALANCE) in illegal
    for state, event in illegal:
        with pytest.raises(IllegalMove) as caught:
            move(state, event)
        assert (caught.value.state, caught.value.event) == (state, event)


def test_nothing_is_asked_of_a_group_that_is_being_stored() -> None:
    bench = Bench(group_initial_rebalance_delay_ms=0)
    bench.group.join(0, request(takes_id_first=False), "a")
    assert bench.group.unsaved is not None
    assert bench.group.take_answers() == []
    with pytest.raises(RuntimeError):
        bench.group.heartbeat(0, "c-1", 1)
    bench.settle()
    assert bench.answers["a"].generation == 1


# -- joining -------------------------------------------------------------------------


def test_a_lone_member_leads_a_generation_after_the_delay() -> None:
    bench = Bench()
    member_id = bench.enter("a")
    bench.wait(DELAY_MS - 1)
    assert "a" not in bench.answers
    bench.wait(1)
    answer = bench.answers["a"]
    assert answer == JoinAnswer(
        code=codes.NONE,
        member_id=member_id,
        generation=1,
        protocol_type="consumer",
        protocol="range",
        leader=member_id,
        members=((member_id, None, b"r"),),
    )


def test_those_who_come_together_share_the_first_generation() -> None:
    bench = Bench()
    ids = {}
    for name in "abc":
        ids[name] = bench.enter(name)
        bench.wait(DELAY_MS - 10)
    bench.wait(10)
    assert {bench.answers[name].generation for name in "abc"} == {1}
    assert {bench.answers[name].leader for name in "abc"} == {ids["a"]}
    assert [len(bench.answers[name].members) for name in "abc"] == [3, 0, 0]


def test_the_delay_ends_although_there_are_always_newcomers() -> None:
    bench = Bench()
    for number in range(20):
        bench.enter(f"m{number}")
        bench.wait(DELAY_MS - 1)
    assert bench.answers["m0"].code == codes.NONE


def test_an_old_client_joins_without_an_id_first() -> None:
    bench = Bench(group_initial_rebalance_delay_ms=0)
    assert bench.join("a", takes_id_first=False).generation == 1


@pytest.mark.parametrize("session_ms", [499, 1_800_001])
def test_a_session_out_of_bounds(session_ms: int) -> None:
    assert Bench().join("a", session_timeout_ms=session_ms).code == codes.INVALID_SESSION_TIMEOUT


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol_type": ""},
        {"protocols": {}},
        {"protocol_type": "connect"},
        {"protocols": {"other": b""}},
    ],
)
def test_a_protocol_that_does_not_fit(changes: dict[str, Any]) -> None:
    bench = Bench()
    bench.stable("a")
    assert bench.join("b", **changes).code == codes.INCONSISTENT_GROUP_PROTOCOL
    assert bench.group.state is State.STABLE


def test_the_protocol_that_most_prefer_among_those_that_all_know() -> None:
    bench = Bench()
    bench.enter("a", protocols={"x": b"", "range": b"1", "sticky": b"2"})
    bench.enter("b", protocols={"sticky": b"3", "range": b"4"})
    bench.enter("c", protocols={"sticky": b"5", "range": b"6"})
    bench.wait(DELAY_MS)
    assert bench.answers["b"].protocol == "sticky"
    assert [metadata for _, _, metadata in bench.answers["a"].members] == [b"2", b"3", b"5"]


def test_no_more_members_than_there_may_be() -> None:
    bench = Bench(group_max_size=2)
    bench.stable("a", "b")
    assert bench.join("c").code == codes.GROUP_MAX_SIZE_REACHED
    # Ids that were given out count as well.
    bench = Bench(group_max_size=1)
    assert bench.join("a").code == codes.MEMBER_ID_REQUIRED
    assert bench.join("b").code == codes.GROUP_MAX_SIZE_REACHED
    bench.wait(SESSION_MS)
    assert bench.join("c").code == codes.MEMBER_ID_REQUIRED


def test_an_id_that_was_not_given_out_or_has_lapsed() -> None:
    bench = Bench()
    assert bench.join("a", "c-9").code == codes.UNKNOWN_MEMBER_ID
    given = bench.join("b").member_id
    bench.wait(SESSION_MS)
    assert bench.group.is_idle
    assert bench.join("c", given).code == codes.UNKNOWN_MEMBER_ID


def test_others_do_not_wait_long_for_a_client_that_only_has_an_id() -> None:
    bench = Bench()
    bench.enter("a", session_timeout_ms=30_000)
    bench.join("b", session_timeout_ms=30_000)
    bench.wait(PENDING_WAIT_MS - 1)
    assert "a" not in bench.answers
    bench.wait(1)
    assert bench.answers["a"].generation == 1
    # It may still come, which is a rebalance.
    assert bench.join("b again", bench.answers["b"].member_id, session_timeout_ms=30_000) is None
    assert bench.group.state is State.PREPARING


def test_asking_again_gives_the_same_answer() -> None:
    bench = Bench()
    leader, other = bench.stable("a", "b")
    again = bench.join("b again", other)
    assert (again.code, again.generation, again.members) == (codes.NONE, 1, ())
    assert bench.group.state is State.STABLE
    # The leader that joins again wants a rebalance.
    assert bench.join("a again", leader) is None
    assert bench.group.state is State.PREPARING


def test_a_member_that_has_changed_begins_a_rebalance() -> None:
    bench = Bench()
    leader, other = bench.stable("a", "b")
    assert bench.join("b again", other, protocols={"range": b"more", "sticky": b"s"}) is None
    assert bench.heartbeat(leader) == codes.REBALANCE_IN_PROGRESS
    assert bench.join("a again", leader).generation == 2
    assert [metadata for _, _, metadata in bench.answers["a again"].members] == [b"r", b"more"]


def test_a_join_over_another_connection_ends_the_older_one() -> None:
    bench = Bench()
    member_id = bench.enter("a")
    assert bench.join("a again", member_id) is None
    assert bench.answers["a"].code == codes.REBALANCE_IN_PROGRESS
    bench.wait(DELAY_MS)
    assert bench.answers["a again"].generation == 1


# -- rebalancing ---------------------------------------------------------------------


def test_who_does_not_join_in_time_is_out() -> None:
    bench = Bench()
    leader, slow = bench.stable("a", "b")
    bench.enter("c")
    for _ in range(int(REBALANCE_MS / 500)):
        assert bench.heartbeat(slow) == codes.REBALANCE_IN_PROGRESS
        assert bench.heartbeat(leader) in (codes.REBALANCE_IN_PROGRESS, codes.UNKNOWN_MEMBER_ID)
        bench.wait(500)
    assert bench.answers["c"].generation == 2
    assert bench.heartbeat(slow) == codes.UNKNOWN_MEMBER_ID
    assert bench.commits(slow) == codes.UNKNOWN_MEMBER_ID


def test_a_leader_that_goes_is_followed_by_another() -> None:
    bench = Bench()
    leader, other = bench.stable("a", "b")
    assert bench.leave((leader, None)) == [codes.NONE]
    assert bench.heartbeat(other) == codes.REBALANCE_IN_PROGRESS
    assert bench.join("b again", other).leader == other


def test_a_leader_that_does_not_divide_in_time_is_out() -> None:
    bench = Bench()
    leader, other = bench.enter("a"), bench.enter("b")
    bench.wait(DELAY_MS)
    assert bench.sync("b sync", other) is None
    for _ in range(int(REBALANCE_MS / 500)):
        bench.heartbeat(leader)
        bench.wait(500)
    assert bench.answers["b sync"].code == codes.REBALANCE_IN_PROGRESS
    assert bench.heartbeat(leader) == codes.UNKNOWN_MEMBER_ID
    assert bench.join("b again", other).leader == other


def test_a_follower_that_does_not_ask_in_time_is_out() -> None:
    bench = Bench()
    leader, other = bench.enter("a"), bench.enter("b")
    bench.wait(DELAY_MS)
    bench.sync("a sync", leader)
    for _ in range(int(REBALANCE_MS / 500)):
        bench.heartbeat(leader)
        bench.heartbeat(other)
        bench.wait(500)
    assert set(bench.group.members) == {leader}


def test_a_newcomer_while_the_leader_divides() -> None:
    bench = Bench()
    leader, other = bench.enter("a"), bench.enter("b")
    bench.wait(DELAY_MS)
    assert bench.sync("b sync", other) is None
    bench.enter("c")
    assert bench.answers["b sync"].code == codes.REBALANCE_IN_PROGRESS
    assert bench.sync("a sync", leader).code == codes.REBALANCE_IN_PROGRESS


def test_a_sync_after_the_others_gets_what_the_leader_said() -> None:
    bench = Bench()
    leader, other = bench.enter("a"), bench.enter("b")
    bench.wait(DELAY_MS)
    assert bench.sync("a sync", leader, assignments={other: b"yours"}).assignment == b""
    late = bench.sync("b sync", other)
    assert late == SyncAnswer(
        code=codes.NONE, protocol_type="consumer", protocol="range", assignment=b"yours"
    )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"generation": 0}, codes.ILLEGAL_GENERATION),
        ({"generation": 2}, codes.ILLEGAL_GENERATION),
        ({"member_id": "c-9"}, codes.UNKNOWN_MEMBER_ID),
        ({"instance_id": "i"}, codes.UNKNOWN_MEMBER_ID),
        ({"protocol": "sticky"}, codes.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": "connect"}, codes.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol": None, "protocol_type": None}, codes.NONE),
    ],
)
def test_a_sync_that_does_not_fit(changes: dict[str, Any], code: int) -> None:
    bench = Bench()
    [member_id] = bench.stable("a")
    assert bench.sync("x", **{"member_id": member_id, **changes}).code == code


# -- staying and going ---------------------------------------------------------------


def test_silence_ends_a_session_and_heartbeats_keep_it() -> None:
    bench = Bench()
    leader, silent = bench.stable("a", "b")
    for _ in range(4):
        bench.wait(SESSION_MS / 3)
        heard = bench.heartbeat(leader)
    assert heard == codes.REBALANCE_IN_PROGRESS
    assert bench.heartbeat(silent) == codes.UNKNOWN_MEMBER_ID


def test_a_commit_is_a_sign_of_life() -> None:
    bench = Bench()
    [member_id] = bench.stable("a")
    for _ in range(9):
        bench.wait(SESSION_MS / 2)
        assert bench.commits(member_id) == codes.NONE


def test_who_may_commit_and_when() -> None:
    bench = Bench()
    assert bench.commits("", -1) == codes.NONE, "nobody is there"
    assert bench.commits("c-9", 3) == codes.UNKNOWN_MEMBER_ID
    member_id = bench.enter("a")
    assert bench.commits("", -1) == codes.UNKNOWN_MEMBER_ID
    bench.wait(DELAY_MS)
    assert bench.commits(member_id) == codes.REBALANCE_IN_PROGRESS
    bench.sync("s", member_id)
    assert bench.commits(member_id) == codes.NONE
    assert bench.commits(member_id, 0) == codes.ILLEGAL_GENERATION
    bench.enter("b")
    assert bench.group.state is State.PREPARING
    assert bench.commits(member_id) == codes.NONE, "the time to commit before giving up"


def test_leaving_several_at_once() -> None:
    bench = Bench()
    ids = bench.stable("a", "b")
    pending = bench.join("c").member_id
    leaving = [(ids[0], None), ("c-99", None), (pending, None), ("", "i"), (ids[1], "i")]
    unknown = codes.UNKNOWN_MEMBER_ID
    assert bench.leave(*leaving) == [codes.NONE, unknown, codes.NONE, unknown, unknown]
    assert bench.leave((ids[1], None)) == [codes.NONE]
    assert (bench.group.state, bench.group.is_idle) == (State.EMPTY, True)


def test_leaving_while_the_join_waits() -> None:
    bench = Bench()
    leader, other = bench.stable("a", "b")
    assert bench.join("b again", other, protocols={"range": b"x"}) is None
    assert bench.leave((other, None)) == [codes.NONE]
    assert bench.answers["b again"].code == codes.UNKNOWN_MEMBER_ID
    assert bench.join("a again", leader).generation == 2


def test_a_client_that_is_gone_while_its_join_waits_has_one_session_more() -> None:
    bench = Bench()
    leader, other = bench.stable("a", "b")
    bench.join("b again", other, protocols={"range": b"x"})
    bench.group.disconnected(bench.now_ms, "b again")
    assert bench.heartbeat(leader) == codes.REBALANCE_IN_PROGRESS
    assert bench.join("a again", leader) is None
    bench.wait(SESSION_MS)
    assert bench.answers["a again"].generation == 2
    assert "b again" not in bench.answers


def test_dropping_answers_whoever_waits() -> None:
    bench = Bench()
    bench.enter("a")
    bench.group.drop(codes.NOT_COORDINATOR)
    bench.settle()
    assert bench.answers["a"].code == codes.NOT_COORDINATOR
    assert bench.group.is_idle
    assert bench.join("b").code == codes.COORDINATOR_NOT_AVAILABLE
    assert bench.sync("c", "c-1").code == codes.COORDINATOR_NOT_AVAILABLE
    assert bench.heartbeat("c-1") == codes.COORDINATOR_NOT_AVAILABLE
    assert bench.leave(("c-1", None)) == [codes.COORDINATOR_NOT_AVAILABLE]


# -- static members ------------------------------------------------------------------


def static(bench: Bench, *names: str) -> list[str]:
    """Static members, each of the instance of its name, in a stable group."""
    for name in names:
        assert bench.join(name, instance_id=name) is None
    bench.wait(DELAY_MS)
    ids = [bench.answers[name].member_id for name in names]
    for name, member_id in reversed(list(zip(names, ids, strict=True))):
        given = {each: each.encode() for each in ids}
        bench.sync(f"{name} sync", member_id, instance_id=name, assignments=given)
    return ids


def test_a_static_member_that_is_started_again_keeps_its_place() -> None:
    bench = Bench()
    leader, follower = static(bench, "a", "b")
    again = bench.join("b2", instance_id="b")
    assert (again.code, again.generation, again.leader) == (codes.NONE, 1, leader)
    assert again.member_id != follower
    assert bench.sync("b2 sync", again.member_id, instance_id="b").assignment == follower.encode()
    # The one before is fenced.
    assert bench.heartbeat(follower, instance_id="b") == codes.FENCED_INSTANCE_ID
    assert bench.heartbeat(follower) == codes.UNKNOWN_MEMBER_ID
    assert bench.commits(follower) == codes.UNKNOWN_MEMBER_ID
    assert bench.join("b1", follower, instance_id="b").code == codes.FENCED_INSTANCE_ID
    assert bench.leave((follower, "b")) == [codes.FENCED_INSTANCE_ID]
    assert bench.heartbeat(again.member_id, instance_id="b") == codes.NONE


@pytest.mark.parametrize("can_skip", [True, False])
def test_a_static_leader_that_is_started_again_divides_nothing(can_skip: bool) -> None:
    bench = Bench()
    leader, follower = static(bench, "a", "b")
    again = bench.join("a2", instance_id="a", can_skip_assignment=can_skip)
    assert (again.code, again.generation, again.skip_assignment) == (codes.NONE, 1, can_skip)
    if can_skip:
        assert again.leader == again.member_id
        assert {each for each, _, _ in again.members} == {again.member_id, follower}
    else:
        assert (again.leader, again.members) == (leader, ())
    assert bench.group.leader == again.member_id


def test_a_static_member_that_wants_another_protocol_begins_a_rebalance() -> None:
    bench = Bench()
    static(bench, "a", "b")
    assert bench.join("b2", instance_id="b", protocols={"sticky": b""}) is None
    assert bench.group.state is State.PREPARING


def test_a_static_member_that_comes_twice_while_its_join_waits() -> None:
    bench = Bench()
    assert bench.join("a", instance_id="a") is None
    assert bench.join("a2", instance_id="a") is None
    assert bench.answers["a"].code == codes.FENCED_INSTANCE_ID
    bench.wait(DELAY_MS)
    assert bench.answers["a2"].generation == 1
    assert list(bench.group.members) == [bench.answers["a2"].member_id]


def test_a_static_member_may_miss_a_rebalance() -> None:
    bench = Bench()
    leader, away = static(bench, "a", "b")
    long = {"session_timeout_ms": 20 * REBALANCE_MS}
    away = bench.join("b2", instance_id="b", **LONG).member_id
    bench.enter("c", **long)
    assert bench.join("a2", leader, instance_id="a", **LONG) is None
    bench.wait(REBALANCE_MS)
    assert bench.answers["a2"].generation == 2
    assert away in {member_id for member_id, _, _ in bench.answers["a2"].members}


def test_static_members_leave_by_their_instance_id() -> None:
    bench = Bench()
    static(bench, "a", "b")
    assert bench.leave(("", "a"), ("", "b")) == [codes.NONE, codes.NONE]
    assert bench.group.state is State.EMPTY


# -- the store -----------------------------------------------------------------------


def test_a_group_that_others_hold() -> None:
    bench = Bench()
    bench.group.join(0, request(takes_id_first=False), "a")
    bench.group.tick(DELAY_MS)
    bench.settle(Trouble.HELD)
    assert bench.answers["a"].code == codes.INCONSISTENT_GROUP_PROTOCOL
    assert bench.group.is_idle


def test_a_group_that_others_took() -> None:
    bench = Bench()
    member_id = bench.enter("a")
    bench.wait(DELAY_MS)
    fields = {"protocol_type": None, "protocol": None, "assignments": {}, "instance_id": None}
    asked = SyncRequest(member_id=member_id, generation=1, **fields)  # type: ignore[arg-type]
    bench.group.sync(bench.now_ms, asked, "s")
    bench.settle(Trouble.FENCED)
    assert bench.answers["s"].code == codes.UNKNOWN_MEMBER_ID
    assert bench.group.state is State.DEAD


def test_a_full_disk_when_a_generation_begins() -> None:
    bench = Bench()
    member_id = bench.enter("a")
    bench.group.tick(DELAY_MS)
    bench.settle(Trouble.STORAGE)
    assert bench.answers["a"].code == codes.COORDINATOR_NOT_AVAILABLE
    bench.now_ms = DELAY_MS
    assert bench.join("a again", member_id).generation == 1


def test_a_full_disk_when_all_have_gone() -> None:
    bench = Bench()
    [member_id] = bench.stable("a")
    bench.group.leave(bench.now_ms, [(member_id, None)])
    bench.settle(Trouble.STORAGE)
    assert not bench.group.is_idle
    bench.wait(RETRY_MS)
    assert (bench.group.is_idle, bench.stored) == (True, 2)


def test_a_full_disk_when_the_leader_has_divided() -> None:
    """Nobody is told what the next server would not know (Kafka, too, begins anew then)."""
    bench = Bench()
    member_id = bench.enter("a")
    bench.wait(DELAY_MS)
    fields = {"protocol_type": None, "protocol": None, "instance_id": None}
    asked = SyncRequest(
        member_id=member_id,
        generation=1,
        assignments={member_id: b"x"},
        **fields,  # type: ignore[arg-type]
    )
    bench.group.sync(bench.now_ms, asked, "s")
    bench.settle(Trouble.STORAGE)
    assert bench.answers["s"] == SyncAnswer(code=codes.COORDINATOR_NOT_AVAILABLE)
    assert bench.group.state is State.PREPARING
    assert bench.heartbeat(member_id) == codes.REBALANCE_IN_PROGRESS
    assert bench.join("a again", member_id).generation == 2
    assert bench.sync("s again", member_id, assignments={member_id: b"y"}).assignment == b"y"


def test_a_full_disk_when_a_static_member_is_replaced() -> None:
    bench = Bench()
    static(bench, "a")
    bench.group.join(bench.now_ms, request(instance_id="a"), "a2")
    bench.settle(Trouble.STORAGE)
    assert bench.answers["a2"].code == codes.COORDINATOR_NOT_AVAILABLE
    assert bench.join("a3", instance_id="a").code == codes.NONE


# -- a server after another ----------------------------------------------------------


def test_members_go_on_without_a_rebalance() -> None:
    bench = Bench()
    leader, other = bench.stable("a", "b")
    bench.restart()
    assert (bench.group.state, bench.group.generation) == (State.STABLE, 1)
    for each in (leader, other):
        assert bench.heartbeat(each) == codes.NONE
        assert bench.commits(each) == codes.NONE
        assert bench.commits(each, 0) == codes.ILLEGAL_GENERATION
    assert bench.sync("b late", other).assignment == other.encode()
    assert (bench.join("b asks again", other).generation, bench.stored) == (1, 1)
    assert bench.group.leader == leader
    assert bench.join("a wants a rebalance", leader) is None


def test_sessions_begin_anew() -> None:
    bench = Bench()
    heard, silent = bench.stable("a", "b")
    bench.now_ms += 100 * SESSION_MS  # nobody counts while no server is there
    bench.restart()
    bench.wait(SESSION_MS - 1)
    assert set(bench.group.members) == {heard, silent}
    assert bench.heartbeat(heard) == codes.NONE
    bench.wait(1)
    assert set(bench.group.members) == {heard}
    assert bench.heartbeat(heard) == codes.REBALANCE_IN_PROGRESS
    assert bench.heartbeat(silent) == codes.UNKNOWN_MEMBER_ID
    assert bench.join("a again", heard).generation == 2


def test_those_who_had_synced_owe_nothing_after_a_restart() -> None:
    bench = Bench()
    leader, other = bench.stable("a", "b")
    bench.restart()
    for _ in range(int(2 * REBALANCE_MS / 500)):
        assert bench.heartbeat(leader) == bench.heartbeat(other) == codes.NONE
        bench.wait(500)
    assert bench.group.state is State.STABLE


def test_a_static_member_that_restarts_with_the_server_keeps_its_place() -> None:
    bench = Bench()
    leader, follower = static(bench, "a", "b")
    bench.restart()
    again = bench.join("b2", instance_id="b")
    assert (again.code, again.generation, again.leader) == (codes.NONE, 1, leader)
    assert bench.sync("b2 sync", again.member_id, instance_id="b").assignment == follower.encode()
    # And it stays fenced across the next one.
    bench.restart()
    assert bench.heartbeat(follower, instance_id="b") == codes.FENCED_INSTANCE_ID
    assert bench.heartbeat(again.member_id, instance_id="b") == codes.NONE
    assert bench.heartbeat(leader, instance_id="a") == codes.NONE


def test_a_rebalance_that_was_not_stored_has_not_begun() -> None:
    bench = Bench()
    leader, other = bench.stable("a", "b")
    bench.enter("c")
    assert bench.group.state is State.PREPARING
    bench.restart()
    assert bench.heartbeat(leader) == bench.heartbeat(other) == codes.NONE
    # Whoever had asked asks again.
    assert bench.join("a again", leader) is None
    assert bench.heartbeat(other) == codes.REBALANCE_IN_PROGRESS


def test_a_generation_that_had_begun_goes_on() -> None:
    """Whoever was told of it, and whoever was not: nobody else has to join again."""
    bench = Bench()
    leader, other = bench.enter("a"), bench.enter("b")
    bench.wait(DELAY_MS)
    bench.restart()
    assert (bench.group.state, bench.group.generation) == (State.COMPLETING, 1)
    assert bench.heartbeat(other) == codes.NONE
    assert bench.heartbeat(other, generation=0) == codes.ILLEGAL_GENERATION
    assert bench.commits(other) == codes.REBALANCE_IN_PROGRESS
    told = bench.join("a was not told", leader)
    assert (told.generation, len(told.members)) == (1, 2)
    assert bench.sync("b sync", other) is None
    assert bench.sync("a sync", leader, assignments={other: b"yours"}).code == codes.NONE
    assert bench.answers["b sync"].assignment == b"yours"
    assert bench.stored == 1


def test_a_generation_that_had_begun_and_whose_leader_is_gone() -> None:
    bench = Bench()
    leader, other = bench.enter("a"), bench.enter("b")
    bench.wait(DELAY_MS)
    bench.restart()
    for _ in range(int(REBALANCE_MS / 500)):
        bench.heartbeat(leader)  # it lives, and divides nothing
        bench.heartbeat(other)
        bench.wait(500)
    assert bench.group.members == {}
    bench.restart()
    assert bench.group.is_idle


LONG = {"session_timeout_ms": 30_000}


def kept_group() -> tuple[Bench, list[str]]:
    """A stable group of two with long sessions, in the next server, and its members' ids."""
    bench = Bench()
    ids = [bench.enter(name, **LONG) for name in "ab"]
    bench.wait(DELAY_MS)
    for each in ids:
        bench.sync(each, each)
    bench.restart()
    return bench, ids


def test_who_joins_waits_for_nobody_who_has_not_come_back() -> None:
    """A client that gave its id up while no server was there does not wait for itself."""
    bench, ids = kept_group()
    bench.enter("c", **LONG)
    bench.wait(UNHEARD_WAIT_MS - 1)
    assert "c" not in bench.answers
    bench.wait(1)
    assert bench.answers["c"].generation == 2
    assert set(bench.group.members) == {bench.answers["c"].member_id}
    assert bench.heartbeat(ids[0]) == codes.UNKNOWN_MEMBER_ID


def test_who_joins_waits_for_those_who_have_come_back() -> None:
    bench, ids = kept_group()
    assert bench.heartbeat(ids[0]) == codes.NONE
    bench.enter("c", **LONG)
    bench.wait(UNHEARD_WAIT_MS)
    assert "c" not in bench.answers
    assert set(bench.group.members) > set(ids)
    assert bench.join("a again", ids[0], **LONG).generation == 2
    assert ids[1] not in bench.group.members


def test_a_static_member_that_has_not_come_back_is_passed_over_and_stays() -> None:
    bench = Bench()
    leader, away = static(bench, "a", "b")
    away = bench.join("b2", instance_id="b", **LONG).member_id
    bench.restart()
    assert bench.join("a2", leader, instance_id="a", **LONG) is None
    bench.wait(UNHEARD_WAIT_MS)
    assert bench.answers["a2"].generation == 2
    assert away in bench.group.members


def test_nobody_is_hurried_if_nobody_waits() -> None:
    bench, ids = kept_group()
    bench.leave((ids[0], None))
    bench.wait(UNHEARD_WAIT_MS + 1_000)
    assert bench.heartbeat(ids[1]) == codes.REBALANCE_IN_PROGRESS
    assert bench.join("b again", ids[1], **LONG).generation == 2


def test_the_last_one_to_leave_leaves_nothing_to_go_on_with() -> None:
    bench = Bench()
    [member_id] = bench.stable("a")
    bench.leave((member_id, None))
    bench.restart()
    assert bench.heartbeat(member_id) == codes.UNKNOWN_MEMBER_ID


def test_who_left_before_the_others_had_joined_is_there_until_its_session_ends() -> None:
    """As with Kafka: a leave is stored with the generation that it begins."""
    bench = Bench()
    leader, other = bench.stable("a", "b")
    bench.leave((other, None))
    bench.restart()
    assert bench.heartbeat(leader) == codes.NONE
    bench.wait(SESSION_MS / 2)
    bench.heartbeat(leader)
    bench.wait(SESSION_MS / 2)
    assert bench.heartbeat(leader) == codes.REBALANCE_IN_PROGRESS


# -- simulated clients at random -----------------------------------------------------

PARTITIONS = tuple(range(4))
AWAY = st.sampled_from([1, 300, SESSION_MS, 3 * REBALANCE_MS])


@dataclass(eq=False, repr=False)
class Client:
    """A consumer, as far as its group is concerned."""

    name: str
    instance_id: str | None
    member_id: str = ""
    generation: int = -1
    protocol: str = ""
    # out, joining, joined, syncing or stable
    state: str = "out"
    members: tuple[str, ...] = ()
    owned: frozenset[int] = frozenset()
    waiter: object = None
    metadata: bytes = b"1"
    beaten_ms: float = 0.0

    def __repr__(self) -> str:
        return self.name

    def reset(self) -> None:
        self.member_id, self.generation, self.state = "", -1, "out"
        self.owned, self.waiter = frozenset(), None


class Clients(RuleBasedStateMachine):
    """Clients that come, go, fall silent, are killed, and commit; a disk that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.now_ms = 0.0
        self.group = self.new_group()
        self.clients: list[Client] = []
        self.waiting: dict[object, tuple[Client, float]] = {}
        self.instances = itertools.count(1)
        # What is on disk.
        self.stored_generation = 0
        self.stored_members: set[str] = set()
        self.stored: KeptGroup | None = None
        # Commits that the group let through, and that are not on disk yet.
        self.on_their_way: list[tuple[Client, str, int, frozenset[int]]] = []
        self.newest_told = 0
        # Whoever has been a member, as it saw itself.
        self.memories: list[tuple[str, int, frozenset[int], Client]] = []

    def new_group(self) -> Group:
        return Group(
            "g",
            GroupSettings(group_initial_rebalance_delay_ms=DELAY_MS),
            lambda prefix: f"{prefix}-{next(self.numbers)}",
        )

    @property
    def is_free(self) -> bool:
        return self.group.unsaved is None

    # -- what the group does -----------------------------------------------------------

    def deliver(self) -> None:
        for waiter, answer in self.group.take_answers():
            client, _ = self.waiting.pop(waiter)  # each is answered once
            if client.waiter is waiter:
                client.waiter = None
                self.hear(client, answer)
        if self.group.state is State.DEAD:
            self.group = self.new_group()

    def hear(self, client: Client, answer: JoinAnswer | SyncAnswer) -> None:
        code = answer.code
        if code == codes.MEMBER_ID_REQUIRED:
            client.member_id, client.state = answer.member_id, "out"  # type: ignore[union-attr]
        elif code in (codes.UNKNOWN_MEMBER_ID, codes.INCONSISTENT_GROUP_PROTOCOL):
            client.reset()
        elif code in (codes.FENCED_INSTANCE_ID,):
            self.clients.remove(client)  # it ends with an error
        elif code in (codes.REBALANCE_IN_PROGRESS, codes.COORDINATOR_NOT_AVAILABLE):
            client.state = "out"
        elif code == codes.ILLEGAL_GENERATION:
            client.state, client.owned = "out", frozenset()
        else:
            assert code == codes.NONE, code
            if isinstance(answer, JoinAnswer):
                assert answer.generation >= self.newest_told, "a generation of the past"
                assert answer.member_id in self.stored_members, "told before it was stored"
                self.newest_told = answer.generation
                client.member_id, client.generation = answer.member_id, answer.generation
                client.protocol, client.state = str(answer.protocol), "joined"
                client.owned = frozenset()
                is_leader = answer.leader == answer.member_id and not answer.skip_assignment
                client.members = tuple(each for each, _, _ in answer.members) if is_leader else ()
            else:
                client.state = "stable"
                client.owned = frozenset(answer.assignment)
                memory = client.member_id, client.generation, client.owned, client
                self.memories.append(memory)

    def ask(self, client: Client) -> object:
        client.waiter = waiter = object()
        self.waiting[waiter] = client, self.now_ms
        return waiter

    # -- what happens ------------------------------------------------------------------

    @precondition(lambda self: self.is_free and len(self.clients) < 5)
    @rule(is_static=st.booleans())
    def start(self, is_static: bool) -> None:
        number = next(self.instances)
        self.clients.append(Client(f"c{number}", f"i{number}" if is_static else None))

    @precondition(lambda self: self.is_free and self.clients)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        self.go_on(data.draw(st.sampled_from(self.clients)))

    def go_on(self, client: Client) -> None:
        """The next thing that a client does by itself."""
        if client.waiter is not None:
            return
        group = self.group
        if client.state == "out":
            client.owned = frozenset()
            join = request(
                client.member_id,
                instance_id=client.instance_id,
                client_id=client.name,
                protocols={"range": client.metadata},
            )
            client.state = "joining"
            group.join(self.now_ms, join, self.ask(client))
        elif client.state == "joined":
            shares: dict[str, bytes] = dict.fromkeys(client.members, b"")
            for number, partition in enumerate(PARTITIONS):
                if client.members:
                    member = client.members[number % len(client.members)]
                    shares[member] += bytes([partition])
            self.sync(client, shares)
        elif client.state == "stable":
            self.beat(client)
        self.deliver()

    def sync(self, client: Client, shares: Mapping[str, bytes]) -> None:
        client.state = "syncing"
        asked = SyncRequest(
            member_id=client.member_id,
            instance_id=client.instance_id,
            generation=client.generation,
            protocol_type="consumer",
            protocol=client.protocol,
            assignments=shares,
        )
        self.group.sync(self.now_ms, asked, self.ask(client))

    def beat(self, client: Client) -> None:
        client.beaten_ms = self.now_ms
        code = self.group.heartbeat(
            self.now_ms, client.member_id, client.generation, client.instance_id
        )
        if code == codes.NONE:
            assert client.generation == self.stored_generation
            assert client.member_id in self.stored_members
        else:
            self.hear(client, SyncAnswer(code=code))

    @precondition(lambda self: self.is_free and any(c.state == "stable" for c in self.clients))
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from([c for c in self.clients if c.state == "stable"]))
        code = self.group.check_commit(
            self.now_ms, client.member_id, client.generation, client.instance_id
        )
        if code == codes.NONE:
            commit = client, client.member_id, client.generation, client.owned
            self.on_their_way.append(commit)
        else:
            self.hear(client, SyncAnswer(code=code))

    @precondition(lambda self: self.is_free and self.memories)
    @rule(data=st.data(), is_commit=st.booleans())
    def speak_late(self, data: st.DataObject, is_commit: bool) -> None:
        """A request of the past arrives, of whoever it may have been."""
        member_id, generation, owned, client = data.draw(st.sampled_from(self.memories))
        if is_commit:
            code = self.group.check_commit(self.now_ms, member_id, generation)
            self.on_their_way.append((client, member_id, generation, owned))
        else:
            code = self.group.heartbeat(self.now_ms, member_id, generation)
        if (generation, member_id in self.stored_members) != (self.stored_generation, True):
            assert code not in (codes.NONE, codes.REBALANCE_IN_PROGRESS)

    @precondition(lambda self: self.is_free and self.clients)
    @rule(rounds=st.integers(1, 6))
    def work(self, rounds: int) -> None:
        """For a while everybody does what it should, and the disk works."""
        for _ in range(rounds):
            for client in list(self.clients):
                if client in self.clients:
                    self.go_on(client)
                while not self.is_free:
                    self.store(None)
            self.pass_time(self.now_ms + DELAY_MS)
            while not self.is_free:
                self.store(None)

    @precondition(lambda self: self.on_their_way)
    @rule(data=st.data())
    def store_commit(self, data: st.DataObject) -> None:
        """Also while a generation is being stored: whichever transaction is first."""
        number = data.draw(st.integers(0, len(self.on_their_way) - 1))
        client, member_id, generation, owned = self.on_their_way.pop(number)
        if generation != self.stored_generation or member_id not in self.stored_members:
            return
        assert generation >= self.newest_told, "others have been told of a later generation"
        for each in self.clients:
            if each is not client and each.generation == generation:
                assert not each.owned & owned, "somebody else reads what this one commits"

    @precondition(lambda self: self.is_free and self.clients)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.group.leave(self.now_ms, [(client.member_id, client.instance_id)])
        if client.waiter is None:
            client.reset()
        self.deliver()

    @precondition(lambda self: self.is_free and self.clients)
    @rule(data=st.data(), is_heard=st.booleans(), restarts=st.booleans())
    def kill(self, data: st.DataObject, is_heard: bool, restarts: bool) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.clients.remove(client)
        if is_heard and client.waiter is not None:
            self.group.disconnected(self.now_ms, client.waiter)
            del self.waiting[client.waiter]
        client.waiter = None  # if it is answered all the same, nobody hears it
        if restarts:
            self.clients.append(Client(client.name, client.instance_id))
        self.deliver()

    @precondition(lambda self: self.is_free and self.clients)
    @rule(data=st.data(), metadata=st.sampled_from([b"1", b"2"]))
    def subscribe(self, data: st.DataObject, metadata: bytes) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.metadata = metadata
        if client.waiter is None and client.state == "stable":
            client.state = "out"

    @precondition(lambda self: self.is_free)
    @rule(ms=st.sampled_from([1, 10, DELAY_MS, 300, SESSION_MS, REBALANCE_MS]))
    def wait(self, ms: float) -> None:
        self.pass_time(self.now_ms + ms)

    def pass_time(self, end_ms: float) -> None:
        ticks = 0
        while self.is_free and self.group.deadline_ms <= end_ms:
            self.now_ms = max(self.now_ms, self.group.deadline_ms)
            self.group.tick(self.now_ms)
            self.deliver()
            ticks += 1
            assert ticks < 100, "it is always due"
        if self.is_free:
            self.now_ms = end_ms

    @precondition(lambda self: not self.is_free)
    @rule(trouble=st.sampled_from([None, None, None, None, *Trouble]))
    def store(self, trouble: Trouble | None) -> None:
        snapshot = self.group.unsaved
        assert snapshot is not None
        if trouble is None:
            if snapshot.begins:
                self.stored_generation += 1
            else:
                assert snapshot.group.generation == self.stored_generation
            self.stored_members = {each.member_id for each in snapshot.group.members}
            self.stored = replace(snapshot.group, generation=self.stored_generation)
            self.group.saved(self.now_ms, self.stored_generation)
        else:
            if trouble is not Trouble.STORAGE:
                # Others have come, and gone again.
                self.stored_generation += 1
                self.stored_members, self.stored = set(), None
            self.group.not_saved(self.now_ms, trouble)
        self.deliver()

    @rule(is_stored=st.booleans(), is_taken=st.sampled_from([False, False, True]), away_ms=AWAY)
    def restart(self, is_stored: bool, is_taken: bool, away_ms: float) -> None:
        """The server ends at any moment, and the next one goes on with what is on disk."""
        snapshot = self.group.unsaved
        if snapshot is not None and is_stored:
            self.stored_generation += snapshot.begins
            self.stored_members = {each.member_id for each in snapshot.group.members}
            self.stored = replace(snapshot.group, generation=self.stored_generation)
        self.on_their_way.clear()
        if is_taken:  # by others, who are gone by now
            self.stored_generation += 1
            self.stored_members, self.stored = set(), None
        self.group = self.new_group()
        self.now_ms += away_ms
        if self.stored_members:
            assert self.stored is not None
            self.group.restore(self.now_ms, self.stored)
        for client, _ in self.waiting.values():
            if client.waiter is not None:
                # It was cut off, and asks again: for the group, or for what the leader said.
                client.waiter = None
                client.state = "joined" if client.state == "syncing" else "out"
        self.waiting.clear()
        self.goes_on_by_itself()

    def goes_on_by_itself(self) -> None:
        """Whoever was settled notices nothing."""
        given = (
            {each.member_id: each.assignment for each in self.stored.members} if self.stored else {}
        )
        for client in self.clients:
            if client.state != "stable" or client.generation != self.stored_generation:
                continue
            if client.member_id not in self.stored_members:
                continue
            assert client.owned == frozenset(given[client.member_id])
            code = self.group.heartbeat(
                self.now_ms, client.member_id, client.generation, client.instance_id
            )
            assert code == codes.NONE
            assert self.group.state is State.STABLE
        assert self.group.deadline_ms > self.now_ms

    # -- what must hold ----------------------------------------------------------------

    @invariant()
    def nobody_shares_a_partition(self) -> None:
        owned = [(c.generation, each) for c in self.clients for each in c.owned]
        assert len(owned) == len(set(owned))

    @invariant()
    def whoever_waits_is_waited_for(self) -> None:
        """There is a time when it will be looked at, and not too far away."""
        if self.waiting and self.is_free:
            assert self.group.deadline_ms < math.inf
            oldest_ms = min(since for _, since in self.waiting.values())
            assert self.now_ms - oldest_ms <= 2 * REBALANCE_MS + SESSION_MS

    def teardown(self) -> None:
        """With everybody at work, it comes to rest, and everything is read by somebody."""
        self.on_their_way.clear()
        for _ in range(200):
            if not self.is_free:
                self.store(None)
                continue
            for client in list(self.clients):
                if self.is_free:
                    self.go_on(client)
            if self.is_free:
                self.pass_time(self.now_ms + SESSION_MS / 4)
        assert not self.waiting
        for client in self.clients:
            assert client.state == "stable", client
        if self.clients:
            owned = [each for client in self.clients for each in client.owned]
            static_away = len(self.group.members) - len(self.clients)
            assert static_away == 0
            assert sorted(owned) == list(PARTITIONS)
        else:
            self.pass_time(self.now_ms + 2 * REBALANCE_MS)
            if not self.is_free:
                self.store(None)
            assert self.group.is_idle


Clients.TestCase.settings = settings(stateful_step_count=50, deadline=None)
TestClients = Clients.TestCase
