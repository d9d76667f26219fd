"""The ledger: how many leading lines are acknowledged, against the plainest model."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.cli.ledger import Ledger


class FakeDelivery:
    """The outcome of a send, told by the test."""

    def __init__(self) -> None:
        self.outcome: bool | Exception = False

    def done(self) -> bool:
        return self.outcome is not False

    def exception(self, timeout: float | None = None) -> Exception | None:
        assert self.done()
        return self.outcome if isinstance(self.outcome, Exception) else None


def deliveries(count: int) -> list[Any]:
    return [FakeDelivery() for _ in range(count)]


def test_lines_settle_from_the_left_only() -> None:
    ledger, sent = Ledger(), deliveries(3)
    ledger.extend(sent)
    sent[1].outcome = True
    assert ledger.settle() == 0
    sent[0].outcome = True
    assert ledger.settle() == 2
    assert (ledger.settled, ledger.pending, ledger.count) == (2, 1, 3)


def test_a_skipped_line_counts() -> None:
    ledger, sent = Ledger(), deliveries(1)
    ledger.skip()
    ledger.extend(sent)
    ledger.skip()
    assert ledger.settle() == 1
    sent[0].outcome = True
    assert ledger.settle() == 2
    assert (ledger.settled, ledger.skipped) == (3, 2)


def test_nothing_settles_behind_a_failure() -> None:
    ledger, sent = Ledger(), deliveries(3)
    ledger.extend(sent)
    sent[0].outcome = sent[2].outcome = True
    sent[1].outcome = failure = OSError("no room")
    ledger.settle()
    ledger.settle()
    assert (ledger.settled, ledger.failure) == (1, failure)


def test_what_was_sent_before_an_error_is_taken() -> None:
    ledger = Ledger()

    def send(line: int) -> Any:
        if line == 2:
            raise ValueError
        return FakeDelivery()

    with pytest.raises(ValueError):
        ledger.extend(map(send, range(5)))
    assert ledger.count == 2


@given(st.lists(st.sampled_from(["acknowledged", "pending", "failed", "skipped"])))
def test_leading_lines(outcomes: list[str]) -> None:
    ledger = Ledger()
    for outcome in outcomes:
        if outcome == "skipped":
            ledger.skip()
            continue
        delivery = FakeDelivery()
        if outcome != "pending":
            delivery.outcome = OSError() if outcome == "failed" else True
        ledger.extend([cast("Any", delivery)])
    ledger.settle()
    bad = [i for i, outcome in enumerate(outcomes) if outcome in ("pending", "failed")]
    assert ledger.settled == (bad[0] if bad else len(outcomes))
    assert (ledger.failure is not None) == (bool(bad) and outcomes[bad[0]] == "failed")
