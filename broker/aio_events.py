"""Waiting in an event loop."""

from __future__ import annotations

import asyncio
import contextlib


async def wait_until_set(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, but no longer than that.

    Not by `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes in the
    moment in which the event is set: whoever was told to end would go on.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
