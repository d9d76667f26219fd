"""Which record is next, and what may be acknowledged: by example, and against a model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seawall.broker.dispatcher import Dispatcher, Entry, State
from seawall.broker.handling import KEY, ORDERINGS, PARTITION, UNORDERED, Failure
from seawall.wal.records import Record

FAILURE = Failure(error_class="ValueError", message="no")
T0, T1 = ("t", 0), ("t", 1)


def records(*keys: bytes | None, partition: int = 0, first: int = 0) -> list[Record]:
    return [
        Record("t", partition, offset, 0, key, b"%d" % offset, ())
        for offset, key in enumerate(keys, first)
    ]


def dispatcher(ordering: str = KEY, max_pending: int = 100, max_deliveries: int = 3) -> Dispatcher:
    made = Dispatcher(ordering=ordering, max_pending=max_pending, max_deliveries=max_deliveries)
    made.assign([T0])
    return made


def take(made: Dispatcher, now_ms: float = 0) -> Entry:
    entry = made.take(now_ms)
    assert entry is not None
    return entry


def takes(made: Dispatcher, now_ms: float = 0) -> list[tuple[int, int]]:
    """(partition, offset) of all that can run at once."""
    found = []
    while (entry := made.take(now_ms)) is not None:
        found.append((entry.partition.place[1], entry.offset))
    return found


@pytest.mark.parametrize(
    ("ordering", "at_once"),
    [
        (KEY, [0, 1, 3]),  # a, b, and the first without a key
        (PARTITION, [0]),
        (UNORDERED, [0, 1, 2, 3, 4]),
    ],
)
def test_ordering_says_what_runs_at_the_same_time(ordering: str, at_once: list[int]) -> None:
    made = dispatcher(ordering)
    made.add(records(b"a", b"b", b"a", None, None), {})
    assert takes(made) == [(0, offset) for offset in at_once]


def test_a_key_goes_on_once_the_one_before_is_done() -> None:
    made = dispatcher()
    made.add(records(b"a", b"a"), {})
    first = take(made)
    assert made.take(0) is None
    made.succeed(first)
    assert take(made).offset == 1


def test_only_what_is_done_without_a_gap_is_progress() -> None:
    made = dispatcher()
    made.add(records(b"a", b"b", b"c"), {})
    a, b, c = (take(made) for _ in range(3))
    made.succeed(c)
    made.succeed(b)
    assert made.progress() == {}
    made.succeed(a)
    assert made.progress() == {T0: 3}
    made.acknowledged({T0: 3})
    assert made.progress() == {}


def test_a_retry_holds_up_its_key_and_nothing_else() -> None:
    made = dispatcher()
    made.add(records(b"a", b"a", b"b", b"b"), {})
    made.retry(take(made), due_ms=50)
    second = take(made)
    assert second.offset == 2
    made.succeed(second)
    assert take(made).offset == 3
    assert made.take(49) is None
    assert made.due_ms() == 50
    again = take(made, 50)
    assert (again.offset, again.deliveries) == (0, 2)
    assert made.take(50) is None


def test_the_limit_counts_the_deliveries_of_processes_before() -> None:
    made = dispatcher(max_deliveries=3)
    made.add(records(b"a", b"b"), {("t", 0, 0): 2, ("t", 0, 1): 3})
    a, b = take(made), take(made)
    assert (a.deliveries, made.is_last(a), a.failure) == (3, True, None)
    # It has had all of them: nobody gets it, it is buried at once.
    assert b.deliveries == 3
    assert b.failure is not None
    assert b.failure.error_class == "ProcessDied"


def test_a_burial_that_fails_is_tried_again_and_counts_no_delivery() -> None:
    made = dispatcher()
    made.add(records(b"a"), {})
    made.bury(take(made), FAILURE, due_ms=0)
    entry = take(made)
    assert (entry.deliveries, entry.burials) == (1, 0)
    made.bury(entry, FAILURE, due_ms=10)
    assert made.take(9) is None
    assert (take(made, 10).burials, made.progress()) == (1, {})
    made.succeed(entry)
    assert made.progress() == {T0: 1}


def test_partitions_take_turns() -> None:
    made = dispatcher()
    made.assign([T1])
    made.add(records(b"a", b"b", b"c"), {})
    made.add(records(b"x", b"y", b"z", partition=1), {})
    assert [partition for partition, _ in takes(made)] == [0, 1, 0, 1, 0, 1]


def test_a_partition_has_its_share_and_leaves_the_others_theirs() -> None:
    made = dispatcher(max_pending=8)
    made.assign([T1])
    assert (made.share, made.step) == (4, 2)
    made.add(records(b"a", b"a"), {})
    assert made.full(0) == []
    made.add(records(b"a", first=2), {})
    assert made.full(5) == [T0]
    assert made.full(9) == [T0]
    assert made.full_ms(9) == {T0: 4}
    assert made.succeed(take(made)) is True  # there is room again
    assert made.full(10) == []
    assert made.full_ms(10) == {}


def test_what_is_done_behind_a_gap_takes_room() -> None:
    made = dispatcher(UNORDERED, max_pending=4)
    made.add(records(None, None, None), {})
    take(made)
    for _ in range(2):
        assert made.succeed(take(made)) is False
    assert made.pending == 3
    assert made.full(0) == [T0]


def test_revoking_drops_what_waits_and_lets_finish_what_runs() -> None:
    made = dispatcher()
    made.add(records(b"a", b"b", b"c", b"a"), {})
    a, b = take(made), take(made)
    made.revoke([T0])
    assert made.take(0) is None
    assert made.running_in([T0]) == 2
    made.succeed(a)
    made.retry(b, due_ms=0)
    assert made.running_in([T0]) == 0
    assert made.take(1) is None  # retries of a lost partition end
    assert made.progress() == {T0: 1}
    made.forget([T0])
    assert (made.pending, made.unfinished, made.running) == (0, 0, 0)
    assert made.progress() == {}


def test_what_finishes_after_its_partition_went_and_came_back_changes_nothing() -> None:
    made = dispatcher()
    made.add(records(b"a"), {})
    old = take(made)
    made.forget([T0])
    made.assign([T0])
    made.add(records(b"a"), {})
    made.succeed(old)
    assert (made.pending, made.unfinished, made.running) == (1, 1, 0)
    assert made.progress() == {}


def test_records_of_partitions_that_are_not_assigned_are_not_taken() -> None:
    made = dispatcher()
    assert made.add(records(b"a", partition=7), {}) == 0
    made.revoke([T0])
    assert made.add(records(b"a"), {}) == 0


def test_nobody_finishes_what_nobody_took() -> None:
    made = dispatcher()
    made.add(records(b"a"), {})
    entry = take(made)
    made.succeed(entry)
    with pytest.raises(ValueError, match="not running"):
        made.succeed(entry)


class Model(RuleBasedStateMachine):
    """Two partitions that come and go, handlers that succeed, fail and are slow."""

    MAX_DELIVERIES = 3
    MAX_PENDING = 12
    CONCURRENCY = 4

    @initialize(ordering=st.sampled_from(ORDERINGS))
    def begin(self, ordering: str) -> None:
        self.ordering = ordering
        self.made = Dispatcher(
            ordering=ordering, max_pending=self.MAX_PENDING, max_deliveries=self.MAX_DELIVERIES
        )
        self.now_ms = 0.0
        self.running: list[Entry] = []
        self.owned: set[int] = set()
        self.next_offset = {0: 0, 1: 0}
        self.committed = {0: 0, 1: 0}
        self.keys: dict[tuple[int, int], bytes | None] = {}
        self.came: dict[tuple[str, int, int], int] = {}
        self.buried: set[tuple[int, int]] = set()
        self.handled: set[tuple[int, int]] = set()

    @rule(number=st.sampled_from([0, 1]))
    def assigned(self, number: int) -> None:
        if number not in self.owned:
            self.owned.add(number)
            self.next_offset[number] = self.committed[number]  # it is read from there
            self.made.assign([("t", number)])

    @rule(number=st.sampled_from([0, 1]), is_lost=st.booleans(), dice=st.integers(1, 4))
    def gone(self, number: int, is_lost: bool, dice: int = 4) -> None:
        if number in self.owned and dice == 4:
            self.owned.discard(number)
            self.made.revoke([("t", number)])
            if not is_lost:
                self.acknowledge()
            self.made.forget([("t", number)])

    @precondition(lambda self: self.owned)
    @rule(keys=st.lists(st.sampled_from([b"a", b"b", b"c", None]), min_size=1, max_size=8))
    def fetched(self, keys: Sequence[bytes | None]) -> None:
        full = self.made.full(self.now_ms)
        for number in sorted(self.owned):
            if ("t", number) in full:
                continue
            fetched = []
            for key in keys[: self.made.step]:
                offset = self.next_offset[number]
                key = self.keys.setdefault((number, offset), key)
                fetched += [Record("t", number, offset, 0, key, b"", ())]
                self.next_offset[number] += 1
            assert self.made.add(fetched, self.came) == len(fetched)

    @rule(count=st.integers(1, CONCURRENCY))
    def take_some(self, count: int) -> None:
        for _ in range(count):
            self.taken()

    def taken(self) -> None:
        entry = self.made.take(self.now_ms) if len(self.running) < self.CONCURRENCY else None
        if entry is None:
            return
        number = entry.partition.place[1]
        record = entry.record
        assert record is not None
        assert number in self.owned
        assert entry.due_ms <= self.now_ms
        assert entry.offset >= self.committed[number]
        for other in self.running:
            if other.partition is entry.partition:  # not one that is gone
                assert self.ordering == UNORDERED or (
                    self.ordering == KEY and self.key_of(other) != record.key
                )
        for offset in range(self.committed[number], entry.offset):
            before = number, offset
            shares = self.ordering == PARTITION or self.keys[before] == record.key
            if self.ordering != UNORDERED and shares:
                assert before in self.handled | self.buried, "out of order"
        if entry.failure is None:
            came = self.came.get(("t", number, entry.offset), 0)
            assert entry.deliveries == came + 1 <= self.MAX_DELIVERIES
            self.came["t", number, entry.offset] = entry.deliveries
        self.running.append(entry)

    def key_of(self, entry: Entry) -> bytes | None:
        return self.keys[entry.partition.place[1], entry.offset]

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 3), succeeds=st.booleans(), wait_ms=st.integers(0, 30))
    def finished(self, index: int, succeeds: bool, wait_ms: int) -> None:
        entry = self.running.pop(index % len(self.running))
        place = entry.partition.place[1], entry.offset
        is_ours = self.made._partitions.get(entry.partition.place) is entry.partition
        if entry.failure is not None:
            if not succeeds:
                self.made.bury(entry, FAILURE, self.now_ms + wait_ms)
                return
            if is_ours:
                assert entry.deliveries == self.MAX_DELIVERIES
                self.buried.add(place)
            self.made.succeed(entry)
        elif succeeds:
            if is_ours:
                self.handled.add(place)
            self.made.succeed(entry)
        elif self.made.is_last(entry):
            self.made.bury(entry, FAILURE, self.now_ms)
        else:
            self.made.retry(entry, self.now_ms + wait_ms)

    @rule(wait_ms=st.integers(1, 40))
    def time_passes(self, wait_ms: int) -> None:
        self.now_ms += wait_ms

    @rule()
    def acknowledge(self) -> None:
        progress = self.made.progress()
        for (_, number), offset in progress.items():
            self.committed[number] = offset
        self.made.acknowledged(progress)

    @invariant()
    def is_bounded(self) -> None:
        if not hasattr(self, "made"):
            return
        ours = [
            each
            for each in self.running
            if self.made._partitions.get(each.partition.place) is each.partition
        ]
        assert self.made.running == len(ours)
        for partition in self.made._partitions.values():
            assert len(partition.entries) <= self.MAX_PENDING
        for (_, number), offset in self.made.progress().items():
            assert offset > self.committed[number]
            for each in range(self.committed[number], offset):
                assert (number, each) in self.handled | self.buried
        entries = [e for p in self.made._partitions.values() for e in p.entries]
        assert self.made.pending == len(entries)
        assert self.made.unfinished == sum(e.state is not State.DONE for e in entries)

    def teardown(self) -> None:
        """Whatever happened: in the end everything is handled or buried, and acknowledged."""
        if not hasattr(self, "made"):
            return
        for number in sorted(self.owned):
            self.gone(number, is_lost=False, dice=4)
        self.running.clear()
        for number in (0, 1):
            self.assigned(number)
            last = max((offset for n, offset in self.keys if n == number), default=-1)
            while self.committed[number] <= last:
                self.now_ms += 1_000
                if self.next_offset[number] <= last:
                    self.fetched([b"a"])
                self.taken()
                if self.running:
                    self.finished(0, True, 0)
                self.acknowledge()


TestModel = Model.TestCase
TestModel.settings = settings(stateful_step_count=60)
