"""What a command prints: records and tables to stdout, words for people to stderr."""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from collections.abc import Callable, Sequence

from seawall.cli.errors import CommandFailed, PipeClosed

STDOUT = 1
METER_INTERVAL_S = 0.5

_ERASE_LINE = "\r\x1b[K"


def say(message: str) -> None:
    """One line for a person, on stderr. Without a stderr nobody is told, and that is fine."""
    try:
        print(f"seawall: {_printable(message)}", file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        pass


def write_bytes(
    data: bytes, wait: Callable[[Callable[[], object]], object] = lambda ready: ready()
) -> None:
    """Write all of it to stdout, unbuffered. Raises PipeClosed, CommandFailed.

    `wait` calls what waits until stdout takes more; whatever it raises instead ends the
    writing between two pieces. So when this returns, all was written; when not, not all.
    """
    poller = select.poll()
    poller.register(STDOUT, select.POLLOUT)
    view = memoryview(data)
    try:
        # A file takes everything at once. For a pipe, "ready" promises this much only.
        piece_bytes = len(data) if stat.S_ISREG(os.fstat(STDOUT).st_mode) else select.PIPE_BUF
        while view:
            wait(poller.poll)
            try:
                view = view[os.write(STDOUT, view[:piece_bytes]) :]
            except BlockingIOError:  # a pipe that somebody made non-blocking, full again
                pass
    except BrokenPipeError:
        raise PipeClosed from None
    except OSError as error:
        raise CommandFailed(f"cannot write to stdout: {error.strerror}") from error


def write_text(text: str) -> None:
    """Write text to stdout. Raises PipeClosed, CommandFailed."""
    write_bytes(text.encode("utf-8", "backslashreplace"))


def reader_is_gone() -> bool:
    """True if stdout is a pipe or socket that nobody reads any more."""
    poller = select.poll()
    poller.register(STDOUT, 0)
    return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poller.poll(0))


def write_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns padded to their widest cell; numbers to the right; two spaces between."""
    cells = [tuple("-" if cell is None else _printable(str(cell)) for cell in row) for row in rows]
    widths = [
        max(len(name), *(len(row[i]) for row in cells)) if cells else len(name)
        for i, name in enumerate(header)
    ]
    numeric = [
        all(cell is None or isinstance(cell, int) for cell in column)
        and any(c is not None for c in column)
        for column in zip(*rows, strict=True)
    ] or [False] * len(header)
    write_text(
        "".join(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ).rstrip()
            + "\n"
            for row in [tuple(header), *cells]
        )
    )


def counted(count: int, noun: str) -> str:
    """``1 record``, ``2 records``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Meter:
    """A live count and rate on one line of a terminal; silent anywhere else."""

    def __init__(
        self,
        noun: str,
        *,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.enabled = enabled and _is_terminal(2)
        self._noun = noun
        self._clock = clock
        self._shown = False
        self._last_s = clock()
        self._last_count = 0

    def update(self, count: int) -> None:
        """Show the count so far, at most twice a second."""
        if not self.enabled:
            return
        now_s = self._clock()
        elapsed_s = now_s - self._last_s
        if elapsed_s >= METER_INTERVAL_S:
            rate = (count - self._last_count) / elapsed_s
            self._last_s, self._last_count = now_s, count
            self._shown = True
            self._show(f"{_ERASE_LINE}{count:,} {self._noun}, {rate:,.0f}/s")

    def clear(self) -> None:
        """Take the line away, so that something else can be written there."""
        if self._shown:
            self._shown = False
            self._show(_ERASE_LINE)

    def _show(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            self.enabled = False


def stdout_is_terminal() -> bool:
    return _is_terminal(STDOUT)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _printable(text: str) -> str:
    """The text without anything that could move a terminal's cursor or break its line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
