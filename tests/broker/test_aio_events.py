"""Waiting for an event: whatever happens in the same moment, a cancellation is not lost."""

from __future__ import annotations

import asyncio

import pytest

from seawall.broker.aio_events import wait_until_set


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("timeout_s", [60, 0])
def test_a_cancellation_is_heard_whenever_it_comes(turns: int, timeout_s: float) -> None:
    async def main() -> None:
        event = asyncio.Event()

        async def wait_again_and_again() -> None:
            while True:
                await wait_until_set(event, timeout_s)
                event.clear()

        waiting = asyncio.create_task(wait_again_and_again())
        for _ in range(3):
            await asyncio.sleep(0)
        event.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        done, _ = await asyncio.wait([waiting], timeout=10)
        waiting.cancel()  # if it was not heard, it is now
        assert done, "the cancellation was lost"

    asyncio.run(main())


def test_returns_when_it_is_set_and_when_time_is_up() -> None:
    async def main() -> None:
        event = asyncio.Event()
        await wait_until_set(event, 0.001)
        waiting = asyncio.create_task(wait_until_set(event, 60))
        await asyncio.sleep(0)
        event.set()
        await waiting

    asyncio.run(main())
