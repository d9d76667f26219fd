"""The search behind damage: what counts, what does not, and how long it may take."""

from __future__ import annotations

import os
import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage import batch, memory_folder

from seawall.wal import salvage
from seawall.wal.files import Descriptor, Files
from seawall.wal.records import HEADER_BYTES, encode_batch, stamp
from seawall.wal.salvage import DIRECT_BYTES, MOST_OFFSETS_PER_BYTE, find_batch
from seawall.wal.segment import MOST_BATCH_BYTES
from seawall.wal.stretch_crc import STRIDE_BYTES


def batch_at(offset: int, *values: bytes) -> bytes:
    """A batch that begins at an offset."""
    made = batch(*values)
    stamp(made, offset)
    return bytes(made)


def find(
    folder: str,
    content: bytes,
    after_offset: int,
    *,
    position: int = 0,
    before_offset: int = 1 << 63,
) -> tuple[int, int] | None:
    """Position and base offset of what is found behind damage."""
    path = os.path.join(folder, "segment")
    with open(path, "wb") as file:
        file.write(content)
    descriptor = Descriptor(Files(), path)
    found = find_batch(
        Files(),
        descriptor.number,
        position=position,
        limit=len(content),
        after_offset=after_offset,
        before_offset=before_offset,
    )
    return (found.position, found.header.base_offset) if found else None


def test_a_batch_is_found_wherever_blocks_end(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(salvage, "BLOCK_BYTES", 256)
    follower = batch_at(3, b"follower")
    for gap in [*range(1, 140), *range(180, 330), 511, 512, 513]:
        for filler in (b"\xee", b"\0", b"\x02"):
            content = filler * gap + follower + bytes(300)
            if filler == b"\0":
                content = b"\xee" + content[1:]
            assert find(folder, content, 1) == (gap, 3), gap


@pytest.mark.parametrize("after", [0, 1, 255, 256, 65_535, 2**32 - 3, 2**40 + 7, 2**63 - 1000])
@pytest.mark.parametrize("jump", [1, 2, 255, 256, 800])
def test_offsets_of_any_size_are_found(folder: str, after: int, jump: int) -> None:
    content = b"\xee" * 100 + batch_at(after + jump, b"follower")
    assert find(folder, content, after) == (100, after + jump)


def test_a_large_batch_is_found(folder: str) -> None:
    large = batch_at(3, os.urandom(3 * DIRECT_BYTES))
    for gap in (1, STRIDE_BYTES - 21, STRIDE_BYTES, 100_000):
        assert find(folder, b"\xee" * gap + large + bytes(50), 1) == (gap, 3)
        broken = bytearray(b"\xee" * gap + large)
        broken[-7] ^= 1
        assert find(folder, bytes(broken), 1) is None


def test_a_batch_must_have_been_reachable(folder: str) -> None:
    most = 100 * MOST_OFFSETS_PER_BYTE
    for base, reachable in ((0, False), (1, False), (2, True), (most + 1, True), (most + 2, False)):
        content = b"\xee" * 100 + batch_at(base, b"follower")
        assert find(folder, content, 1) == ((100, base) if reachable else None)


def test_a_batch_must_end_before_what_is_known_to_follow(folder: str) -> None:
    content = b"\xee" * 100 + batch_at(5, b"a", b"b")
    assert find(folder, content, 1, before_offset=7) == (100, 5)
    assert find(folder, content, 1, before_offset=6) is None
    assert find(folder, content, 1, before_offset=5) is None
    assert find(folder, content, 1, before_offset=2) is None
    assert find(folder, content[:-1], 1) is None


def test_nothing_is_found_inside_a_plausible_header_or_a_misplaced_batch(folder: str) -> None:
    inner = batch_at(3, b"inner")
    outer = bytearray(batch_at(1, b"x" + inner))
    outer[HEADER_BYTES + 8] ^= 0xFF
    follower = batch_at(2, b"follower")
    assert find(folder, bytes(outer), 1) is None
    assert find(folder, bytes(outer) + follower, 1) == (len(outer), 2)
    misplaced = batch_at(2**40, b"x" + inner)
    assert find(folder, misplaced, 1) is None
    assert find(folder, misplaced + follower, 1) == (len(misplaced), 2)


def test_a_length_that_no_batch_has_hides_nothing(folder: str) -> None:
    damaged = bytearray(batch_at(1, b"x" * 30))
    follower = batch_at(2, b"follower")
    struct.pack_into(">i", damaged, 8, MOST_BATCH_BYTES - 12)
    assert find(folder, bytes(damaged) + follower, 1) is None
    struct.pack_into(">i", damaged, 8, MOST_BATCH_BYTES - 11)
    assert find(folder, bytes(damaged) + follower, 1) == (len(damaged), 2)


def test_a_limit_before_the_position(folder: str) -> None:
    assert find(folder, b"\xee" * 10, 1, position=10) is None
    assert find(folder, b"\xee" * 10, 1, position=20) is None


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 2**63 - 1))
def test_random_bytes_never_raise(content: bytes, position: int, after: int) -> None:
    with memory_folder() as folder:
        find(folder, content, after, position=position)


