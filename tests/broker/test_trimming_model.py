"""Trimming against plain dicts: whatever is done in whatever order, by rule or by order.

No record that a registered group has not acknowledged is removed by the acknowledgement
rule (P5), and what it may remove it does remove; retention and deleting go just as far as
they were told; and whatever is still there is what was sent.
"""

from __future__ import annotations

import os
import shutil

import pytest
from brokers import crash, drain, put
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from storage import memory_folder

from seawall.broker import Broker
from seawall.broker.errors import OffsetOutOfRange

GROUPS = st.sampled_from(["g", "h", "i"])
SHARES = st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0])


class TrimmingMachine(RuleBasedStateMachine):
    """`sent` are all values, by offset; `sealed` are the sealed segments that are there, each
    from an offset to another; the active one begins at `active`."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = memory_folder()
        self.path = self.folder.__enter__()
        self.sent: list[bytes] = []
        self.start = 0
        self.committed: dict[str, int] = {}
        self.sealed: list[tuple[int, int]] = []
        self.active = 0

    @initialize()
    def begin(self) -> None:
        self.broker = Broker.open(self.path)
        self.broker.create_topic("orders")

    def teardown(self) -> None:
        try:
            if hasattr(self, "broker"):
                assert list(self.broker.verify()) == []
                self.broker.close()
        finally:
            self.folder.__exit__(None, None, None)

    # -- records and segments --------------------------------------------------------

    @rule(count=st.integers(1, 5))
    def produce(self, count: int) -> None:
        values = [b"%d" % (len(self.sent) + at) for at in range(count)]
        put(self.broker, *values)
        self.sent += values

    @rule()
    def roll(self) -> None:
        partition = self.broker.topic("orders").partitions[0]
        self.broker.engine.log(partition.id).roll()
        if len(self.sent) > self.active:
            self.sealed.append((self.active, len(self.sent)))
            self.active = len(self.sent)

    # -- groups ----------------------------------------------------------------------

    @rule(group=GROUPS, part=SHARES)
    def acknowledge(self, group: str, part: float) -> None:
        """Register, if it is new; go on where it was; acknowledge a part of the rest."""
        with self.broker.consumer("orders", group=group) as consumer:
            begins = self.committed.setdefault(group, self.start)
            assert consumer.committed("orders", 0) == begins
            records = drain(consumer)
            wanted = range(max(begins, self.start), len(self.sent))
            assert [each.offset for each in records] == list(wanted)
            some = records[: int(part * len(records))]
            if some:
                consumer.ack(some)
                self.committed[group] = some[-1].offset + 1

    @rule(group=GROUPS, part=SHARES)
    def reset(self, group: str, part: float) -> None:
        offset = int(part * len(self.sent))
        if offset < self.start:
            with pytest.raises(OffsetOutOfRange):
                self.broker.reset_group(group, "orders", {0: offset})
        else:
            self.broker.reset_group(group, "orders", {0: offset})
            self.committed[group] = offset

    @precondition(lambda self: self.committed)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.committed)))
        self.broker.delete_group(group)
        del self.committed[group]

    # -- what goes -------------------------------------------------------------------

    @rule(dry_run=st.booleans())
    def trim(self, dry_run: bool) -> None:
        acknowledged = min(self.committed.values(), default=0)
        removable = [end for _, end in self.sealed if end <= max(acknowledged, self.start)]
        wanted = max([self.start, *removable])
        [found] = self.broker.compact(dry_run=dry_run)
        assert found.log_start == wanted
        assert sum(each.segments for each in found.removed) == len(removable)
        if dry_run:
            return
        self.start = wanted
        self.sealed = self.sealed[len(removable) :]
        for hold in found.held_by:
            if hold.group is not None:
                assert self.committed[hold.group] == hold.offset
                assert hold.offset < min([len(self.sent), *(end for _, end in self.sealed)])

    @rule(part=SHARES)
    def delete_records(self, part: float) -> None:
        offset = -1 if part == 1 else int(part * len(self.sent))
        self.start = max(self.start, len(self.sent) if offset == -1 else offset)
        assert self.broker.delete_records("orders", {0: offset}) == {0: self.start}
        wanted = len(self.sent) if offset == -1 else offset
        self.sealed = [each for each in self.sealed if each[1] > wanted]

    @rule(keep=st.sampled_from([1, 150, 100_000]))
    def expire(self, keep: int) -> None:
        """By size; what goes is the engine's to say, but from the oldest on, and enough."""
        self.broker.alter_topic(
            "orders", {"cleanup.policy": "delete", "retention.ms": -1, "retention.bytes": keep}
        )
        before = self.broker.info().log_bytes
        [found] = self.broker.compact()
        self.broker.alter_topic("orders", {"cleanup.policy": None})
        # What lay below the log start goes in any case, before anything is counted.
        before -= sum(each.bytes for each in found.removed if each.rule == "log start")
        assert found.kept_bytes >= min(keep, before)
        gone = sum(each.segments for each in found.removed)
        if gone:
            self.start = max(self.start, self.sealed[gone - 1][1])
        self.sealed = self.sealed[gone:]

    # -- ends of processes -----------------------------------------------------------

    @rule(loses=st.sampled_from(["", "index.lmdb", "run", "both"]), crashes=st.booleans())
    def reopen(self, loses: str, crashes: bool) -> None:
        if crashes:
            crash(self.broker)
        else:
            self.broker.close()
        for name in ("index.lmdb", "run"):
            if loses in (name, "both"):
                shutil.rmtree(os.path.join(self.path, name))
        self.broker = Broker.open(self.path)
        if loses in ("run", "both") and self.sealed and self.active == len(self.sent):
            # An active segment that has no file yet was known to run/ alone.
            self.active, _ = self.sealed.pop()

    # -- always ----------------------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "broker"):
            return
        end = len(self.sent)
        assert self.broker.ends("orders", 0) == (self.start, end, end)
        with self.broker.consumer("orders") as consumer:
            found = [(each.offset, each.value) for each in drain(consumer)]
        assert found == list(enumerate(self.sent))[self.start :]
        offsets = {
            group: [each.committed for each in self.broker.group(group).offsets]
            for group in self.broker.groups()
        }
        assert offsets == {group: [each] for group, each in self.committed.items()}


TestTrimming = TrimmingMachine.TestCase
TestTrimming.settings = settings(max_examples=20, stateful_step_count=25)
