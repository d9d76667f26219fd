"""Kafka clients of several languages, each through every scenario, with `seawall serve`.

All clients that are here play a scenario at the same time, with one server.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients.compatibility import DOCUMENT, NO, Results, document, failures, features_of, run_all
from clients.endpoints import Endpoint, Seawall
from clients.programs import CLIENTS, Client, Died, Running
from clients.scenarios import SCENARIOS, YES, Scenario, Stage, play
from storage import memory_folder

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all scenarios

FEATURES = [feature for scenario in SCENARIOS for feature in scenario.features]
# What no client is excused from, whatever it lacks otherwise.
EVERYBODY_CAN = set(SCENARIOS[0].features[:2]) | set(SCENARIOS[2].features[:2])


@pytest.fixture(scope="module")
def results() -> Results:
    clients = [client for client in CLIENTS if not client.missing]
    with memory_folder() as folder, Seawall(Path(folder)) as server:
        return run_all(server, clients)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_client(results: Results, client: Client, scenario: Scenario) -> None:
    if client.missing:
        pytest.skip(client.missing)
    features = results[client.name]["features"]
    outcome = {feature: features[feature] for feature in scenario.features}
    failed = {feature: what for feature, what in outcome.items() if what.startswith("failed")}
    assert not failed, "\n".join(f"{feature} {what}" for feature, what in failed.items())
    assert all(outcome[feature] == YES for feature in EVERYBODY_CAN & outcome.keys())


def test_the_page_has_every_client_and_feature() -> None:
    found = features_of(DOCUMENT.read_text())
    assert list(found) == FEATURES, "make compatibility"
    for feature, cells in found.items():
        assert list(cells) == [client.name for client in CLIENTS], feature
        assert set(cells.values()) <= {"yes", NO}, feature


def test_the_page_says_what_was_seen(results: Results) -> None:
    found = features_of(DOCUMENT.read_text())
    for name, result in results.items():
        for feature, what in result["features"].items():
            assert (found[feature][name] == "yes") == (what == YES), f"{name}: {feature}: {what}"


def test_a_page_can_be_read_back() -> None:
    outcome = dict.fromkeys(FEATURES, YES) | {FEATURES[1]: "not in this client"}
    other = dict.fromkeys(FEATURES, YES)
    results = {
        "one": {"version": "1", "features": outcome},
        "two": {"version": "2", "features": other},
    }
    page = document(results)
    assert features_of(page)[FEATURES[0]] == {"one": "yes", "two": "yes"}
    assert features_of(page)[FEATURES[1]] == {"one": NO, "two": "yes"}
    assert f"* one: not in this client ({FEATURES[1]})" in page
    assert failures(results) == []
    outcome[FEATURES[0]] = "failed: so it is"
    assert failures(results) == [f"one, {FEATURES[0]}: failed: so it is"]


# -- the players ---------------------------------------------------------------------------


class Nowhere(Endpoint):
    """A server that is never begun, and counts how often it was killed."""

    deaths = 0

    def command(self) -> list[str]:
        return []

    def die_unheard(self) -> None:
        self.deaths += 1

    def start(self) -> None:
        pass


@pytest.fixture
def nowhere() -> Iterator[Nowhere]:
    with tempfile.TemporaryDirectory() as folder, Nowhere(Path(folder)) as server:
        yield server


def speaking(source: str) -> Client:
    """A client program with this source."""
    return Client("odd", (sys.executable, "-u", "-c", source), "")


ECHO = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"event": "heard"}), flush=True)
    print("chatter", flush=True)
    print(line, end="", flush=True)
"""


def test_a_program_answers_in_order() -> None:
    with Running(speaking(ECHO), "127.0.0.1:1") as program:
        program.begin("one", number=1)
        program.begin("two")
        assert program.answer() == {"do": "one", "number": 1}
        assert program.answer() == {"do": "two"}
        assert len(program.events_of("heard")) == 2


def test_a_program_that_dies_says_why() -> None:
    source = "import sys; sys.stdin.readline(); sys.exit('no such thing')"
    with Running(speaking(source), "127.0.0.1:1") as program, pytest.raises(Died, match="no such"):
        program.ask("anything")


def test_owned_follows_assignments() -> None:
    with Running(speaking(ECHO), "127.0.0.1:1") as program:
        for event, partitions in (("assigned", [1, 2]), ("revoked", [2]), ("assigned", [3])):
            program.events.append({"event": event, "partitions": partitions})
        assert program.owned() == {1, 3}


def test_what_is_not_reached_has_failed(nowhere: Nowhere) -> None:
    def part(stage: Stage) -> None:
        stage.passed("a")
        stage.unsupported("b", "not in this client")
        stage.checked("c", {"error": "REASON"})

    outcome = play(Scenario("x", "X", ("a", "b", "c", "d"), part), [speaking(ECHO)], nowhere)
    assert outcome["odd"] == {
        "a": YES,
        "b": "not in this client",
        "c": "failed: c: REASON",
        "d": "failed: c: REASON",
    }


def test_the_server_dies_once_all_are_ready(nowhere: Nowhere) -> None:
    """Also if one of the players never gets there."""

    def part(stage: Stage) -> None:
        if stage.client.name == "failing":
            raise RuntimeError("it fails")
        stage.shared.restart()
        stage.passed("a")

    players = [Client(name, (), "") for name in ("first", "failing", "second")]
    outcome = play(Scenario("x", "X", ("a",), part), players, nowhere)
    assert nowhere.deaths == 1
    assert [outcome[each.name]["a"] for each in players] == [YES, "failed: it fails", YES]


def test_no_file_names_a_registry() -> None:
    lock = json.loads((Path(__file__).parent / "kafkajs" / "package-lock.json").read_text())
    assert [name for name, each in lock["packages"].items() if "resolved" in each] == []
