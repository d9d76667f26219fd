"""What stands beside a committed offset: text that says what was delivered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall.broker.group_state import MAX_METADATA_BYTES
from seawall.broker.remote.carried import MOST_DELIVERIES, Carried, pack, unpack

OFFSETS = st.integers(0, 2**50)
COUNTS = st.integers(1, 2 * MOST_DELIVERIES)


def test_the_text() -> None:
    """By hand, from the format that the module states."""
    carried = Carried(until=850, deliveries={103: 2, 100: 1, 99: 7})
    assert pack(100, carried) == "seawall.run:750;0:1,3:2"
    assert unpack(100, "seawall.run:750;0:1,3:2") == Carried(until=850, deliveries={100: 1, 103: 2})
    assert pack(100, Carried(until=100)) == ""
    assert pack(100, Carried(until=101)) == "seawall.run:1"
    assert pack(100, Carried(until=3, deliveries={100: 4})) == "seawall.run:0;0:4"


@given(
    OFFSETS, st.integers(0, 2**50), st.dictionaries(st.integers(-5, 10_000), COUNTS, max_size=60)
)
def test_what_is_packed_is_found_again(committed: int, ahead: int, counts: dict[int, int]) -> None:
    deliveries = {committed + each: count for each, count in counts.items() if committed + each > 0}
    text = pack(committed, Carried(until=committed + ahead, deliveries=deliveries))
    found = unpack(committed, text)
    assert found.deliveries == {
        offset: min(count, MOST_DELIVERIES)
        for offset, count in deliveries.items()
        if offset >= committed
    }
    assert found.until == committed + ahead if text else ahead == 0


@settings(max_examples=20)  # each is large
@given(OFFSETS, st.dictionaries(st.integers(0, 10**12), COUNTS, min_size=200, max_size=600))
def test_it_is_bounded_and_keeps_those_that_were_delivered_most(
    committed: int, counts: dict[int, int]
) -> None:
    deliveries = {committed + each: min(n, MOST_DELIVERIES) for each, n in counts.items()}
    text = pack(committed, Carried(until=committed, deliveries=deliveries))
    assert len(text.encode()) <= MAX_METADATA_BYTES
    kept = unpack(committed, text).deliveries
    assert kept.items() <= deliveries.items()
    left_out = [n for offset, n in deliveries.items() if offset not in kept]
    assert not left_out or max(left_out) <= min(kept.values())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seawall.run:",
        "seawall.run:-1",
        "seawall.run:1;",
        "seawall.run:1;2",
        "seawall.run:1;2:3,",
        "seawall.run:1;2:3 ",
        "seawall.run:1\n",
        "seawall.run:\u0661",
        "seawall.run:1;1:1234567890",
        "3:5,1:2",
    ],
)
def test_a_text_of_somebody_else_says_nothing(text: str) -> None:
    assert unpack(7, text) == Carried()


@given(OFFSETS, st.text(max_size=30))
def test_no_text_breaks_it(committed: int, text: str) -> None:
    for each in (text, "seawall.run:" + text, "seawall.run:1;" + text):
        unpack(committed, each)
