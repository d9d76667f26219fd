"""state.lmdb: offsets, log starts, and everything that may go wrong with it."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from members import all_alive, member, put_offsets
from storage import MEMORY

from seawall.broker import state_format
from seawall.broker.errors import (
    BrokerClosed,
    StateDamaged,
    UnknownGroup,
    UnsupportedFormat,
)
from seawall.broker.group_state import GroupState
from seawall.broker.state import Committed, State
from seawall.wal.files import Files
from seawall.wal.kv import Environment
from seawall.wal.kv_view import seal

NOW_MS = 1_700_000_000_000


def open_state(path: Path, *, upgrades: bool = False) -> State:
    environment = Environment(str(path), files=Files(), map_size_bytes=1 << 28)
    try:
        return State(environment, upgrades=upgrades, clock_ms=lambda: NOW_MS)
    except BaseException:
        environment.close()
        raise


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.lmdb"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    state = open_state(path)
    yield state
    state.close()


def offsets(state: State, group: str) -> dict[int, int]:
    return {pid: entry.offset for pid, entry in state.committed(group).items()}


# -- committed offsets ---------------------------------------------------------------


def test_commits_never_move_backwards(state: State) -> None:
    put_offsets(state, "g", {1: 5, 2: 0}, metadata="größe")
    put_offsets(state, "g", {1: 4, 2: 7})
    put_offsets(state, "g", {1: 5}, metadata="ignored")
    assert state.committed("g") == {1: Committed(5, NOW_MS, "größe"), 2: Committed(7, NOW_MS, "")}
    with pytest.raises(UnknownGroup):
        state.committed("h")


def test_names_that_begin_alike_are_apart(state: State) -> None:
    names = ["a", "aa", "a a", "a!", "b", "ä"]
    for number, name in enumerate(names):
        put_offsets(state, name, {1: number, 256: number, 1 << 40: number})
    for number, name in enumerate(names):
        assert offsets(state, name) == {1: number, 256: number, 1 << 40: number}
    groups = GroupState(state)
    assert groups.delete("a", all_alive)
    assert not groups.delete("a", all_alive)
    assert [group.name for group in groups.groups()] == sorted(names[1:], key=str.encode)
    assert offsets(state, "aa") == {1: 1, 256: 1, 1 << 40: 1}
    assert sorted(state.committed_in(256)) == sorted(names[1:])


def test_the_longest_names_fit(state: State) -> None:
    name = "x" * 255
    put_offsets(state, name, {(1 << 64) - 2: 1})
    assert offsets(state, name) == {(1 << 64) - 2: 1}


# -- partitions ----------------------------------------------------------------------


def test_log_starts_only_grow(state: State) -> None:
    assert state.log_start(7) == 0
    state.set_log_start(7, 5)
    state.set_log_start(7, 3)
    assert state.log_start(7) == 5
    assert state.log_start(8) == 0


def test_highest_committed(state: State) -> None:
    assert state.highest_committed(1) is None
    for name, offset in (("a", 5), ("b", 900), ("c", 7)):
        put_offsets(state, name, {1: offset, 2: 1000})
    assert state.highest_committed(1) == 900


def test_a_deleted_partition_is_forgotten_everywhere(state: State) -> None:
    put_offsets(state, "g", {1: 5, 2: 6})
    put_offsets(state, "h", {1: 5})
    state.set_log_start(1, 4)
    state.set_log_start(3, 4)
    assert state.partition_ids() == {1, 2, 3}
    state.delete_partition(1)
    state.delete_partition(1)
    assert (offsets(state, "g"), offsets(state, "h")) == ({2: 6}, {})
    assert state.log_start(1) == 0
    assert state.highest_committed(1) is None
    assert state.partition_ids() == {2, 3}


# -- against a model -------------------------------------------------------------------

NAMES = st.sampled_from(["g", "gg", "g\u00e9", "h"])
PARTITIONS = st.integers(0, 3)
OFFSETS = st.dictionaries(PARTITIONS, st.integers(0, 20), max_size=4)


class StateMachine(RuleBasedStateMachine):
    """The same operations on a dict and on the real thing, which is reopened at times."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.state = open_state(self.folder / "state.lmdb")
        self.offsets: dict[str, dict[int, int]] = {}
        self.starts: dict[int, int] = {}

    def teardown(self) -> None:
        self.state.close()
        shutil.rmtree(self.folder)

    @rule(name=NAMES, values=OFFSETS)
    def commit(self, name: str, values: dict[int, int]) -> None:
        put_offsets(self.state, name, values)
        known = self.offsets.setdefault(name, {})
        for partition_id, offset in values.items():
            known[partition_id] = max(known.get(partition_id, -1), offset)

    @rule(name=NAMES, values=OFFSETS)
    def join(self, name: str, values: dict[int, int]) -> None:
        groups, who = GroupState(self.state), member()
        groups.join(name, who, values, {}, all_alive)
        groups.leave(name, who.member_id, {}, all_alive)
        begins = {each: max(offset, self.starts.get(each, 0)) for each, offset in values.items()}
        self.offsets[name] = {**begins, **self.offsets.get(name, {})}

    @rule(name=NAMES, values=OFFSETS)
    def reset(self, name: str, values: dict[int, int]) -> None:
        starts = {each: self.starts.get(each, 0) for each in values}
        trimmed = {each: start for each, start in starts.items() if values[each] < start}
        assert GroupState(self.state).reset(name, values, all_alive) == trimmed
        if not trimmed:
            self.offsets.setdefault(name, {}).update(values)

    @rule(name=NAMES)
    def delete_group(self, name: str) -> None:
        assert GroupState(self.state).delete(name, all_alive) is (name in self.offsets)
        self.offsets.pop(name, None)

    @rule(partition_id=PARTITIONS)
    def delete_partition(self, partition_id: int) -> None:
        self.state.delete_partition(partition_id)
        self.starts.pop(partition_id, None)
        for entries in self.offsets.values():
            entries.pop(partition_id, None)

    @rule(partition_id=PARTITIONS, offset=st.integers(0, 20))
    def set_log_start(self, partition_id: int, offset: int) -> None:
        self.state.set_log_start(partition_id, offset)
        self.starts[partition_id] = max(offset, self.starts.get(partition_id, 0))

    @rule(partition_id=PARTITIONS, ceiling=st.integers(0, 20))
    def trim(self, partition_id: int, ceiling: int) -> None:
        """The log start rises to what all groups of the partition have committed, or stays."""
        log_start = self.starts.get(partition_id, 0)
        committed = [e[partition_id] for e in self.offsets.values() if partition_id in e]
        if committed and log_start < ceiling <= min(committed):
            self.starts[partition_id] = log_start = ceiling
        assert self.state.trim(partition_id, ceiling) == log_start

    @rule(old=PARTITIONS, new=st.integers(4, 5))
    def grow(self, old: int, new: int) -> None:
        """Groups that are in the partitions there are begin in new ones at once."""
        self.state.begin_partitions([old], [new])
        for entries in self.offsets.values():
            if old in entries:
                entries.setdefault(new, 0)

    @rule()
    def reopen(self) -> None:
        self.state.close()
        self.state = open_state(self.folder / "state.lmdb")

    @invariant()
    def agrees(self) -> None:
        assert {g.name for g in GroupState(self.state).groups()} == self.offsets.keys()
        for name, entries in self.offsets.items():
            assert offsets(self.state, name) == entries
        for partition_id in range(6):
            committed = {n: e[partition_id] for n, e in self.offsets.items() if partition_id in e}
            found = self.state.committed_in(partition_id)
            assert {name: entry.offset for name, entry in found.items()} == committed
            assert self.state.highest_committed(partition_id) == max(
                committed.values(), default=None
            )
            assert self.state.log_start(partition_id) == self.starts.get(partition_id, 0)
        with_state = {each for entries in self.offsets.values() for each in entries}
        assert self.state.partition_ids() == with_state | set(self.starts)


