"""From input files to deliveries: reads, splits, sends, and keeps the ledger.

The reading end never waits longer than it must: whole lines are sent as they arrive, and
while nothing arrives, what was sent is settled. The sending end is one function that takes
a line and returns a delivery, so this module knows nothing of topics or formats.
"""

from __future__ import annotations

import io
import select
import shlex
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from seawall.cli.errors import CommandFailed
from seawall.cli.ledger import Ledger
from seawall.cli.lines import LineSplitter, LineTooLong
from seawall.cli.output import METER_INTERVAL_S, Meter
from seawall.cli.signals import Interrupted, Signals

if TYPE_CHECKING:
    from seawall.broker import AnyDelivery

CHUNK_BYTES = 64 * 1024
LINES_IN_FLIGHT_MAX = 50_000
SETTLE_INTERVAL_MS = 20
STUCK_CHECK_S = 0.1

STDIN = "-"


class Feeder:
    """Sends the lines of files, in order."""

    def __init__(
        self,
        send_line: Callable[[bytes], AnyDelivery],
        *,
        bad_line: tuple[type[Exception], ...],
        skip_bad: bool,
        signals: Signals,
        meter: Meter,
    ) -> None:
        """`send_line` raises one of `bad_line` for a line that can never be sent."""
        self.ledger = Ledger()
        self._send_line = send_line
        self._bad_line = bad_line
        self._skip_bad = skip_bad
        self._signals = signals
        self._meter = meter
        self._begun: list[tuple[str, int]] = []  # each file, and the lines before it

    def feed(self, paths: Sequence[str]) -> None:
        """Send every line of the files; ``-`` is stdin.

        Raises Interrupted on a signal, CommandFailed for what is wrong with the input,
        and whatever the broker raises. What was sent before is in the ledger.
        """
        for path in paths:
            self._begun.append((path, self.ledger.count))
            try:
                self._feed_one(path)
            except LineTooLong as error:
                raise CommandFailed(f"{self._place(self.ledger.count)}: {error}") from None
            except OSError as error:
                name = "stdin" if path == STDIN else repr(path)
                raise CommandFailed(f"cannot read {name}: {error.strerror or error}") from error

    def settle(self) -> None:
        """Count what is acknowledged by now. Raises CommandFailed at a line that failed."""
        self.ledger.settle()
        self._meter.update(self.ledger.settled)
        if self.ledger.failure is not None:
            raise CommandFailed(f"{self._place(self.ledger.settled)}: {self.ledger.failure}")

    def resume_hint(self) -> str:
        """A command that prints the input from the first line that is not settled."""
        path, lines_before = self._file_of(self.ledger.settled)
        command = f"tail -n +{self.ledger.settled - lines_before + 1}"
        if path != STDIN:
            command += f" {shlex.quote(path)}"
        if self._begun and path != self._begun[-1][0]:
            command += " and the files behind it"
        return command

    def _feed_one(self, path: str) -> None:
        splitter = LineSplitter()
        source = 0 if path == STDIN else path
        with open(source, "rb", buffering=0, closefd=path != STDIN) as file:
            while chunk := self._read(file):
                self._take(splitter.feed(chunk))
            self._take(splitter.end())

    def _read(self, file: io.FileIO) -> bytes:
        poller = select.poll()
        poller.register(file, select.POLLIN)
        while True:
            self.settle()
            interval_ms = None
            if self.ledger.pending:
                interval_ms = SETTLE_INTERVAL_MS
            elif self._meter.enabled:
                interval_ms = int(METER_INTERVAL_S * 1000)
            if self._signals.wait(poller.poll, interval_ms):
                return self._signals.wait(file.read, CHUNK_BYTES) or b""

    def _take(self, lines: list[bytes]) -> None:
        ledger = self.ledger
        taken = 0
        while taken < len(lines):
            before = ledger.count
            try:
                ledger.extend(map(self._send_line, islice(lines, taken, None)))
                break
            except self._bad_line as error:
                if not self._skip_bad:
                    raise CommandFailed(f"{self._place(ledger.count)}: {error}") from None
                taken += ledger.count - before + 1
                ledger.skip()
        while ledger.pending > LINES_IN_FLIGHT_MAX:
            self._wait_for_oldest()
            self.settle()

    def _wait_for_oldest(self) -> None:
        oldest = self.ledger.oldest()
        if oldest is None:
            return
        try:
            oldest.exception(timeout=STUCK_CHECK_S)
        except TimeoutError:
            if self._signals.received:
                raise Interrupted from None

    def _place(self, index: int) -> str:
        """Where the line with this index (from 0, over all files) stands, for a person."""
        path, lines_before = self._file_of(index)
        line = f"line {index - lines_before + 1}"
        return line if path == STDIN else f"{path}: {line}"

    def _file_of(self, index: int) -> tuple[str, int]:
        found = (STDIN, 0)
        for begun in self._begun:
            if begun[1] <= index:
                found = begun
        return found
