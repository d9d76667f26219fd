"""state.lmdb against a dict, and everything that may go wrong with it."""

from __future__ import annotations

import shutil
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from seawall.broker import state_format
from seawall.broker.errors import (
    BrokerClosed,
    GroupFenced,
    InvalidGroupName,
    StateDamaged,
    UnknownGroup,
    UnsupportedFormat,
)
from seawall.broker.state import Committed, Group, Holder, State
from seawall.wal.files import Files
from seawall.wal.kv import Environment
from seawall.wal.kv_view import seal

NOW_MS = 1_700_000_000_000
HOLDER = Holder(pid=42, host="here", started_ms=17)


def open_state(path: Path) -> State:
    environment = Environment(str(path), files=Files(), map_size_bytes=1 << 28)
    try:
        return State(environment, clock_ms=lambda: NOW_MS)
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


# -- groups --------------------------------------------------------------------------


def test_a_group_is_registered_by_its_first_claim(state: State) -> None:
    assert state.groups() == []
    assert state.group("g") is None
    assert state.holder("g") is None
    with pytest.raises(UnknownGroup):
        state.committed("g")
    assert state.claim("g", HOLDER, protocol="range") == 1
    assert state.claim("größe/2", HOLDER) == 1
    assert state.claim("g", HOLDER, protocol="range") == 2
    want = Group(name="g", generation=2, holder=HOLDER, protocol="range")
    assert state.group("g") == want
    assert state.holder("g") == HOLDER
    assert [group.name for group in state.groups()] == ["g", "größe/2"]
    assert state.committed("g") == {}


def test_only_the_generation_in_force_commits(state: State) -> None:
    first = state.claim("g", HOLDER)
    state.commit("g", first, {1: 5})
    second = state.claim("g", HOLDER)
    for action in (state.commit, state.initialise):
        with pytest.raises(GroupFenced) as caught:
            action("g", first, {1: 9, 2: 9})
        assert (caught.value.generation, caught.value.current) == (first, second)
    assert offsets(state, "g") == {1: 5}
    state.commit("g", second, {1: 9})
    assert offsets(state, "g") == {1: 9}
    with pytest.raises(GroupFenced):
        state.commit("other", 1, {1: 9})


def test_a_fenced_consumer_stays_fenced_when_the_group_is_made_anew(state: State) -> None:
    old = state.claim("g", HOLDER)
    assert state.delete_group("g")
    with pytest.raises(GroupFenced) as caught:
        state.commit("g", old, {1: 5})
    assert caught.value.current == 0
    assert state.claim("g", HOLDER) > old
    with pytest.raises(GroupFenced):
        state.commit("g", old, {1: 5})
    assert state.committed("g") == {}


def test_commits_never_move_backwards(state: State) -> None:
    generation = state.claim("g", HOLDER)
    state.commit("g", generation, {1: 5, 2: 0}, metadata="größe")
    state.commit("g", generation, {1: 4, 2: 7})
    state.commit("g", generation, {1: 5}, metadata="ignored")
    assert state.committed("g") == {1: Committed(5, NOW_MS, "größe"), 2: Committed(7, NOW_MS, "")}


def test_initialise_keeps_what_is_there(state: State) -> None:
    generation = state.claim("g", HOLDER)
    state.commit("g", generation, {1: 5})
    assert state.initialise("g", generation, {1: 0, 2: 3}) == {1: 5, 2: 3}
    assert state.initialise("g", generation, {1: 99, 2: 99}) == {1: 5, 2: 3}
    assert offsets(state, "g") == {1: 5, 2: 3}


def test_reset_moves_backwards_and_fences(state: State) -> None:
    generation = state.claim("g", HOLDER)
    state.commit("g", generation, {1: 5, 2: 6})
    state.reset("g", {1: 0, 3: 2})
    assert offsets(state, "g") == {1: 0, 2: 6, 3: 2}
    assert state.holder("g") == HOLDER
    with pytest.raises(GroupFenced):
        state.commit("g", generation, {1: 5})
    state.reset("new", {1: 8})
    assert offsets(state, "new") == {1: 8}
    assert state.holder("new") is None


def test_names_that_begin_alike_are_apart(state: State) -> None:
    names = ["a", "aa", "a a", "a!", "b", "ä"]
    for number, name in enumerate(names):
        state.commit(name, state.claim(name, HOLDER), {1: number, 256: number, 1 << 40: number})
    for number, name in enumerate(names):
        assert offsets(state, name) == {1: number, 256: number, 1 << 40: number}
    assert state.delete_group("a")
    assert not state.delete_group("a")
    assert [group.name for group in state.groups()] == sorted(names[1:], key=str.encode)
    assert offsets(state, "aa") == {1: 1, 256: 1, 1 << 40: 1}
    assert sorted(state.committed_in(256)) == sorted(names[1:])


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 256])
def test_bad_group_names_are_refused(state: State, name: str) -> None:
    with pytest.raises(InvalidGroupName):
        state.claim(name, HOLDER)
    with pytest.raises(InvalidGroupName):
        state.reset(name, {})


def test_the_longest_names_fit(state: State) -> None:
    name = "x" * 255
    long = Holder(pid=(1 << 32) - 1, host="h" * 300, started_ms=-1)
    state.commit(name, state.claim(name, long, protocol="p" * 1000), {(1 << 64) - 2: 1})
    assert offsets(state, name) == {(1 << 64) - 2: 1}
    assert state.holder(name) == Holder(pid=(1 << 32) - 1, host="h" * 255, started_ms=-1)


