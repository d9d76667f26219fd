"""A log that is compacted, against a plain list: whatever is done, in whatever order.

The last value of each key is there, at its offset, with its timestamp; so is every record
without a key. What is gone stays gone, and takes all older values of its key with it. A
tombstone stays until its horizon has passed. What came last of each idempotent producer is
known, whatever became of its records, and though the index is lost.
"""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from storage import Clock, Crash, FaultyFiles, Store, memory_folder

from seawall.wal.compaction import Rules
from seawall.wal.errors import OffsetOutOfRange
from seawall.wal.filtering import NEVER
from seawall.wal.reader import Reader
from seawall.wal.records import Record, decode_batch, encode_batch, parse_header

RETENTION_MS = 1_000
KEYS = [b"a", b"b", b"c", b"d"]
ROWS = st.lists(
    st.tuples(
        st.sampled_from([*KEYS, *KEYS, None]),
        st.sampled_from([None, b"", b"v" * 30, b"w" * 300]),
        st.integers(-50, 50),
    ),
    min_size=1,
    max_size=6,
)


class CompactionMachine(RuleBasedStateMachine):
    """`sent` is every record there ever was; `gone` those that were missed once."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = memory_folder()
        self.clock = Clock()
        self.files = FaultyFiles()
        self.sent: list[Record] = []
        self.sent_ms: list[int] = []
        self.gone: set[int] = set()
        self.producer_id = itertools.count()
        # By id: first sequence, base offset and bytes of the last batch.
        self.last_batches: dict[int, tuple[int, int, bytes]] = {}
        self.reader: Reader | None = None

    @initialize()
    def open(self) -> None:
        self.store = Store(
            self.memory.__enter__(),
            files=self.files,
            clock=self.clock,
            segment_bytes=1500,
            index_interval_bytes=200,
            allocate_bytes=4096,
        )

    # -- what is done --------------------------------------------------------------------

    @rule(
        rows=ROWS,
        compression=st.sampled_from(["none", "none", "gzip", "lz4"]),
        is_idempotent=st.booleans(),
        append_time=st.booleans(),
    )
    def put(self, rows: Any, compression: str, is_idempotent: bool, append_time: bool) -> None:
        now_ms = self.clock.now_ms
        records = [(now_ms + shift, key, value, ()) for key, value, shift in rows]
        producer_id = next(self.producer_id) % 3 if is_idempotent else -1
        sequence = self.next_sequence(producer_id)
        batch = encode_batch(
            records,
            compression=compression,
            producer_id=producer_id,
            producer_epoch=0 if is_idempotent else -1,
            base_sequence=sequence,
            log_append_time_ms=now_ms if append_time else None,
        )
        [appended] = self.store.log.append_checked([batch])
        assert not appended.is_duplicate
        self.store.log.commit(appended.next_offset)
        if is_idempotent:
            self.last_batches[producer_id] = sequence, len(self.sent), bytes(batch)
        for timestamp, key, value, headers in records:
            timestamp = now_ms if append_time else timestamp
            offset = len(self.sent)
            self.sent.append(Record("orders", 0, offset, timestamp, key, value, headers))
            self.sent_ms.append(now_ms)
        assert appended.next_offset == len(self.sent)

    def next_sequence(self, producer_id: int) -> int:
        if producer_id not in self.last_batches:
            return 0 if producer_id >= 0 else -1
        sequence, _, batch = self.last_batches[producer_id]
        return sequence + parse_header(batch).last_offset_delta + 1

    @rule(producer_id=st.integers(0, 2))
    def resend(self, producer_id: int) -> None:
        _, offset, batch = self.last_batches.get(producer_id, (0, -1, b""))
        if offset >= self.store.log.ends().log_start:
            [placed] = self.store.log.append_checked([bytearray(batch)])
            assert (placed.base_offset, placed.is_duplicate) == (offset, True)

    @invariant()
    def producers_are_known(self) -> None:
        if not self.sent:
            return
        start, producers = self.store.log.ends().log_start, self.store.log.producers()
        for producer_id, (sequence, offset, batch) in self.last_batches.items():
            # Of what was dropped nothing is left once the index is lost.
            if producer_id in producers or offset >= start:
                last = producers[producer_id].batches[-1]
                span = parse_header(batch).last_offset_delta
                assert last[:3] == (sequence, sequence + span, offset)

    @rule()
    def roll(self) -> None:
        self.store.log.roll()

    @rule(ms=st.sampled_from([1, 400, 1_500]))
    def wait(self, ms: int) -> None:
        self.clock.now_ms += ms

    @rule(
        ratio=st.sampled_from([0.0, 0.5]),
        lag_ms=st.sampled_from([0, 500]),
        buffer_bytes=st.sampled_from([1, 1 << 20]),
        dry_run=st.booleans(),
    )
    def compact(self, ratio: float, lag_ms: int, buffer_bytes: int, dry_run: bool) -> None:
        rules = Rules(
            min_dirty_ratio=ratio,
            min_lag_ms=lag_ms,
            max_lag_ms=NEVER,
            delete_retention_ms=RETENTION_MS,
            dedupe_buffer_bytes=buffer_bytes,
        )
        before = self.visible()
        told = self.store.log.compact(rules, dry_run=True)
        assert self.visible() == before
        if dry_run:
            return
        assert self.store.log.compact(rules) == told
        after = self.visible()
        # Below the log start some may go that nobody sees.
        assert len(before) - len(after) <= told.superseded + told.expired
        if (ratio, lag_ms, buffer_bytes) == (0.0, 0, 1 << 20):
            self.check_all_is_clean(after)

    def check_all_is_clean(self, visible: dict[int, Record]) -> None:
        row = self.store.context.row()
        bases = [each.base_offset for each in self.store.log.segments()]
        end = (
            row.segment
            if row.durable_position
            else max([0, *(b for b in bases if b < row.segment)])
        )
        keys = [each.key for each in visible.values() if each.key and each.offset < end]
        assert len(keys) == len(set(keys))

    @rule(nth=st.integers(1, 60), buffer_bytes=st.sampled_from([1, 1 << 20]))
    def compact_and_die(self, nth: int, buffer_bytes: int) -> None:
        """The process dies at some call."""
        self.files.fail(nth=nth, error=Crash)
        try:
            self.store.log.compact(
                Rules(
                    min_dirty_ratio=0,
                    delete_retention_ms=RETENTION_MS,
                    dedupe_buffer_bytes=buffer_bytes,
                )
            )
        except Crash:
            self.reader = None
            self.store.reopen()
        self.files.heal()

    @rule(lose_index=st.booleans(), reboot=st.booleans(), clean=st.booleans())
    def reopen(self, lose_index: bool, reboot: bool, clean: bool) -> None:
        self.reader = None
        self.store.log_start = self.store.log.ends().log_start
        self.store.reopen(clean=clean, lose_index=lose_index, reboot=reboot)

    @rule(part=st.floats(0, 1))
    def delete_records(self, part: float) -> None:
        ends = self.store.log.ends()
        self.store.log.drop_segments(
            ends.log_start + int(part**3 * (ends.durable_end - ends.log_start))
        )

    @rule(part=st.floats(0, 1), max_bytes=st.sampled_from([1, 700, 1 << 20]))
    def read_some(self, part: float, max_bytes: int) -> None:
        """With a reader that was there before whatever has happened since."""
        visible, ends = self.visible(), self.store.log.ends()
        if self.reader is None:
            self.reader = self.store.log.reader(
                ends.log_start + int(part * (ends.durable_end - ends.log_start))
            )
        start = self.reader.offset
        try:
            chunk = self.reader.read(max_bytes)
        except OffsetOutOfRange:
            assert start < ends.log_start
            self.reader = None
            return
        read = {}
        for position, header in chunk.batches:
            if not header.is_control:
                for record in decode_batch(chunk.data, position, "orders", 0, min_offset=start):
                    read[record.offset] = record
        for offset, record in read.items():
            assert record == self.sent[offset]
        wanted = {offset for offset in visible if start <= offset < self.reader.offset}
        assert wanted <= read.keys()
        assert self.reader.offset > start or start == ends.durable_end

    # -- what must be so -----------------------------------------------------------------

    def visible(self) -> dict[int, Record]:
        records = self.store.read_all(max_bytes=1000)
        assert [each.offset for each in records] == sorted({each.offset for each in records})
        return {each.offset: each for each in records}

    @invariant()
    def last_values_are_there(self) -> None:
        if not self.sent:
            return
        visible = self.visible()
        start = self.store.log.ends().log_start
        for offset, record in visible.items():
            assert record == self.sent[offset]
        assert not self.gone & visible.keys()
        self.gone |= set(range(start, len(self.sent))) - visible.keys()
        active = self.store.context.row().segment
        later: set[bytes] = set()  # keys of which a later record is there, or was
        dead: set[bytes] = set()  # keys of which a later record is gone
        for record in reversed(self.sent[start:]):
            offset, key = record.offset, record.key
            if offset in visible:
                assert key not in dead
            elif key is not None:
                is_old = self.clock.now_ms - self.sent_ms[offset] >= RETENTION_MS
                assert key in later or (record.value is None and is_old)
                assert offset < active
                dead.add(key)
            else:
                raise AssertionError(f"{record} has no key and is gone")
            if key is not None:
                later.add(key)

    @invariant()
    def it_is_whole(self) -> None:
        if not self.sent:
            return
        assert list(self.store.log.verify()) == []
        assert self.store.log.ends().log_end == len(self.sent)
        visible = self.visible()
        for at_ms in {self.clock.now_ms, self.sent_ms[0], self.sent_ms[len(self.sent) // 2]}:
            found = self.store.log.offset_for_time(at_ms)
            wanted = [(o, r.timestamp) for o, r in visible.items() if r.timestamp >= at_ms]
            assert found == (wanted[0] if wanted else None)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            try:
                self.files.heal()
                self.reopen(lose_index=True, reboot=True, clean=True)
                self.last_values_are_there()
                self.it_is_whole()
                self.producers_are_known()
                assert not [name for name in self.store.segments() if "rewrite" in name]
            finally:
                self.store.crash()
                self.memory.__exit__(None, None, None)


CompactionMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=25)
TestCompaction = CompactionMachine.TestCase


def test_a_dry_run_of_a_log_that_begins_inside_a_segment() -> None:
    """The index knows nothing of that segment before a checkpoint: what lies below the log start
    was counted as if it were to be compacted."""
    machine = CompactionMachine()
    machine.open()
    try:
        value = b"w" * 600
        machine.put([(b"a", value, 0), (b"a", value, 0), (b"b", value, 0)], "none", False, False)
        machine.delete_records(0.875)
        machine.put([(b"a", value, 0), (b"a", value, 0)], "none", False, False)
        machine.compact(ratio=0.0, lag_ms=0, buffer_bytes=1, dry_run=False)
    finally:
        machine.teardown()
