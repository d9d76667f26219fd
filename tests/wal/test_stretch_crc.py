"""The CRC of any stretch of a file: the same as computed from its bytes."""

from __future__ import annotations

import os
import random

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.wal import stretch_crc
from seawall.wal.files import Descriptor, Files
from seawall.wal.stretch_crc import STRIDE_BYTES, StretchCrc, shifted


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_crc_of_what_is_joined(first: bytes, second: bytes) -> None:
    joined = google_crc32c.value(first + second)
    assert shifted(google_crc32c.value(first), len(second)) ^ google_crc32c.value(second) == joined


def test_a_shift_of_nothing_changes_nothing() -> None:
    assert shifted(0x12345678, 0) == 0x12345678
    assert shifted(0, 1 << 40) == 0


@pytest.mark.parametrize("block_bytes", [1 << 20, 2 * STRIDE_BYTES])
def test_every_stretch(folder: str, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(stretch_crc, "BLOCK_BYTES", block_bytes)
    randomness = random.Random(1)
    content = randomness.randbytes(10 * STRIDE_BYTES + 77)
    path = os.path.join(folder, "file")
    with open(path, "wb") as file:
        file.write(content)
    descriptor = Descriptor(Files(), path)
    start = 33
    edges = [start, *(start + n * STRIDE_BYTES + d for n in range(1, 10) for d in (-1, 0, 1))]
    edges += [len(content), *(randomness.randrange(start, len(content)) for _ in range(20))]
    crc = StretchCrc(Files(), descriptor.number, start)
    randomness.shuffle(edges)
    for position in edges:
        for end in edges:
            if position <= end:
                wanted = google_crc32c.value(content[position:end])
                assert crc.value(position, end) == wanted, (position, end)
