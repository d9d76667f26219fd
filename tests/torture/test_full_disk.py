"""The search on a disk that is really full, and the small file systems that it is for."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator

import pytest

from seawall.broker.torture import small_disks
from seawall.broker.torture.actors import Actor, Reply
from seawall.broker.torture.children import Children, Line
from seawall.broker.torture.full_disk import FullDisk, KeptLedger
from seawall.broker.torture.marks import Ledger
from seawall.broker.torture.performer import Step
from seawall.wal.torture.search import Broken, Search, Setting


@pytest.fixture
def search(folder: str) -> Iterator[Search]:
    search = FullDisk(Setting(scratch=folder, memory=folder))
    search.prepare()
    yield search
    search.close()
    assert os.listdir(folder) == []


def small(folder: str, kind: str) -> Children:
    """A server on a small file system, or the test is skipped."""
    image = os.path.join(folder, "image")
    if not small_disks.is_possible(kind, folder, image):
        pytest.skip(f"this machine may not mount {kind}")
    return Children(functools.partial(small_disks.mount, kind, folder, image))


def room(line: Line, folder: str) -> None:
    while line.hear() is not None:
        found = os.statvfs(folder)
        line.say({"bytes": found.f_bavail * found.f_frsize, "files": found.f_favail})


@pytest.mark.parametrize("kind", ["tmpfs", "inodes", "ext4"])
def test_a_small_file_system_is_filled_and_freed(folder: str, kind: str) -> None:
    with small(folder, kind) as children:
        filler, meter = children.start(small_disks.fill, folder), children.start(room, folder)

        def left(**told: int) -> dict[str, int]:
            filler.say(told)
            assert filler.hear(60) == {"done": 1}
            meter.say({})
            return meter.hear(60) or {}

        before = left(free=1)
        assert 1 << 20 < before["bytes"] < 32 << 20
        assert 40_000 <= left(keep_bytes=50_000)["bytes"] <= 50_000
        assert left(free=1) == before
        assert left(keep_bytes=0)["bytes"] < 4096
        assert left(free=1) == before
        if kind == "inodes":
            assert left(keep_bytes=1 << 30, keep_files=3)["files"] == 3
            assert left(free=1) == before
    assert not os.path.ismount(folder)
    assert set(os.listdir(folder)) <= {"image"}


def test_what_cannot_be_mounted_is_known(folder: str) -> None:
    assert not small_disks.is_possible("tmpfs", os.path.join(folder, "missing"), "")
    assert not small_disks.is_possible("ext4", folder, os.path.join(folder, "missing", "image"))
    assert os.listdir(folder) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_full_tmpfs(search: Search, seed: int) -> None:
    if not search.figures["small file systems"]:
        pytest.skip("this machine may not mount tmpfs")
    search.run({"kind": "tmpfs", "seed": seed})
    assert search.figures["disks filled"] == 1
    assert search.figures["no room to produce"] >= 1


def test_another_error_than_no_room_is_broken(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    do = Actor.do

    def misnamed(self: Actor, step: Step) -> Reply:
        reply = do(self, step)
        return dataclasses.replace(reply, error="WriteFailed") if reply.error else reply

    monkeypatch.setattr(Actor, "do", misnamed)
    with pytest.raises(Broken, match=r"on a full disk, .* gives WriteFailed"):
        search.run({"kind": "limit", "seed": 1})


def test_cases_fall_back_to_what_is_possible(folder: str) -> None:
    search = FullDisk(Setting(scratch=folder, memory=folder, full=True))
    search._kinds = ["limit"]
    cases = list(search.cases())
    assert [case["kind"] for case in cases] == ["limit"] * 3
    assert len({case["seed"] for case in cases}) == 3


def test_a_kept_ledger_can_be_made_again() -> None:
    kept = KeptLedger()
    marks = [
        {"id": 1, "is": "began", "op": "create", "topic": "orders", "partitions": 1},
        {"id": 1, "is": "done"},
    ]
    for mark in marks:
        kept.take(mark)
    assert kept.marks == marks
    assert Ledger(kept.marks).topics.keys() == kept.topics.keys()
