"""The search for what a stopped holder of a lock breaks, and that it sees what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from storage import memory_folder

from seawall.broker.torture import stops
from seawall.broker.torture.actors import Actor, Reply
from seawall.broker.torture.holds import FAMILIES, KINDS
from seawall.broker.torture.stops import StoppedHolder
from seawall.wal.torture.search import Broken, Search, Setting

CASE = {
    "kind": "append",
    "seed": 1,
    "holder": "produce",
    "nth": 1,
    "steps": 0,
    "attempts": 1,
    "timeout_ms": 100,
    "hold_ms": 0,
    "patient": 0,
}


@pytest.fixture
def setting() -> Iterator[Setting]:
    with memory_folder() as path:
        yield Setting(scratch=path, memory=path)


@pytest.fixture
def search(setting: Setting) -> Iterator[Search]:
    search = StoppedHolder(setting)
    search.prepare()
    yield search
    search.close()


def cases(**settings: Any) -> list[dict[str, Any]]:
    setting = Setting(scratch="", memory="", **settings)
    return [dict(case) for case in StoppedHolder(setting).cases()]


def test_a_sample_has_one_of_each_family() -> None:
    for seed in range(20):
        kinds = {case["kind"] for case in cases(seed=seed)}
        assert all(kinds & set(family) for family in FAMILIES)
    assert sorted(kind for family in FAMILIES for kind in family) == sorted(KINDS)


def test_the_whole_search_has_every_kind_and_is_shared() -> None:
    whole = cases(full=True)
    assert len(whole) == 200
    assert {case["kind"] for case in whole} == set(KINDS)
    assert cases(full=True) == whole != cases(full=True, seed=1)
    shares = [cases(full=True, share=share, shares=3) for share in range(3)]
    assert sorted(map(str, whole)) == sorted(str(case) for share in shares for case in share)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_stopped_holder_of_each_kind(search: Search, kind: str) -> None:
    holder = KINDS[kind].holder[0]
    search.run({**CASE, "kind": kind, "holder": holder, "nth": KINDS[kind].nth, "attempts": 2})
    assert search.figures[kind] == 1
    assert search.figures["named time-outs"] >= 2 or kind == "open"


@pytest.mark.parametrize("seed", range(3))
def test_who_is_stopped_before_it_has_joined_hinders_nobody(search: Search, seed: int) -> None:
    case = {**CASE, "kind": "group", "holder": "hold_search", "attempts": 2, "seed": seed}
    search.run(case)
    assert search.figures == {"group": 1}


def test_others_may_outlast_the_stop(search: Search) -> None:
    search.run({**CASE, "patient": 1, "hold_ms": 30})
    assert search.figures["waits that outlasted the stop"] == 1


def test_simpler_cases_come_first_and_end() -> None:
    search = StoppedHolder(Setting(scratch="", memory=""))
    assert list(search.smaller(CASE)) == []
    assert list(search.smaller({**CASE, "steps": 3, "patient": 1})) == [
        {**CASE, "steps": 3},
        {**CASE, "patient": 1},
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"error": ""}, "should end in AppendLockTimeout: it was done"),
        ({"error": "WriteFailed", "text": "no"}, "should end in AppendLockTimeout: WriteFailed"),
        ({"ms": 100_000}, "after 100000, not 100 ms"),
        ({"holder_pid": 1}, "names process 1, but"),
    ],
)
def test_a_wrong_answer_is_seen(
    search: Search, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    do = Actor.do

    def wrongly(self: Actor, step: Any) -> Reply:
        reply = do(self, step)
        if reply.error != "AppendLockTimeout":
            return reply
        fields = {name: getattr(reply, name) for name in Reply.__slots__}
        return Reply(**{**fields, **changes})

    monkeypatch.setattr(Actor, "do", wrongly)
    with pytest.raises(Broken, match=sentence):
        search.run(CASE)


def test_a_lost_promise_is_seen(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*arguments: object, **settings: object) -> None:
        raise Broken("one is missing")

    monkeypatch.setattr(stops.promises, "check", lose)
    with pytest.raises(Broken, match="one is missing"):
        search.run(CASE)
