"""The search for what a crash in a repair loses: what it damages, and what it must see."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from seawall.broker.torture import repair_crashes
from seawall.broker.torture.marks import Ledger
from seawall.broker.torture.repair_crashes import STATES, CrashInRepair, _Damaged
from seawall.wal.quarantine import Quarantine
from seawall.wal.torture.search import Broken, Setting
from seawall.wal.torture.trace import Trace

Make = Callable[..., CrashInRepair]


@pytest.fixture
def make(folder: str) -> Iterator[Make]:
    """Searches that are closed at the end, and leave nothing behind."""
    searches: list[CrashInRepair] = []

    def make(**setting: int) -> CrashInRepair:
        search = CrashInRepair(Setting(scratch=folder, memory=folder, **setting))  # type: ignore[arg-type]
        search.prepare()
        searches.append(search)
        return search

    yield make
    for search in searches:
        search.close()
    assert os.listdir(folder) == []


def test_cases_follow_from_the_seed_and_run_by_themselves(make: Make) -> None:
    search = make(seed=6)
    cases = list(itertools.islice(search.cases(), 30))
    assert cases == list(itertools.islice(make(seed=6).cases(), 30))
    assert {"damage", "point", "kept", "names", "torn", "index", "run"} == cases[0].keys()
    assert len({case["damage"] for case in cases}) > 1
    other = make(seed=6)
    for case in reversed(cases[::10]):
        other.run(case)


def test_shares_damage_differently_and_make_up_the_whole(make: Make) -> None:
    numbers = []
    for share in range(2):
        search = make(seed=4, share=share, shares=2)
        cases = list(search.cases())
        assert STATES // 2 <= len(cases) == search.figures["distinct states"]
        numbers.append({case["damage"] for case in cases})
    assert not numbers[0] & numbers[1]


def test_every_kind_of_damage_comes(make: Make) -> None:
    search = make(seed=3)
    damages = [search._repair(number)[2] for number in range(8)]
    assert all(damaged.lost for damaged in damages)
    assert {len(damaged.lost) for damaged in damages} == {1, 2}  # partitions
    # A segment that vanished leaves no bytes to keep.
    assert {bool(damaged.pieces) for damaged in damages} == {True, False}


Untouched = tuple[CrashInRepair, dict[str, Any], _Damaged]


@pytest.fixture
def untouched(make: Make) -> Untouched:
    """A search, the case in which the power goes before the repair does anything, and what is
    damaged then."""
    search = make(seed=6)
    (case,) = itertools.islice(search.cases(), 1)
    states, _, damaged = search._repair(int(case["damage"]))
    states.disk.advance(states.points[0])
    first = {**case, "point": states.points[0]}
    search.run(first)
    return search, first, damaged


def test_damage_that_was_not_there_before_is_seen(untouched: Untouched) -> None:
    search, case, damaged = untouched
    damaged.lost = {}
    with pytest.raises(Broken, match=r"\{\} was damaged, and there is"):
        search.run(case)


def test_damage_that_is_left_is_seen(untouched: Untouched, monkeypatch: pytest.MonkeyPatch) -> None:
    search, case, _ = untouched
    monkeypatch.setattr(repair_crashes, "repair", lambda *_, **__: ())
    with pytest.raises(Broken, match="after repair there is still"):
        search.run(case)


def test_bytes_that_nobody_has_kept_are_seen(
    untouched: Untouched, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, case, _ = untouched
    monkeypatch.setattr(Quarantine, "keep", lambda *_, **__: "nowhere")
    with pytest.raises(Broken, match="nobody kept them"):
        search.run(case)


def test_a_log_that_ends_before_what_was_lost_is_seen(
    untouched: Untouched, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, case, damaged = untouched
    ledger_of = repair_crashes._ledger
    partition = min(damaged.lost)

    def longer(trace: Trace) -> Ledger:
        ledger = ledger_of(trace)
        ledger.topics["orders"].partitions[partition].known[1_000] = b"last"
        return ledger

    monkeypatch.setattr(repair_crashes, "_ledger", longer)
    with pytest.raises(Broken, match=rf"orders/{partition} ended at 1001, and now at"):
        search.run(case)
