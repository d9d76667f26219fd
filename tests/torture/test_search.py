"""Running a search: shares, deadlines, failures, and the smallest failing case."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from seawall.wal.torture.search import (
    MOST_FAILURES,
    Broken,
    Case,
    Search,
    Setting,
    Unavailable,
    run_case,
    run_search,
    seed_for,
)


class Numbers(Search):
    """Numbers from 0 to 99, of which those from `limit` on are broken."""

    name = "numbers"
    title = "numbers"
    limit = 1000
    closed = 0

    def cases(self) -> Iterator[Case]:
        for number in range(100):
            if self.setting.mine(number):
                yield {"number": number}

    def run(self, case: Case) -> None:
        number = int(case["number"])
        if number == 13_000:
            raise Unavailable("no thirteen here")
        if number >= self.limit:
            raise Broken(f"{number} is too much")
        if number < 0:
            raise KeyError(number)

    def smaller(self, case: Case) -> Iterator[Case]:
        return iter([{"number": int(case["number"]) // 2}, {"number": int(case["number"]) - 1}])

    def close(self) -> None:
        type(self).closed += 1


def numbers(limit: int = 1000, share: int = 0, shares: int = 1) -> Numbers:
    search = Numbers(Setting(scratch="", memory="", share=share, shares=shares))
    search.limit = limit
    return search


def test_all_cases_of_all_shares_are_run_once() -> None:
    outcomes = [run_search(numbers(share=share, shares=3)) for share in range(3)]
    whole = outcomes[0]
    for outcome in outcomes[1:]:
        whole.add(outcome)
    assert whole.cases == 100
    assert whole.is_whole
    assert not whole.failures


def test_a_failing_case_is_made_as_small_as_it_gets() -> None:
    outcome = run_search(numbers(limit=7), stop_at_first=True)
    assert outcome.cases == 8
    [failure] = outcome.failures
    assert failure.case == {"number": 7}
    assert failure.reason == "7 is too much"
    outcome = run_search(numbers(limit=50))
    assert [failure.case["number"] for failure in outcome.failures] == [50] * MOST_FAILURES
    assert not outcome.is_whole


def test_a_case_alone() -> None:
    before = Numbers.closed
    assert run_case(numbers(), {"number": 1}) == ""
    assert run_case(numbers(), {"number": 2000}) == "2000 is too much"
    assert run_case(numbers(), {"number": -1}) == "KeyError: -1"
    with pytest.raises(Unavailable):
        run_case(numbers(limit=100_000), {"number": 13_000})
    assert Numbers.closed == before + 4


def test_a_deadline_cuts_off_but_not_before_the_first_case() -> None:
    outcome = run_search(numbers(), deadline_s=time.monotonic() - 1)
    assert (outcome.cases, outcome.is_whole) == (1, False)


def test_what_the_machine_lacks_is_said() -> None:
    class Lacking(Numbers):
        def prepare(self) -> None:
            raise Unavailable("no such machine")

    outcome = run_search(Lacking(Setting(scratch="", memory="")))
    assert (outcome.unavailable, outcome.cases) == ("no such machine", 0)


def test_seeds_follow_from_their_parts() -> None:
    assert seed_for(1, "a") == 479067836  # in every process, on every Python
    assert len({seed_for(seed, part) for seed in range(9) for part in range(9)}) == 81
