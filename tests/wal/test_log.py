"""The log as a whole: against a plain model, and with many processes that die at random."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from storage import MEMORY, Child, Clock, FaultyFiles, Store, batch, memory_folder

from seawall.wal.context import wall_clock_ms
from seawall.wal.errors import AppendLost, ForkedHandle, LogFenced, LogGone, OffsetOutOfRange
from seawall.wal.log import remove_log_files
from seawall.wal.records import encode_batch

MakeStore = Callable[..., Store]


class LogMachine(RuleBasedStateMachine):
    """A log and a dict: whatever happens, they say the same."""

    @initialize(segment_bytes=st.sampled_from([200, 1000, 100_000]))
    def begin(self, segment_bytes: int) -> None:
        self._folder = memory_folder()
        self.clock = Clock()
        self.store = Store(
            self._folder.__enter__(),
            clock=self.clock,
            segment_bytes=segment_bytes,
            segment_ms=10_000,
            index_interval_bytes=150,
            allocate_bytes=512,
        )
        self.records: dict[int, tuple[int, bytes]] = {}  # offset -> timestamp, value
        self.log_start = self.durable_end = 0
        self.count = 0

    @property
    def log_end(self) -> int:
        return max(self.records, default=self.log_start - 1) + 1

    @rule(
        batches=st.lists(
            st.lists(
                st.tuples(st.integers(-3, 30), st.sampled_from([0, 1, 40, 300])),
                min_size=1,
                max_size=3,
            ),
            min_size=1,
            max_size=4,
        ),
        by_peer=st.booleans(),
    )
    def append(self, batches: list[list[tuple[int, int]]], by_peer: bool) -> None:
        encoded, records = [], []
        for each in batches:
            values = []
            for timestamp, size in each:
                self.count += 1
                values.append((timestamp, b"%d" % self.count + bytes(size)))
            records += values
            encoded.append(encode_batch([(time, None, value, ()) for time, value in values]))
        end = self.log_end
        if by_peer:
            with self.store.peer() as peer:
                appended = peer.append(encoded)
        else:
            appended = self.store.log.append(encoded)
        assert appended == (end, end + len(records))
        row = self.store.ends.read(1)
        assert row is not None
        self.durable_end = max(self.durable_end, row.durable_offset)  # rolling syncs
        assert self.durable_end <= end
        self.records.update(enumerate(records, end))

    @rule()
    def commit(self) -> None:
        assert self.store.log.commit(self.log_end) == self.log_end
        self.durable_end = self.log_end

    @rule()
    def commit_by_a_peer(self) -> None:
        with self.store.peer() as peer:
            assert peer.sync() == self.log_end
        self.durable_end = self.log_end

    @rule()
    def roll(self) -> None:
        before = self.store.ends.read(1)
        self.store.log.roll()
        if before is not None and before.position:
            self.durable_end = self.log_end

    @rule(ms=st.integers(-20_000, 20_000))
    def time_passes(self, ms: int) -> None:
        self.clock.now_ms += ms

    @rule()
    def checkpoint(self) -> None:
        self.store.log.checkpoint()

    @rule(data=st.data())
    def drop_segments(self, data: st.DataObject) -> None:
        before = data.draw(st.integers(self.log_start, self.durable_end))
        self.store.log_start = self.log_start = before
        self.store.log.drop_segments(before)

    @rule(data=st.data(), max_bytes=st.sampled_from([1, 150, 1 << 20]))
    def read(self, data: st.DataObject, max_bytes: int) -> None:
        offset = data.draw(st.integers(self.log_start, self.durable_end))
        found = self.store.read_all(offset, max_bytes)
        assert [(record.offset, record.timestamp, record.value) for record in found] == [
            (number, *self.records[number]) for number in range(offset, self.durable_end)
        ]

    @rule(offset=st.integers(-2, 200))
    def read_out_of_range(self, offset: int) -> None:
        if not self.log_start <= offset <= self.durable_end:
            with pytest.raises(OffsetOutOfRange):
                self.store.log.reader(offset).read(1)

    @rule(timestamp=st.integers(-4, 31))
    def offset_for_time(self, timestamp: int) -> None:
        expected = [
            (offset, self.records[offset][0])
            for offset in range(self.log_start, self.durable_end)
            if self.records[offset][0] >= timestamp
        ]
        assert self.store.log.offset_for_time(timestamp) == (expected[0] if expected else None)

    @rule(lose_index=st.booleans())
    def reopen_clean(self, lose_index: bool) -> None:
        self.store.reopen(clean=True, lose_index=lose_index)
        self.durable_end = self.log_end

    @rule(lose_index=st.booleans())
    def process_dies(self, lose_index: bool) -> None:
        self.store.reopen(lose_index=lose_index)

    @rule(lose_index=st.booleans())
    def machine_boots(self, lose_index: bool) -> None:
        """After a boot everything that is on disk is durable, and was found."""
        self.store.reopen(reboot=True, lose_index=lose_index)
        assert self.store.findings == []
        self.durable_end = self.log_end

    @rule()
    def ends_are_lost(self) -> None:
        self.store.crash()
        os.unlink(self.store.ends_path)
        self.store.open()
        assert self.store.findings == []
        self.durable_end = self.log_end

    @precondition(lambda self: self.durable_end < self.log_end)
    @rule()
    def a_sync_fails(self) -> None:
        assert isinstance(self.store.files, FaultyFiles)
        self.store.files.fail("sync")
        with pytest.raises(Exception, match="outcome"):
            self.store.log.sync()
        self.store.files.heal()
        self.store.reopen()
        assert self.store.findings == []
        self.durable_end = self.log_end

    @invariant()
    def ends_agree(self) -> None:
        if hasattr(self, "store"):
            assert self.store.log.ends() == (self.log_start, self.durable_end, self.log_end)

    @invariant()
    def nothing_is_damaged(self) -> None:
        if hasattr(self, "store"):
            assert list(self.store.log.verify()) == []

    @invariant()
    def sizes_agree(self) -> None:
        if hasattr(self, "store"):
            row = self.store.ends.read(1)
            assert row is not None
            assert self.store.log.size_bytes() >= row.position

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.crash()
            self._folder.__exit__(None, None, None)


if os.environ.get("HYPOTHESIS_PROFILE") == "thorough":
    LogMachine.TestCase.settings = settings(max_examples=1000, stateful_step_count=50)
else:
    LogMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestLog = LogMachine.TestCase


# -- many processes ----------------------------------------------------------------------

PROCESSES, THREADS = 4, 2


def producer(store: Store, number: int, round_number: int) -> Callable[..., None]:
    """Two threads that append and commit, and say what was acknowledged."""

    def work(say: Callable[[str], None]) -> None:
        log = store.open(join=True)

        def run(thread: int) -> None:
            randomness = random.Random(f"{number}/{thread}/{round_number}")
            sequence = 0
            while sequence < 400:
                batches, first = [], sequence
                for _ in range(randomness.randrange(1, 3)):
                    values = []
                    for _ in range(randomness.randrange(1, 4)):
                        mark = struct.pack(">HHHI", round_number, number, thread, sequence)
                        values.append(mark + bytes(randomness.choice([0, 50, 500])))
                        sequence += 1
                    batches.append(batch(*values))
                appended = log.append(batches)
                if randomness.random() < 0.7:
                    assert log.commit(appended.next_offset) >= appended.next_offset
                    say(json.dumps([thread, first, sequence, appended.base_offset]))
                if randomness.random() < 0.02:
                    log.checkpoint()

        threads = [threading.Thread(target=run, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.crash()

    return work


def assert_all_there(store: Store, acknowledged: dict[int, bytes]) -> None:
    """Dense offsets, each producer's records in order, and everything acknowledged."""
    records = store.read_all()
    assert [record.offset for record in records] == list(range(len(records)))
    last: dict[bytes, int] = {}
    for record in records:
        assert record.value is not None
        who, sequence = record.value[:6], struct.unpack_from(">I", record.value, 6)[0]
        assert sequence > last.get(who, -1)
        last[who] = sequence
    for offset, mark in acknowledged.items():
        value = records[offset].value
        assert value is not None
        assert value[:10] == mark
    assert list(store.log.verify()) == []


