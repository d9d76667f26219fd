"""One line on a terminal that is written anew; silent anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

INTERVAL_S = 0.5
_ERASE_LINE = "\r\x1b[K"


class Line:
    """What is going on, on stderr."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            self._enabled = os.isatty(2)
        except OSError:
            self._enabled = False
        self._clock = clock
        self._due_s = clock() + INTERVAL_S
        self._shown = False

    def show(self, text: str) -> None:
        """Replace what is shown, at most twice a second."""
        now_s = self._clock()
        if self._enabled and now_s >= self._due_s:
            self._due_s = now_s + INTERVAL_S
            width = max(20, int(os.environ.get("COLUMNS", "0") or 0) or 100)
            self._write(_ERASE_LINE + text[: width - 1])
            self._shown = True

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._write(_ERASE_LINE)

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            self._enabled = False
