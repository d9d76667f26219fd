"""The search "network": a round that finds nothing, and rounds that do."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import pytest
from rounds import play_and_lose

from seawall.broker.torture import network
from seawall.broker.torture.network import FULL_ROUNDS, QUICK_ROUNDS, Network, Round
from seawall.wal.torture.search import Broken, Setting, run_search


def test_the_search(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "QUICK_ROUNDS", 1)
    for seconds in (1.5, 10.0, 40.0):  # how busy the machine is
        monkeypatch.setattr(network, "QUICK_ROUND_S", seconds)
        outcome = run_search(Network(Setting(scratch=folder, memory=folder)))
        assert outcome.failures == []
        assert outcome.cases == 1
        assert outcome.figures["events"] > outcome.figures["records acknowledged"]
        assert os.listdir(folder) == []
        if outcome.figures["records acknowledged"] and outcome.figures["records read"]:
            return
    pytest.fail("nothing is acknowledged, or nothing is read")


def test_every_round_is_somebodys(folder: str) -> None:
    for full, rounds in ((False, QUICK_ROUNDS), (True, FULL_ROUNDS)):
        shares = [
            Network(Setting(scratch=folder, memory=folder, full=full, share=share, shares=2))
            for share in range(2)
        ]
        cases = [case["round"] for share in shares for case in share.cases()]
        assert sorted(cases) == list(range(rounds))


def test_without_the_client_it_says_so(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    outcome = run_search(Network(Setting(scratch=folder, memory=folder)))
    assert "confluent-kafka" in outcome.unavailable
    assert outcome.cases == 0


def test_what_is_lost_is_found(folder: str) -> None:
    each = play_and_lose(Round, folder, (0.5, 5.0, 30.0))
    with pytest.raises(Broken, match=r"anomalies: \{'lost-write': \d+"):
        each.check()


def test_a_server_that_ends_is_told(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def end_it(each: Round, until_s: float) -> None:
        process = each._server._process
        assert process is not None
        process.terminate()
        process.wait()
        each.look()

    monkeypatch.setattr(Round, "_conduct", end_it)
    with pytest.raises(Broken, match="the server ended by itself"), Round(folder, 1, 0) as each:
        each.play()


def test_a_client_that_fails_is_told(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Round.begin

    def with_an_unknown_client(
        each: Round, name: str, module: str, clients: Sequence[str], **rest: str
    ) -> None:
        begin(each, name, module, [*clients, "nonsense"], **rest)

    monkeypatch.setattr(Round, "begin", with_an_unknown_client)
    with pytest.raises(Broken, match="KeyError: 'nonsense'"), Round(folder, 1, 5) as each:
        each.play()
