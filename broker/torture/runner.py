"""Running searches in several processes, and adding up what came of them.

The workers clear up behind themselves after each search, but nothing rests on that: they and
whatever they have started may be killed at any moment. All that they write lies in folders
of this process's, which removes them once everybody is dead. So a worker needs no handler of
signals, which would have to raise, in the middle of the code that is being tortured.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seawall.broker.torture.matrix import load
from seawall.wal.torture.processes import kill_session
from seawall.wal.torture.search import Case, Failure, Outcome

MEMORY = "/dev/shm"
# Those that cannot be shared run from the beginning on, or everyone would wait for them.
UNBOUNDED_S = 10.0 * 365 * 24 * 3600
POLL_S = 0.25
END_TIMEOUT_S = 10.0
# For processes that have been killed: one that waits for a disk dies when that answers.
KILL_TIMEOUT_S = 60.0
PREFIX = "seawall-torture-"


class WorkerDied(Exception):
    """A process of ours ended by itself: whatever it ran has killed it."""


class LeftBehind(Exception):
    """A process that cannot be killed, or a folder that cannot be removed."""


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
    so_far: Outcome | None = None
    received: bytes = b""


@dataclass(slots=True)
class Run:
    """A plan being carried out. Use it as a context manager: it ends what it has started, and
    removes what that has left. Nothing should be raised by a signal meanwhile: have the
    handler take a note that `is_stopped` looks at.
    """

    plan: Plan
    on_progress: Callable[[Mapping[str, int]], None] = lambda cases: None
    is_stopped: Callable[[], bool] = lambda: False
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _places: dict[str, str] = field(default_factory=dict)
    _folders: dict[str, str] = field(default_factory=dict)
    _workers: list[_Worker] = field(default_factory=list)
    _tasks: list[dict[str, Any]] = field(default_factory=list)
    _done: dict[str, int] = field(default_factory=dict)
    _deadline_s: float = 0.0

    def __enter__(self) -> Run:
        scratch = self.plan.directory or tempfile.gettempdir()
        in_memory = self.plan.directory is None and os.access(MEMORY, os.W_OK)
        self._places = {"scratch": scratch, "memory": MEMORY if in_memory else scratch}
        try:
            for place in self._places.values():
                if place not in self._folders:
                    self._folders[place] = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        except OSError:
            self._remove_folders()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raises `LeftBehind`."""
        for worker in self._workers:
            if worker.process.stdin is not None:
                with contextlib.suppress(OSError):  # it has died, and not read all
                    worker.process.stdin.close()
        deadline_s = time.monotonic()
        if kind is None and not any(worker.task for worker in self._workers):
            deadline_s += END_TIMEOUT_S  # none is at work, so they end by themselves
        immortal: list[int] = []
        for worker in self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline_s - time.monotonic()))
            immortal += kill_session(worker.process.pid, KILL_TIMEOUT_S)
            if not immortal:
                worker.process.wait()
            if worker.process.stdout is not None:
                worker.process.stdout.close()
        if immortal:
            raise LeftBehind(
                f"killed, but still there: processes {', '.join(map(str, immortal))}; once they "
                f"have ended, remove {', '.join(self._folders.values())}"
            )
        self._remove_folders()

    def _remove_folders(self) -> None:
        failed: list[str] = []
        for folder in self._folders.values():
            shutil.rmtree(folder, onerror=lambda _, path, why: failed.append(f"{path}: {why[1]}"))
        if failed:
            raise LeftBehind(f"cannot be removed: {failed[0]}")

    def run(self) -> dict[str, Outcome]:
        """Carry it out; what came of each search, by name, in the order of the plan.

        If it was stopped, those are missing of which no case had ended. Raises `WorkerDied`.
        """
        plan = self.plan
        jobs = max(1, plan.jobs or os.cpu_count() or 1)
        self._deadline_s = time.monotonic() + (plan.budget_s or UNBOUNDED_S)
        self._tasks = self._all_tasks(jobs)
        for _ in range(min(jobs, len(self._tasks))):
            self._workers.append(_start())
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if worker.process.stdout is not None:
                    selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                self._give(worker)
            while any(worker.task for worker in self._workers) and not self.is_stopped():
                for key, _ in selector.select(POLL_S):
                    self._receive(key.data)
                self._look()
                self.on_progress(self._progress())
            with contextlib.suppress(WorkerDied):  # it was told to stop as well
                for key, _ in selector.select(0):
                    self._receive(key.data)
        # Only if it was stopped, something is left.
        for worker in self._workers:
            if worker.task is not None and worker.so_far is not None:
                self._take(worker.so_far)
        for task in (*self._tasks, *(each.task for each in self._workers if each.task)):
            if task["name"] in self.outcomes:
                self.outcomes[task["name"]].is_whole = False
        return {name: self.outcomes[name] for name in plan.names if name in self.outcomes}

    def _all_tasks(self, jobs: int) -> list[dict[str, Any]]:
        plan = self.plan
        tasks = []
        for name in plan.names:
            shares = 1 if plan.case is not None else min(jobs, load(name).most_shares)
            tasks += [
                {
                    "name": name,
                    **{kind: self._folders[place] for kind, place in self._places.items()},
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
        worker.so_far = None
        if worker.task is not None and worker.process.stdin is not None:
            busy = len(self._workers)
            left_s = self._deadline_s - time.monotonic()
            rounds = 1 + len(self._tasks) / busy
            task = {**worker.task, "budget_s": max(0.0, left_s / rounds)}
            with contextlib.suppress(BrokenPipeError):  # it has died: `_look` says so
                worker.process.stdin.write(json.dumps(task).encode() + b"\n")
                worker.process.stdin.flush()

    def _receive(self, worker: _Worker) -> None:
        if worker.process.stdout is None:
            return
        data = os.read(worker.process.stdout.fileno(), 1 << 16)
        if not data:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(END_TIMEOUT_S)
            raise _died(worker)
        *lines, worker.received = (worker.received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "so_far" in message:
                worker.so_far = _outcome(message["so_far"])
            else:
                self._take(_outcome(message["outcome"]))
                self._give(worker)

    def _look(self) -> None:
        """Whether anybody has died whose end of the pipe somebody else still has open."""
        for worker in self._workers:
            if worker.task is not None and worker.process.poll() is not None:
                raise _died(worker)

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
                cases = worker.so_far.cases if worker.so_far is not None else 0
                running[name] = running.get(name, self._done.get(name, 0)) + cases
        return running


def _start() -> _Worker:
    # In a session of its own, by which all that it starts is found. A terminal's Ctrl-C
    # and a hang-up are for this process alone then, and so is Ctrl-Z.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "seawall.broker.torture.worker"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    return _Worker(process)


def _died(worker: _Worker) -> WorkerDied:
    name = worker.task["name"] if worker.task else "nothing"
    status = worker.process.returncode
    how = "is deaf" if status is None else f"ended with {status}"
    return WorkerDied(f"the process that ran {name} {how}")


def _outcome(fields: dict[str, Any]) -> Outcome:
    failures = [Failure(**each) for each in fields.pop("failures")]
    return Outcome(**fields, failures=failures)
