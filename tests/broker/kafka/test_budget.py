from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.kafka.budget import Budget


@given(limit=st.integers(1, 50), sizes=st.lists(st.integers(1, 80), max_size=30), data=st.data())
def test_everybody_gets_a_turn_in_order(limit: int, sizes: list[int], data: st.DataObject) -> None:
    budget = Budget(limit)
    held: list[int] = []
    admitted: list[int] = []
    for number, size in enumerate(sizes):

        def admit(number: int = number) -> None:
            held.append(sizes[number])
            admitted.append(number)

        if budget.reserve(size, admit):
            admit()
        if held and data.draw(st.booleans()):
            budget.release(held.pop(0))
        assert budget.used_bytes == sum(held)
        assert len(held) <= 1 or budget.used_bytes <= limit
    while held:
        budget.release(held.pop(0))
    assert admitted == list(range(len(sizes)))
    assert budget.used_bytes == 0


def test_who_is_cancelled_holds_nothing() -> None:
    async def scenario() -> int:
        budget = Budget(10)
        await budget.acquire(8)
        waiting = [asyncio.create_task(budget.acquire(5)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        budget.release(8)  # admits the first, which was cancelled, and so the others
        waiting[1].cancel()  # admitted, and cancelled before it could know
        await asyncio.gather(*waiting, return_exceptions=True)
        return budget.used_bytes

    assert asyncio.run(scenario()) == 5
