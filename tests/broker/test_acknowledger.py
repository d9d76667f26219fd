"""Acknowledging together: whoever is interrupted, and wherever, nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from brokers import in_thread

from seawall.broker.acknowledger import Acknowledger
from seawall.broker.errors import GroupFenced
from seawall.broker.group_state import Commit


def commit(offset: int) -> Commit:
    return Commit(group="g", member_id="m", offsets={1: offset})


@pytest.mark.parametrize("is_stored", [True, False])
def test_an_interrupt_at_the_end_of_a_lead_keeps_nobody_waiting(
    is_stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    storing, go_on = threading.Event(), threading.Event()

    def store(commits: Sequence[Commit]) -> list[GroupFenced | None]:
        if not stored:
            storing.set()
            go_on.wait()
            if not is_stored:
                stored.append(-1)
                raise OSError("full")
        stored.extend(each.offsets[1] for each in commits)
        return [None] * len(commits)

    acknowledger = Acknowledger(store)
    hand_back = acknowledger._hand_back
    interrupts = [KeyboardInterrupt()]

    def interrupted(*arguments: object) -> None:
        if interrupts:
            raise interrupts.pop()
        hand_back(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(acknowledger, "_hand_back", interrupted)

    def lead() -> None:
        with pytest.raises(KeyboardInterrupt):
            acknowledger.commit(commit(1))

    with in_thread(lead):
        storing.wait()
        with in_thread(lambda: acknowledger.commit(commit(2))):
            while not acknowledger._gathered:
                threading.Event().wait(0.001)
            go_on.set()
    assert stored == ([1, 2] if is_stored else [-1, 2])
