"""The groups of a server's clients in state.lmdb, next to embedded ones."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
    GroupHeldByServer,
    InvalidGroupName,
    StateDamaged,
    UnknownGroup,
)
from seawall.broker.group_format import SERVER_LIFE, Member, pack_member, unpack_member
from seawall.broker.group_kept_format import KeptGroup, KeptMember
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
    return server(state, dead)


@pytest.fixture
def embedded(state: State) -> GroupState:
    return GroupState(state)


def server(state: State, dead: set[str]) -> WireGroups:
    return WireGroups(state, is_dead=is_dead(dead))


def is_dead(dead: set[str]) -> Callable[[Member], bool]:
    return lambda each: each.member_id in dead or each.member_id.rpartition("-")[2] in dead


def client(
    name: str = "c", *, life: str = SERVER_LIFE, owned: tuple[int, ...] = (), **fields: object
) -> Member:
    values: dict[str, object] = {
        "member_id": f"{name}-{next(_numbers)}-{life}",
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


def kept(
    members: Sequence[Member], protocol: str = "range", generation: int = 0, assigned: bool = False
) -> KeptGroup:
    """What a coordinator says of these members."""
    return KeptGroup(
        generation=generation,
        is_assigned=assigned,
        protocol_type="consumer",
        protocol=protocol,
        leader=members[0].member_id if members else "",
        members=tuple(
            KeptMember(
                member_id=each.member_id,
                instance_id=each.instance_id,
                client_id=each.client_id,
                client_host=each.host,
                session_timeout_ms=1_000,
                rebalance_timeout_ms=5_000,
                protocols={protocol: b"m"},
                assignment=repr(each.owned).encode() if assigned else b"",
                owes_sync=not assigned,
            )
            for each in sorted(members, key=lambda each: each.member_id)
        ),
    )


def begin(
    groups: WireGroups, members: Sequence[Member], group: str = "g", protocol: str = "range"
) -> int:
    return groups.begin_generation(group, members, kept(members, protocol))


def update(
    groups: WireGroups, generation: int, members: Sequence[Member], group: str = "g"
) -> KeptGroup:
    """Gives what was stored."""
    stored = kept(members, generation=generation, assigned=True)
    groups.update(group, members, stored)
    return stored


def take_over(groups: WireGroups) -> dict[str, KeptGroup]:
    return groups.take_over(99, "boot2")


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
    assert begin(groups, [one]) == 1
    assert begin(groups, [one, client()]) == 2
    assert begin(groups, []) == 3
    who = member()
    assert embedded.join("g", who, {10: 0, 11: 0}, TWO, all_alive).generation == 4
    embedded.leave("g", who.member_id, TWO, all_alive)
    assert begin(groups, [one]) == 6
    dead.add(SERVER_LIFE)
    assert embedded.delete("g", is_dead(dead))
    dead.clear()
    assert begin(groups, [one]) == 7


def test_a_group_that_nobody_has_joined_is_not_made(groups: WireGroups) -> None:
    assert begin(groups, []) == 0
    assert groups.groups() == []


def test_when_a_member_came_is_kept(groups: WireGroups) -> None:
    first = client()
    begin(groups, [first])
    later = Member(**{**{f: getattr(first, f) for f in first.__slots__}, "joined_ms": 99})
    begin(groups, [later])
    assert [each.joined_ms for each in groups.members("g")[1]] == [17]


def test_members_change_within_a_generation(groups: WireGroups) -> None:
    old, new = client(), client(owned=(10,))
    generation = begin(groups, [old])
    update(groups, generation, [new])
    assert groups.members("g") == (generation, [new])


def test_nothing_changes_in_a_generation_that_is_over(
    groups: WireGroups, embedded: GroupState, dead: set[str]
) -> None:
    one = client()
    generation = begin(groups, [one])
    begin(groups, [one])
    with pytest.raises(GroupFenced) as caught:
        update(groups, generation, [one])
    assert caught.value.generation == generation + 1
    with pytest.raises(GroupFenced):
        update(groups, 1, [one], "other")


def test_a_bad_name(groups: WireGroups) -> None:
    with pytest.raises(InvalidGroupName):
        begin(groups, [client()], "")


# -- one kind at a time --------------------------------------------------------------


def test_embedded_members_keep_clients_out(groups: WireGroups, embedded: GroupState) -> None:
    who = member()
    embedded.join("g", who, {10: 0}, TWO, all_alive)
    with pytest.raises(GroupBusy) as caught:
        begin(groups, [client()])
    assert (caught.value.holder_pid, caught.value.members) == (42, 1)
    # Not even by way of leaving before it began.
    assert begin(groups, []) > 0
    assert embedded.members("g")[1][0].member_id == who.member_id


def test_clients_keep_embedded_members_out(groups: WireGroups, embedded: GroupState) -> None:
    begin(groups, [client(), client(instance_id="i")])
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
    generation = begin(groups, [static])
    dead.add(SERVER_LIFE)
    who = member(instance_id="i")
    joined = embedded.join("g", who, {10: 0, 11: 0}, TWO, is_dead(dead))
    assert joined.generation == generation + 1
    assert [each.member_id for each in embedded.members("g")[1]] == [who.member_id]
    # The server was only stopped. What its clients commit now changes nothing.
    dead.clear()
    assert isinstance(commit(groups, static, generation, {10: 5}), GroupFenced)
    with pytest.raises(GroupFenced):
        update(groups, generation, [static])
    with pytest.raises(GroupBusy):
        begin(groups, [static])
    assert groups.held({"g": generation}) == set()
    assert offsets(groups)[10] == 0


def test_dead_clients_are_left_to_the_next_server(
    groups: WireGroups, embedded: GroupState, dead: set[str]
) -> None:
    one = client()
    generation = begin(groups, [one])
    assert embedded.refresh("g", TWO, is_dead(dead)) == []
    dead.add(SERVER_LIFE)
    assert embedded.refresh("g", TWO, is_dead(dead)) == []
    assert embedded.members("g") == (generation, [one])


# -- a server after another ----------------------------------------------------------


def test_a_server_goes_on_with_the_clients_of_the_one_before(
    state: State, groups: WireGroups, embedded: GroupState, dead: set[str]
) -> None:
    one, two = client(owned=(10,)), client(owned=(11,), instance_id="i")
    generation = begin(groups, [one, two])
    stored = update(groups, generation, [one, two])
    begin(groups, [client()], "h")
    begin(groups, [], "h")
    who = member()
    embedded.join("e", who, {10: 0}, TWO, all_alive)
    dead.add(SERVER_LIFE)
    other = server(state, dead)
    dead.clear()  # it has that sign of life now
    assert take_over(other) == {"g": stored}
    there = other.members("g")
    assert there[0] == generation
    assert there[1] == [replace(each, pid=99, boot="boot2") for each in (one, two)]
    assert [each.member_id for each in embedded.members("e")[1]] == [who.member_id]
    assert commit(other, one, generation, {10: 5}) is None
    with pytest.raises(GroupHeldByServer) as caught:
        embedded.join("g", member(), {10: 0}, TWO, is_dead(dead))
    assert caught.value.holder_pid == 99
    again = begin(other, [one])
    assert again == generation + 1
    assert take_over(server(state, dead))["g"].generation == again


def test_a_generation_that_has_only_begun(groups: WireGroups) -> None:
    one = client()
    generation = begin(groups, [one])
    assert take_over(groups) == {"g": kept([one], generation=generation)}


def end_by_joining(embedded: GroupState, dead: set[str]) -> None:
    who = member()
    embedded.join("g", who, {10: 0}, TWO, is_dead(dead))
    embedded.leave("g", who.member_id, TWO, is_dead(dead))


def end_by_reset(embedded: GroupState, dead: set[str]) -> None:
    embedded.reset("g", {10: 0}, is_dead(dead))


def end_by_deletion(embedded: GroupState, dead: set[str]) -> None:
    assert embedded.delete("g", is_dead(dead))


def end_by_age(embedded: GroupState, dead: set[str]) -> None:
    assert embedded.expire("g", 1 << 60, is_dead(dead))


@pytest.mark.parametrize("end", [end_by_joining, end_by_reset, end_by_deletion, end_by_age])
def test_whoever_takes_the_group_meanwhile_ends_that(
    state: State,
    groups: WireGroups,
    embedded: GroupState,
    dead: set[str],
    end: Callable[[GroupState, set[str]], None],
) -> None:
    one = client(owned=(10,))
    generation = begin(groups, [one])
    update(groups, generation, [one])
    dead.add(SERVER_LIFE)
    end(embedded, dead)
    assert kept_keys(state) == []
    dead.clear()
    assert take_over(groups) == {}
    assert groups.members("g")[1] == []
    assert isinstance(commit(groups, one, generation, {10: 5}), GroupFenced)
    assert begin(groups, [one]) > generation


def kept_keys(state: State) -> list[bytes]:
    with state.read() as view:
        return view.keys(b"W", b"X")


def test_a_program_that_knows_nothing_of_what_is_kept(
    state: State, groups: WireGroups, embedded: GroupState, dead: set[str]
) -> None:
    """Another generation, or other members, and what is kept means nothing."""
    one, two = client(), client()
    for change in ("generation", "members", "nothing"):
        generation = begin(groups, [one])
        with state.read() as view:
            entries = list(view.iterate(b"W", b"X"))
        if change == "generation":
            begin(groups, [one])
        elif change == "members":
            update(groups, generation, [two])
        else:
            with state.write() as transaction:
                transaction.delete_range(b"W", b"X")
            entries = []
        with state.write() as transaction:
            for key, value in entries:
                transaction.put(key, value)
        before, _ = groups.members("g")
        assert take_over(groups) == {}, change
        assert (groups.members("g"), kept_keys(state)) == ((before + 1, []), [])
        found = groups.group("g")
        assert found is not None
        assert found.empty_since_ms > 0
    # Without a member there is nothing to be a member of.
    with state.write() as transaction:
        for key, value in entries or [(b"Wg\0", b"")]:
            transaction.put(key, value)
    assert take_over(groups) == {}
    assert kept_keys(state) == []


def test_clients_of_a_server_that_kept_nothing_yet(
    groups: WireGroups, embedded: GroupState, dead: set[str]
) -> None:
    """Their ids end otherwise, and nothing is kept of them."""
    who = client(life="0ld")
    state = groups._state
    begin(groups, [who])
    with state.write() as transaction:
        transaction.delete_range(b"W", b"X")
    assert take_over(groups) == {}
    assert groups.members("g") == (2, [])


@pytest.mark.parametrize("how", ["flipped", "cut", "longer", "newer", "gone", "empty"])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_kept_cannot_be_read(
    state: State, groups: WireGroups, caplog: pytest.LogCaptureFixture, how: str, which: int
) -> None:
    one = client()
    begin(groups, [one])
    begin(groups, [client()], "other")
    key = [each for each in kept_keys(state) if each.startswith(b"Wg\0")][which]
    with state.write() as transaction:
        value = transaction.get(key)
        assert value is not None
        if how == "flipped":
            stored = transaction._transaction.get(key)
            transaction._transaction.put(key, bytes([stored[0] ^ 64]) + stored[1:])
        elif how == "gone":
            transaction.delete(key)
        else:
            changed = {
                "cut": value[:-1],
                "longer": value + b"x",
                "newer": bytes([value[0] + 1]) + value[1:],
                "empty": b"",
            }
            transaction.put(key, changed[how])
    assert list(take_over(groups)) == ["other"]
    assert groups.members("g") == (2, [])
    said = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(said) == (0 if (how, which) == ("gone", 0) else 1)
    assert all("group g:" in each and "join anew" in each for each in said)
    assert begin(groups, [one]) == 3
    assert set(take_over(groups)) == {"g", "other"}


def flip_member(state: State, member_id: str) -> None:
    key = b"Mg\0" + member_id.encode()
    with state.write() as transaction:
        stored = transaction._transaction.get(key)
        transaction._transaction.put(key, b"?" + stored[1:])


def test_a_client_s_own_entry_cannot_be_read(
    state: State, groups: WireGroups, caplog: pytest.LogCaptureFixture
) -> None:
    one = client()
    begin(groups, [one, client()])
    begin(groups, [client()], "other")
    flip_member(state, one.member_id)
    assert list(take_over(groups)) == ["other"]
    assert groups.members("g") == (2, [])
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1


def test_an_embedded_member_s_entry_cannot_be_read(
    state: State, groups: WireGroups, embedded: GroupState, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not for a server to remove; other groups go on."""
    who = member()
    embedded.join("g", who, {10: 0}, TWO, all_alive)
    begin(groups, [client()], "other")
    flip_member(state, who.member_id)
    assert list(take_over(groups)) == ["other"]
    with pytest.raises(StateDamaged):
        groups.members("g")
    assert len([each for each in caplog.records if "left alone" in each.getMessage()]) == 1


