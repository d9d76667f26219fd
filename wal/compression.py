"""Compression of the records of a batch: gzip, snappy, lz4, zstd; bytes in, bytes out.

What each codec looks like in a Kafka batch:

=====  ======  ==========================================================================
code   name    bytes
=====  ======  ==========================================================================
0      none    as they are
1      gzip    RFC 1952; several members in a row are read, one is written
2      snappy  written: xerial framing (below); read: xerial framing or one raw block
3      lz4     one LZ4 frame (magic 184d2204) of *independent* blocks: Kafka's Java reader
               refuses linked ones; both are read
4      zstd    RFC 8878; several frames in a row are read, one is written
=====  ======  ==========================================================================

Xerial framing, big endian::

    82 53 4e 41 50 50 59 00   magic ("\\x82SNAPPY\\0")
    int32 version = 1, int32 lowest compatible version = 1
    then until the end: int32 block_bytes, block_bytes of one raw snappy block,
    which holds at most 32 KiB of content when written here

Everything is bounded: ``decompress`` never holds more than its limit and one codec buffer.
The libraries are imported on first use, because most commands never need one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: The most that the records of one compressed batch may decompress to, when read or written.
MAX_DECOMPRESSED_BYTES: Final = 64 * 1024 * 1024

#: The names of the codecs; the place in this tuple is the code in a batch's attributes.
CODEC_NAMES: Final = ("none", "gzip", "snappy", "lz4", "zstd")

#: The most gzip members, lz4 or zstd frames in a row that are read in one batch.
MAX_FRAMES: Final = 64

_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES: Final = 32 * 1024
_ZSTD_WINDOW_LOG_MAX: Final = 26  # a frame may ask for a window of 64 MiB, as large as the limit
_GZIP_WBITS: Final = 31  # zlib's way to say: gzip header and trailer, 32 KiB window
_INT32: Final = struct.Struct(">i")


class DecompressError(Exception):
    """The bytes are not what their codec says, or hold more than the limit.

    Stays inside ``wal``: readers of records get ``RecordsUnreadable``.
    """


def compress(code: int, content: bytes) -> bytes:
    """Compress ``content`` with the codec of that code (1 to 4; 0 returns it as it is)."""
    return _COMPRESSORS[code](content)


def decompress(code: int, content: bytes, limit_bytes: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """Decompress all of ``content``; raise DecompressError if that is not possible."""
    if not 0 <= code < len(_DECOMPRESSORS):
        raise DecompressError(f"unknown compression codec {code}")
    return _DECOMPRESSORS[code](content, limit_bytes)


def _too_large(limit_bytes: int) -> DecompressError:
    return DecompressError(f"they decompress to more than {limit_bytes} bytes")


def _plain(content: bytes) -> bytes:
    return content


def _unplain(content: bytes, limit_bytes: int) -> bytes:
    return content


def _gzip(content: bytes) -> bytes:
    import zlib

    compressor = zlib.compressobj(wbits=_GZIP_WBITS)
    return compressor.compress(content) + compressor.flush()


def _gunzip(content: bytes, limit_bytes: int) -> bytes:
    import zlib

    try:
        return _frames(lambda: zlib.decompressobj(wbits=_GZIP_WBITS), content, limit_bytes)
    except zlib.error as error:
        raise DecompressError(f"bad gzip data: {error}") from error


def _frames(new_decompressor: Callable[[], Any], content: bytes, limit_bytes: int) -> bytes:
    """Decompress one or more gzip members or frames in a row, up to the end of ``content``."""
    parts: list[bytes] = []
    room_bytes = limit_bytes
    for _ in range(MAX_FRAMES):
        decompressor = new_decompressor()
        # One byte more than there is room for tells "just fits" from "too large".
        part = decompressor.decompress(content, room_bytes + 1)
        room_bytes -= len(part)
        if room_bytes < 0:
            raise _too_large(limit_bytes)
        parts.append(part)
        if not decompressor.eof:
            raise DecompressError("compressed data ends early")
        content = decompressor.unused_data
        if not content:
            return b"".join(parts)
    raise DecompressError(f"they are in more than {MAX_FRAMES} frames")


def _snappy(content: bytes) -> bytes:
    from cramjam import snappy

    parts = [_XERIAL_HEADER]
    for start in range(0, len(content), _XERIAL_BLOCK_BYTES):
        block = bytes(snappy.compress_raw(content[start : start + _XERIAL_BLOCK_BYTES]))
        parts += (_INT32.pack(len(block)), block)
    return b"".join(parts)


def _unsnappy(content: bytes, limit_bytes: int) -> bytes:
    if not content.startswith(_XERIAL_MAGIC):
        return _unsnappy_block(content, limit_bytes, limit_bytes)
    parts: list[bytes] = []
    room_bytes = limit_bytes
    position, end = len(_XERIAL_HEADER), len(content)
    if position > end:
        raise DecompressError("snappy header ends early")
    while position < end:
        if position + 4 > end:
            raise DecompressError("snappy block length ends early")
        (block_bytes,) = _INT32.unpack_from(content, position)
        position += 4
        if not 0 < block_bytes <= end - position:
            raise DecompressError(f"snappy block of {block_bytes} bytes does not fit")
        block = content[position : position + block_bytes]
        parts.append(_unsnappy_block(block, room_bytes, limit_bytes))
        room_bytes -= len(parts[-1])
        position += block_bytes
    return b"".join(parts)


def _unsnappy_block(block: bytes, room_bytes: int, limit_bytes: int) -> bytes:
    from cramjam import DecompressionError, snappy

    # A raw block opens with its decompressed length, as a varint of up to 5 bytes.
    content_bytes = 0
    for index, byte in enumerate(block[:5]):
        content_bytes |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            break
    else:
        raise DecompressError("snappy block has no length")
    if content_bytes > room_bytes:
        raise _too_large(limit_bytes)
    try:
        return bytes(snappy.decompress_raw(block))
    except DecompressionError as error:
        raise DecompressError(f"bad snappy data: {error}") from error


def _lz4(content: bytes) -> bytes:
    import lz4.frame

    compressed: bytes = lz4.frame.compress(
        content,
        block_size=lz4.frame.BLOCKSIZE_MAX64KB,
        block_linked=False,
        store_size=False,
    )
    return compressed


def _unlz4(content: bytes, limit_bytes: int) -> bytes:
    import lz4.frame

    try:
        return _frames(lz4.frame.LZ4FrameDecompressor, content, limit_bytes)
    except RuntimeError as error:
        raise DecompressError(f"bad lz4 data: {error}") from error


def _zstd_module() -> Any:
    import sys

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _zstd(content: bytes) -> bytes:
    compressed: bytes = _zstd_module().compress(content)
    return compressed


def _unzstd(content: bytes, limit_bytes: int) -> bytes:
    zstd = _zstd_module()
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG_MAX}
    try:
        return _frames(lambda: zstd.ZstdDecompressor(options=options), content, limit_bytes)
    except zstd.ZstdError as error:
        raise DecompressError(f"bad zstd data: {error}") from error


_COMPRESSORS: Final = (_plain, _gzip, _snappy, _lz4, _zstd)
_DECOMPRESSORS: Final = (_unplain, _gunzip, _unsnappy, _unlz4, _unzstd)
