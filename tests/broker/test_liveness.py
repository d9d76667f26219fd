"""Signs of life in run/members: the one that all clients of a server have in common."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from members import member

from seawall.broker.group_format import SERVER_LIFE, Member
from seawall.broker.liveness import Lives
from seawall.wal.files import READ_WRITE, Descriptor, Files


class FailingFiles(Files):
    def rename(self, source: str, target: str) -> None:
        raise OSError(5, "EIO")


def client(lives: Lives) -> Member:
    values = {each: getattr(member(), each) for each in Member.__slots__}
    return Member(
        **{
            **values,
            "member_id": f"c-1-{SERVER_LIFE}",
            "boot": lives.boot,
            "session_timeout_ms": 60_000,
            "assignors": ("kafka:consumer",),
        }
    )


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    return Lives(Files(), str(tmp_path / "members"))


def test_clients_live_as_long_as_any_server(lives: Lives) -> None:
    who = client(lives)
    assert lives.is_dead(who)
    for _ in range(2):
        life = lives.begin_server()
        assert not lives.is_dead(who)
        life.end()
        assert lives.is_dead(who)


def test_a_killed_server_s_file_is_no_hindrance(lives: Lives, tmp_path: Path) -> None:
    """Nor somebody who is just looking at it, and holds its lock for that."""
    who = client(lives)
    lives.begin_server().end(keeps_file=True)
    assert lives.is_dead(who)
    path = str(tmp_path / "members" / SERVER_LIFE)
    looking = Descriptor(Files(), path, READ_WRITE)
    assert Files().try_lock(looking.number, exclusive=False)
    life = lives.begin_server()
    assert not lives.is_dead(who)
    assert [each.name for each in (tmp_path / "members").iterdir()] == [SERVER_LIFE]
    life.end()


def test_it_leaves_nothing_if_it_cannot_begin(tmp_path: Path) -> None:
    lives = Lives(FailingFiles(), str(tmp_path / "members"))
    with pytest.raises(OSError, match="EIO"):
        lives.begin_server()
    assert list((tmp_path / "members").iterdir()) == []


def test_a_server_that_was_stopped_is_dead_after_a_while(tmp_path: Path) -> None:
    late_ns = [0]
    lives = Lives(
        Files(), str(tmp_path / "members"), clock_ns=lambda: time.monotonic_ns() + late_ns[0]
    )
    who = client(lives)
    life = lives.begin_server()
    late_ns[0] = 61 * 10**9
    assert lives.is_dead(who)
    life.beat()
    assert not lives.is_dead(who)
    life.end()
