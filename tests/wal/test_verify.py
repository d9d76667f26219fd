"""Verifying: each damage by its verdict and place, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from storage import FaultyFiles, Store, batch, flip

from seawall.wal.recovery import Verdict
from seawall.wal.verify import Damage, verify

MakeStore = Callable[..., Store]

SIZE = len(batch(b"v" * 20))


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """20 batches of one record in segments of eight."""
    store = make_store(segment_bytes=8 * SIZE)
    for number in range(20):
        store.put(b"%02d" % number * 10)
    assert store.segments() == [f"{base:020d}.log" for base in (0, 8, 16)]
    return store


def test_damage_in_a_segment(store: Store) -> None:
    flip(store.path(8), 2 * SIZE + 30)
    (found,) = verify(store.context)
    assert found == Damage(
        verdict=Verdict.DAMAGE,
        segment=8,
        path=store.path(8),
        position=2 * SIZE,
        end=3 * SIZE,
        offset=10,
        next_offset=11,
        reason=found.reason,
    )
    assert found.reason.startswith("its CRC is")


def test_a_segment_that_is_missing(store: Store) -> None:
    os.unlink(store.path(8))
    assert list(verify(store.context)) == [
        Damage(
            verdict=Verdict.MISSING,
            segment=8,
            path=store.path(8),
            position=0,
            end=0,
            offset=8,
            next_offset=16,
            reason="the file is missing",
        )
    ]


def test_a_segment_that_ends_too_early(store: Store) -> None:
    os.truncate(store.path(8), 3 * SIZE)
    (found,) = verify(store.context)
    assert (found.verdict, found.offset, found.next_offset) == (Verdict.MISSING, 11, 16)
    os.truncate(store.path(8), 3 * SIZE - 1)
    (found,) = verify(store.context)
    assert (found.verdict, found.offset, found.next_offset) == (Verdict.DAMAGE, 10, 16)
    assert (found.position, found.end) == (2 * SIZE, 3 * SIZE - 1)


@pytest.mark.parametrize("at", [0, 17, 8])
def test_damage_at_the_very_end(store: Store, at: int) -> None:
    flip(store.path(16), 3 * SIZE + at)
    (found,) = verify(store.context)
    assert (found.segment, found.offset, found.next_offset) == (16, 19, 20)
    assert found.end == 4 * SIZE


def test_what_is_behind_a_segments_end_is_no_damage(store: Store) -> None:
    """The next segment's name ends it."""
    with open(store.path(8), "ab") as file:
        file.write(b"leftover" * 20)
    assert list(verify(store.context)) == []


def test_what_is_not_durable_is_not_looked_at(store: Store) -> None:
    store.append(b"not durable")
    flip(store.path(16), 4 * SIZE + 30)
    assert list(verify(store.context)) == []


def test_trimming_meanwhile_is_no_damage(store: Store) -> None:
    class Trimming(FaultyFiles):
        def list(self, path: str) -> list[str]:
            names = super().list(path)
            store.log.drop_segments(16)
            return names

    with store.peer(Trimming()) as peer:
        assert list(peer.verify()) == []
