"""Two processes that append to one log, each batch once, whatever happens in between.

The model keeps every batch with a number that was ever stored. What it demands: a batch that
comes again is answered with the offset that it has, one that does not fit is refused, and
the log holds each number of each producer and epoch once.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from storage import Crash, FaultyFiles, Peer, Store, batch, memory_folder

from seawall.wal import producer_state
from seawall.wal.errors import InvalidProducerEpoch, OutOfOrderSequence
from seawall.wal.producers import BATCHES_KEPT, SEQUENCES, Placed, next_sequence
from seawall.wal.records import parse_header

WHO = st.integers(0, 1)
PRODUCERS = st.sampled_from([5, 6])
# The numbers of one of the producers come to their end at once.
FIRST_SEQUENCE = {5: 0, 6: SEQUENCES - 3}
TIMESTAMP = 1000


class Sent(NamedTuple):
    """A batch with a number that is stored."""

    producer: int
    epoch: int
    sequence: int
    records: int
    base_offset: int

    def encoded(self) -> bytearray:
        return encoded(self.producer, self.epoch, self.sequence, self.records)


def encoded(producer: int, epoch: int, sequence: int, records: int) -> bytearray:
    values = [b"%d/%d/%d/%d" % (producer, epoch, sequence, each) for each in range(records)]
    return batch(*values, producer_id=producer, producer_epoch=epoch, base_sequence=sequence)


class TwoProcesses(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = memory_folder()
        self.store = Store(self.folder.__enter__(), segment_bytes=700)
        self.peers = [self.new_peer(), self.new_peer()]
        self.sent: list[Sent] = []
        self.known = 0  # of `sent`, from here on, if the index was lost
        self.values: list[bytes] = []
        self.log_start = 0
        self.unsaid: list[Sent] = []  # written by a process that died before its row

    def new_peer(self) -> Peer:
        return self.store.peer(FaultyFiles())

    @initialize(near_bytes=st.sampled_from([0, 200, 1 << 20]))
    def choose(self, near_bytes: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(producer_state, "NEAR_BYTES", near_bytes)

    def remembered(self, producer: int) -> list[Sent]:
        own = [each for each in self.sent[self.known :] if each.producer == producer]
        return [each for each in own if each.epoch == own[-1].epoch][-BATCHES_KEPT:]

    @property
    def end(self) -> int:
        return len(self.values)

    def took(self, new: list[Sent]) -> None:
        for each in new:
            assert each.base_offset == self.end
            self.sent.append(each)
            self.unsaid = []
            self.values += [
                b"%d/%d/%d/%d" % (each.producer, each.epoch, each.sequence, number)
                for number in range(each.records)
            ]

    # -- appending -------------------------------------------------------------------

    @rule(
        who=WHO,
        producer=PRODUCERS,
        again=st.integers(0, BATCHES_KEPT + 1),
        sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
        commits=st.booleans(),
        dies=st.sampled_from([False, False, False, True]),
    )
    def send(
        self, who: int, producer: int, again: int, sizes: list[int], commits: bool, dies: bool
    ) -> None:
        """Some of the last batches again, and new ones behind them, in one append.

        Who dies does so between its write and its row.
        """
        remembered = self.remembered(producer)
        repeated = remembered[len(remembered) - again :] if again <= len(remembered) else []
        new = []
        epoch, sequence, offset = 0, FIRST_SEQUENCE[producer], self.end
        if remembered:
            last = remembered[-1]
            epoch, sequence = last.epoch, next_sequence(last.sequence, last.records)
        for records in sizes:
            new.append(Sent(producer, epoch, sequence, records, offset))
            sequence, offset = next_sequence(sequence, records), offset + records
        peer = self.peers[who]
        files = peer.context.files
        assert isinstance(files, FaultyFiles)
        batches = [each.encoded() for each in [*repeated, *new]]
        if dies:
            files.fail("pwrite", where="ends", error=Crash)
            with pytest.raises(Crash):
                peer.log.append_checked(batches)
            self.restart(who)
            self.unsaid = new
            return
        placed = peer.log.append_checked(batches)
        assert placed == [
            Placed(each.base_offset, each.base_offset + each.records, TIMESTAMP, is_duplicate)
            for each, is_duplicate in [
                *((each, True) for each in repeated),
                *((each, False) for each in new),
            ]
        ]
        self.took(new)
        if commits:
            peer.log.commit(placed[-1].next_offset)

    @rule(who=WHO, producer=PRODUCERS, off=st.sampled_from([1, 2, -BATCHES_KEPT - 3]))
    def send_out_of_order(self, who: int, producer: int, off: int) -> None:
        remembered = self.remembered(producer)
        if not remembered:
            return
        last = remembered[-1]
        sequence = (next_sequence(last.sequence, last.records) + off) % SEQUENCES
        if any(each.sequence == sequence and each.records == 1 for each in remembered):
            return
        with pytest.raises(OutOfOrderSequence):
            self.peers[who].log.append_checked([encoded(producer, last.epoch, sequence, 1)])

    @rule(who=WHO, producer=PRODUCERS)
    def bump_the_epoch(self, who: int, producer: int) -> None:
        remembered = self.remembered(producer)
        if not remembered:
            return
        old, log = remembered[-1], self.peers[who].log
        new = Sent(producer, old.epoch + 1, 0, 1, self.end)
        assert log.append_checked([new.encoded()])[0].base_offset == self.end
        self.took([new])
        with pytest.raises(InvalidProducerEpoch):
            log.append_checked([old.encoded()])

    @rule(who=WHO, size=st.integers(1, 300))
    def append_plainly(self, who: int, size: int) -> None:
        value = b"p" * size
        assert self.peers[who].log.append([batch(value)]).base_offset == self.end
        self.unsaid = []
        self.values.append(value)

    # -- what else happens -----------------------------------------------------------

    @rule(who=WHO)
    def restart(self, who: int) -> None:
        self.peers[who].__exit__()
        self.peers[who] = self.new_peer()

    @rule(clean=st.booleans(), reboot=st.booleans(), lose_index=st.booleans())
    def reopen(self, clean: bool, reboot: bool, lose_index: bool) -> None:
        for peer in self.peers:
            peer.__exit__()
        self.store.log_start = self.log_start
        if lose_index:
            first = int(min(self.store.segments(), default=str(self.end))[:20])
            lost = [each for each in self.sent if each.base_offset < first]
            self.known = max(self.known, len(lost))
        self.store.reopen(clean=clean, reboot=reboot, lose_index=lose_index)
        self.peers = [self.new_peer(), self.new_peer()]
        if self.store.log.ends().log_end > self.end:
            self.took(self.unsaid)  # all of them or none

    @rule(who=WHO)
    def checkpoint(self, who: int) -> None:
        self.peers[who].log.checkpoint()

    @rule(who=WHO)
    def roll(self, who: int) -> None:
        self.peers[who].log.roll()

    @rule(who=WHO, data=st.data())
    def trim(self, who: int, data: st.DataObject) -> None:
        durable_end = self.peers[who].log.ends().durable_end
        self.log_start = data.draw(st.integers(self.log_start, durable_end))
        self.peers[who].log.drop_segments(self.log_start)

    # -- what must hold --------------------------------------------------------------

    @invariant()
    def each_number_is_stored_once_where_it_was_said(self) -> None:
        log = self.peers[0].log
        log.sync()
        reader = log.reader(self.log_start)
        found = []
        while (chunk := reader.read(1 << 20)).batches:
            for position, header in chunk.batches:
                assert parse_header(chunk.data, position) == header
                if header.producer_id >= 0:
                    found.append(
                        Sent(
                            header.producer_id,
                            header.producer_epoch,
                            header.base_sequence,
                            header.record_count,
                            header.base_offset,
                        )
                    )
        assert found == [
            each for each in self.sent if each.base_offset + each.records > self.log_start
        ]
        assert reader.offset == self.end
        assert self.store.values(self.log_start) == self.values[self.log_start :]

    @invariant()
    def both_know_the_same(self) -> None:
        for peer in self.peers:
            entries = peer.log.producers()
            for producer in FIRST_SEQUENCE:
                own = [(each.sequence, each.base_offset) for each in self.remembered(producer)]
                kept = entries[producer].batches if producer in entries else ()
                assert [(each.first_sequence, each.base_offset) for each in kept] == own

    def teardown(self) -> None:
        for peer in self.peers:
            peer.__exit__()
        self.store.crash()
        self.patch.undo()
        self.folder.__exit__(None, None, None)
        assert not os.path.exists(self.store.root)


TestTwoProcesses = TwoProcesses.TestCase
TestTwoProcesses.settings = settings(stateful_step_count=25)
