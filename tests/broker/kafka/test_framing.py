from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.kafka.framing import BadFrame, FrameReader

FRAMES = st.lists(st.binary(min_size=8, max_size=200), max_size=8)


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)


@given(frames=FRAMES, cuts=st.lists(st.integers(1, 50), min_size=1))
def test_frames_come_out_however_the_bytes_come_in(frames: list[bytes], cuts: list[int]) -> None:
    reader, data = FrameReader(1000), framed(*frames)
    found, at, turn = [], 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        reader.feed(data[at : at + size])
        at, turn = at + size, turn + 1
        while (frame := reader.take()) is not None:
            found.append(frame)
    assert found == frames
    assert reader.buffered_bytes == 0


def test_half_a_frame_is_none() -> None:
    data = framed(b"x" * 20)
    for end in range(len(data)):
        reader = FrameReader(1000)
        reader.feed(data[:end])
        assert reader.take() is None
        assert reader.buffered_bytes == end
        assert reader.length() == (20 if end >= 4 else None)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (struct.pack(">i", 1001), "socket.request.max.bytes allows 1000"),
        (struct.pack(">i", (1 << 31) - 1), "socket.request.max.bytes"),
        (struct.pack(">i", -1), "-1 bytes"),
        (struct.pack(">i", -(1 << 31)), "bytes"),
        (struct.pack(">i", 0), "0 bytes"),
        (struct.pack(">i", 7), "7 bytes"),
        (b"\x16\x03\x01\x02", "TLS"),
        (b"GET ", "HTTP"),
        (b"POST", "HTTP"),
    ],
)
def test_what_cannot_be_a_request(start: bytes, said: str) -> None:
    reader = FrameReader(1000)
    reader.feed(start[:3])
    assert reader.take() is None
    reader.feed(start[3:])
    for ask in (reader.length, reader.take):
        with pytest.raises(BadFrame, match=said):
            ask()
