"""Counting attempts: numbers, delays and due times that can be looked at, under a clock of ours."""

from __future__ import annotations

from seawall.broker.backoff import Backoff, Retry, Schedule


def test_golden_values_under_an_injected_random_source_and_clock() -> None:
    now_ms = [1_000.0]
    fractions = iter([0.5, 0.25, 0.75, 0.0, 0.5])
    backoff = Backoff(
        Schedule(base_ms=100, max_ms=500),
        random=lambda: next(fractions),
        clock_ms=lambda: now_ms[0],
    )
    assert backoff.pending is None
    assert backoff.is_due()
    assert backoff.next() == Retry(1, 50, 1_050)
    now_ms[0] = 1_050
    assert backoff.next() == Retry(2, 50, 1_100)
    assert backoff.next() == Retry(3, 300, 1_350)
    assert str(backoff.pending) == "retry 3 in 0.3 s"
    assert not backoff.is_due()
    now_ms[0] = 1_350
    assert backoff.is_due()
    assert backoff.next() == Retry(4, 0, 1_350)
    backoff.reset()
    assert (backoff.attempts, backoff.pending) == (0, None)
    assert backoff.next() == Retry(1, 50, 1_400)
