"""Changes that clients ask for are made one at a time, each by its request's deadline.

Creating and deleting topics takes a lock of the whole directory, which another process may
hold for long. If every client's change waited for it on a thread, the executor would have
none left for producers and consumers. So only one change is on the executor at any time;
the others wait in the loop, and are answered with REQUEST_TIMED_OUT if their time is up
before they began.

A change that has begun is finished whatever happens to its client. If the deadline passes
meanwhile, the answer is REQUEST_TIMED_OUT as well, as in Kafka: the outcome is open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeVar

from seawall.broker.errors import BrokerError
from seawall.broker.kafka import codes
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.topics import Topics

if TYPE_CHECKING:
    from seawall.broker.kafka.node import Node

logger = logging.getLogger("seawall.kafka")

#: For requests that give no time, or none to speak of: librdkafka's zero means "do not
#: wait", and whatever can be done at once is.
DEFAULT_TIMEOUT_MS: Final = 60_000

T = TypeVar("T")


class Changes:
    """A `Part` of the node: whose turn it is."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[object]] = set()

    async def make(
        self, jobs: Iterable[Callable[[], T]], timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> list[T | BrokerError | KafkaError]:
        """Run each job on the executor; give what each returned, or its error.

        ``timeout_ms`` is for all of them together; 0 and less stand for the default.
        """
        timeout_ms = timeout_ms if timeout_ms > 0 else DEFAULT_TIMEOUT_MS
        deadline_s = self._node.loop.time() + timeout_ms / 1000
        return [await self._make_one(job, deadline_s) for job in jobs]

    async def _make_one(
        self, job: Callable[[], T], deadline_s: float
    ) -> T | BrokerError | KafkaError:
        loop = self._node.loop
        if self._node.stopping.is_set():
            return _timed_out("the server is stopping; nothing was done, ask again later")
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._turn.acquire()
        except TimeoutError:
            return _timed_out("other changes took all the time; nothing was done, ask again")
        if loop.time() >= deadline_s:
            self._turn.release()
            return _timed_out("no time was left to begin; nothing was done, ask again")
        task = loop.create_task(self._finish(job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # `wait` leaves the task alone when the time is up or the client is gone.
        await asyncio.wait({task}, timeout=deadline_s - loop.time())
        if not task.done():
            return _timed_out("it takes longer than the request allows, and goes on")
        return task.result()

    async def _finish(self, job: Callable[[], T]) -> T | BrokerError | KafkaError:
        try:
            return await self._node.run(job)
        except (BrokerError, KafkaError) as error:
            return error
        except Exception as error:
            logger.error("a change failed", exc_info=error)
            message = "unexpected error; the server's log says more"
            return KafkaError(codes.UNKNOWN_SERVER_ERROR, message)
        finally:
            self._turn.release()
            self._node.part(Topics).look_again()

    async def close(self) -> None:
        """Wait for the change that is being made."""
        if self._running:
            await asyncio.wait(self._running)


def _timed_out(message: str) -> KafkaError:
    return KafkaError(codes.REQUEST_TIMED_OUT, message)