TestStateMachine = StateMachine.TestCase
TestStateMachine.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


# -- damage --------------------------------------------------------------------------


def fill(path: Path) -> None:
    state = open_state(path)
    groups = GroupState(state)
    for name in ("a", "b"):
        put_offsets(state, name, {1: 5, 2: 6}, metadata="m")
    groups.join("a", member("m"), {}, {"t": [1]}, all_alive)
    put_offsets(state, "gone", {})
    groups.delete("gone", all_alive)
    state.set_log_start(1, 4)
    state.take_producer_ids(10)
    state.close()


def read_everything(path: Path) -> object:
    state = open_state(path)
    groups = GroupState(state)
    try:
        groups.reset("new", {}, all_alive)
        return (
            [(group, state.committed(group.name)) for group in groups.groups()],
            [groups.members(group.name) for group in groups.groups()],
            [state.log_start(partition_id) for partition_id in (1, 2)],
            state.partition_ids(),
            state.take_producer_ids(0) > 0,
            [state.committed_in(partition_id) for partition_id in (1, 2)],
        )
    finally:
        state.close()


def raw_entries(path: Path) -> list[tuple[bytes, bytes]]:
    with lmdb.open(str(path)) as raw, raw.begin() as transaction:
        return list(transaction.cursor())


def raw_put(path: Path, key: bytes, stored: bytes) -> None:
    with lmdb.open(str(path)) as raw, raw.begin(write=True) as transaction:
        transaction.put(key, stored)


