"""Clients that are killed at random, round after round on one directory."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from storage import memory_folder

from seawall.broker.torture import killed_round, random_kills
from seawall.broker.torture.carried import Carried
from seawall.broker.torture.killed_clients import seen, token_of, value_of
from seawall.broker.torture.killed_round import (
    CONSUMERS,
    LONGEST_S,
    ONE_BY_ONE,
    PRODUCERS,
    REPLACED,
    REPLACING,
    TOGETHER,
    Round,
    deaths_of,
)
from seawall.broker.torture.random_kills import RandomKills
from seawall.wal.records import Record
from seawall.wal.torture.search import Broken, Setting, run_search


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with memory_folder() as memory:
        yield Setting(scratch=str(tmp_path), memory=memory)


def test_rounds_are_played_on_one_directory(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_kills, "QUICK_ROUNDS", 4)
    monkeypatch.setattr(random_kills, "READ_ALL_EVERY", 2)
    for longest_s in (LONGEST_S, 10 * LONGEST_S, 60 * LONGEST_S):  # how busy the machine is
        monkeypatch.setattr(killed_round, "LONGEST_S", longest_s)
        outcome = run_search(RandomKills(setting))
        assert outcome.failures == []
        assert outcome.cases == 4
        assert outcome.figures["processes killed"] >= 4 * (PRODUCERS + CONSUMERS)
        assert os.listdir(setting.memory) == []
        if outcome.figures["records acknowledged"] and outcome.figures["records seen"]:
            return
    pytest.fail("nothing is acknowledged, or nothing is seen, however long they live")


class Liar(Carried):
    """Falsifies what the producers of one round were told, and counts the rounds."""

    wrong_round = 2
    rounds: list[list[str]] = []  # noqa: RUF012 - emptied by the test

    def begin(self, producers: Any) -> None:
        producers = list(producers)
        self.rounds.append(producers)
        super().begin(producers)

    def judge(self) -> None:
        if self.rounds[-1][0].startswith(f"{self.wrong_round}p"):
            self.take("nobody", {"acked": "orders/0", "first": 0, "offsets": [0]})
        super().judge()


def test_a_broken_promise_is_told_and_the_next_round_has_a_new_directory(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_kills, "QUICK_ROUNDS", 3)
    monkeypatch.setattr(random_kills, "Carried", Liar)
    Liar.rounds.clear()
    outcome = run_search(RandomKills(setting))
    assert [dict(each.case) for each in outcome.failures] == [{"first": 2, "last": 2}]
    assert "offset 0 was acknowledged to nobody as 'nobody.0' and is" in outcome.failures[0].reason
    played = [producers[0].partition("p")[0] for producers in Liar.rounds]
    assert played == ["1", "2", "2", "3"]  # the second again, as a smaller case
    assert outcome.cases == 3


def test_simpler_cases_are_fewer_rounds(setting: Setting) -> None:
    smaller = list(RandomKills(setting).smaller({"first": 1, "last": 5}))
    assert smaller == [{"first": 5, "last": 5}, {"first": 3, "last": 5}]
    assert list(RandomKills(setting).smaller({"first": 5, "last": 5})) == []


def test_the_search_is_not_shared() -> None:
    assert RandomKills.most_shares == 1


def test_the_full_search_has_a_thousand_rounds(setting: Setting) -> None:
    full = RandomKills(dataclasses.replace(setting, full=True))
    assert sum(1 for _ in full.cases()) == 1_000


@pytest.mark.parametrize("mode", [TOGETHER, ONE_BY_ONE, REPLACING])
@pytest.mark.parametrize("seed", range(5))
def test_everyone_dies_once_and_in_order(mode: str, seed: int) -> None:
    names = [f"7p{each}" for each in range(PRODUCERS)]
    deaths = deaths_of(random.Random(seed), names, mode)
    assert deaths == deaths_of(random.Random(seed), names, mode)
    assert [death.at_s for death in deaths] == sorted(death.at_s for death in deaths)
    assert all(0 <= death.at_s <= LONGEST_S for death in deaths)
    dead = [death.who for death in deaths]
    assert len(set(dead)) == len(dead) == len(names) + (REPLACED if mode == REPLACING else 0)
    for death in deaths:
        if death.successor:
            assert dead.index(death.successor) > dead.index(death.who)
    if mode == TOGETHER:
        assert len({death.at_s for death in deaths}) == 1


def test_a_client_that_fails_is_told(setting: Setting) -> None:
    search = RandomKills(setting)
    search.prepare()
    try:
        children = search._started()
        choose = random.Random(0)
        nowhere = os.path.join(setting.memory, "file")
        with open(nowhere, "w"):
            pass
        broken = Round(children, nowhere, 1, choose, places=["orders/0"], groups=["g"])
        with pytest.raises(Broken, match=r"client 1[pc]\d"):
            broken.play(Carried(["orders/0"], ["g"]))
    finally:
        search.close()


def test_values_say_whether_they_are_whole() -> None:
    value = value_of("orders/0", "7p1.12")
    assert token_of("orders/0", value) == "7p1.12"
    assert token_of("orders/1", value) != "7p1.12"
    assert token_of("orders/0", value[:-1]) != "7p1.12"
    assert token_of("orders/0", b"\xff" + value) != "7p1.12"
    assert token_of("orders/0", None) == ""
    json.dumps(token_of("orders/0", bytes(range(256))))


def test_runs_of_offsets_are_reported() -> None:
    def record(partition: int, offset: int) -> Record:
        value = value_of(f"orders/{partition}", f"p.{offset}")
        return Record("orders", partition, offset, 0, None, value, ())

    records = [record(0, 5), record(0, 6), record(1, 9), record(0, 8)]
    assert seen(records) == [
        {"saw": "orders/0", "first": 5, "tokens": ["p.5", "p.6"]},
        {"saw": "orders/1", "first": 9, "tokens": ["p.9"]},
        {"saw": "orders/0", "first": 8, "tokens": ["p.8"]},
    ]
