"""Which partition a key belongs to: Kafka's murmur2, so that every client agrees.

This is Austin Appleby's MurmurHash2 (32 bits) with Kafka's seed, as in
``org.apache.kafka.common.utils.Utils.murmur2``, except that the result is unsigned
here; the partition is that, without its highest bit, modulo their number (KIP-480
leaves keyed records as they were).
"""

from __future__ import annotations

import struct
from functools import lru_cache

# Unpacking the words at once is several times quicker than byte by byte; most keys are
# short, so the formats for those are kept.
_WORDS = tuple(struct.Struct(f"<{count}I").unpack_from for count in range(65))

CACHED_KEYS = 4096
CACHED_KEY_BYTES = 64


def murmur2(data: bytes) -> int:
    """The 32-bit hash of `data`, from 0 to 2**32 - 1."""
    size = len(data)
    count = size >> 2
    words = _WORDS[count](data) if count <= 64 else struct.unpack_from(f"<{count}I", data)
    # Literals, because names would be looked up anew for each word.
    h = 0x9747B28C ^ size
    for k in words:
        k = k * 0x5BD1E995 & 0xFFFFFFFF
        h = (h * 0x5BD1E995 ^ (k ^ k >> 24) * 0x5BD1E995) & 0xFFFFFFFF
    rest = size & 3
    if rest:
        h = (h ^ int.from_bytes(data[-rest:], "little")) * 0x5BD1E995 & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return h ^ h >> 15


_cached = lru_cache(CACHED_KEYS)(murmur2)


def partition_for_key(key: bytes, partitions: int) -> int:
    """The number of the partition, of `partitions`, that records with `key` go to."""
    if len(key) <= CACHED_KEY_BYTES:
        return (_cached(key) & 0x7FFFFFFF) % partitions
    return (murmur2(key) & 0x7FFFFFFF) % partitions
