"""A process that runs searches for `runner`: ``python -m seawall.broker.torture.worker``.

It reads one task for each line of its stdin, and writes to its stdout what came of it so far
and, in the end, altogether: JSON, an object for each line. It has one thread, because some
searches fork. It may be killed at any moment: see `runner`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

from seawall.broker.torture.matrix import load
from seawall.wal.torture.processes import die_with_parent
from seawall.wal.torture.search import (
    Case,
    Failure,
    Outcome,
    Setting,
    Unavailable,
    run_case,
    run_search,
)

REPORT_INTERVAL_S = 0.25


def main() -> None:
    """Run tasks until stdin ends."""
    # What recovery warns of is what is done to it here.
    logging.getLogger("seawall").setLevel(logging.CRITICAL)
    # Ctrl-C is for the command, which then ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # If it has died before this, stdin is at its end.
    die_with_parent(os.getppid())
    try:
        for line in sys.stdin:
            outcome = perform(json.loads(line))
            _write({"outcome": asdict(outcome)})
    except BrokenPipeError:
        sys.exit(1)  # the command is gone


def perform(task: dict[str, Any]) -> Outcome:
    """Run one share of a search, or one case of it."""
    search_type = load(task["name"])
    with (
        tempfile.TemporaryDirectory(dir=task["scratch"]) as scratch,
        tempfile.TemporaryDirectory(dir=task["memory"]) as memory,
    ):
        search = search_type(
            Setting(
                scratch=scratch,
                memory=memory,
                seed=task["seed"],
                full=task["full"],
                share=task["share"],
                shares=task["shares"],
            )
        )
        case: Case | None = task["case"]
        if case is None:
            return run_search(
                search,
                deadline_s=time.monotonic() + task["budget_s"],
                on_case=_Reporter(),
                stop_at_first=task["stop_at_first"],
                shrinks=task.get("shrinks", True),
            )
        outcome = Outcome(name=search.name, title=search.title, cases=1)
        try:
            reason = run_case(search, case)
        except Unavailable as error:
            outcome.unavailable = str(error)
        else:
            outcome.failures = [Failure(case=case, reason=reason)] if reason else []
        return outcome


class _Reporter:
    """Says now and then what came of it so far, and at once what broke."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()
        self._failures = 0

    def __call__(self, outcome: Outcome) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s >= REPORT_INTERVAL_S or len(outcome.failures) > self._failures:
            self._last_s, self._failures = now_s, len(outcome.failures)
            _write({"so_far": asdict(outcome)})


def _write(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
