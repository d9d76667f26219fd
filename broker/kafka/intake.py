"""What comes over one connection: frames, as far as there is memory for them.

Memory is reserved bit by bit as a frame comes: whoever has only claimed to send much must not
keep everybody else waiting. One that has to wait in the middle of a frame is then given all the
rest of it, so that those who wait for each other do not do so for ever (see `Budget`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from seawall.broker.kafka.framing import FrameReader

if TYPE_CHECKING:
    from seawall.broker.kafka.node import Node

# A request that is no longer than this, and the only one of its connection, is not counted: it
# never waits for memory, and nobody waits for it, as it may be a fetch that takes its time.
SMALL_REQUEST_BYTES: Final = 1 << 16
# Memory for so much of a longer one is reserved at first, and then for as much again.
FIRST_BYTES: Final = 1 << 20


class Intake:
    """Belongs to the loop. ``go_on`` is called when there is memory that was waited for."""

    def __init__(self, node: Node, go_on: Callable[[], object]) -> None:
        self._budget = node.request_budget
        self._reader = FrameReader(node.settings.socket_request_max_bytes)
        self._go_on = go_on
        # Bytes of the next frame that are reserved, and those that are waited for.
        self._admitted = 0
        self._wanted = 0
        # What is reserved for each frame that was taken and not yet released; 0 if it was small.
        self._taken: deque[int] = deque()
        #: Whether it waits for memory; nothing more is to be read meanwhile.
        self.is_waiting = False

    @property
    def buffered_bytes(self) -> int:
        """The bytes that have come and are in no frame that was taken."""
        return self._reader.buffered_bytes

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)

    def take(self) -> bytes | None:
        """The next frame, None if it is not whole or has to wait. Raises `BadFrame`."""
        if self.is_waiting:
            return None
        length = self._reader.length()
        if length is None or not self._reserve(length):
            return None
        frame = self._reader.take()
        if frame is not None:
            self._taken.append(self._admitted)
            self._admitted = 0
        return frame

    def _reserve(self, length: int) -> bool:
        """Have memory for what comes next of the frame; False if that has to be waited for."""
        if length <= SMALL_REQUEST_BYTES and not self._taken and not self._admitted:
            return True
        while self._admitted < length and self._admitted <= self.buffered_bytes:
            size = min(max(FIRST_BYTES, self._admitted), length - self._admitted)
            more = length - self._admitted - size if self._admitted else 0
            self._wanted, self.is_waiting = size + more, True
            if not self._budget.reserve(size, self._on_room, more=more, held=self._admitted):
                return False
            self.is_waiting = False
            self._admitted += size
        return True

    def _on_room(self) -> None:
        self.is_waiting = False
        self._admitted += self._wanted
        self._go_on()

    def release(self) -> None:
        """Give back what the oldest frame took that was handed out."""
        self._budget.release(self._taken.popleft())

    def close(self, kept: int) -> None:
        """Give back all but what the ``kept`` oldest frames took, and wait no more."""
        if self.is_waiting:
            self._budget.give_up(self._on_room)
            self.is_waiting = False
        size, self._admitted = self._admitted, 0
        while len(self._taken) > kept:
            size += self._taken.pop()
        self._budget.release(size)
