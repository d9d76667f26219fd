"""Segments: names, scans and how they end."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage import batch

from seawall.wal import segment
from seawall.wal.files import READ, Descriptor, Files
from seawall.wal.records import HEADER_BYTES, empty_batch, stamp
from seawall.wal.segment import (
    MOST_BATCH_BYTES,
    Scan,
    ScanEnd,
    is_zero,
    list_segments,
    plausible_extent,
    segment_base,
    segment_name,
)


def chain(*values: bytes, base: int = 0) -> list[bytes]:
    """Batches of one record each that follow one another from offset `base`."""
    batches = []
    for number, value in enumerate(values):
        each = batch(value)
        stamp(each, base + number)
        batches.append(bytes(each))
    return batches


class File:
    """A file with some content, to be scanned."""

    def __init__(self, folder: str, content: bytes) -> None:
        self.path = os.path.join(folder, "segment")
        with open(self.path, "wb") as file:
            file.write(content)
        self.size = len(content)
        self.descriptor = Descriptor(Files(), self.path, READ)

    def scan(self, position: int = 0, next_offset: int = 0, **options: bool) -> Scan:
        scan = Scan(
            Files(),
            self.descriptor.number,
            position=position,
            limit=self.size,
            next_offset=next_offset,
            **options,
        )
        self.found = list(scan)
        return scan


@given(st.integers(0, 2**63 - 1))
def test_names_sort_like_their_offsets(base: int) -> None:
    assert segment_base(segment_name(base)) == base
    assert len(segment_name(base)) == 24
    assert base == 0 or segment_name(base - 1) < segment_name(base)


OTHER_NAMES = [
    "",
    "LOCK",
    "1.log",
    "0" * 20,
    "0" * 19 + ".log",
    "0" * 21 + ".log",
    "\u0660" * 20 + ".log",
    "-" + "0" * 19 + ".log",
    "0" * 20 + ".log.rewrite",
    "0" * 20 + ".LOG",
]


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_names_are_no_segments(name: str) -> None:
    assert segment_base(name) is None


def test_only_segments_are_listed_and_in_order(folder: str) -> None:
    for name in (segment_name(30), segment_name(4), "LOCK", segment_name(4) + ".rewrite"):
        with open(os.path.join(folder, name), "wb"):
            pass
    assert list_segments(Files(), folder) == [4, 30]


@pytest.mark.parametrize("trailing", [b"", b"\0", b"\0" * 5000])
def test_a_clean_end_is_the_limit_or_zeros(folder: str, trailing: bytes) -> None:
    batches = chain(b"a", b"b", b"c")
    file = File(folder, b"".join(batches) + trailing)
    result = file.scan().result
    assert result.end is ScanEnd.CLEAN
    assert (result.position, result.next_offset) == (sum(map(len, batches)), 3)
    assert [found.header.base_offset for found in file.found] == [0, 1, 2]
    assert [found.position for found in file.found] == [0, len(batches[0]), 2 * len(batches[0])]


def test_truncated_at_every_length_it_is_torn_or_corrupt(folder: str) -> None:
    batches = chain(b"a" * 20, b"b" * 20)
    whole = b"".join(batches)
    for length in range(len(whole) + 1):
        file = File(folder, whole[:length])
        result = file.scan().result
        complete = length // len(batches[0])
        assert (result.position, result.next_offset) == (complete * len(batches[0]), complete)
        rest = length - result.position
        if not whole[result.position : length].strip(b"\0"):
            assert result.end is ScanEnd.CLEAN
        elif rest >= 12:
            assert result.end is ScanEnd.TORN, length
        else:
            assert result.end is ScanEnd.CORRUPT, length


def test_every_flipped_bit_ends_a_scan_there_unless_it_means_nothing(folder: str) -> None:
    batches = chain(b"a" * 20, b"b" * 20, b"c" * 20)
    size = len(batches[0])
    whole = b"".join(batches)
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 0x08
        result = File(folder, bytes(content)).scan().result
        if 12 <= position % size < 16:  # the leader epoch
            assert result.end is ScanEnd.CLEAN
        else:
            assert result.end in (ScanEnd.CORRUPT, ScanEnd.TORN), position
            assert result.position == position // size * size
            assert result.next_offset == position // size
            assert result.reason


def test_a_batch_out_of_its_place_ends_a_scan(folder: str) -> None:
    first, _, third = chain(b"a", b"b", b"c")
    result = File(folder, first + third).scan().result
    assert result.end is ScanEnd.CORRUPT
    assert result.reason == "its base offset is 2, not 1"
    result = File(folder, first + first).scan().result
    assert result.end is ScanEnd.CORRUPT


@given(st.binary(max_size=400), st.integers(0, 5))
def test_random_bytes_never_raise(content: bytes, position: int) -> None:
    from storage import memory_folder

    with memory_folder() as folder:
        file = File(folder, content)
        assert file.scan(min(position, len(content))).result.position <= len(content)


def test_batches_longer_than_a_block(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "BLOCK_BYTES", 256)
    values = [random.Random(n).randbytes(n * 37 % 700) for n in range(40)]
    file = File(folder, b"".join(chain(*values)) + bytes(1000))
    for check_crc in (True, False):
        result = file.scan(check_crc=check_crc).result
        assert result.end is ScanEnd.CLEAN
        assert result.next_offset == 40


def test_plausible_headers(folder: str) -> None:
    header = chain(b"abc", base=5)[0][:HEADER_BYTES]
    size = len(chain(b"abc", base=5)[0])
    assert plausible_extent(header, 5) == size
    assert plausible_extent(header, 6) == 0
    assert plausible_extent(header[:11], 5) == 0
    assert plausible_extent(bytes(HEADER_BYTES), 0) == 0
    assert plausible_extent(b"\0" * 8 + b"\xff" * 53, 0) == 0  # a negative length
    longest = b"\0" * 8 + (MOST_BATCH_BYTES - 12).to_bytes(4, "big") + bytes(49)
    assert plausible_extent(longest, 0) == MOST_BATCH_BYTES
    longer = b"\0" * 8 + (MOST_BATCH_BYTES - 11).to_bytes(4, "big") + bytes(49)
    assert plausible_extent(longer, 0) == 0


def test_a_hole_is_a_batch(folder: str) -> None:
    batches = [*chain(b"a"), bytes(empty_batch(1, 9, 0)), *chain(b"b", base=11)]
    file = File(folder, b"".join(batches))
    assert file.scan().result.next_offset == 12
    assert [found.header.record_count for found in file.found] == [1, 0, 1]


def test_zeros(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "BLOCK_BYTES", 10)
    file = File(folder, bytes(35) + b"\1" + bytes(4))
    number = file.descriptor.number
    assert is_zero(Files(), number, 0, 35)
    assert not is_zero(Files(), number, 0, 36)
    assert is_zero(Files(), number, 36, 1000)
    assert is_zero(Files(), number, 5, 5)
