"""Notes of deliveries: bytes, what a successor finds, and what the disk refuses."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage import FaultyFiles

from seawall.broker.delivery_notes import SLOT_BYTES, NotesFolder, pack_slot, unpack_slots
from seawall.wal.files import Files


@pytest.fixture
def notes(folder: str) -> NotesFolder:
    return NotesFolder(Files(), os.path.join(folder, "deliveries"))


def test_golden_bytes() -> None:
    """The CRC was computed bit by bit from the polynomial 0x82F63B78, not by the library."""
    assert pack_slot(17, 3).hex() == "0000000000000011" + "00000003" + "8f0348d6"
    assert SLOT_BYTES == 16


@given(st.dictionaries(st.integers(0, 2**63 - 1), st.integers(1, 2**32 - 1), max_size=20))
def test_what_is_written_is_read(found: dict[int, int]) -> None:
    data = b"".join(pack_slot(offset, count) for offset, count in found.items())
    assert unpack_slots(data) == found
    assert unpack_slots(data + bytes(SLOT_BYTES) + data[:7]) == found


@given(st.binary(max_size=200))
def test_garbage_counts_for_nothing(data: bytes) -> None:
    assert unpack_slots(data) == {}


def test_every_flipped_bit_is_found() -> None:
    data = pack_slot(17, 3)
    for bit in range(len(data) * 8):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        assert unpack_slots(bytes(broken)) == {}


def test_a_successor_finds_what_was_in_flight(notes: NotesFolder) -> None:
    first = notes.open("g", 1, 0)
    assert first.deliveries == {}
    done = first.note(-1, 10, 1)
    first.note(-1, 11, 1)
    waits = first.note(-1, 12, 1)
    first.note(waits, 12, 2)
    first.clear(done, 10)
    first.note(-1, 13, 1)  # in the slot that is free again
    # It dies here: nobody closes it.
    second = notes.open("g", 1, 12)
    assert second.deliveries == {12: 2, 13: 1}  # 11 was acknowledged
    second.clear(-1, 13)
    second.note(-1, 12, 3)
    second.close()
    assert notes.open("g", 1, 0).deliveries == {12: 3}
    first.close(is_owner=False)


def test_one_that_was_taken_for_dead_writes_where_nobody_looks(notes: NotesFolder) -> None:
    first = notes.open("g", 1, 0)
    slot = first.note(-1, 10, 1)
    second = notes.open("g", 1, 0)
    second.note(-1, 10, 2)
    first.clear(slot, 10)
    first.note(-1, 11, 1)
    first.clear(0, 11)
    first.close()  # it does not know, and must not remove the file of the other one
    assert notes.open("g", 1, 0).deliveries == {10: 2}
    second.close()


def test_groups_and_partitions_have_their_own(notes: NotesFolder, folder: str) -> None:
    opened = [notes.open(group, number, 0) for group in ("g", "größe") for number in (1, 11)]
    for count, each in enumerate(opened, 1):
        each.note(-1, 5, count)
        each.close()
    found = [notes.open(g, n, 0).deliveries[5] for g in ("g", "größe") for n in (1, 11)]
    assert found == [1, 2, 3, 4]
    notes.forget("g", [1, 2])
    assert notes.open("g", 1, 0).deliveries == {}
    assert notes.open("g", 11, 0).deliveries == {5: 2}
    for name in ("1-x.new", "nonsense"):
        with open(os.path.join(folder, "deliveries", name), "wb"):
            pass
    notes.tidy({1})
    assert len(os.listdir(os.path.join(folder, "deliveries"))) == 1
    assert notes.open("größe", 1, 0).deliveries == {5: 3}


def test_without_notes_there_is_no_file(notes: NotesFolder, folder: str) -> None:
    opened = notes.open("g", 1, 0)
    opened.close()
    assert not os.path.exists(os.path.join(folder, "deliveries"))
    opened = notes.open("g", 1, 0)
    opened.clear(opened.note(-1, 3, 1), 3)
    opened.close()
    opened.close()
    assert opened.note(-1, 4, 1) == -1
    assert os.listdir(os.path.join(folder, "deliveries")) == []


@pytest.mark.parametrize("kind", ["mkdir", "open", "pwrite", "rename"])
def test_a_fault_at_each_call_leaves_what_was_noted(
    folder: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = FaultyFiles()
    notes = NotesFolder(files, os.path.join(folder, "deliveries"))
    if kind != "mkdir":
        first = notes.open("g", 1, 0)
        first.note(-1, 7, 2)
        first.close()
    second = notes.open("g", 1, 0)
    files.fail(kind, times=1)
    slot = second.note(-1, 8, 1)
    assert files.hits == 1
    assert "not counted" in caplog.text
    slot = second.note(slot, 8, 2)  # the next one works
    second.close()
    before = {} if kind == "mkdir" else {7: 2}
    assert notes.open("g", 1, 0).deliveries == {**before, 8: 2}
    second.clear(slot, 8)
