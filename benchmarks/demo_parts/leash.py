"""The pipe by which a child process is held: the conductor writes lines, the child reads.

Its end without a farewell means that the conductor is gone; the child then ends as well,
so that nothing is left behind whatever happens to the conductor.
"""

from __future__ import annotations

import os
import select

READ_BYTES = 4096


class ConductorGone(Exception):
    """Nobody holds the other end of the pipe any more."""


class Leash:
    """The child's end of the pipe: its standard input."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def read(self, *, wait: bool) -> list[str]:
        """The lines that came since; with `wait`, one at the least."""
        while True:
            ready, _, _ = select.select([self._descriptor], [], [], None if wait else 0)
            if ready:
                data = os.read(self._descriptor, READ_BYTES)
                if not data:
                    raise ConductorGone
                self._rest += data
            *lines, self._rest = self._rest.split(b"\n")
            if lines or not wait:
                return [line.decode() for line in lines]
