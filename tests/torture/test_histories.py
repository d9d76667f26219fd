"""The search "histories": a round that finds nothing, and rounds that do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from rounds import play_and_lose
from storage import batch, memory_folder

from seawall.broker import Broker
from seawall.broker.torture import client_rounds, histories
from seawall.broker.torture.events import read_events
from seawall.broker.torture.histories import FULL_ROUNDS, QUICK_ROUNDS, Histories, Round
from seawall.wal.torture.search import Broken, Setting, run_search


@pytest.fixture
def folder() -> Iterator[str]:
    with memory_folder() as path:
        yield path


@pytest.mark.parametrize("seed", range(2))
def test_a_round(folder: str, seed: int) -> None:
    for number, seconds in enumerate((0.3, 3.0, 30.0)):  # how busy the machine is
        path = os.path.join(folder, f"{number}")
        os.mkdir(path)
        with Round(path, seed, seconds) as each:
            each.play()
        figures = each.check()
        assert figures["events"] > figures["records acknowledged"]
        if figures["records acknowledged"] and figures["records read"]:
            return
    pytest.fail("nothing is acknowledged, or nothing is read")


def test_the_search(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(histories, "QUICK_ROUND_S", 0.3)
    outcome = run_search(Histories(Setting(scratch=folder, memory=folder)))
    assert outcome.failures == []
    assert outcome.cases == 1
    assert outcome.figures["events"] > 0
    assert os.listdir(folder) == []


def test_its_cases_are_shared_out() -> None:
    def cases(*, full: bool, share: int) -> list[object]:
        setting = Setting(scratch="", memory="", full=full, share=share, shares=2)
        return [case["round"] for case in Histories(setting).cases()]

    assert sorted(cases(full=False, share=0) + cases(full=False, share=1)) == list(
        range(QUICK_ROUNDS)
    )
    assert len(cases(full=True, share=1)) == FULL_ROUNDS // 2


def test_what_the_killed_have_not_synced_is_synced_and_then_read(folder: str) -> None:
    """It was acknowledged with durability="os", and others have the directory open."""
    each = Round(folder, 1, 0.3)
    each.create_topics()
    with Broker.open(each.path) as broker:
        log = broker.engine.log(broker.engine.partition_id("a", 0))
        log.append([batch(b"left behind")])
        each.read_everything()
    end = next(
        event
        for event in read_events(os.path.join(each.histories, "final"))
        if event.op == "end" and event.kind == "ok"
    )
    assert end.places["a/0"] == 1


def test_what_is_never_synced_is_broken(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_rounds, "clean", lambda *_, **__: 0.0)
    monkeypatch.setattr(client_rounds, "SYNCING_S", 0.01)
    each = Round(folder, 1, 0.3)
    each.create_topics()
    with Broker.open(each.path) as broker:
        log = broker.engine.log(broker.engine.partition_id("a", 0))
        log.append([batch(b"left behind")])
        with pytest.raises(Broken, match=r"a/0 is never synced: .*durable_end=0, log_end=1"):
            each.read_everything()


def test_an_anomaly_is_told_with_its_events(folder: str) -> None:
    each = play_and_lose(Round, folder, (0.3, 3.0, 30.0))
    with pytest.raises(Broken, match=r"anomalies: \{'lost-write': \d+") as caught:
        each.check()
    assert '"op":"' in str(caught.value)


def test_a_client_that_fails_is_told(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broker, "create_topic", lambda *_: None)  # not in the clients' processes
    with pytest.raises(Broken, match="UnknownTopic"), Round(folder, 1, 20) as each:
        each.play()


def test_a_process_that_is_stuck_is_told(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_rounds, "LAST_WORDS_S", 0.1)

    def stop(each: Round, until_s: float) -> None:
        monkeypatch.setattr(Round, "grace_s", 0.1)
        for child in each.children.values():
            child.send_signal(signal.SIGSTOP)

    monkeypatch.setattr(Round, "_conduct", stop)
    with pytest.raises(Broken, match="is stuck"), Round(folder, 1, 0) as each:
        each.play()
