"""Who is in a group and what it may do, as state.lmdb has it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from members import all_alive, member

from seawall.broker.errors import (
    GroupBusy,
    GroupFenced,
    GroupFull,
    InconsistentGroupProtocol,
    InvalidGroupName,
    StateDamaged,
)
from seawall.broker.group_format import (
    Group,
    Member,
    pack_group,
    pack_member,
    unpack_group,
    unpack_member,
)
from seawall.broker.group_state import Commit, GroupState
from seawall.broker.rebalance import divide
from seawall.broker.state import State
from seawall.broker.state_format import Malformed
from seawall.wal.files import Files
from seawall.wal.kv import Environment

TWO = {"t": [10, 11]}


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(tmp_path: Path, clock: Clock) -> Iterator[State]:
    environment = Environment(str(tmp_path / "state.lmdb"), files=Files(), map_size_bytes=1 << 28)
    state = State(environment, clock_ms=clock)
    yield state
    state.close()


@pytest.fixture
def groups(state: State) -> GroupState:
    return GroupState(state)


def is_dead(*dead: Member) -> Callable[[Member], bool]:
    ids = {each.member_id for each in dead}
    return lambda each: each.member_id in ids


def commit(groups: GroupState, who: Member, offsets: Mapping[int, int]) -> GroupFenced | None:
    [verdict] = groups.commit([Commit(group="g", member_id=who.member_id, offsets=offsets)])
    return verdict


def owned(groups: GroupState) -> dict[str, tuple[int, ...]]:
    return {each.member_id: each.owned for each in groups.members("g")[1]}


# -- bytes ---------------------------------------------------------------------------


def test_golden_bytes() -> None:
    """Written down when the format was made; state.lmdb of other versions must be read."""
    group = Group(name="g", generation=7, empty_since_ms=3, assignor="range")
    stored = bytes.fromhex("000000000000000700000000000000030005") + b"range"
    assert pack_group(group) == stored
    assert unpack_group("g", stored) == group
    who = replace(member(target=[1], owned=[1, 2], partitions=[3]), member_id="c-1")
    stored = (
        b'{"assignors":["range"],"boot":"b00t","client_id":"c","host":"here","instance_id":null,'
        b'"joined_ms":17,"member_id":"c-1","owned":[1,2],"partitions":[3],"pid":42,'
        b'"session_timeout_ms":1000,"target":[1],"topics":["t"]}'
    )
    assert pack_member(who) == stored
    assert unpack_member(stored) == who


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"pid": 1}'])
def test_what_is_no_member_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_member(data)


@pytest.mark.parametrize("data", [b"", bytes(17), bytes(17) + b"\x01"])
def test_what_is_no_group_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_group("g", data)


# -- coming and going ----------------------------------------------------------------


def test_a_group_begins_with_its_first_member(groups: GroupState, state: State) -> None:
    assert groups.groups() == []
    assert groups.members("g") == (0, [])
    a = member("a")
    joined = groups.join("g", a, {10: 5, 11: 6}, TWO, all_alive)
    assert (joined.generation, joined.member.owned) == (1, (10, 11))
    assert joined.committed == {10: 5, 11: 6}
    assert groups.group("g") == Group(name="g", generation=1, assignor="range")
    assert {each: found.offset for each, found in state.committed("g").items()} == {10: 5, 11: 6}
    # What is committed already stays.
    b = member("b")
    assert commit(groups, a, {10: 7}) is None
    groups.join("g", b, {10: 0, 11: 0}, TWO, all_alive)
    assert state.committed("g")[10].offset == 7


def test_a_partition_goes_over_when_its_owner_gives_it_up(groups: GroupState) -> None:
    a, b = member("a"), member("b")
    groups.join("g", a, {10: 0, 11: 0}, TWO, all_alive)
    joined = groups.join("g", b, {}, TWO, all_alive)
    assert (joined.member.target, joined.member.owned) == ((11,), ())
    assert groups.reconcile("g", b.member_id, []).member.owned == ()
    assert commit(groups, a, {11: 3}) is None
    assert groups.reconcile("g", a.member_id, [11]).member.owned == (10,)
    found = groups.reconcile("g", b.member_id, [])
    assert (found.member.owned, found.committed) == ((11,), {11: 3})
    assert found.generation == 2


def test_the_dead_make_way(groups: GroupState) -> None:
    a, b = member("a"), member("b")
    groups.join("g", a, {10: 0, 11: 0}, TWO, all_alive)
    groups.join("g", b, {}, TWO, all_alive)
    assert groups.refresh("g", TWO, all_alive) == []
    generation = groups.members("g")[0]
    [dead] = groups.refresh("g", TWO, is_dead(a))
    assert dead.member_id == a.member_id
    assert groups.members("g")[0] == generation + 1
    assert groups.reconcile("g", b.member_id, []).member.owned == (10, 11)
    refusal = commit(groups, a, {10: 9})
    assert isinstance(refusal, GroupFenced)
    assert (refusal.member_id, refusal.generation) == (a.member_id, generation + 1)
    with pytest.raises(GroupFenced):
        groups.reconcile("g", a.member_id, [])
    groups.leave("g", a.member_id, TWO, all_alive)  # it may not know yet
    assert groups.members("g")[0] == generation + 1
    # Nor does one that is dead keep a newcomer waiting.
    c = member("c")
    assert groups.join("g", c, {}, TWO, is_dead(b)).member.owned == (10, 11)


def test_more_partitions_are_divided_when_somebody_notices(groups: GroupState) -> None:
    a = member("a")
    groups.join("g", a, {10: 4, 11: 4}, TWO, all_alive)
    grown = {"t": [10, 11, 12]}
    assert groups.refresh("g", grown, all_alive) == []
    joined = groups.reconcile("g", a.member_id, [])
    assert (joined.generation, joined.member.owned) == (2, (10, 11, 12))
    # Records that were published before anybody noticed are not passed over.
    assert joined.committed == {10: 4, 11: 4, 12: 0}
    # A topic that goes takes its partitions along.
    groups.refresh("g", {}, all_alive)
    assert groups.members("g")[1][0].target == ()


def test_one_commit_that_is_refused_leaves_the_others(groups: GroupState, state: State) -> None:
    a, b = member("a"), member("b")
    groups.join("g", a, {10: 0, 11: 0}, TWO, all_alive)
    verdicts = groups.commit(
        [
            Commit(group="g", member_id=a.member_id, offsets={10: 3}),
            Commit(group="g", member_id=b.member_id, offsets={11: 3}),
            Commit(group="nobody", member_id=a.member_id, offsets={11: 3}),
            Commit(group="g", member_id=a.member_id, offsets={10: 2, 11: 1}, metadata="m"),
        ]
    )
    assert [verdict and verdict.generation for verdict in verdicts] == [None, 1, 0, None]
    found = state.committed("g")
    assert (found[10].offset, found[11].offset, found[11].metadata) == (3, 1, "m")


def test_what_is_no_offset_is_refused_whole(groups: GroupState, state: State) -> None:
    a = member("a")
    groups.join("g", a, {}, TWO, all_alive)
    with pytest.raises(ValueError, match="negative"):
        Commit(group="g", member_id=a.member_id, offsets={10: 5, 11: -1})
    with pytest.raises(ValueError, match="metadata"):
        Commit(group="g", member_id=a.member_id, offsets={}, metadata="x" * 4097)
    assert {each: found.offset for each, found in state.committed("g").items()} == {10: 0, 11: 0}


def test_a_static_member_comes_back_to_what_it_had(groups: GroupState) -> None:
    a, b = member("a", instance_id="one"), member("b", instance_id="two")
    groups.join("g", a, {10: 0, 11: 0}, TWO, all_alive)
    groups.join("g", b, {}, TWO, all_alive)
    groups.reconcile("g", a.member_id, [11])
    groups.reconcile("g", b.member_id, [])
    before = owned(groups)
    again = member("b", instance_id="two")
    joined = groups.join("g", again, {}, TWO, all_alive)
    assert joined.member.owned == before[b.member_id] == (11,)
    assert owned(groups) == {a.member_id: (10,), again.member_id: (11,)}
    assert commit(groups, b, {11: 1}) is not None


def test_partitions_by_number_are_nobody_elses(groups: GroupState) -> None:
    sharing, naming = member("a"), member("b", partitions=[11])
    groups.join("g", sharing, {10: 0, 11: 0}, TWO, all_alive)
    assert groups.join("g", naming, {}, TWO, all_alive).member.target == (11,)
    groups.reconcile("g", sharing.member_id, [11])
    assert groups.reconcile("g", naming.member_id, []).member.owned == (11,)
    with pytest.raises(GroupBusy) as caught:
        groups.join("g", member("c", partitions=[10, 11]), {}, TWO, all_alive)
    assert (caught.value.holder_pid, caught.value.holder_host) == (42, "here")
    assert len(groups.members("g")[1]) == 2


def test_members_must_know_an_assignor_in_common(groups: GroupState) -> None:
    groups.join("g", member(assignors=["range"]), {}, TWO, all_alive)
    with pytest.raises(InconsistentGroupProtocol) as caught:
        groups.join("g", member(assignors=["roundrobin"]), {}, TWO, all_alive)
    assert (caught.value.assignors, caught.value.others) == (("roundrobin",), ("range",))
    both = ["roundrobin", "range"]
    groups.join("g", member(assignors=both), {}, TWO, all_alive)
    found = groups.group("g")
    assert found is not None
    assert found.assignor == "range"


def test_a_group_that_is_full(groups: GroupState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seawall.broker.group_holds.MOST_MEMBERS", 1)
    groups.join("g", member(), {}, TWO, all_alive)
    with pytest.raises(GroupFull) as caught:
        groups.join("g", member(), {}, TWO, all_alive)
    assert caught.value.members == 1


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 256])
def test_bad_group_names_are_refused(groups: GroupState, name: str) -> None:
    with pytest.raises(InvalidGroupName):
        groups.join(name, member(), {}, TWO, all_alive)
    with pytest.raises(InvalidGroupName):
        groups.reset(name, {}, all_alive)


# -- resetting, deleting, expiring ---------------------------------------------------


def test_only_a_group_without_members_is_moved(groups: GroupState, state: State) -> None:
    a = member("a")
    groups.join("g", a, {10: 5, 11: 5}, TWO, all_alive)
    for call in (
        lambda: groups.reset("g", {10: 0}, all_alive),
        lambda: groups.delete("g", all_alive),
    ):
        with pytest.raises(GroupBusy) as caught:
            call()  # type: ignore[no-untyped-call]
        assert caught.value.members == 1
    groups.reset("g", {10: 0}, is_dead(a))
    assert {each: found.offset for each, found in state.committed("g").items()} == {10: 0, 11: 5}
    assert commit(groups, a, {10: 9}) is not None
    groups.reset("new", {10: 8}, all_alive)
    assert state.committed("new")[10].offset == 8


def test_a_group_that_is_made_anew_goes_on_counting(groups: GroupState, state: State) -> None:
    a = member("a")
    generation = groups.join("g", a, {10: 5}, TWO, all_alive).generation
    assert groups.delete("g", is_dead(a))
    assert not groups.delete("g", all_alive)
    refusal = commit(groups, a, {10: 9})
    assert refusal is not None
    assert refusal.generation == 0
    assert groups.join("g", member(), {}, {}, all_alive).generation > generation
    assert state.committed("g") == {}
    assert commit(groups, a, {10: 9}) is not None


def test_a_group_expires_when_nobody_was_there_for_long(groups: GroupState, clock: Clock) -> None:
    a = member("a")
    groups.join("g", a, {10: 5}, TWO, all_alive)
    clock.now_ms += 1_000
    assert not groups.expire("g", clock.now_ms, all_alive)  # it has a member
    groups.leave("g", a.member_id, TWO, all_alive)
    left_ms = clock.now_ms
    clock.now_ms += 1_000
    assert not groups.expire("g", left_ms, all_alive)
    groups.reset("g", {10: 6}, all_alive)  # somebody still cares
    assert not groups.expire("g", left_ms + 1, all_alive)
    assert groups.expire("g", clock.now_ms + 1, all_alive)
    assert groups.groups() == []
    assert not groups.expire("g", clock.now_ms + 1, all_alive)


# -- against a model -----------------------------------------------------------------


class GroupMachine(RuleBasedStateMachine):
    """Members that come, go, die and are slow, of one group, with several topics."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.open()
        self.layout: dict[str, list[int]] = {"t": [1, 2], "u": [3]}
        self.living: dict[str, Member] = {}  # as each knows itself
        self.dead: set[str] = set()
        self.gone: list[Member] = []
        self.committed: dict[int, int] = {}
        self.generation = 0

    def open(self) -> None:
        environment = Environment(
            str(Path(self.folder.name) / "state.lmdb"), files=Files(), map_size_bytes=1 << 28
        )
        self.state = State(environment, clock_ms=Clock())
        self.groups = GroupState(self.state)

    def teardown(self) -> None:
        self.state.close()
        self.folder.cleanup()

    def is_dead(self, each: Member) -> bool:
        return each.member_id in self.dead

    def buried(self) -> None:
        """Those that are dead may have been let go of."""
        for member_id in self.dead & self.living.keys():
            self.gone.append(self.living.pop(member_id))

    @precondition(lambda self: len(self.living) < 4)
    @rule(
        topics=st.sets(st.sampled_from(["t", "u", "none"]), min_size=1),
        assignors=st.sampled_from([["range"], ["cooperative-sticky", "range"], ["roundrobin"]]),
        number=st.sampled_from([None, None, None, 1, 3]),
        start=st.integers(0, 5),
    )
    def join(self, topics: set[str], assignors: list[str], number: int | None, start: int) -> None:
        who = member(
            topics=sorted(topics),
            assignors=assignors,
            partitions=None if number is None else [number],
        )
        starts = {each: start for topic in topics for each in self.layout.get(topic, [])}
        try:
            joined = self.groups.join("g", who, starts, self.layout, self.is_dead)
        except (GroupBusy, InconsistentGroupProtocol):
            return
        self.buried()
        self.living[who.member_id] = joined.member
        self.committed = {**starts, **self.committed}
        for each in joined.member.owned:
            assert joined.committed[each] == self.committed.setdefault(each, 0)

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def reconcile(self, data: st.DataObject) -> None:
        who = self.living[data.draw(st.sampled_from(sorted(self.living)))]
        _, members = self.groups.members("g")
        stored = {each.member_id: each for each in members}[who.member_id]
        assert stored.owned == who.owned
        gives_up = sorted(set(who.owned) - set(stored.target))
        joined = self.groups.reconcile("g", who.member_id, gives_up)
        self.living[who.member_id] = joined.member
        for each in joined.member.owned:
            assert joined.committed[each] == self.committed.setdefault(each, 0)

    @precondition(lambda self: self.living)
    @rule(data=st.data(), offset=st.integers(0, 30))
    def commit(self, data: st.DataObject, offset: int) -> None:
        who = self.living[data.draw(st.sampled_from(sorted(self.living)))]
        offsets = dict.fromkeys(who.owned, offset)
        assert commit(self.groups, who, offsets) is None
        for each in offsets:
            self.committed[each] = max(offset, self.committed[each])

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def commit_when_gone(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(self.gone))
        assert commit(self.groups, who, dict.fromkeys(who.owned, 99)) is not None
        with pytest.raises(GroupFenced):
            self.groups.reconcile("g", who.member_id, [])

    @precondition(lambda self: self.living)
    @rule(data=st.data(), leaves=st.booleans())
    def end(self, data: st.DataObject, leaves: bool) -> None:
        who = data.draw(st.sampled_from(sorted(self.living)))
        if leaves:
            self.groups.leave("g", who, self.layout, self.is_dead)
            self.gone.append(self.living.pop(who))
            self.buried()
        else:
            self.dead.add(who)

    @rule()
    def refresh(self) -> None:
        found = self.groups.refresh("g", self.layout, self.is_dead)
        assert {each.member_id for each in found} == self.dead & self.living.keys()
        self.buried()
        _, members = self.groups.members("g")
        division = divide(members, self.layout)
        assert division is not None
        assert {each.member_id: each.target for each in members} == division.targets

    @rule(topic=st.sampled_from(["t", "u"]))
    def grow(self, topic: str) -> None:
        ids = [each for every in self.layout.values() for each in every]
        self.layout = {**self.layout, topic: [*self.layout.get(topic, []), max(ids, default=0) + 1]}

    @rule(offsets=st.dictionaries(st.integers(1, 3), st.integers(0, 9)))
    def reset(self, offsets: dict[int, int]) -> None:
        if self.living.keys() - self.dead:
            with pytest.raises(GroupBusy):
                self.groups.reset("g", offsets, self.is_dead)
        else:
            self.groups.reset("g", offsets, self.is_dead)
            self.buried()
            self.committed.update(offsets)

    @rule()
    def reopen(self) -> None:
        self.state.close()
        self.open()

    @invariant()
    def nobody_shares_a_partition(self) -> None:
        generation, members = self.groups.members("g")
        assert generation >= self.generation
        self.generation = generation
        everything = [each for who in members for each in who.owned]
        assert len(everything) == len(set(everything))
        targets = [each for who in members for each in who.target]
        assert len(targets) == len(set(targets))
        assert {each.member_id for each in members} == self.living.keys()

    @invariant()
    def nothing_acknowledged_moves_back(self) -> None:
        if self.groups.group("g") is not None:
            found = {each: c.offset for each, c in self.state.committed("g").items()}
            assert found == self.committed


TestGroupMachine = GroupMachine.TestCase
TestGroupMachine.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_damage_is_named(groups: GroupState, state: State) -> None:
    groups.join("g", member("a"), {}, TWO, all_alive)
    key = b"Mg\0" + groups.members("g")[1][0].member_id.encode()
    with state.write() as transaction:
        transaction.put(key, b'{"no": "member"}')
    with pytest.raises(StateDamaged, match="member"):
        groups.members("g")
