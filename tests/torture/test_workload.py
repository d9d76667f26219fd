"""The script of a workload, and carrying it out on a directory that nothing happens to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seawall.broker.aio import AsyncConsumer, AsyncProducer
from seawall.broker.broker import Broker
from seawall.broker.catalog import Catalog
from seawall.broker.consumer import Consumer
from seawall.broker.dead_letters import DeadLetters
from seawall.broker.group_consumer import GroupConsumer
from seawall.broker.group_state import GroupState
from seawall.broker.producer import Producer
from seawall.broker.state import State
from seawall.broker.torture import performer, promises
from seawall.broker.torture.connect import connect
from seawall.broker.torture.marks import Ledger, Mark
from seawall.broker.torture.performer import Performer
from seawall.broker.torture.workload import steps
from seawall.wal.log import Log

# Methods that change nothing on disk by themselves.
HARMLESS = {
    "Broker": {
        *("abandon", "consumer", "ends", "group", "groups", "info", "offset_for_time"),
        *("topic", "topics", "verify", "path", "cluster_id", "engine", "config"),
        *("dead_letter_topics", "dead_letters", "group_offsets", "producers"),
    },
    "Producer": {"abandon", "put"},
    "Consumer": {
        *("abandon", "ack", "assignment", "committed", "give_back", "hand_out", "lag"),
        *("is_rebalancing", "position", "reached"),
        *("check_usable", "place_to_run", "run"),  # `run` is for those in a group
    },
    "Log": {
        *("abandon", "check_offset", "close", "ends", "is_deleted", "offset_for_time"),
        *("newest_ms", "producers", "reader", "segments", "size_bytes", "verify"),
    },
    "GroupConsumer": {"abandon", "committed", "generation", "group", "hand_out"}
    | {"interrupt", "keep_progress", "place_to_run", "rejoin"}
    | {
        "announced",
        "caller",
        "check_usable",
        "is_closed",
        "partition_id",
        "reached",
        "swap_options",
    }
    | {"assignment", "give_back", "is_rebalancing", "lag", "member_id", "position", "seek"},
    "State": {
        *("close", "committed", "committed_in", "highest_committed", "is_lowest", "log_start"),
        *("partition_ids", "path"),
        # what others use inside a transaction
        *("committed_at", "log_start_at", "partitions_of", "put_committed", "read", "write"),
    },
    "GroupState": {"group", "groups", "members"},
    "DeadLetters": {"info", "records"},
    "Catalog": {
        *(
            "abandon",
            "broker_config",
            "close",
            "config",
            "integrity_check",
            "topic",
            "topics",
            "unfinished",
        ),
        "version",
    },
}
# They do through the executor what their namesakes do.
TWINS = {AsyncProducer: Producer, AsyncConsumer: Consumer}


def public_methods(kind: type) -> set[str]:
    return {
        name
        for base in kind.__mro__[:-1]
        for name, value in vars(base).items()
        if not name.startswith("_") and (callable(value) or hasattr(value, "__func__"))
    }


KINDS = [Broker, Producer, Consumer, GroupConsumer, Log, State, GroupState, Catalog, DeadLetters]


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_that_changes_something_is_registered(kind: type) -> None:
    harmless = HARMLESS[kind.__name__]
    registered = {
        method.partition(".")[2]
        for method in performer.exercised
        if method.startswith(f"{kind.__name__}.")
    }
    unknown = public_methods(kind) - registered - harmless
    assert not unknown, f"register an operation for {sorted(unknown)}, or list them as harmless"


@pytest.mark.parametrize("kind", TWINS)
def test_asynchronous_twins_have_nothing_of_their_own(kind: type) -> None:
    own = {"open"}
    assert public_methods(kind) <= public_methods(TWINS[kind]) | own


def test_what_is_registered_exists() -> None:
    kinds = {kind.__name__: kind for kind in KINDS}
    for method in performer.exercised:
        kind, _, name = method.partition(".")
        assert name in public_methods(kinds[kind]), method


def test_a_script_has_every_operation_and_follows_from_its_seed() -> None:
    script = steps(1, 400)
    assert Counter(step["op"] for step in script).keys() == performer.operations.keys()
    assert steps(1, 400) == script
    assert steps(2, 400) != script
    assert steps(1, 100) == script[:100]


def perform(path: Path, script: list[Any]) -> list[Mark]:
    marks: list[Mark] = []
    worker = Performer(lambda: connect(str(path)), marks.append)
    try:
        worker.perform(script)
    finally:
        worker.close()
    return marks


def test_marks_are_the_same_in_every_run_and_hold(tmp_path: Path) -> None:
    script = steps(7, 150)
    marks = perform(tmp_path / "a", script)
    assert perform(tmp_path / "b", script) == marks
    ledger = Ledger(marks)
    with Broker.open(tmp_path / "a") as broker:
        promises.check(broker, ledger, word="once")
        promises.check(broker, ledger, word="again")
