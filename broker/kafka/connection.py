"""One client's socket: requests in, responses out, in order and within limits.

A worker handles the requests one after the other. Only those of pipelined APIs (Produce)
begin before the ones ahead of them are answered, and nothing else begins until they are. While
too many requests wait, or the memory for all connections is used up, or the client leaves its
responses unread, the socket is not read from: TCP then holds the client back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from seawall.broker.kafka import dispatch
from seawall.broker.kafka.addresses import peer_name
from seawall.broker.kafka.api import RequestContext
from seawall.broker.kafka.dispatch import Call, Rejected
from seawall.broker.kafka.framing import BadFrame
from seawall.broker.kafka.intake import SMALL_REQUEST_BYTES, Intake

if TYPE_CHECKING:
    from seawall.broker.kafka.node import Node

logger = logging.getLogger("seawall.kafka")

# A response that is longer than this waits for its client before the next request begins.
WRITE_BUFFER_BYTES = 1 << 16
# When the server stops: a client that has just been answered has so long to close first, unless
# nothing comes from it for the shorter time.
LINGER_S = 1.0
QUIET_S = 0.1


class Answer(NamedTuple):
    """A response to be sent, if any, and what it holds of the budget for responses."""

    response: bytes | None
    held_bytes: int


class Connection(asyncio.Protocol):
    """Belongs to the loop; nothing in it may block."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.peer = ""
        # Taken by handlers of pipelined APIs while order matters.
        self.in_turn = asyncio.Lock()
        self._loop = node.loop
        self._transport: asyncio.Transport | None = None
        self._intake = Intake(node, self._on_memory)
        # Frames, and at the end why there can be no more of them.
        self._requests: deque[bytes | BadFrame] = deque()
        self._broken = False
        # Pipelined requests that began, oldest first.
        self._running: deque[asyncio.Task[Answer]] = deque()
        self._arrived = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._writable = asyncio.Event()
        self._writable.set()
        self._worker: asyncio.Task[None] | None = None
        self._busy = False
        self._is_alone = False  # the present request goes on with its client only
        self._has_ended = False  # nothing more comes from the client
        self._closing = False
        self._paused = False
        self._has_small = False  # one that is parsed and not counted
        self._unsent_bytes = 0
        now_s = self._loop.time()
        self._last_request_s = now_s
        self._partial_since_s = now_s
        self._last_data_s = 0.0  # of what came when it was too late
        self._unwritable_since_s = 0.0
        self._ending_since_s: float | None = None
        # What the transport had to send when that was last looked at, and when it became less.
        self._to_send_bytes = 0
        self._last_taken_s = 0.0

    # -- the transport's calls ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.peer = peer_name(transport)
        if self.node.stopping.is_set():
            transport.abort()  # type: ignore[attr-defined]
            return
        if len(self.node.connections) >= self.node.settings.max_connections:
            logger.warning("%s: refused, there are max.connections already", self.peer)
            transport.abort()  # type: ignore[attr-defined]
            return
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)  # type: ignore[attr-defined]
        self.node.connections.add(self)
        self._worker = self._loop.create_task(self._work())

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._last_data_s = self._loop.time()  # thrown away
            return
        if not self._intake.buffered_bytes:
            self._partial_since_s = self._loop.time()
        self._intake.feed(data)
        self._take_frames()

    def eof_received(self) -> bool:
        """A client that says no more is gone, as Kafka sees it.

        What it has produced is stored all the same: with ``acks=0`` nobody waits for an end.
        """
        self._has_ended = True
        self._arrived.set()
        return not (self._is_alone or self._closing or self._intake.is_waiting)

    def pause_writing(self) -> None:
        self._writable.clear()
        self._unwritable_since_s = self._loop.time()

    def resume_writing(self) -> None:
        self._writable.set()
        self._release_unsent()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self.node.connections.discard(self)
        if self._worker is not None:
            self._worker.cancel()
        for task in self._running:
            task.cancel()
        self._writable.set()
        self._release_unsent()
        self._requests.clear()
        # What its running requests hold is released as they end.
        self._intake.close(len(self._running))

    # -- receiving ---------------------------------------------------------------------

    def _take_frames(self) -> None:
        """Hand over the frames that are whole, as far as there is memory for them."""
        try:
            while not (self._closing or self._broken or self._is_full):
                frame = self._intake.take()
                if frame is None:
                    break
                self._partial_since_s = self._last_request_s = self._loop.time()
                self._requests.append(frame)
                self._arrived.set()
        except BadFrame as error:
            # What came before it is answered first.
            self._broken = True
            self._requests.append(error)
            self._arrived.set()
        self._regulate()

    def _go_on(self) -> None:
        """A request is done, so there may be room for what has come meanwhile."""
        if self.node.stopping.is_set():
            self._regulate()
        else:
            self._take_frames()

    def _on_memory(self) -> None:
        self._partial_since_s = self._loop.time()
        self._loop.call_soon(self._take_frames)

    def _regulate(self) -> None:
        """Read from the socket, or do not."""
        if self._has_ended:
            self._arrived.set()
        transport = self._transport
        if transport is None or self._closing:
            return
        should_pause = (
            self._intake.is_waiting or self._broken or self.node.stopping.is_set() or self._is_full
        )
        if should_pause and not self._paused:
            self._paused = True
            transport.pause_reading()
        elif self._paused and not should_pause:
            self._paused = False
            self._partial_since_s = self._loop.time()
            transport.resume_reading()

    # -- handling ----------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while not self._closing:
                while not self._requests:
                    if self._has_ended and not self._is_full:
                        return await self._end()
                    self._arrived.clear()
                    await self._arrived.wait()
                frame = self._requests.popleft()
                self._busy = True
                if isinstance(frame, BadFrame):
                    raise frame
                await self._handle(frame)
                self._busy = False
                self._go_on()
        except (BadFrame, Rejected) as error:
            await self._settled.wait()
            self._reject(str(error))
        except Exception:
            logger.exception("%s: closed: an unexpected error", self.peer)
            self.close()

    async def _end(self) -> None:
        """Close, once what runs is so far that it is finished also without its client."""
        await asyncio.sleep(0)  # in which whatever was begun asks for its turn
        async with self.in_turn:
            self.close()

    async def _handle(self, frame: bytes) -> None:
        call = dispatch.parse(frame, self.node.apis)
        parsed_bytes = 0
        if isinstance(call, Call):
            parsed_bytes = call.memory_bytes(self.node.settings.request_max_items)
        is_pipelined = isinstance(call, Call) and call.api.is_pipelined
        if not is_pipelined:
            await self._settled.wait()
            if self._has_ended:  # nobody hears of it, but there may be more to store
                self._intake.release()
                return
        self._is_alone = True
        await self._writable.wait()
        parsed_bytes = await self._begin_parsing(parsed_bytes)
        if isinstance(call, Call) and is_pipelined:
            self._is_alone = False
            task = self._loop.create_task(self._answer(call))
            task.add_done_callback(lambda _: self._end_parsing(parsed_bytes))
            self._running.append(task)
            self._settled.clear()
            task.add_done_callback(self._flush)
            return
        try:
            answer = Answer(call, 0) if isinstance(call, bytes) else await self._answer(call)
        finally:
            self._is_alone = False
            self._end_parsing(parsed_bytes)
        self._intake.release()
        self._send(answer)

    async def _begin_parsing(self, size: int) -> int:
        """Wait for the memory that a request takes once it is parsed; gives what to release.

        A heartbeat must not wait for long fetches, so one small request of each connection is
        not counted. Hence every wait ends, as those that are counted end.
        """
        if size <= SMALL_REQUEST_BYTES and not self._has_small:
            self._has_small = True
            return 0
        await self.node.parsed_budget.acquire(size)
        return size

    def _end_parsing(self, size: int) -> None:
        if size:
            self.node.parsed_budget.release(size)
        else:
            self._has_small = False

    async def _answer(self, call: Call) -> Answer:
        context = RequestContext(
            version=call.version, client_id=call.client_id, connection=self, node=self.node
        )
        try:
            response = await dispatch.answer(call, context)
        except BaseException:
            self.node.response_budget.release(context.response_bytes)
            raise
        return Answer(response, context.response_bytes)

    def _flush(self, _: object) -> None:
        """Send the responses of pipelined requests, as far as none is missing before them."""
        while self._running and self._running[0].done():
            task = self._running.popleft()
            self._intake.release()
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, Rejected):
                logger.error("%s: an unexpected error", self.peer, exc_info=error)
            if error is not None:
                self._reject(str(error))
            elif not task.cancelled():
                self._send(task.result())
        if not self._running:
            self._settled.set()
        self._go_on()

    def _send(self, answer: Answer) -> None:
        response, held_bytes = answer
        if response is not None and self._transport is not None and not self._closing:
            self._last_request_s = self._loop.time()
            self._transport.write(response)
        self._unsent_bytes += held_bytes
        if self._writable.is_set():
            self._release_unsent()

    def _release_unsent(self) -> None:
        size, self._unsent_bytes = self._unsent_bytes, 0
        self.node.response_budget.release(size)

    # -- ending ------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests that wait, or run beside others."""
        return len(self._requests) + len(self._running)

    @property
    def _is_full(self) -> bool:
        return self.in_flight >= self.node.settings.max_in_flight_requests

    @property
    def is_idle(self) -> bool:
        """Whether everything that was accepted is answered."""
        return not (self._requests or self._running or self._busy)

    def _reject(self, reason: str) -> None:
        if not self._closing:
            logger.warning("%s: closed: %s", self.peer, reason)
            self.close()

    def close(self) -> None:
        """Send what is written already, then close."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def stop_reading(self) -> None:
        """Accept nothing more, as the node is stopping; what was accepted is still answered."""
        self._regulate()

    def finish(self) -> None:
        """Send what is written already, say that nothing more comes, and throw away what does.

        A socket that is closed while something has not been read from it is reset, and the
        client may lose answers that it has not read yet. So whoever has just been answered
        may close first; see `is_quiet`.
        """
        transport = self._transport
        if self._closing or transport is None:
            return
        now_s = self._loop.time()
        if now_s - self._last_request_s > LINGER_S:
            self.close()
            return
        self._closing = True
        self._last_data_s = now_s
        if transport.is_closing():
            return
        try:
            transport.write_eof()
        except OSError:  # the client has reset it
            transport.abort()
            return
        if self._paused:
            self._paused = False
            transport.resume_reading()

    def is_quiet(self, now_s: float) -> bool:
        """Whether a client that was told to `finish` seems to have sent all that it will."""
        return now_s - self._last_data_s > QUIET_S

    def check_timeouts(self, now_s: float) -> None:
        """Close the connection if its client takes too long."""
        settings = self.node.settings
        if self._transport is not None and self._transport.is_closing():
            # What is left to be sent may be too little for `pause_writing`.
            if self._ending_since_s is None:
                self._ending_since_s = now_s
            self._check_taking(now_s, self._ending_since_s)
        elif not self._writable.is_set():
            self._check_taking(now_s, self._unwritable_since_s)
        elif self._intake.buffered_bytes and not self._intake.is_waiting and not self._paused:
            if now_s - self._partial_since_s > settings.receive_timeout_ms / 1000:
                logger.warning("%s: closed: half a request came, and no more", self.peer)
                self.abort()
        elif self.is_idle and now_s - self._last_request_s > settings.connections_max_idle_ms / 1e3:
            logger.info("%s: closed: idle", self.peer)
            self.close()

    def _check_taking(self, now_s: float, since_s: float) -> None:
        """Close the connection if its client has taken nothing of its responses for too long.

        One that is slow goes on: it would ask for the same again, and never come further.
        """
        size = 0 if self._transport is None else self._transport.get_write_buffer_size()
        if size < self._to_send_bytes:
            self._last_taken_s = now_s
        self._to_send_bytes = size
        if now_s - max(since_s, self._last_taken_s) > self.node.settings.send_timeout_ms / 1000:
            logger.warning("%s: closed: its responses are not read", self.peer)
            self.abort()