def test_what_is_no_offset_is_refused_whole(state: State) -> None:
    generation = state.claim("g", HOLDER)
    with pytest.raises(ValueError, match="negative"):
        state.commit("g", generation, {1: 5, 2: -1})
    with pytest.raises(ValueError, match="metadata"):
        state.commit("g", generation, {1: 5}, metadata="x" * 4097)
    assert state.committed("g") == {}


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
        state.commit(name, state.claim(name, HOLDER), {1: offset, 2: 1000})
    assert state.highest_committed(1) == 900


def test_a_deleted_partition_is_forgotten_everywhere(state: State) -> None:
    generation = state.claim("g", HOLDER)
    state.commit("g", generation, {1: 5, 2: 6})
    state.commit("h", state.claim("h", HOLDER), {1: 5})
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
        self.folder = Path(tempfile.mkdtemp())
        self.state = open_state(self.folder / "state.lmdb")
        self.offsets: dict[str, dict[int, int]] = {}
        self.generations: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self.starts: dict[int, int] = {}

    def teardown(self) -> None:
        self.state.close()
        shutil.rmtree(self.folder)

    @initialize()
    def first_group(self) -> None:
        self.claim("g")

    @rule(name=NAMES)
    def claim(self, name: str) -> None:
        generation = self.state.claim(name, HOLDER)
        assert generation > self.used.get(name, 0)
        self.used[name] = self.generations[name] = generation
        self.offsets.setdefault(name, {})

    @rule(name=NAMES, values=OFFSETS, age=st.integers(0, 1))
    def commit(self, name: str, values: dict[int, int], age: int) -> None:
        generation = self.used.get(name, 0) - age
        if generation == self.generations.get(name):
            self.state.commit(name, generation, values)
            for partition_id, offset in values.items():
                old = self.offsets[name].get(partition_id, -1)
                self.offsets[name][partition_id] = max(old, offset)
        else:
            with pytest.raises(GroupFenced):
                self.state.commit(name, generation, values)

    @precondition(lambda self: self.generations)
    @rule(data=st.data(), values=OFFSETS)
    def initialise(self, data: st.DataObject, values: dict[int, int]) -> None:
        name = data.draw(st.sampled_from(sorted(self.generations)))
        committed = self.state.initialise(name, self.generations[name], values)
        begins = {each: max(offset, self.starts.get(each, 0)) for each, offset in values.items()}
        self.offsets[name] = {**begins, **self.offsets[name]}
        assert committed == {each: self.offsets[name][each] for each in values}

    @rule(name=NAMES, values=OFFSETS)
    def reset(self, name: str, values: dict[int, int]) -> None:
        before = self.state.group(name)
        starts = {each: self.starts.get(each, 0) for each in values}
        trimmed = {each: start for each, start in starts.items() if values[each] < start}
        assert self.state.reset(name, values) == trimmed
        group = self.state.group(name)
        if trimmed:
            assert group == before
            return
        assert group is not None
        assert group.generation > self.used.get(name, 0)
        self.used[name] = self.generations[name] = group.generation
        self.offsets.setdefault(name, {}).update(values)

    @rule(name=NAMES)
    def delete_group(self, name: str) -> None:
        assert self.state.delete_group(name) is (name in self.generations)
        self.generations.pop(name, None)
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

    @rule()
    def reopen(self) -> None:
        self.state.close()
        self.state = open_state(self.folder / "state.lmdb")

    @invariant()
    def agrees(self) -> None:
        assert {g.name: g.generation for g in self.state.groups()} == self.generations
        for name, entries in self.offsets.items():
            assert offsets(self.state, name) == entries
        for partition_id in range(4):
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
    for name in ("a", "b"):
        state.commit(name, state.claim(name, HOLDER), {1: 5, 2: 6}, metadata="m")
    state.claim("gone", HOLDER)
    state.delete_group("gone")
    state.set_log_start(1, 4)
    state.close()


def read_everything(path: Path) -> object:
    state = open_state(path)
    try:
        state.claim("new", HOLDER)
        return (
            [(group, state.committed(group.name)) for group in state.groups()],
            [state.log_start(partition_id) for partition_id in (1, 2)],
            state.partition_ids(),
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
    assert {key[:1] for key, _ in entries} == {b"F", b"G", b"L", b"N", b"O", b"P"}
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
        if key[:1] in b"GLO" or (key[:1] == b"F" and size < 4):
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
    raw_put(path, b"F", seal(b"F", struct.pack(">I", 2)))
    before = raw_entries(path)
    with pytest.raises(UnsupportedFormat) as caught:
        open_state(path)
    assert (caught.value.found, caught.value.supported) == ("2", "1")
    raw_entries_drop(path, b"F")
    with pytest.raises(StateDamaged, match="format is missing"):
        open_state(path)
    assert raw_entries(path) == before[1:]


# -- many threads ----------------------------------------------------------------------


def test_threads_commit_side_by_side(state: State) -> None:
    generation = state.claim("g", HOLDER)

    def commit(partition_id: int) -> None:
        for offset in range(1, 16):
            state.commit("g", generation, {partition_id: offset})
            assert offsets(state, "g")[partition_id] == offset

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert offsets(state, "g") == {0: 15, 1: 15, 2: 15, 3: 15}


def test_closed(state: State) -> None:
    state.close()
    state.close()
    for action in (state.groups, lambda: state.claim("g", HOLDER)):
        with pytest.raises(BrokerClosed):
            action()