class Counted:
    """How many bytes a CRC is computed of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.total_bytes = 0
        value, extend = google_crc32c.value, google_crc32c.extend

        def counting_value(data: bytes) -> int:
            self.total_bytes += len(data)
            return value(data)

        def counting_extend(crc: int, data: bytes) -> int:
            self.total_bytes += len(data)
            return extend(crc, data)

        monkeypatch.setattr(google_crc32c, "value", counting_value)
        monkeypatch.setattr(google_crc32c, "extend", counting_extend)


@pytest.mark.parametrize("claimed_bytes", [1 << 30, DIRECT_BYTES + 1, DIRECT_BYTES])
def test_crafted_bytes_take_time_that_grows_with_them(
    folder: str, monkeypatch: pytest.MonkeyPatch, claimed_bytes: int
) -> None:
    """Thousands of headers, each of which seems to begin a batch of everything behind it."""
    count = 4000
    size = count * HEADER_BYTES
    header = encode_batch([(0, None, b"", ())])[:HEADER_BYTES]
    crafted = bytearray()
    for number in range(count):
        each = bytearray(header)
        stamp(each, 2 + number % 50)
        claimed = min(claimed_bytes, size - number * HEADER_BYTES)
        struct.pack_into(">i", each, 8, max(HEADER_BYTES, claimed) - 12)
        crafted += each
    follower = batch_at(60, b"the genuine one")
    counted = Counted(monkeypatch)
    assert find(folder, b"\xee" * 61 + bytes(crafted) + follower, 1) == (61 + size, 60)
    # Quadratic would be 488 MB for the longest.
    assert counted.total_bytes <= 2 * size + count * max(2 * STRIDE_BYTES, DIRECT_BYTES)
    if claimed_bytes > DIRECT_BYTES:
        assert counted.total_bytes < 40e6


def test_a_value_that_claims_an_offset_gives_way_to_the_batch_that_has_it(folder: str) -> None:
    """The header around the value is gone; only what follows tells the two apart."""
    inner = batch_at(5, b"a value of somebody's")
    outer = batch_at(4, inner)
    assert inner in outer
    real, last = batch_at(5, b"real"), batch_at(6, b"last")
    broken = b"\xee" * 61 + outer[61:]
    for behind in (real + last, real + bytes(300), real):
        position, offset = find(folder, broken + behind, 4) or (0, 0)
        assert (position, offset) == (len(broken), 5)
    # Nothing contradicts a batch that is left alone between two damaged places.
    alone = broken[:61] + batch_at(5, b"alone") + b"\xee" * 100 + batch_at(9, b"later") + bytes(99)
    assert find(folder, alone, 4) == (61, 5)
