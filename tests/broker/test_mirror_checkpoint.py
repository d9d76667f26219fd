"""Which offsets of the source are which of the target: a model in full against sparse pairs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.errors import MirrorConflict
from seawall.broker.mirror_checkpoint import MOST_PAIRS, Checkpoint, OffsetMap


@given(
    gaps=st.lists(st.integers(0, 3), min_size=1, max_size=700),
    first=st.integers(0, 9),
    every=st.integers(1, 5),
)
def test_positions_are_translated_exactly(gaps: list[int], first: int, every: int) -> None:
    mapping = OffsetMap([(first, 0)])
    records: list[int] = []
    at = first
    for number, gap in enumerate(gaps):
        records.append(at + gap)
        at = records[-1] + 1
        if number % every == 0:
            mapping.add(at, len(records))
    mapping.add(at, len(records))
    assert len(mapping.pairs) <= MOST_PAIRS
    assert Checkpoint.decode(Checkpoint("a", "b", mapping).encode()).mapping == mapping

    def count(begin: int, stop: int) -> int:
        return sum(begin <= each < stop for each in records)

    for offset in range(at + 3):
        assert mapping.translate(offset, count) == count(0, offset)


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"[]", b'{"source":1,"target":2,"pairs":[]}', b"\xff"]
)
def test_what_is_no_checkpoint(value: bytes) -> None:
    with pytest.raises(MirrorConflict, match="holds no checkpoint"):
        Checkpoint.decode(value)