@pytest.mark.parametrize("is_killed", [False, True])
def test_many_processes_append_at_once(make_store: MakeStore, is_killed: bool) -> None:
    store = make_store(segment_bytes=8000, allocate_bytes=2000, clock=wall_clock_ms)
    randomness = random.Random(7)
    acknowledged: dict[int, bytes] = {}
    for round_number in range(4 if is_killed else 1):
        store.crash()
        store.files = FaultyFiles()
        children = [Child(producer(store, number, round_number)) for number in range(PROCESSES)]
        # Each has had something acknowledged before it may die.
        said = [[child.line() for _ in range(4)] for child in children] if is_killed else []
        if is_killed:
            for child in randomness.sample(children, PROCESSES):
                time.sleep(randomness.uniform(0.02, 0.15))
                child.kill(signal.SIGKILL)
        for number, child in enumerate(children):
            for line in [*(said[number] if said else []), *child.wait()]:
                try:
                    thread, first, sequence, offset = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the last one, cut off by the kill
                for n in range(first, sequence):
                    mark = struct.pack(">HHHI", round_number, number, thread, n)
                    assert acknowledged.setdefault(offset + n - first, mark) == mark
        if round_number == 3:
            store.files.boot = b"another boot's.."
        store.open()
        assert store.findings == []
        store.log.sync()
        assert_all_there(store, acknowledged)
    assert len(acknowledged) > 50
    if not is_killed:
        assert len(store.read_all()) >= PROCESSES * THREADS * 400


