"""The search for what a jumping clock breaks: its scripts, and that it would notice."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from storage import memory_folder

from seawall.wal.appender import Appender
from seawall.wal.index import Found, Index
from seawall.wal.torture.clock import JUMPS, SCRIPTS_PER_KIND, Clock
from seawall.wal.torture.search import Broken, Setting, run_case


@pytest.fixture
def search() -> Iterator[Clock]:
    with memory_folder() as path:
        search = Clock(Setting(scratch=path, memory=path, seed=1))
        yield search
        search.close()
        assert os.listdir(path) == []


def broken(search: Clock, kind: str) -> bool:
    """Whether some script with a kind of jump finds something."""
    return any(run_case(search, case) for case in search.cases() if case["jumps"] == kind)


def test_there_are_twenty_scripts_in_any_search() -> None:
    for full in (False, True):
        search = Clock(Setting(scratch="", memory="", full=full))
        cases = list(search.cases())
        assert len(cases) == 20
        assert len({case["seed"] for case in cases}) == 20
        assert [case["jumps"] for case in cases] == list(JUMPS) * SCRIPTS_PER_KIND
    shares = [
        case
        for share in range(3)
        for case in Clock(Setting(scratch="", memory="", share=share, shares=3)).cases()
    ]
    assert sorted(map(str, shares)) == sorted(map(str, cases))


@pytest.mark.parametrize("kind", JUMPS)
def test_a_script_passes_and_is_the_same_each_time(search: Clock, kind: str) -> None:
    case = {"jumps": kind, "seed": 5, "steps": 60}
    assert run_case(search, case) == ""
    once = dict(search.figures)
    assert all(once[name] for name in ("appends", "openings", "look-ups", "jumps"))
    search.figures.clear()
    assert run_case(search, case) == ""
    assert search.figures == once


def test_smaller_scripts(search: Clock) -> None:
    case = {"jumps": "all", "seed": 5, "steps": 8}
    assert [each["steps"] for each in search.smaller(case)] == [4, 6, 7]
    assert list(search.smaller({**case, "steps": 1})) == []


# -- it would notice ---------------------------------------------------------------------


def test_a_log_that_never_rolls_is_caught(search: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Appender, "_is_full", lambda *_: False)
    assert broken(search, "hour-forward")


def test_a_log_that_rolls_each_time_is_caught(
    search: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Appender, "_is_full", lambda *_: True)
    with pytest.raises(Broken, match="the newest segment is"):
        search.run({"jumps": "hour-back", "seed": 5, "steps": 60})


def test_a_segment_that_stays_young_is_caught(
    search: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes back, and the segment was begun in what is now the future."""
    monkeypatch.setattr(Appender, "_row_for_append", lambda self: self._context.row())
    assert broken(search, "years-back")


def test_an_index_that_leads_too_far_is_caught(
    search: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Index.before_time

    def before_time(self: Index, partition: int, segment: int, time_ms: int) -> Found | None:
        return original(self, partition, segment, time_ms + 1)

    monkeypatch.setattr(Index, "before_time", before_time)
    assert broken(search, "years-forward")
