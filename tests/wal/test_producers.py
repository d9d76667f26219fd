"""The table of what a log knows of its producers: each case, and all of them against a model."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.wal import producers as module
from seawall.wal.errors import BatchInvalid, InvalidProducerEpoch, OutOfOrderSequence, WalError
from seawall.wal.producers import (
    BATCHES_KEPT,
    SEQUENCES,
    Placed,
    ProducerEntry,
    Producers,
    StoredBatch,
    next_sequence,
)
from seawall.wal.records import BatchHeader, encode_batch, parse_header

LAST = SEQUENCES - 1


def header(
    sequence: int, records: int = 1, *, producer: int = 7, epoch: int = 3, base_offset: int = 0
) -> BatchHeader:
    batch = encode_batch(
        [(1000, None, None, ())] * records,
        base_offset=base_offset,
        producer_id=producer,
        producer_epoch=epoch,
        base_sequence=sequence,
    )
    return parse_header(batch)


class Given(NamedTuple):
    """A log that holds batches of producer 7, epoch 3."""

    batches: list[tuple[int, int]]  # first sequence, records


SIX = Given([(0, 2), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2)])
WRAPPED = Given([(LAST - 2, 2), (LAST, 3), (2, 1)])

NEXT = "next"


@pytest.mark.parametrize(
    ("given_", "sequence", "records", "epoch", "outcome"),
    [
        (Given([]), 0, 1, 3, NEXT),
        (Given([]), 41, 1, 0, NEXT),
        (SIX, 8, 4, 3, NEXT),
        (SIX, 6, 2, 3, 6),
        (SIX, 2, 1, 3, 2),
        (SIX, 0, 2, 3, OutOfOrderSequence),  # the sixth last
        (SIX, 6, 1, 3, OutOfOrderSequence),  # another cut of the same records
        (SIX, 5, 3, 3, OutOfOrderSequence),
        (SIX, 9, 1, 3, OutOfOrderSequence),
        (SIX, 0, 1, 3, OutOfOrderSequence),
        (SIX, 0, 1, 4, NEXT),
        (SIX, 8, 1, 4, OutOfOrderSequence),
        (SIX, 8, 1, 2, InvalidProducerEpoch),
        (SIX, 6, 2, 2, InvalidProducerEpoch),
        (SIX, 6, 2, 4, OutOfOrderSequence),
        (SIX, 8, 1, -1, BatchInvalid),
        (SIX, -1, 1, 3, BatchInvalid),
        (WRAPPED, 3, 1, 3, NEXT),
        (WRAPPED, LAST, 3, 3, 2),
        (WRAPPED, LAST, 1, 3, OutOfOrderSequence),
        (Given([(LAST, 1)]), 0, 1, 3, NEXT),
        (Given([(LAST, 1)]), LAST, 1, 3, 0),
        (Given([(LAST, 2)]), 1, 1, 3, NEXT),
    ],
)
def test_what_becomes_of_a_batch(
    given_: Given, sequence: int, records: int, epoch: int, outcome: str | int | type[WalError]
) -> None:
    """The outcome is what comes next, an offset where it is already, or an error."""
    producers, end = Producers(), 0
    for first, count in given_.batches:
        producers.learn([header(first, count, base_offset=end)], 1)
        end += count
    before = producers.entries()
    if isinstance(outcome, type):
        with pytest.raises(outcome):
            producers.plan([header(sequence, records, epoch=epoch)], end, 2)
    else:
        plan = producers.plan([header(sequence, records, epoch=epoch)], end, 2)
        if isinstance(outcome, int):
            assert plan.placed == [Placed(outcome, outcome + records, 1000, True)]
            assert plan.changes == {}
        else:
            assert plan.placed == [Placed(end, end + records, 1000, False)]
            assert plan.changes[7].epoch == epoch
            assert plan.changes[7].last_sequence == next_sequence(sequence, records - 1)
    assert producers.entries() == before


def test_errors_say_what_would_be_right() -> None:
    producers = Producers()
    producers.learn([header(5)], 1)
    with pytest.raises(OutOfOrderSequence, match="sequence 9, but 6 is next") as caught:
        producers.plan([header(9)], 1, 1)
    error = caught.value
    assert (error.producer_id, error.epoch, error.sequence, error.expected) == (7, 3, 9, 6)


def test_the_last_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PRODUCERS", 3)
    producers = Producers()
    for number, producer in enumerate([1, 2, 3, 1, 4]):
        plan = producers.plan([header(0, producer=producer, epoch=number)], number, number)
        producers.apply(plan.changes)
    assert list(producers.entries()) == [3, 1, 4]
    producers.forget_idle(now_ms=12, expiration_ms=10)
    assert list(producers.entries()) == [1, 4]
    producers.forget_idle(now_ms=100, expiration_ms=10)
    assert producers.entries() == {}


def test_control_batches_have_no_sequence() -> None:
    producers = Producers()
    producers.learn([header(-1), header(0, producer=-1)], 1)
    assert producers.entries() == {}


def test_bytes() -> None:
    """Golden: what stands in indexes must be read for ever, or be made anew."""
    producers = Producers()
    producers.learn([header(LAST, 2, base_offset=9), header(1, base_offset=11)], 77)
    packed = producers.pack()
    assert packed.hex() == (
        "0000000000000007" "0003" "000000000000004d" "02"
        "7fffffff" "00000000" "0000000000000009" "000000000000000b" "00000000000003e8"
        "00000001" "00000001" "000000000000000b" "000000000000000c" "00000000000003e8"
    )  # fmt: skip
    assert Producers.unpack(packed).entries() == producers.entries()
    assert Producers.unpack(b"").entries() == {}
    for size in range(1, len(packed)):
        with pytest.raises(ValueError, match="not a list of producers"):
            Producers.unpack(packed[:size])
    for count in (0, BATCHES_KEPT + 1):
        with pytest.raises(ValueError, match="not a list of producers"):
            Producers.unpack(packed[:18] + bytes([count]) + packed[19:] * 9)


# -- against a model ---------------------------------------------------------------------

batches = st.tuples(
    st.integers(0, 2),  # producer
    st.sampled_from([0, 0, 0, 1, 2]),  # epoch
    st.sampled_from([0, 0, 0, 0, 0, 0, -1, -2, -5, -6, 1]),  # off from what comes next
    st.integers(1, 3),  # records
)


@given(st.lists(batches, max_size=60), st.sampled_from([0, LAST - 4]), st.booleans())
def test_against_a_model(
    coming: list[tuple[int, int, int, int]], begin: int, restarts: bool
) -> None:
    """The model keeps everything, and finds out by looking at all of it."""
    stored: dict[int, list[tuple[int, StoredBatch]]] = {}
    log: list[BatchHeader] = []
    producers, end = Producers(), 0
    for producer, epoch, off, records in coming:
        own = stored.setdefault(producer, [])
        current = own[-1][0] if own else None
        following = next_sequence(own[-1][1].last_sequence) if epoch == current else 0
        if current is None:
            following = begin
        sequence = (following + off) % SEQUENCES
        # Batches that come again are cut as they were, else nothing would ever match.
        same = [batch for each, batch in own if each == epoch and batch.first_sequence == sequence]
        if same and off:
            records = same[-1].next_offset - same[-1].base_offset
        last = next_sequence(sequence, records - 1)
        here = header(sequence, records, producer=producer, epoch=epoch, base_offset=end)
        kept = [batch for each, batch in own[-BATCHES_KEPT:] if each == epoch == current]
        matching = [b for b in kept if (b.first_sequence, b.last_sequence) == (sequence, last)]
        if matching:
            expected: Placed | type[WalError] = Placed(
                matching[0].base_offset, matching[0].next_offset, 1000, True
            )
        elif current is not None and epoch < current:
            expected = InvalidProducerEpoch
        elif current is not None and sequence != following:
            expected = OutOfOrderSequence
        else:
            expected = Placed(end, end + records, 1000, False)
        if isinstance(expected, type):
            with pytest.raises(expected):
                producers.plan([here], end, 1)
            continue
        plan = producers.plan([here], end, 1)
        assert plan.placed == [expected]
        producers.apply(plan.changes)
        if not plan.placed[0].is_duplicate:
            own.append((epoch, StoredBatch(sequence, last, end, end + records, 1000)))
            log.append(here)
            end += records
        if restarts:
            producers = Producers.unpack(producers.pack())
    again = Producers()
    again.learn(log, 1)
    again.learn(log, 1)  # twice is once
    assert again.entries() == producers.entries()
    # Or piece by piece, each apart.
    pieces = Producers()
    for at in range(0, len(log), 3):
        later = Producers()
        later.learn(log[at : at + 3], 1)
        pieces.take_over(later)
    assert pieces.entries() == producers.entries()
    for producer, own in stored.items():
        if own:
            entry = producers.entries()[producer]
            assert entry == ProducerEntry(
                own[-1][0],
                tuple(batch for each, batch in own if each == own[-1][0])[-BATCHES_KEPT:],
                1,
            )
