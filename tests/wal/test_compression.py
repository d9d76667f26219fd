"""Compression: round trips, framings, broken and hostile data."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys

import cramjam
import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.wal.compression import (
    CODEC_NAMES,
    MAX_DECOMPRESSED_BYTES,
    MAX_FRAMES,
    DecompressError,
    compress,
    decompress,
)

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODES = [GZIP, SNAPPY, LZ4, ZSTD]
FRAMED = [GZIP, LZ4, ZSTD]
each_codec = pytest.mark.parametrize("code", CODES, ids=CODEC_NAMES[1:])
TEXT = b"".join(b"line %d of a text\n" % number for number in range(20_000))  # 430 KB


def test_names_are_kafkas_codes() -> None:
    assert CODEC_NAMES == ("none", "gzip", "snappy", "lz4", "zstd")
    assert compress(0, b"as is") == decompress(0, b"as is") == b"as is"


@each_codec
@given(content=st.one_of(st.binary(), st.binary(max_size=20).map(lambda part: part * 5000)))
def test_round_trip(code: int, content: bytes) -> None:
    assert decompress(code, compress(code, content)) == content


@each_codec
def test_many_blocks(code: int) -> None:
    compressed = compress(code, TEXT)
    assert len(compressed) < len(TEXT) / 2
    assert decompress(code, compressed) == TEXT


@each_codec
def test_limit_is_exact(code: int) -> None:
    compressed = compress(code, TEXT)
    assert decompress(code, compressed, len(TEXT)) == TEXT
    with pytest.raises(DecompressError, match=f"more than {len(TEXT) - 1} bytes"):
        decompress(code, compressed, len(TEXT) - 1)


@each_codec
def test_bomb(code: int) -> None:
    with pytest.raises(DecompressError, match=f"more than {MAX_DECOMPRESSED_BYTES} bytes"):
        decompress(code, compress(code, bytes(MAX_DECOMPRESSED_BYTES + 1)))


@each_codec
def test_truncated_at_every_length(code: int) -> None:
    content = TEXT[:200]
    compressed = compress(code, content)
    whole_blocks = {16} if code == SNAPPY else set()  # its framing has no end mark
    for size in range(len(compressed)):
        if size in whole_blocks:
            assert decompress(code, compressed[:size]) == b""
            continue
        with pytest.raises(DecompressError):
            decompress(code, compressed[:size])


@each_codec
def test_trailing_bytes(code: int) -> None:
    with pytest.raises(DecompressError):
        decompress(code, compress(code, TEXT[:200]) + b"trailing")


@each_codec
@given(junk=st.binary(max_size=200))
def test_random_bytes(code: int, junk: bytes) -> None:
    for content in (junk, compress(code, b"x")[:7] + junk):
        try:
            decompress(code, content, 10_000)
        except DecompressError:
            pass


@each_codec
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_flipped_byte(code: int, place: int, flip: int) -> None:
    compressed = bytearray(compress(code, TEXT[:3000]))
    compressed[place % len(compressed)] ^= flip
    try:
        decompress(code, bytes(compressed), 100_000)
    except DecompressError:
        pass


@pytest.mark.parametrize("code", [5, 6, 7, -1])
def test_unknown_codec(code: int) -> None:
    with pytest.raises(DecompressError, match="unknown compression codec"):
        decompress(code, b"")


@pytest.mark.parametrize("code", FRAMED)
def test_frames_in_a_row(code: int) -> None:
    frame = compress(code, b"part ")
    assert decompress(code, frame * 3) == b"part part part "
    assert decompress(code, frame * MAX_FRAMES) == b"part " * MAX_FRAMES
    with pytest.raises(DecompressError, match="frames"):
        decompress(code, frame * (MAX_FRAMES + 1))
    with pytest.raises(DecompressError, match="more than 12 bytes"):
        decompress(code, frame * 3, 12)


def test_gzip_is_gzip() -> None:
    assert gzip.decompress(compress(GZIP, TEXT)) == TEXT
    assert decompress(GZIP, gzip.compress(TEXT)) == TEXT
    assert compress(GZIP, TEXT) == compress(GZIP, TEXT), "no clock in the header"


def test_snappy_is_written_in_xerial_framing() -> None:
    compressed = compress(SNAPPY, TEXT)
    assert compressed[:16] == bytes.fromhex("82534e41505059000000000100000001")
    parts, position = [], 16
    while position < len(compressed):
        (size,) = struct.unpack_from(">i", compressed, position)
        block = compressed[position + 4 : position + 4 + size]
        parts.append(bytes(cramjam.snappy.decompress_raw(block)))
        position += 4 + size
    assert b"".join(parts) == TEXT
    assert max(map(len, parts)) == 32 * 1024


def test_snappy_raw_is_read() -> None:
    assert decompress(SNAPPY, bytes(cramjam.snappy.compress_raw(TEXT))) == TEXT


@pytest.mark.parametrize("size", [0, -1, 2**31 - 1])
def test_snappy_block_length_out_of_range(size: int) -> None:
    framed = compress(SNAPPY, b"")[:16] + struct.pack(">i", size) + b"\x05"
    with pytest.raises(DecompressError, match="does not fit"):
        decompress(SNAPPY, framed)


def test_snappy_length_is_checked_before_anything_is_allocated() -> None:
    # a raw block that says it holds 4 GiB - 1
    with pytest.raises(DecompressError, match="more than"):
        decompress(SNAPPY, b"\xff\xff\xff\xff\x0f" + b"\x00" * 10)


def test_lz4_blocks_are_independent() -> None:
    # In the LZ4 frame format byte 4 of a frame is FLG: bits 7-6 version 1, bit 5 independent
    # blocks; byte 5 is BD, bits 6-4 the block size, 4 for 64 KiB. Kafka's Java code writes
    # the very same header.
    assert compress(LZ4, TEXT)[:6] == bytes.fromhex("04224d186040")


def test_lz4_linked_blocks_are_read() -> None:
    assert decompress(LZ4, lz4.frame.compress(TEXT, block_linked=True, block_size=4)) == TEXT


def test_zstd_window_is_bounded() -> None:
    # magic; no single segment, no content size; window descriptor: exponent 17, so 128 MiB
    frame = bytes.fromhex("28b52ffd") + bytes((0x00, 17 << 3)) + bytes.fromhex("010000")
    with pytest.raises(DecompressError, match="bad zstd data"):
        decompress(ZSTD, frame)


def test_libraries_are_imported_on_first_use() -> None:
    code = (
        "import sys; import seawall.wal.records; "
        "print(*sorted({'zlib', 'lz4', 'cramjam', 'backports.zstd', 'compression.zstd'}"
        " & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() in ("", "zlib"), "zlib may be built in and imported by others"
