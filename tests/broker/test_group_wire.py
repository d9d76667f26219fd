"""The groups of a server's clients in state.lmdb, next to embedded ones."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from members import all_alive, member

from seawall.broker.errors import (
    GroupBusy,
    GroupFenced,
    GroupHeldByServer,
    InvalidGroupName,
    UnknownGroup,
)
from seawall.broker.group_format import Member, pack_member, unpack_member
from seawall.broker.group_state import Commit, GroupState
from seawall.broker.group_wire import WireCommit, WireGroups
from seawall.broker.state import State
from seawall.wal.files import Files
from seawall.wal.kv import Environment

TWO = {"t": [10, 11]}
_numbers = itertools.count()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    environment = Environment(str(tmp_path / "state.lmdb"), files=Files(), map_size_bytes=1 << 28)
    state = State(environment)
    yield state
    state.close()


@pytest.fixture
def dead() -> set[str]:
    """The ids of servers and members that are dead."""
    return set()


@pytest.fixture
def groups(state: State, dead: set[str]) -> WireGroups:
    return server(state, dead, "s1")


@pytest.fixture
def embedded(state: State) -> GroupState:
    return GroupState(state)


def server(state: State, dead: set[str], server_id: str) -> WireGroups:
    return WireGroups(state, server_id=server_id, is_dead=is_dead(dead))


def is_dead(dead: set[str]) -> Callable[[Member], bool]:
    return lambda each: each.member_id in dead or each.member_id.rpartition("-")[2] in dead


def client(
    name: str = "c", *, server_id: str = "s1", owned: tuple[int, ...] = (), **fields: object
) -> Member:
    values: dict[str, object] = {
        "member_id": f"{name}-{next(_numbers)}-{server_id}",
        "client_id": name,
        "instance_id": None,
        "pid": 7,
        "host": "127.0.0.1:5",
        "boot": "b00t",
        "joined_ms": 17,
        "session_timeout_ms": 1_000,
        "topics": ("t",),
        "partitions": None,
        "assignors": ("kafka:consumer",),
        "target": owned,
        "owned": owned,
    }
    return Member(**{**values, **fields})  # type: ignore[arg-type]


def commit(
    groups: WireGroups, who: Member | None, generation: int, offsets: dict[int, int], meta: str = ""
) -> object:
    [verdict] = groups.commit_all(
        [
            WireCommit(
                group="g",
                member_id=who.member_id if who else "",
                generation=generation,
                offsets={each: (offset, meta) for each, offset in offsets.items()},
            )
        ]
    )
    return verdict


def offsets(groups: WireGroups) -> dict[int, int]:
    return {each: found.offset for each, found in groups.offsets("g").items()}


def test_a_client_is_told_from_an_embedded_member() -> None:
    who = client()
    assert unpack_member(pack_member(who)) == who
    assert (who.is_wire, member().is_wire) == (True, False)


# -- generations ---------------------------------------------------------------------


def test_the_generation_rises_whoever_begins_it(
    groups: WireGroups, embedded: GroupState, dead: set[str]
) -> None:
    one = client()
    assert groups.begin_generation("g", "range", [one]) == 1
    assert groups.begin_generation("g", "range", [one, client()]) == 2
    assert groups.begin_generation("g", "", []) == 3
    who = member()
    assert embedded.join("g", who, {10: 0, 11: 0}, TWO, all_alive).generation == 4
    embedded.leave("g", who.member_id, TWO, all_alive)
    assert groups.begin_generation("g", "range", [one]) == 6
    dead.add("s1")
    assert embedded.delete("g", is_dead(dead))
    dead.clear()
    assert groups.begin_generation("g", "range", [one]) == 7


def test_a_group_that_nobody_has_joined_is_not_made(groups: WireGroups) -> None:
    assert groups.begin_generation("g", "", []) == 0
    assert groups.groups() == []


def test_when_a_member_came_is_kept(groups: WireGroups) -> None:
    first = client()
    groups.begin_generation("g", "range", [first])
    later = Member(**{**{f: getattr(first, f) for f in first.__slots__}, "joined_ms": 99})
    groups.begin_generation("g", "range", [later])
    assert [each.joined_ms for each in groups.members("g")[1]] == [17]


def test_members_change_within_a_generation(groups: WireGroups) -> None:
    old, new = client(), client(owned=(10,))
    generation = groups.begin_generation("g", "range", [old])
    groups.update("g", generation, [new])
    assert groups.members("g") == (generation, [new])


def test_nothing_changes_in_a_generation_that_is_over(
    groups: WireGroups, embedded: GroupState, dead: set[str]
) -> None:
    one = client()
    generation = groups.begin_generation("g", "range", [one])
    groups.begin_generation("g", "range", [one])
    with pytest.raises(GroupFenced) as caught:
        groups.update("g", generation, [one])
    assert caught.value.generation == generation + 1
    with pytest.raises(GroupFenced):
        groups.update("other", 1, [one])


def test_a_bad_name(groups: WireGroups) -> None:
    with pytest.raises(InvalidGroupName):
        groups.begin_generation("", "range", [client()])


# -- one kind at a time --------------------------------------------------------------


def test_embedded_members_keep_clients_out(groups: WireGroups, embedded: GroupState) -> None:
    who = member()
    embedded.join("g", who, {10: 0}, TWO, all_alive)
    with pytest.raises(GroupBusy) as caught:
        groups.begin_generation("g", "range", [client()])
    assert (caught.value.holder_pid, caught.value.members) == (42, 1)
    # Not even by way of leaving before it began.
    assert groups.begin_generation("g", "", []) > 0
    assert embedded.members("g")[1][0].member_id == who.member_id


def test_clients_keep_embedded_members_out(groups: WireGroups, embedded: GroupState) -> None:
    groups.begin_generation("g", "range", [client(), client(instance_id="i")])
    for newcomer in (member(), member(instance_id="i"), member(partitions=[10])):
        with pytest.raises(GroupHeldByServer) as caught:
            embedded.join("g", newcomer, {10: 0}, TWO, all_alive)
        assert (caught.value.holder_pid, caught.value.holder_host) == (7, "127.0.0.1:5")
        assert caught.value.members == 2
    with pytest.raises(GroupBusy):
        embedded.reset("g", {10: 0}, all_alive)
    with pytest.raises(GroupBusy):
        embedded.delete("g", all_alive)


def test_when_the_server_is_dead_the_group_is_free(
    groups: WireGroups, embedded: GroupState, dead: set[str]
) -> None:
    static = client(instance_id="i", owned=(10,))
    generation = groups.begin_generation("g", "range", [static])
    dead.add("s1")
    who = member(instance_id="i")
    joined = embedded.join("g", who, {10: 0, 11: 0}, TWO, is_dead(dead))
    assert joined.generation == generation + 1
    assert [each.member_id for each in embedded.members("g")[1]] == [who.member_id]
    # The server was only stopped. What its clients commit now changes nothing.
    dead.clear()
    assert isinstance(commit(groups, static, generation, {10: 5}), GroupFenced)
    with pytest.raises(GroupFenced):
        groups.update("g", generation, [static])
    with pytest.raises(GroupBusy):
        groups.begin_generation("g", "range", [static])
    assert groups.held({"g": generation}) == set()
    assert offsets(groups)[10] == 0


def test_two_servers(state: State, groups: WireGroups, dead: set[str]) -> None:
    old = client()
    generation = groups.begin_generation("g", "range", [old])
    other = server(state, dead, "s2")
    with pytest.raises(GroupHeldByServer):
        other.begin_generation("g", "range", [client(server_id="s2")])
    dead.add("s1")
    new = client(server_id="s2")
    assert other.begin_generation("g", "range", [new]) == generation + 1
    assert other.members("g")[1] == [new]
    assert isinstance(commit(groups, old, generation + 1, {10: 5}), GroupFenced)


def test_dead_clients_are_let_go_as_other_members_are(
    groups: WireGroups, embedded: GroupState, dead: set[str]
) -> None:
    one = client()
    groups.begin_generation("g", "range", [one])
    assert embedded.refresh("g", TWO, is_dead(dead)) == []
    dead.add("s1")
    assert embedded.refresh("g", TWO, is_dead(dead)) == [one]
    assert embedded.members("g")[1] == []


def test_releasing(state: State, groups: WireGroups, embedded: GroupState) -> None:
    groups.begin_generation("g", "range", [client()])
    server(state, set(), "s2").begin_generation("h", "range", [client(server_id="s2")])
    who = member()
    embedded.join("e", who, {10: 0}, TWO, all_alive)
    groups.release(groups.is_ours)
    assert [len(groups.members(name)[1]) for name in "geh"] == [0, 1, 1]
    found = groups.group("g")
    assert found is not None
    assert (found.generation, found.empty_since_ms > 0) == (2, True)


# -- offsets -------------------------------------------------------------------------


def test_only_a_member_of_the_generation_commits(groups: WireGroups) -> None:
    one, two = client(), client()
    generation = groups.begin_generation("g", "range", [one])
    assert commit(groups, one, generation, {10: 5}, "note") is None
    assert isinstance(commit(groups, two, generation, {10: 6}), GroupFenced)
    groups.begin_generation("g", "range", [one, two])
    assert isinstance(commit(groups, one, generation, {10: 7}), GroupFenced)
    assert commit(groups, two, generation + 1, {11: 1}) is None
    assert offsets(groups) == {10: 5, 11: 1}
    assert groups.offsets("g")[10].metadata == "note"


def test_commits_go_backwards_as_with_kafka(groups: WireGroups) -> None:
    one = client()
    generation = groups.begin_generation("g", "range", [one])
    commit(groups, one, generation, {10: 5})
    commit(groups, one, generation, {10: 3})
    assert offsets(groups) == {10: 3}


def test_without_a_member_only_while_there_is_none(
    groups: WireGroups, embedded: GroupState, state: State, dead: set[str]
) -> None:
    assert commit(groups, None, -1, {10: 5}) is None
    assert [each.name for each in groups.groups()] == ["g"], "trimming has to know it"
    assert state.trim(10, 9) == 0
    assert state.trim(10, 5) == 5
    one = client()
    groups.begin_generation("g", "range", [one])
    assert isinstance(commit(groups, None, -1, {10: 6}), GroupBusy)
    dead.add("s1")
    assert commit(groups, None, -1, {10: 6}) is None
    embedded.join("g", member(), {10: 0}, TWO, is_dead(dead))
    assert isinstance(commit(groups, None, -1, {10: 7}), GroupBusy)
    assert offsets(groups)[10] == 6


def test_several_commits_are_one_transaction(groups: WireGroups) -> None:
    one = client()
    generation = groups.begin_generation("g", "range", [one])
    bad = WireCommit(group="g", member_id="x-s1", generation=generation, offsets={11: (1, "")})
    commits = [
        WireCommit(
            group="g", member_id=one.member_id, generation=generation, offsets={10: (offset, "")}
        )
        for offset in (4, 2)
    ]
    verdicts = groups.commit_all([commits[0], bad, commits[1]])
    assert [type(each) for each in verdicts] == [type(None), GroupFenced, type(None)]
    assert offsets(groups) == {10: 2}, "in their order"


def test_a_simple_group_expires_after_its_last_commit(groups: WireGroups, state: State) -> None:
    commit(groups, None, -1, {10: 5})
    now_ms = state.clock_ms()
    assert not groups.expire("g", now_ms - 60_000)
    assert groups.expire("g", now_ms + 60_000)
    assert offsets(groups) == {}


def test_offsets_of_a_group_that_is_not_there(groups: WireGroups) -> None:
    assert groups.offsets("g") == {}


def test_deleting_offsets(groups: WireGroups, state: State) -> None:
    with pytest.raises(UnknownGroup):
        groups.delete_offsets("g", {10: "t"})
    commit(groups, None, -1, {10: 5, 11: 6, 20: 7})
    assert groups.delete_offsets("g", {10: "t"}) == set()
    assert offsets(groups) == {11: 6, 20: 7}
    assert set(state.committed("g")) == {11, 20}
    groups.begin_generation("g", "range", [client()])
    assert groups.delete_offsets("g", {11: "t", 20: "u"}) == {11}
    assert offsets(groups) == {11: 6}
    groups.begin_generation("g", "", [client(topics=())])
    with pytest.raises(GroupBusy):
        groups.delete_offsets("g", {11: "t"})


# -- servers, embedded consumers and operators at random -----------------------------


class Holders(RuleBasedStateMachine):
    """One group that two servers (one after the other), embedded consumers and operators use.

    Held against a model of who is in it, in which generation, and what it has committed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = str(Path(self.folder.name) / "state.lmdb")
        environment = Environment(path, files=Files(), map_size_bytes=1 << 26)
        self.state = State(environment)
        self.embedded = GroupState(self.state)
        self.dead: set[str] = set()
        self.numbers = itertools.count(1)
        # Whoever was stored last: ids of members, all of one kind.
        self.wire: dict[str, Member] = {}
        self.inside: dict[str, Member] = {}
        self.generation = 0
        self.offsets: dict[int, int] = {}
        # Members with the generations in which they were, some long over.
        self.memories: list[tuple[WireGroups, Member, int]] = []
        self.start_server()

    def start_server(self) -> None:
        self.name = f"s{next(self.numbers)}"
        self.server = server(self.state, self.dead, self.name)

    @property
    def is_dead(self) -> Callable[[Member], bool]:
        return is_dead(self.dead)

    def living_inside(self) -> list[str]:
        return [each for each in self.inside if each not in self.dead]

    def living_wire(self) -> list[str]:
        return [each for each, who in self.wire.items() if not self.is_dead(who)]

    @rule(count=st.integers(0, 2), keeps=st.booleans())
    def begin(self, count: int, keeps: bool) -> None:
        ours = [who for each, who in self.wire.items() if each.endswith("-" + self.name)]
        members = [client(server_id=self.name) for _ in range(count)] + ours * keeps
        holds = bool(ours)
        if not members and not holds:
            self.server.begin_generation("g", "range", members)
            return
        if self.living_inside():
            with pytest.raises(GroupBusy):
                self.server.begin_generation("g", "range", members)
            return
        generation = self.server.begin_generation("g", "range", members)
        assert generation > self.generation
        self.generation = generation
        self.wire, self.inside = {each.member_id: each for each in members}, {}
        self.memories += [(self.server, each, generation) for each in members]

    @rule()
    def kill_server(self) -> None:
        self.dead.add(self.name)
        self.start_server()

    @rule()
    def join_inside(self) -> None:
        who = member()
        if self.living_wire():
            with pytest.raises(GroupHeldByServer):
                self.embedded.join("g", who, {10: 0, 11: 0}, TWO, self.is_dead)
            return
        joined = self.embedded.join("g", who, {10: 0, 11: 0}, TWO, self.is_dead)
        assert joined.generation > self.generation
        self.generation = joined.generation
        self.inside = {each: self.inside[each] for each in self.living_inside()}
        self.inside[who.member_id] = who
        self.wire = {}
        self.offsets = {10: 0, 11: 0} | self.offsets

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), dies=st.booleans())
    def leave_inside(self, data: st.DataObject, dies: bool) -> None:
        member_id = data.draw(st.sampled_from(sorted(self.inside)))
        if dies:
            self.dead.add(member_id)
        else:
            self.embedded.leave("g", member_id, TWO, self.is_dead)
            self.generation += 1
            self.inside.pop(member_id)
            self.inside = {each: self.inside[each] for each in self.living_inside()}

    @precondition(lambda self: self.memories)
    @rule(data=st.data(), offset=st.integers(0, 9), partition=st.sampled_from([10, 11]))
    def commit(self, data: st.DataObject, offset: int, partition: int) -> None:
        groups, who, generation = data.draw(st.sampled_from(self.memories[-6:]))
        verdict = commit(groups, who, generation, {partition: offset})
        if generation == self.generation and who.member_id in self.wire:
            assert verdict is None
            self.offsets[partition] = offset
        else:
            assert isinstance(verdict, GroupFenced)

    @rule(offset=st.integers(0, 9))
    def commit_alone(self, offset: int) -> None:
        verdict = commit(self.server, None, -1, {10: offset})
        if self.living_inside() or self.living_wire():
            assert isinstance(verdict, GroupBusy)
        else:
            assert verdict is None
            self.offsets[10] = offset

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), offset=st.integers(0, 9))
    def acknowledge(self, data: st.DataObject, offset: int) -> None:
        member_id = data.draw(st.sampled_from(sorted(self.inside)))
        acknowledged = Commit(group="g", member_id=member_id, offsets={10: offset})
        assert self.embedded.commit([acknowledged]) == [None]
        self.offsets[10] = max(offset, self.offsets[10])

    @rule(offset=st.integers(0, 9))
    def reset(self, offset: int) -> None:
        if self.living_inside() or self.living_wire():
            with pytest.raises(GroupBusy):
                self.embedded.reset("g", {10: offset}, self.is_dead)
            return
        self.embedded.reset("g", {10: offset}, self.is_dead)
        self.wire, self.inside = {}, {}
        self.generation += 1
        self.offsets[10] = offset

    @rule()
    def delete(self) -> None:
        if self.living_inside() or self.living_wire():
            with pytest.raises(GroupBusy):
                self.embedded.delete("g", self.is_dead)
        elif self.embedded.delete("g", self.is_dead):
            self.wire, self.inside, self.offsets = {}, {}, {}

    @rule()
    def refresh(self) -> None:
        gone = self.embedded.refresh("g", TWO, self.is_dead)
        if gone:
            self.generation += 1
            self.inside = {each: self.inside[each] for each in self.living_inside()}
            self.wire = {each: self.wire[each] for each in self.living_wire()}

    @rule()
    def release(self) -> None:
        before = len(self.wire)
        self.server.release(self.server.is_ours)
        self.wire = {k: v for k, v in self.wire.items() if not k.endswith("-" + self.name)}
        self.generation += len(self.wire) < before

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        generation, members = self.embedded.members("g")
        assert generation in (self.generation, 0)
        assert {each.member_id for each in members} == self.wire.keys() | self.inside.keys()
        living = {each.is_wire for each in members if not self.is_dead(each)}
        assert len(living) < 2, "both kinds at once"
        assert offsets(self.server) == self.offsets

    def teardown(self) -> None:
        self.state.close()
        self.folder.cleanup()


Holders.TestCase.settings = settings(
    max_examples=25, stateful_step_count=40, suppress_health_check=list(HealthCheck), deadline=None
)
TestHolders = Holders.TestCase
