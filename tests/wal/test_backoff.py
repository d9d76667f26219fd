"""The waits between attempts: golden values, bounds, and jitter that is the caller's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.wal.backoff import Schedule


def test_doubles_up_to_its_maximum() -> None:
    schedule = Schedule(base_ms=100, max_ms=1_000, has_jitter=False)
    waits = [schedule.delay_ms(attempt, 0.5) for attempt in range(6)]
    assert waits == [100, 200, 400, 800, 1_000, 1_000]


def test_full_jitter_draws_from_zero_to_the_ceiling() -> None:
    schedule = Schedule(base_ms=100, max_ms=1_000)
    assert [schedule.delay_ms(attempt, 0.25) for attempt in range(5)] == [25, 50, 100, 200, 250]
    assert schedule.delay_ms(3, 0.0) == 0


@given(
    base_ms=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    attempt=st.integers(0, 10**9),
    fraction=st.floats(0, 1, exclude_max=True),
)
def test_never_above_its_maximum(
    base_ms: float, factor: float, attempt: int, fraction: float
) -> None:
    schedule = Schedule(base_ms=base_ms, max_ms=base_ms * factor)
    assert 0 <= schedule.delay_ms(attempt, fraction) <= schedule.ceiling_ms(attempt)
    assert schedule.ceiling_ms(attempt) <= schedule.max_ms


@pytest.mark.parametrize(("base_ms", "max_ms"), [(-1, 5), (10, 5), (1, float("inf"))])
def test_refuses_what_is_no_schedule(base_ms: float, max_ms: float) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Schedule(base_ms=base_ms, max_ms=max_ms)


def test_refuses_a_negative_attempt() -> None:
    with pytest.raises(ValueError, match="count from 0"):
        Schedule(base_ms=1, max_ms=1).ceiling_ms(-1)