def test_readers_in_other_processes_see_each_record_once_and_in_order(
    make_store: MakeStore,
) -> None:
    store = make_store(segment_bytes=2000)
    store.crash()

    def read(say: Callable[[str], None]) -> None:
        log = store.open(join=True)
        reader, expected = log.reader(0), 0
        deadline = time.monotonic() + 100
        while expected < 600 and time.monotonic() < deadline:
            for _, header in reader.read(1000).batches:
                if header.base_offset != expected:
                    say(f"{header.base_offset} instead of {expected}")
                expected = header.next_offset
            assert expected <= log.ends().durable_end
        say(f"{expected}")
        store.crash()

    readers = [Child(read) for _ in range(2)]
    store.open(join=True)
    for number in range(300):
        store.append(b"%d" % number, b"x")
        if number % 3 == 2:
            store.log.sync()
    for reader in readers:
        assert reader.wait() == ["600"]


# -- the life of a log -------------------------------------------------------------------


def test_a_log_can_be_removed_and_its_neighbour_stays(store: Store) -> None:
    store.put(b"a")
    store.log.checkpoint()
    store.log.mark_deleted()
    remove_log_files(store.context)
    assert not os.path.exists(store.folder)
    assert store.index.checkpoint(1) is None
    assert store.ends.read(1) is None
    with pytest.raises(LogGone):
        store.log.ends()
    with pytest.raises(LogGone):
        store.append(b"b")
    remove_log_files(store.context)  # as a sole opener may have to, again


def test_verify_is_not_disturbed_by_trimming(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=200)
    for number in range(10):
        store.put(b"%d" % number * 50)

    class Trimming(FaultyFiles):
        opened = 0

        def open(self, path: str, flags: int = 0, mode: int = 0o644) -> int:
            if path.endswith(".log"):
                self.opened += 1
                if self.opened == 2:
                    store.log.drop_segments(7)
            return super().open(path, flags, mode)

    with store.peer(Trimming()) as peer:
        assert list(peer.verify()) == []


def test_two_processes_trim_at_once(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=200)
    for number in range(10):
        store.put(b"%d" % number * 50)

    class Trimming(FaultyFiles):
        done = False

        def unlink(self, path: str) -> None:
            if not self.done:
                self.done = True
                store.log.drop_segments(7)
            super().unlink(path)

    with store.peer(Trimming()) as peer:
        assert peer.drop_segments(5) == 5
    assert store.log.ends().log_start == 7
    assert len(store.read_all()) == 3


