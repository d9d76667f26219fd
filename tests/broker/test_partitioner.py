"""murmur2 as Kafka has it."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.partitioner import murmur2, partition_for_key

# From testMurmur2 in Kafka's UtilsTest.java, where results are signed.
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), VECTORS.items())
def test_kafkas_own_vectors(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % (1 << 32)
    for partitions in (1, 2, 4, 7, 1000):
        want = (signed & 0x7FFFFFFF) % partitions
        assert partition_for_key(key, partitions) == want
        assert partition_for_key(key, partitions) == want  # from the cache


@given(st.binary(max_size=400), st.integers(1, 10_000))
def test_agrees_with_an_independent_one(key: bytes, partitions: int) -> None:
    assert murmur2(key) == aiokafka_murmur2(key) & 0xFFFFFFFF
    assert partition_for_key(key, partitions) == (aiokafka_murmur2(key) & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 63, 64, 65, 255, 256, 257, 259, 260, 1027])
def test_every_kind_of_length(size: int) -> None:
    key = bytes(n * 37 % 256 for n in range(size))
    assert murmur2(key) == aiokafka_murmur2(key) & 0xFFFFFFFF
