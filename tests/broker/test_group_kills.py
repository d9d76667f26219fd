"""SIGKILL at every system call around storing a group: what was told is there, whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seawall.broker.group_format import SERVER_LIFE, Member
from seawall.broker.group_kept_format import KeptGroup, KeptMember
from seawall.broker.group_wire import WireCommit, WireGroups
from seawall.broker.liveness import Lives
from seawall.broker.state import State
from seawall.wal.files import Files
from seawall.wal.kv import Environment
from seawall.wal.torture.search import Unavailable
from seawall.wal.torture.traps import kill_at, trace

Step = Callable[[WireGroups], object]
Seen = tuple[dict[str, KeptGroup], tuple[int, set[str]], dict[int, int]]


def clients(*names: str) -> list[Member]:
    return [
        Member(
            member_id=f"{name}-{SERVER_LIFE}",
            client_id=name,
            instance_id=None,
            pid=7,
            host="h",
            boot="b",
            joined_ms=1,
            session_timeout_ms=45_000,
            topics=("t",),
            partitions=None,
            assignors=("kafka:consumer",),
        )
        for name in names
    ]


def kept(generation: int, *names: str, share: bytes = b"") -> KeptGroup:
    return KeptGroup(
        generation=generation,
        is_assigned=bool(share),
        protocol_type="consumer",
        protocol="range",
        leader=f"{names[0]}-{SERVER_LIFE}" if names else "",
        members=tuple(
            KeptMember(
                member_id=f"{name}-{SERVER_LIFE}",
                instance_id=None,
                client_id=name,
                client_host="h",
                session_timeout_ms=1_000,
                rebalance_timeout_ms=1_000,
                protocols={"range": b"r" * 3_000},
                assignment=share,
            )
            for name in names
        ),
    )


def begin(*names: str) -> Step:
    return lambda groups: groups.begin_generation("g", clients(*names), kept(0, *names))


def assign(generation: int, *names: str) -> Step:
    return lambda groups: groups.update(
        "g", clients(*names), kept(generation, *names, share=b"s" * 2_000)
    )


def commit(generation: int, name: str, offset: int) -> Step:
    def do(groups: WireGroups) -> None:
        wanted = WireCommit(
            group="g",
            member_id=f"{name}-{SERVER_LIFE}",
            generation=generation,
            offsets={10: (offset, "")},
        )
        assert groups.commit_all([wanted]) == [None]

    return do


def take_over(groups: WireGroups) -> None:
    groups.take_over(os.getpid(), "b")


STEPS: list[Step] = [
    take_over,
    begin("a", "b"),
    assign(1, "a", "b"),
    commit(1, "b", 5),
    take_over,
    assign(1, "a", "c"),  # a static member that was started again
    begin("a", "c", "d"),
    take_over,
    assign(2, "a", "c", "d"),
    commit(2, "c", 9),
    begin(),
    take_over,
]


def opened(path: str) -> tuple[State, WireGroups]:
    environment = Environment(f"{path}/state.lmdb", files=Files(), map_size_bytes=1 << 24)
    state = State(environment, clock_ms=lambda: 1)
    return state, WireGroups(state, is_dead=lambda _: False)


def look(groups: WireGroups) -> Seen:
    """What the next server goes on with, and how far the group is."""
    found = groups.take_over(1, "b")
    generation, members = groups.members("g")
    offsets = {each: there.offset for each, there in groups.offsets("g").items()}
    return found, (generation, {each.member_id for each in members}), offsets


def test_killed_at_every_call(tmp_path: Path) -> None:
    path = str(tmp_path / "data")

    def fresh() -> None:
        shutil.rmtree(path, ignore_errors=True)
        os.mkdir(path)
        opened(path)[0].close()

    fresh()
    state, groups = opened(path)
    expected = [look(groups)]
    for step in STEPS:
        step(groups)
        expected.append(look(groups))
    state.close()
    assert [len(found) for found, _, _ in expected] == [0, 0] + [1] * 9 + [0] * 2

    def live(mark: Callable[[dict[str, Any]], None]) -> None:
        state, groups = opened(path)
        lives = Lives(Files(), f"{path}/members")
        for number, step in enumerate(STEPS, 1):
            if step is take_over:
                life = lives.begin_server()
            step(groups)
            mark({"done": number})
        life.end()
        state.close()

    fresh()
    try:
        calls = len(trace(live, path).calls)
    except Unavailable as error:
        pytest.skip(str(error))
    assert calls > 4 * len(STEPS)
    for number in range(1, calls + 1):
        fresh()
        watched = kill_at(live, path, number)
        done = max((each["done"] for each in watched.marks), default=0)
        state, groups = opened(path)
        try:
            assert look(groups) in expected[done : done + 2], (number, done)
            before = groups.members("g")[0]
            # And it goes on from there.
            assert groups.begin_generation("g", clients("e"), kept(0, "e")) == before + 1
            assert list(look(groups)[0]) == ["g"]
            assert list(state._environment.verify()) == []
        finally:
            state.close()
