"""The states that a crash leaves: built from a recording, told apart, and judged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seawall.broker.errors import LogDamaged
from seawall.broker.torture.compaction_crashes import CrashInCompaction
from seawall.broker.torture.crashes import BOOTS, CrashStates
from seawall.broker.torture.marks import Ledger
from seawall.broker.torture.recorder import CATALOG, INDEX, RUN, RUN_FILE, STATE, record
from seawall.broker.torture.recovery_crashes import CrashInRecovery, split
from seawall.broker.torture.states import ABSENT, GARBAGE, OLD, States
from seawall.broker.torture.workload import steps
from seawall.wal.ends import SLOT_BYTES
from seawall.wal.torture.materialise import digest
from seawall.wal.torture.search import Broken, Setting
from seawall.wal.torture.states import NOTHING, everything
from seawall.wal.torture.trace import Snapshot, read_tree

Make = Callable[..., Any]


@pytest.fixture
def make(folder: str) -> Iterator[Make]:
    """Searches that are closed at the end."""
    searches: list[CrashStates] = []

    def make(kind: type[CrashStates] = CrashStates, **setting: int) -> CrashStates:
        search = kind(Setting(scratch=folder, memory=folder, **setting))  # type: ignore[arg-type]
        search.prepare()
        searches.append(search)
        return search

    yield make
    for search in searches:
        search.close()


def test_a_recording_knows_what_was_committed_when(folder: str) -> None:
    root = Path(folder, "recorded")
    root.mkdir()
    trace = record(str(root), steps(3, 60), BOOTS[0])
    names = {event.name for event in trace.events if isinstance(event, Snapshot)}
    assert names == {STATE, CATALOG, INDEX, RUN}
    # What is there in the end is what the last snapshots and the logs say.
    states = States(trace, 0)
    states.disk.advance(states.points[-1])
    real = read_tree(str(root))
    caches = {INDEX: _last(trace.events, INDEX), RUN: _last(trace.events, RUN)}
    case = {"point": states.points[-1], **everything(states.disk).as_case(), **caches}
    states.build(case, f"{folder}/built")
    built = read_tree(f"{folder}/built")
    for tree in (real, built):  # whose head says which file it is
        tree[RUN_FILE] = (tree[RUN_FILE] or b"")[SLOT_BYTES:]
    assert {path: real.get(path) for path in built} == built
    assert {path for path in real if path.startswith("logs")} == {
        path for path in built if path.startswith("logs")
    }


def _last(events: list[Any], name: str) -> str:
    numbers = [event.number for event in events if isinstance(event, Snapshot)]
    return f"{OLD}:{max(n for n in numbers if events[n].name == name)}"


def test_cases_follow_from_the_seed_and_are_distinct(make: Make) -> None:
    search = make(seed=4)
    first = list(itertools.islice(search.cases(), 300))
    again = list(itertools.islice(make(seed=4).cases(), 300))
    assert first == again
    assert list(itertools.islice(make(seed=5).cases(), 300)) != first
    kinds = {str(case["index"]).partition(":")[0] for case in first}
    assert kinds == {str(case["run"]).partition(":")[0] for case in first}
    assert kinds == {ABSENT, OLD, GARBAGE}
    keys = {
        (digest(search._states.image(case)), len(search._states.disk.marks), str(case))
        for case in first
    }
    assert len(keys) == 300


def test_shares_have_no_state_in_common(make: Make) -> None:
    found = []
    for share in range(2):
        search = make(seed=4, share=share, shares=2)
        cases = list(itertools.islice(search.cases(), 200))
        found.append({search._digest(case) for case in cases if search._states.image(case)})
    assert not found[0] & found[1]


def test_the_ledger_of_a_point_is_the_same_whichever_came_before(make: Make) -> None:
    search = make(seed=6)
    disk, points = search._states.disk, search._states.points
    for point in (points[40], points[300], points[-1], points[200], points[0], points[250]):
        ledger = search.ledger(point)
        fresh = Ledger(mark for mark in disk.marks if mark["id"])
        assert (ledger.topics, ledger.committed) == (fresh.topics, fresh.committed)
        assert (ledger.sent_back, ledger.next_turn()) == (fresh.sent_back, fresh.next_turn())
        ledger.topics.clear()  # used up by a check


def test_states_of_a_good_recording_are_good(make: Make) -> None:
    search = make(seed=6)
    for case in itertools.islice(search.cases(), 40):
        search.run(case)


def test_a_lost_record_is_seen(make: Make) -> None:
    """What was synced is taken from the disk all the same: the promise is broken, and seen."""
    search = make(seed=6)
    states = search._states
    point = states.points[-1]
    states.disk.advance(point)
    case = {"point": point, **NOTHING.as_case(), "index": ABSENT, "run": ABSENT}
    search.run(case)
    for name, data in states.image(case).items():
        if name.startswith("logs/1-") and data:
            emptied = name
    files = states.disk._files
    for node in files.values():
        if node.durable == states.image(case)[emptied]:
            node.durable = b""
    with pytest.raises((Broken, LogDamaged)):
        search.run(case)


def test_crashes_during_recovery_are_replayed_from_their_case(make: Make) -> None:
    search = make(CrashInRecovery, seed=6)
    cases = list(itertools.islice(search.cases(), 6))
    for case in cases:
        base, again = split(case)
        assert base["torn"]
        assert {*base, *again} == {"point", "kept", "names", "torn", "index", "run"}
    other = make(CrashInRecovery, seed=6)
    for case in reversed(cases):
        other.run(case)


def test_when_a_workload_has_no_more_states_the_next_one_is_taken(make: Make) -> None:
    search = make(CrashInCompaction, seed=6)
    search._target = 12
    # As if the first ones had only so many.
    whole = search._cases_of
    search._cases_of = lambda workload: itertools.islice(whole(workload), 5)
    cases = list(search.cases())
    assert [case["workload"] for case in cases] == [0] * 5 + [1] * 5 + [2] * 5
    assert 12 <= search.figures["distinct states"] <= len(cases)
    other = make(CrashInCompaction, seed=6)
    for case in (cases[-1], cases[0]):
        other.run(case)