def test_a_flipped_bit_in_any_value_is_named(path: Path) -> None:
    fill(path)
    assert read_everything(path)
    entries = raw_entries(path)
    assert {key[:1] for key, _ in entries} == set(map(bytes, zip(b"FGILMNOP")))
    for key, stored in entries:
        if key == b"Gnew":
            continue
        if key == b"N":  # asked for only when a group is new
            raw_entries_drop(path, b"Gnew")
        flipped = bytearray(stored)
        flipped[len(stored) // 2] ^= 4
        raw_put(path, key, bytes(flipped))
        with pytest.raises(StateDamaged) as caught:
            read_everything(path)
        assert caught.value.path == str(path)
        assert repr(key) in str(caught.value)
        raw_put(path, key, stored)
    assert read_everything(path)


def raw_entries_drop(path: Path, key: bytes) -> None:
    with lmdb.open(str(path)) as raw, raw.begin(write=True) as transaction:
        transaction.delete(key)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_value_of_the_wrong_length_is_named(path: Path, size: int) -> None:
    """Such as another program might have left, with a right checksum."""
    fill(path)
    for key, stored in raw_entries(path):
        if key[:1] in b"GLMO" or (key[:1] == b"F" and size < 4):
            raw_put(path, key, seal(key, bytes(size)))
            with pytest.raises(StateDamaged):
                read_everything(path)
            raw_put(path, key, stored)
    raw_put(path, b"Ga", seal(b"Ga", raw_entries(path)[1][1][:-4] + b"more"))
    with pytest.raises(StateDamaged, match="length"):
        read_everything(path)


def test_a_missing_entry_is_named(path: Path) -> None:
    fill(path)
    raw_entries_drop(path, state_format.offset_key(1, "a"))
    with pytest.raises(StateDamaged, match="lacks"):
        read_everything(path)


def test_another_format_is_refused(path: Path) -> None:
    fill(path)
    raw_put(path, b"F", seal(b"F", struct.pack(">I", 1)))
    before = raw_entries(path)
    with pytest.raises(UnsupportedFormat) as caught:
        open_state(path)
    assert (caught.value.found, caught.value.supported) == ("1", "2")
    raw_put(path, b"F", seal(b"F", struct.pack(">I", 3)))
    with pytest.raises(UnsupportedFormat):
        open_state(path, upgrades=True)
    raw_entries_drop(path, b"F")
    with pytest.raises(StateDamaged, match="format is missing"):
        open_state(path)
    assert raw_entries(path) == before[1:]


def test_closed(state: State) -> None:
    state.close()
    state.close()
    for action in (state.partition_ids, lambda: put_offsets(state, "g", {})):
        with pytest.raises(BrokerClosed):
            action()


def test_format_1_is_brought_up_to_date(path: Path) -> None:
    fill(path)
    with_members = raw_entries(path)
    value = struct.pack(">QIqH", 7, 42, 17, 4) + b"here" + struct.pack(">H", 5) + b"range"
    for key, _ in with_members:
        if key[:1] == b"G":
            raw_put(path, key, seal(key, value))
        elif key[:1] == b"M":
            raw_entries_drop(path, key)
    raw_put(path, b"F", seal(b"F", struct.pack(">I", 1)))
    with pytest.raises(UnsupportedFormat):  # somebody of that version may have it open
        open_state(path)
    state = open_state(path, upgrades=True)
    groups = GroupState(state).groups()
    assert [(each.name, each.generation, each.empty_since_ms) for each in groups] == [
        ("a", 8, NOW_MS),
        ("b", 8, NOW_MS),
    ]
    assert offsets(state, "a") == {1: 5, 2: 6}
    state.close()
    open_state(path).close()
    raw_put(path, b"F", seal(b"F", struct.pack(">I", 1)))
    raw_put(path, b"Ga", seal(b"Ga", b"short"))
    with pytest.raises(StateDamaged, match="too short"):
        open_state(path, upgrades=True)
