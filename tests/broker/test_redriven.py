"""Sets of redriven offsets, against plain sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.redriven import Redriven


@given(
    committed=st.integers(0, 20),
    added=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=15),
)
def test_is_the_set_of_what_was_added(committed: int, added: list[tuple[int, int]]) -> None:
    redriven, model = Redriven(committed), set(range(committed))
    for start, stop in added:
        redriven.add(start, stop)
        model |= set(range(start, stop))
        assert {offset for offset in range(70) if offset in redriven} == model
        again = Redriven(redriven.committed, str(redriven))
        assert (again.committed, again.ranges) == (redriven.committed, redriven.ranges)
        assert redriven.count(5, 50) == len(model & set(range(5, 50)))
        flat = [redriven.committed, *(edge for each in redriven.ranges for edge in each)]
        assert flat == sorted(set(flat))  # separate, and none touches another


def test_golden_text() -> None:
    redriven = Redriven(10)
    for start, stop in ((20, 21), (13, 18), (18, 19)):
        redriven.add(start, stop)
    assert (redriven.committed, str(redriven)) == (10, "3:6,1:1")
    redriven.add(10, 13)
    assert (redriven.committed, str(redriven)) == (19, "1:1")


@pytest.mark.parametrize("text", ["", "x", "1:", "1:2,", "-1:5", "1:2;3:4", "1:" + "9" * 30])
def test_a_text_that_is_none_stands_for_nothing(text: str) -> None:
    assert Redriven(7, text).ranges == []
