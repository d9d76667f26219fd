"""What a directory has told its clients in rounds, and every way not to keep to it."""

from __future__ import annotations

from typing import Any

import pytest

from seawall.broker.torture.carried import Carried
from seawall.wal.torture.search import Broken

PLACE, GROUP = "orders/0", "billing"


@pytest.fixture
def carried() -> Carried:
    """Three records of p, two of q, in the first round."""
    carried = Carried([PLACE], [GROUP])
    carried.begin(["p", "q"])
    read(carried, "p.0", "p.1", "q.0", "p.2", "q.1")
    return carried


def read(carried: Carried, *tokens: str, first: int | None = None) -> None:
    start = carried.end(PLACE) if first is None else first
    for offset, token in enumerate(tokens, start):
        carried.read(PLACE, offset, token)


def group(t: int, what: str, offset: int, **more: Any) -> dict[str, Any]:
    return {"group": GROUP, "t": t, what: {PLACE: offset}, **more}


def test_what_is_as_it_was_told_passes(carried: Carried) -> None:
    carried.take("p", {"acked": PLACE, "first": 0, "offsets": [0, 1]})
    carried.take("c", group(5, "starts", 0, since=4))
    carried.take("c", {"saw": PLACE, "first": 0, "tokens": ["p.0", "p.1"]})
    carried.take("c", {"saw": PLACE, "first": 2, "tokens": ["q.0"]})
    carried.take("c", group(6, "acking", 2))
    carried.take("c", group(7, "done", 2))
    carried.take("c", group(8, "acking", 3))
    carried.judge()
    carried.committed(GROUP, PLACE, 3)
    read(carried, "p.0", "p.1", "q.0", first=0)
    carried.begin(["r"])
    read(carried, "r.0")
    carried.judge()
    carried.committed(GROUP, PLACE, 3)
    assert (carried.acknowledged, carried.seen) == (2, 3)
    assert (carried.start(PLACE), carried.end(PLACE)) == (0, 6)


@pytest.mark.parametrize(
    ("first", "token", "reason"),
    [
        (5, "p.4", "is 'p.4' instead of p.3"),
        (5, "p.1", "is 'p.1' instead of p.3"),
        (5, "x.0", "which nobody sent now"),
        (5, "garbage", "which nobody sent now"),
        (6, "p.3", "has no record at offset 5, but one at 6"),
        (1, "q.0", "offset 1 was 'p.1' and is 'q.0'"),
    ],
)
def test_records_are_dense_and_in_order(
    carried: Carried, first: int, token: str, reason: str
) -> None:
    with pytest.raises(Broken, match=reason):
        read(carried, token, first=first)


def test_nobody_of_an_earlier_round_appears(carried: Carried) -> None:
    carried.begin(["r"])
    with pytest.raises(Broken, match="which nobody sent now"):
        read(carried, "p.3")


@pytest.mark.parametrize(
    ("first", "offsets", "reason"),
    [
        (2, [5], "offset 5 was acknowledged to p as 'p.2' and is gone"),
        (2, [2], "offset 2 was acknowledged to p as 'p.2' and is 'q.0'"),
    ],
)
def test_what_was_acknowledged_is_there(
    carried: Carried, first: int, offsets: list[int], reason: str
) -> None:
    carried.take("p", {"acked": PLACE, "first": first, "offsets": offsets})
    with pytest.raises(Broken, match=reason):
        carried.judge()


def test_what_was_seen_is_there(carried: Carried) -> None:
    carried.take("c", {"saw": PLACE, "first": 4, "tokens": ["q.1", "p.3"]})
    with pytest.raises(Broken, match=r"offset 5 was given to consumer c as .* and is gone"):
        carried.judge()


def test_nothing_below_the_log_start_is_given(carried: Carried) -> None:
    carried.drop(PLACE, 2)
    assert (carried.start(PLACE), carried.end(PLACE)) == (2, 5)
    read(carried, "q.0", first=2)
    carried.take("c", {"saw": PLACE, "first": 1, "tokens": ["p.1"]})
    with pytest.raises(Broken, match="below the log start"):
        carried.judge()


@pytest.mark.parametrize(("first", "token"), [(0, "p.0"), (3, "p.2")])
def test_consumers_are_given_one_offset_after_the_other(
    carried: Carried, first: int, token: str
) -> None:
    carried.take("c", group(1, "starts", 1, since=0))
    carried.take("d", {"saw": PLACE, "first": 4, "tokens": ["q.1"]})
    carried.take("c", {"saw": PLACE, "first": first, "tokens": [token]})
    with pytest.raises(Broken, match=f"c was at 1 in {PLACE} and was given {first}"):
        carried.judge()


@pytest.mark.parametrize(("offset", "holds"), [(1, False), (2, True), (4, True), (5, False)])
def test_committed_offsets_are_what_was_acknowledged(
    carried: Carried, offset: int, holds: bool
) -> None:
    carried.take("c", group(1, "acking", 2))
    carried.take("c", group(2, "done", 2))
    carried.take("c", group(3, "acking", 4))
    carried.judge()
    if holds:
        carried.committed(GROUP, PLACE, offset)
    else:
        with pytest.raises(Broken, match=r"has acknowledged 2 \(or up to 4\) in orders/0"):
            carried.committed(GROUP, PLACE, offset)


def test_committed_offsets_never_move_back(carried: Carried) -> None:
    carried.take("c", group(1, "acking", 4))
    carried.judge()
    carried.committed(GROUP, PLACE, 3)
    carried.begin([])
    carried.judge()
    with pytest.raises(Broken, match="has acknowledged 3"):
        carried.committed(GROUP, PLACE, 2)


def test_committed_offsets_are_not_beyond_the_end(carried: Carried) -> None:
    carried.take("c", group(1, "acking", 9))
    carried.judge()
    with pytest.raises(Broken, match="which ends before that"):
        carried.committed(GROUP, PLACE, 9)


@pytest.mark.parametrize(
    ("since", "offset", "holds"),
    [
        (3, 2, True),  # may have begun before the acknowledgement
        (3, 0, True),
        (5, 2, True),
        (5, 0, False),  # certainly began after it
        (5, 4, False),  # nobody had acknowledged that by then
    ],
)
def test_who_joins_begins_where_the_group_is(
    carried: Carried, since: int, offset: int, holds: bool
) -> None:
    # in whatever order the reports of two processes come in
    carried.take("d", group(6, "starts", offset, since=since))
    carried.take("c", group(2, "acking", 2))
    carried.take("c", group(4, "done", 2))
    carried.take("d", group(7, "acking", 4))
    if holds:
        carried.judge()
    else:
        with pytest.raises(Broken, match=f"and d began at {offset}"):
            carried.judge()


def test_a_group_may_acknowledge_all(carried: Carried) -> None:
    carried.acknowledge_all(GROUP, PLACE)
    carried.committed(GROUP, PLACE, 5)
    with pytest.raises(Broken):
        carried.committed(GROUP, PLACE, 4)
