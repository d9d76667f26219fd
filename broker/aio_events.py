"""Waiting in an event loop, and having others do the work meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from seawall.broker.errors import BrokerClosed

Result = TypeVar("Result")


async def wait_until_set(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, but no longer than that.

    Not by `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes in the
    moment in which the event is set: whoever was told to end would go on.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


def submit(executor: ThreadPoolExecutor, call: Callable[[], Result]) -> Future[Result]:
    """Have a thread of the executor make a call. Raises `BrokerClosed` once that has ended."""
    try:
        return executor.submit(call)
    except RuntimeError:  # it was shut down
        raise BrokerClosed(what="broker") from None


async def in_executor(executor: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
    """Have a thread of the executor make a call, and wait for that."""
    return await asyncio.wrap_future(submit(executor, call))
