"""Running searches in several processes, and adding up what came of them."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seawall.broker.torture.matrix import load
from seawall.wal.torture.search import Case, Failure, Outcome

MEMORY = "/dev/shm"
# Those that cannot be shared run from the beginning on, or everyone would wait for them.
UNBOUNDED_S = 10.0 * 365 * 24 * 3600
POLL_S = 0.25
END_TIMEOUT_S = 10.0


class WorkerDied(Exception):
    """A process of ours ended by itself: whatever it ran has killed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run, and where.

    ``directory``: a folder on the file system in question, None for the temporary one, where
    searches that need no disk run in memory. ``budget_s``: for all of it; None: each search
    to its end. ``case``: only this one, of the one search named.
    """

    names: Sequence[str]
    seed: int = 0
    directory: str | None = None
    budget_s: float | None = None
    full: bool = False
    jobs: int = 0
    case: Case | None = None
    stop_at_first: bool = False


@dataclass(slots=True)
class _Worker:
    """One process, and what it is at."""

    process: subprocess.Popen[bytes]
    task: dict[str, Any] | None = None
    cases: int = 0
    received: bytes = b""


@dataclass(slots=True)
class Run:
    """A plan being carried out. Use it as a context manager: it ends what it has started."""

    plan: Plan
    on_progress: Callable[[Mapping[str, int]], None] = lambda cases: None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _workers: list[_Worker] = field(default_factory=list)
    _tasks: list[dict[str, Any]] = field(default_factory=list)
    _done: dict[str, int] = field(default_factory=dict)
    _deadline_s: float = 0.0

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                if pipe is not None:
                    pipe.close()

    def run(self) -> dict[str, Outcome]:
        """Carry it out; what came of each search, by name, in the order of the plan."""
        plan = self.plan
        jobs = max(1, plan.jobs or os.cpu_count() or 1)
        self._deadline_s = time.monotonic() + (plan.budget_s or UNBOUNDED_S)
        self._tasks = self._all_tasks(jobs)
        self._workers = [_start() for _ in range(min(jobs, len(self._tasks)))]
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if worker.process.stdout is not None:
                    selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                self._give(worker)
            while any(worker.task for worker in self._workers):
                for key, _ in selector.select(POLL_S):
                    self._receive(key.data)
                self.on_progress(self._progress())
        return {name: self.outcomes[name] for name in plan.names if name in self.outcomes}

    def _all_tasks(self, jobs: int) -> list[dict[str, Any]]:
        plan = self.plan
        scratch = plan.directory or tempfile.gettempdir()
        in_memory = plan.directory is None and os.access(MEMORY, os.W_OK)
        tasks = []
        for name in plan.names:
            shares = 1 if plan.case is not None else min(jobs, load(name).most_shares)
            tasks += [
                {
                    "name": name,
                    "scratch": scratch,
                    "memory": MEMORY if in_memory else scratch,
                    "seed": plan.seed,
                    "full": plan.full,
                    "case": plan.case,
                    "stop_at_first": plan.stop_at_first,
                    "share": share,
                    "shares": shares,
                }
                for share in range(shares)
            ]
        return sorted(tasks, key=lambda task: task["shares"] > 1)

    def _give(self, worker: _Worker) -> None:
        """Give a worker its next task, with its part of the time that is left."""
        worker.task = self._tasks.pop(0) if self._tasks else None
        worker.cases = 0
        if worker.task is not None and worker.process.stdin is not None:
            busy = len(self._workers)
            left_s = self._deadline_s - time.monotonic()
            rounds = 1 + len(self._tasks) / busy
            task = {**worker.task, "budget_s": max(0.0, left_s / rounds)}
            worker.process.stdin.write(json.dumps(task).encode() + b"\n")
            worker.process.stdin.flush()

    def _receive(self, worker: _Worker) -> None:
        if worker.process.stdout is None:
            return
        data = os.read(worker.process.stdout.fileno(), 1 << 16)
        if not data:
            name = worker.task["name"] if worker.task else "nothing"
            raise WorkerDied(
                f"the process that ran {name} ended with {worker.process.wait(END_TIMEOUT_S)}"
            )
        *lines, worker.received = (worker.received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "cases" in message:
                worker.cases = message["cases"]
            else:
                self._take(_outcome(message["outcome"]))
                self._give(worker)

    def _take(self, outcome: Outcome) -> None:
        self._done[outcome.name] = self._done.get(outcome.name, 0) + outcome.cases
        known = self.outcomes.get(outcome.name)
        if known is None:
            self.outcomes[outcome.name] = outcome
        else:
            known.add(outcome)

    def _progress(self) -> dict[str, int]:
        """Cases so far of the searches that are being run."""
        running: dict[str, int] = {}
        for worker in self._workers:
            if worker.task is not None:
                name = worker.task["name"]
                running[name] = running.get(name, self._done.get(name, 0)) + worker.cases
        return running


def _start() -> _Worker:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "seawall.broker.torture.worker"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    return _Worker(process)


def _outcome(fields: dict[str, Any]) -> Outcome:
    failures = [Failure(**each) for each in fields.pop("failures")]
    return Outcome(**fields, failures=failures)
