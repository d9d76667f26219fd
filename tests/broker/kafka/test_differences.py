"""Seawall's answers held against those that a real Apache Kafka gave to the same requests.

``recorded/`` has Kafka's, as `tests/record_kafka.py` wrote them; ``origin.json`` there says
where they come from. What may differ stands in `differences.py`, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conversations import CONVERSATIONS, hold
from conversing import OLDEST, PICKS, VERSIONS
from differences import WANTED, WIDER, Difference
from storage import memory_folder

from seawall.broker import Broker
from seawall.broker.kafka.registry import load_apis
from seawall.broker.kafka.threaded import ServerThread

ROOT = Path(__file__).parent.parent.parent.parent
RECORDED = Path(__file__).parent / "recorded"
MISSING = "(nothing)"


@cache
def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text())


@cache
def held(name: str, pick: str) -> Any:
    """A conversation with a server and a directory of its own. Each is held once."""
    with (
        memory_folder() as folder,
        Broker.open(folder) as broker,
        ServerThread(broker, listen="127.0.0.1:0") as server,
    ):
        broker.create_topic("orders")
        return json.loads(json.dumps(hold(server.address, name, pick)))


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_goes_as_with_kafka(name: str, pick: str) -> None:
    steps, expected = held(name, pick), recorded(f"{name}-{pick}")
    assert [each["step"] for each in steps] == [each["step"] for each in expected]
    unwanted = []
    for ours, theirs in zip(steps, expected, strict=True):
        step = ours["step"]
        for path, found, wanted in compared(ours["answer"], theirs["answer"]):
            if not explained(name, step, path):
                unwanted.append(f"{step}: {path} is {found}, and Kafka's {wanted}")
    assert not unwanted, "\n".join(unwanted)


def explained(conversation: str, step: str, path: str) -> bool:
    """Whether this may differ. What holds for a list holds for its length as well."""
    what = f"{conversation}/{step}/{path}"
    return any(fnmatchcase(what, where) for each in WANTED for where in each.where)


@pytest.mark.parametrize("difference", WANTED, ids=lambda each: each.where[0])
def test_what_may_differ_does(difference: Difference) -> None:
    """A difference that is no more is not to be listed, nor documented."""
    for where in difference.where:
        found = differing(where.partition("/")[0])
        assert any(fnmatchcase(each, where) for each in found), where


def differing(name: str) -> Iterator[str]:
    for pick in PICKS:
        for ours, theirs in zip(held(name, pick), recorded(f"{name}-{pick}"), strict=True):
            for path, _, _ in compared(ours["answer"], theirs["answer"]):
                yield f"{name}/{ours['step']}/{path}"


def test_the_differences_are_documented() -> None:
    text = (ROOT / "docs" / "kafka.md").read_text()
    _, _, section = text.partition("## Differences from Apache Kafka\n")
    section = " ".join(section.partition("\n## ")[0].split())
    for each in WANTED:
        assert each.why in section, each.why


def compared(ours: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two answers differ: path, ours, theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            pair = ours.get(key, MISSING), theirs.get(key, MISSING)
            yield from compared(*pair, f"{path}.{key}" if path else key)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from compared(*pair, f"{path}.{number}")
    elif ours != theirs:
        yield path, ours, theirs


@pytest.mark.parametrize("key", load_apis())
def test_versions_are_those_of_kafka(key: int) -> None:
    """No API or version that Kafka does not have, unless it is listed."""
    api = load_apis()[key]
    theirs = recorded("origin")["versions"].get(str(key))
    assert theirs is not None
    ours = list(api.advertised)
    allowed = WIDER.get(key, theirs)
    assert allowed[0] <= ours[0] <= ours[1] <= allowed[1], f"{api.name}: {ours}, Kafka: {theirs}"


def test_every_api_takes_part() -> None:
    """In the oldest and the newest version that both have."""
    asked = {
        (each["api"].removesuffix("Response"), pick)
        for name in CONVERSATIONS
        for pick in PICKS
        for each in recorded(f"{name}-{pick}")
    }
    names = {api.name for key, api in load_apis().items() if key != 18}
    assert {name for name, pick in asked if pick != OLDEST} >= names
    only_newest = {"DescribeTopicPartitions"}  # which has one version
    assert {name for name, pick in asked if pick == OLDEST} >= names - only_newest


def test_the_oldest_and_the_newest_versions_are_asked() -> None:
    theirs = recorded("origin")["versions"]
    for key, api in load_apis().items():
        low, high = api.versions
        known = theirs[str(key)]
        assert VERSIONS[key] == (max(low, known[0]), min(high, known[1])), api.name


def test_the_recording_is_of_these_conversations() -> None:
    assert recorded("origin")["asked"] == {str(key): list(v) for key, v in VERSIONS.items()}
    names = {f"{name}-{pick}" for name in CONVERSATIONS for pick in PICKS}
    assert {path.stem for path in RECORDED.glob("*.json")} == names | {"origin"}


def test_a_difference_is_found() -> None:
    ours = {"a": [1, {"b": 2}], "c": None}
    assert list(compared(ours, {"a": [1, {"b": 3}], "d": 1})) == [
        ("a.1.b", 2, 3),
        ("c", None, MISSING),
        ("d", MISSING, 1),
    ]
    assert list(compared([1], [1, 2])) == [("", [1], [1, 2])]