def test_a_group_that_is_too_large_to_be_kept(
    state: State, groups: WireGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seawall.broker.group_wire.MOST_KEPT_BYTES", 1_000)
    small, large = [client()], [client() for _ in range(20)]
    begin(groups, small)
    assert len(kept_keys(state)) == 2
    begin(groups, large)
    assert kept_keys(state) == []
    assert take_over(groups) == {}
    assert groups.members("g")[1] == []


def test_a_group_whose_server_stays_away_expires(
    state: State, groups: WireGroups, embedded: GroupState, dead: set[str]
) -> None:
    """Counted from when it is first seen that nobody is there, and not from the last commit."""
    one = client()
    generation = begin(groups, [one])
    commit(groups, one, generation, {10: 5})
    state.clock_ms = lambda: 9_000_000_000_000
    assert not embedded.expire("g", 1 << 50, is_dead(dead)), "the server lives"
    dead.add(SERVER_LIFE)
    assert not embedded.expire("g", 8_999_999_999_999, is_dead(dead))
    assert embedded.members("g") == (generation, [one])
    assert embedded.group("g").empty_since_ms == 9_000_000_000_000  # type: ignore[union-attr]
    # It comes back, and goes again.
    dead.clear()
    assert list(take_over(groups)) == ["g"]
    assert embedded.group("g").empty_since_ms == 0  # type: ignore[union-attr]
    dead.add(SERVER_LIFE)
    state.clock_ms = lambda: 9_000_000_005_000
    assert not embedded.expire("g", 9_000_000_004_000, is_dead(dead))
    # It was only stopped.
    dead.clear()
    assert not embedded.expire("g", 1 << 50, is_dead(dead))
    assert embedded.group("g").empty_since_ms == 0  # type: ignore[union-attr]
    dead.add(SERVER_LIFE)
    state.clock_ms = lambda: 9_000_000_006_000
    assert not embedded.expire("g", 9_000_000_006_000, is_dead(dead))
    assert embedded.expire("g", 9_000_000_006_001, is_dead(dead))
    assert kept_keys(state) == []
    assert groups.groups() == []


# -- offsets -------------------------------------------------------------------------


def test_only_a_member_of_the_generation_commits(groups: WireGroups) -> None:
    one, two = client(), client()
    generation = begin(groups, [one])
    assert commit(groups, one, generation, {10: 5}, "note") is None
    assert isinstance(commit(groups, two, generation, {10: 6}), GroupFenced)
    begin(groups, [one, two])
    assert isinstance(commit(groups, one, generation, {10: 7}), GroupFenced)
    assert commit(groups, two, generation + 1, {11: 1}) is None
    assert offsets(groups) == {10: 5, 11: 1}
    assert groups.offsets("g")[10].metadata == "note"


def test_commits_go_backwards_as_with_kafka(groups: WireGroups) -> None:
    one = client()
    generation = begin(groups, [one])
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
    begin(groups, [one])
    assert isinstance(commit(groups, None, -1, {10: 6}), GroupBusy)
    dead.add(SERVER_LIFE)
    assert commit(groups, None, -1, {10: 6}) is None
    embedded.join("g", member(), {10: 0}, TWO, is_dead(dead))
    assert isinstance(commit(groups, None, -1, {10: 7}), GroupBusy)
    assert offsets(groups)[10] == 6


def test_several_commits_are_one_transaction(groups: WireGroups) -> None:
    one = client()
    generation = begin(groups, [one])
    bad = WireCommit(group="g", member_id="x-server", generation=generation, offsets={11: (1, "")})
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
    assert not groups.expire("g", now_ms - 60_000, all_alive)
    assert groups.expire("g", now_ms + 60_000, all_alive)
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
    begin(groups, [client()])
    assert groups.delete_offsets("g", {11: "t", 20: "u"}) == {11}
    assert offsets(groups) == {11: 6}
    begin(groups, [client(topics=())])
    with pytest.raises(GroupBusy):
        groups.delete_offsets("g", {11: "t"})


# -- servers, embedded consumers and operators at random -----------------------------


class Holders(RuleBasedStateMachine):
    """One group that servers (one after the other), embedded consumers and operators use.

    Held against a model of who is in it, in which generation, what it has committed, and what
    the next server goes on from.
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
        # What is kept of those of a server, if it can be read.
        self.kept: KeptGroup | None = None
        self.generation = 0
        self.offsets: dict[int, int] = {}
        # Members with the generations in which they were, some long over.
        self.memories: list[tuple[Member, int]] = []
        self.server = server(self.state, self.dead)

    @property
    def is_dead(self) -> Callable[[Member], bool]:
        return is_dead(self.dead)

    def living_inside(self) -> list[str]:
        return [each for each in self.inside if each not in self.dead]

    def living_wire(self) -> list[str]:
        return [each for each, who in self.wire.items() if not self.is_dead(who)]

    @property
    def is_served(self) -> bool:
        return SERVER_LIFE not in self.dead

    @precondition(lambda self: self.is_served)
    @rule(count=st.integers(0, 2), keeps=st.booleans())
    def begin(self, count: int, keeps: bool) -> None:
        members = [client() for _ in range(count)] + list(self.wire.values()) * keeps
        if not members and not self.wire:
            begin(self.server, members)
            return
        if self.living_inside():
            with pytest.raises(GroupBusy):
                begin(self.server, members)
            return
        generation = begin(self.server, members)
        assert generation > self.generation
        self.generation = generation
        self.wire, self.inside = {each.member_id: each for each in members}, {}
        self.kept = kept(members, generation=generation) if members else None
        self.memories += [(each, generation) for each in members]

    @precondition(lambda self: self.is_served and self.wire)
    @rule(is_replaced=st.booleans())
    def assign(self, is_replaced: bool) -> None:
        members = [client()] * is_replaced + list(self.wire.values())[is_replaced:]
        self.kept = update(self.server, self.generation, members)
        self.wire = {each.member_id: each for each in members}
        self.memories += [(each, self.generation) for each in members]

    @rule()
    def kill_server(self) -> None:
        self.dead.add(SERVER_LIFE)

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        with self.state.write() as transaction:
            if keys := transaction.keys(b"W", b"X"):
                transaction.put(data.draw(st.sampled_from(keys)), b"?")
        self.kept = None

    @precondition(lambda self: not self.is_served)
    @rule()
    def start_server(self) -> None:
        self.dead.discard(SERVER_LIFE)
        self.server = server(self.state, self.dead)
        found = take_over(self.server)
        if self.wire and self.kept is None:
            self.wire = {}
            self.generation += 1
        assert found == ({"g": self.kept} if self.wire else {})

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
        who, generation = data.draw(st.sampled_from(self.memories[-6:]))
        verdict = commit(self.server, who, generation, {partition: offset})
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

    @rule()
    def expire(self) -> None:
        """It is looked at, but not too old yet."""
        assert not self.embedded.expire("g", 0, self.is_dead)

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
