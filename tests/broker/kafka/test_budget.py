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


@given(limit=st.integers(1, 50), sizes=st.lists(st.integers(1, 80), max_size=12), data=st.data())
def test_who_takes_it_bit_by_bit_comes_to_an_end(
    limit: int, sizes: list[int], data: st.DataObject
) -> None:
    """Some hold a part and wait for more; all the same nobody waits for ever."""
    budget = Budget(limit)
    has = [0] * len(sizes)
    waits: set[int] = set()
    done: set[int] = set()

    def step(number: int) -> None:
        size = min(data.draw(st.integers(1, 10)), sizes[number] - has[number])
        more = sizes[number] - has[number] - size if has[number] else 0

        def admitted() -> None:
            waits.discard(number)
            has[number] += size + more

        waits.add(number)
        if budget.reserve(size, admitted, more=more, held=has[number]):
            waits.discard(number)
            has[number] += size

    while len(done) < len(sizes):
        able = [n for n in range(len(sizes)) if n not in done | waits]
        assert able, "all wait for each other"
        number = data.draw(st.sampled_from(able))
        if has[number] < sizes[number]:
            step(number)
        else:
            done.add(number)
            budget.release(sizes[number])
        assert budget.used_bytes <= limit + max(sizes)
    assert budget.used_bytes == 0


def test_who_gives_up_is_not_waited_for() -> None:
    budget = Budget(10)
    told: list[str] = []
    assert budget.reserve(8, lambda: None)

    def first() -> None:
        told.append("first")

    assert not budget.reserve(5, first, held=4)
    assert not budget.reserve(2, lambda: told.append("second"))
    budget.give_up(first)
    assert told == ["second"]
    budget.give_up(first)  # it is no more
    budget.release(10)
    assert budget.used_bytes == 0
