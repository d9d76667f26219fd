"""The search that kills a workload's processes at each of their calls."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from storage import memory_folder

from seawall.broker import opening
from seawall.broker.torture import kills
from seawall.broker.torture.connect import connect
from seawall.broker.torture.kills import KillSyscalls, put_back
from seawall.broker.torture.workload import steps
from seawall.wal.ends import Ends
from seawall.wal.files import Files
from seawall.wal.torture.search import Broken, Setting, Unavailable, run_search
from seawall.wal.torture.traps import Watched


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    """A short workload of three processes."""
    monkeypatch.setattr(kills, "OPERATIONS", 12)
    monkeypatch.setattr(kills, "STEPS_PER_LIFE", 4)
    with memory_folder() as memory:
        yield Setting(scratch=str(tmp_path), memory=memory)


@pytest.fixture
def search(setting: Setting) -> Iterator[KillSyscalls]:
    search = KillSyscalls(setting)
    try:
        search.prepare()
    except Unavailable as error:
        pytest.skip(str(error))
    yield search
    search.close()
    assert os.listdir(setting.memory) == []


def test_a_tenth_of_the_kill_points_is_tried(setting: Setting) -> None:
    outcome = run_search(KillSyscalls(setting))
    if outcome.unavailable:
        pytest.skip(outcome.unavailable)
    assert outcome.failures == []
    assert outcome.is_whole
    assert outcome.figures["kill points"] > 200
    assert outcome.cases == -(-outcome.figures["kill points"] // 10)
    assert outcome.figures["died at their call"] == outcome.cases
    assert os.listdir(setting.memory) == []


def test_the_kill_points_are_those_of_every_run(search: KillSyscalls, setting: Setting) -> None:
    again = KillSyscalls(setting)
    again.prepare()
    assert [life.calls for life in again._lives] == [life.calls for life in search._lives]
    assert list(again.cases()) == list(search.cases())
    again.close()


def test_the_full_search_takes_every_kill_point_once(
    search: KillSyscalls, setting: Setting
) -> None:
    numbers = []
    for share in range(3):
        search.setting = dataclasses.replace(setting, full=True, share=share, shares=3)
        numbers += [case["call"] for case in search.cases()]
    assert sorted(numbers) == list(range(1, search.figures["kill points"] + 1))


def test_no_kill_point_is_beyond_the_last(search: KillSyscalls) -> None:
    with pytest.raises(Broken, match="makes only"):
        search.run({"call": search.figures["kill points"] + 1})


def test_what_is_lost_is_found(search: KillSyscalls, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process had been told something that the directory does not know."""
    really = kills.kill_at

    def lie(*arguments: Any) -> Watched:
        watched = really(*arguments)
        watched.marks += [
            *({"id": 999, "is": "began", "op": "create", "topic": "lost", "partitions": 1},),
            {"id": 999, "is": "done"},
        ]
        return watched

    monkeypatch.setattr(kills, "kill_at", lie)
    with pytest.raises(Broken, match=r"killed at 3: .*'lost' was created and is not there"):
        search.run({"call": 3})


def test_a_process_that_does_something_else_is_found(
    search: KillSyscalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = search._lives[0].calls
    search._lives[0] = dataclasses.replace(search._lives[0], script=steps(1, 6)[5:])
    with pytest.raises(Broken, match="not the same calls as in the fault-free run"):
        search.run({"call": len(calls)})


def test_a_directory_is_put_back_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise AssertionError("there was nothing to recover")

    path, found = str(tmp_path / "data"), str(tmp_path / "found")
    with connect(path) as broker:
        broker.create_topic("orders", 1)
        broker.producer(linger_ms=0).send("orders", b"one", partition=0).result(60)
    shutil.copytree(path, found)
    with connect(path) as broker:
        broker.delete_topic("orders")
    put_back(found, path)
    files = Files()
    ends = Ends.open(files, os.path.join(path, "run", "ends"), files.boot_id())
    assert ends is not None, "the next opener would recover"
    row = ends.read(1)
    ends.close()
    assert row is not None
    assert row.next_offset == row.durable_offset == 1
    monkeypatch.setattr(opening, "recover", fail)
    with connect(path) as broker:
        assert broker.ends("orders", 0).durable_end == 1
    put_back("", path)
    assert not os.path.exists(path)


def test_the_children_leave_nothing_behind(
    search: KillSyscalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens between the kill and the verdict."""

    def fail(*arguments: object, **more: object) -> None:
        raise LookupError("what is this")

    monkeypatch.setattr(kills, "check", fail)

    with pytest.raises(Broken, match="what is this"):
        search.run({"call": 50})
