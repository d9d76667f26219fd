"""How fast background work may go."""

from __future__ import annotations

import pytest

from seawall.broker.pace import BURST_S, CORE_SHARE, Pace, Stopped


class Slept:
    """A clock that goes by sleeping."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.is_over = False

    def clock(self) -> float:
        return self.now_s

    def wait(self, timeout_s: float) -> bool:
        self.now_s += timeout_s
        return self.is_over


def test_so_many_bytes_a_second() -> None:
    slept = Slept()
    pace = Pace(1000, slept.wait, clock=slept.clock)
    pace.spend(200)
    assert slept.now_s == 100
    for _ in range(50):
        pace.spend(100)
    assert slept.now_s == pytest.approx(100 + 5.2 - BURST_S)
    slept.now_s += 1000  # a rest earns no more than a burst
    began_s = slept.now_s
    pace.spend(2000)
    assert slept.now_s - began_s == pytest.approx(2 - BURST_S)


def test_so_much_of_a_core() -> None:
    slept = Slept()
    pace = Pace(10**9, slept.wait, clock=slept.clock)
    pace.spend(1)
    began_s = slept.now_s
    for _ in range(10):
        slept.now_s += 0.05
        pace.spend(1)
    assert 0.5 / (slept.now_s - began_s) == pytest.approx(CORE_SHARE)


def test_it_ends_when_it_is_told_to() -> None:
    slept = Slept()
    pace = Pace(1000, slept.wait, clock=slept.clock)
    pace.check()
    assert not pace.should_stop()
    slept.is_over = True
    assert pace.should_stop()
    with pytest.raises(Stopped):
        pace.check()
    with pytest.raises(Stopped):
        pace.spend(1)


def test_without_a_limit() -> None:
    pace = Pace()
    pace.spend(1 << 60)
    pace.check()