def test_sizes(make_store: MakeStore) -> None:
    store = make_store(segment_bytes=400)
    for _ in range(6):
        store.put(b"x" * 50)
    assert store.log.size_bytes() == 6 * len(batch(b"x" * 50))


def test_a_log_on_a_disk(make_store: MakeStore, tmp_path: object) -> None:
    """What the other tests do in memory works on the file system of /tmp, too."""
    assert MEMORY is None or str(tmp_path) != MEMORY
    store = make_store(str(tmp_path), segment_bytes=100_000)
    expected = [b"%d" % number * 500 for number in range(200)]
    for value in expected:
        store.append(value)
    store.log.sync()
    store.reopen(reboot=True)
    store.assert_works(*expected)


def test_a_fork_in_the_middle_of_work(store: Store) -> None:
    """The parent's threads go on appending while children are forked and end."""
    done = threading.Event()
    appended: list[int] = []

    def append() -> None:
        while not done.is_set():
            appended.append(store.put(b"x"))

    threads = [threading.Thread(target=append) for _ in range(2)]
    for thread in threads:
        thread.start()

    def work(say: Callable[[str], None]) -> None:
        try:
            store.append(b"by the child")
        except ForkedHandle:
            say("refused")

    children = []
    try:
        for _ in range(5):
            children.append(Child(work))
            before, deadline_s = len(appended), time.monotonic() + 60
            while len(appended) < before + 2:
                assert time.monotonic() < deadline_s, "nothing is appended any more"
                time.sleep(0.001)
        assert [child.wait() for child in children] == [["refused"]] * 5
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert store.values() == [b"x"] * max(appended)


def test_an_append_at_another_end_changes_nothing(store: Store) -> None:
    log = store.log
    assert log.append_at(1, [batch(b"a")]) is None
    assert log.ends().log_end == 0
    appended = log.append_at(0, [batch(b"a"), batch(b"b")])
    assert appended is not None
    assert (appended.base_offset, appended.next_offset) == (0, 2)
    assert log.append_at(0, [batch(b"c")]) is None
    assert log.append_at(1, [batch(b"c")]) is None
    assert log.commit(2) == 2


def test_a_log_that_ends_before_what_was_appended_takes_nothing_until_opened_alone(
    store: Store,
) -> None:
    store.append(b"a")
    with store.peer() as peer:
        with pytest.raises(AppendLost, match=r"ends at offset 1, before .* up to 3") as caught:
            store.log.commit(3)
        assert (caught.value.next_offset, caught.value.durable_end) == (3, 1)
        assert store.values() == [b"a"]
        for log in (store.log, peer):
            with pytest.raises(LogFenced):
                log.append([batch(b"b")])
    store.reopen()
    store.put(b"b")
    assert store.values() == [b"a", b"b"]


@pytest.mark.parametrize(("records", "size"), [(2, 400), (2, 1), (1, 900)])
def test_an_append_that_was_overwritten_is_lost_and_fences_the_log(
    store: Store, records: int, size: int
) -> None:
    """Somebody puts an older row back, and another process appends at the end in it."""
    store.put(b"a")
    before = store.ends.read(1)
    assert before is not None
    appended = store.log.append([batch(*[b"m" * size] * records)])
    with store.peer() as peer:
        store.ends.write(1, before)
        theirs = peer.append([batch(b"theirs" * 100)])
        assert theirs.base_offset == appended.base_offset
        with pytest.raises(AppendLost):
            store.log.commit(appended.next_offset)
        row = store.ends.read(1)
        assert row is not None
        assert row.durable_offset <= row.next_offset == theirs.next_offset
        assert row.durable_position <= row.position
        for log in (store.log, peer):
            with pytest.raises(LogFenced):
                log.append([batch(b"b")])
    store.reopen()
    end = store.log.ends().log_end
    assert end >= theirs.next_offset
    assert store.put(b"c") == end + 1
    values = store.values()
    assert (values[0], values[1], values[-1]) == (b"a", b"theirs" * 100, b"c")
