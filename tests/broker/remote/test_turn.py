"""Whose turn it is: one thread's at a time, and who commits comes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from seawall.broker.remote.turn import Turn


@contextmanager
def held(turn: Turn) -> Iterator[None]:
    """While inside, another thread has it."""
    taken, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with turn:
            taken.set()
            enough.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_it_may_be_taken_several_times() -> None:
    turn = Turn()
    assert not turn.is_mine
    with turn, turn:
        assert turn.is_mine
        assert turn.take(time.monotonic(), lambda: None)
        turn.release()
        assert turn.is_mine
    assert not turn.is_mine


def test_it_is_one_threads() -> None:
    turn = Turn()
    with held(turn):
        assert not turn.is_mine
        assert not turn.acquire(0)
    assert turn.acquire(0)


def test_who_waits_looks_and_gives_up_in_time() -> None:
    turn = Turn()
    looks: list[None] = []
    with held(turn):
        assert not turn.take(time.monotonic(), lambda: looks.append(None))
        assert len(looks) == 1
        assert not turn.take(time.monotonic() + 0.15, lambda: looks.append(None))
        assert len(looks) >= 2

        def check() -> None:
            looks.append(None)
            if len(looks) > 5:
                raise KeyError

        looks.clear()
        with pytest.raises(KeyError):
            turn.take(None, check)
        assert len(looks) == 6


def test_who_is_in_a_hurry_comes_first() -> None:
    turn = Turn()
    got: list[float] = []
    over = threading.Event()

    def poll() -> None:
        while not over.is_set() and turn.take(None, lambda: None):
            time.sleep(0.01)
            turn.release()

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        for _ in range(20):
            with turn.hurried():
                assert turn.is_mine
                assert turn.is_wanted
                got.append(time.monotonic())
    finally:
        over.set()
        thread.join()
    assert len(got) == 20
    assert not turn.is_wanted
