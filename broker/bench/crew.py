"""The processes of one phase: started together, heard, stopped, and never left behind."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from seawall.broker.bench.plan import Task

STARTING_S = 60.0
# How long after having been asked to stop a process may still write.
STOPPING_S = 15.0
# How long one that has brought its result may take to close; it waits for servers that are away.
CLOSING_S = 5.0
# From the last one being ready to all beginning.
HEAD_START_NS = 50_000_000
TICK_S = 0.1

Message = dict[str, Any]


class BenchFailed(Exception):
    """A process could not do its part; the text says why."""


class Crew:
    """A process for each task. Use it as a context manager; it kills who is left."""

    def __init__(self, tasks: Sequence[Task], is_stopped: Callable[[], bool]) -> None:
        self._is_stopped = is_stopped
        self._processes: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._buffers = [b""] * len(tasks)
        self.results: dict[int, Message] = {}
        self.progress = [0] * len(tasks)
        self._ready: set[int] = set()
        self._tasks = tasks

    def __enter__(self) -> Crew:
        try:
            for number, task in enumerate(self._tasks):
                self._begin(number, task)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self, number: int, task: Task) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "seawall.broker.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for the one that has started them
        )
        self._processes.append(process)
        if process.stdout is not None:
            self._selector.register(process.stdout, selectors.EVENT_READ, number)
        self._tell(number, task.to_json())

    def start(self) -> bool:
        """Let all begin at once, when all are ready. False if stopped meanwhile."""
        deadline_s = time.monotonic() + STARTING_S
        while len(self._ready) < len(self._tasks):
            if self._is_stopped():
                return False
            if time.monotonic() > deadline_s:
                raise BenchFailed(f"a process was not ready within {STARTING_S:.0f} s")
            self._hear()
        start_ns = time.monotonic_ns() + HEAD_START_NS
        for number in range(len(self._tasks)):
            self._tell(number, {"start_ns": start_ns})
        return True

    def wait(self, numbers: Sequence[int], on_progress: Callable[[], None]) -> bool:
        """Until these have brought their results. False if stopped, and some may have none."""
        deadline_s: float | None = None
        while not all(number in self.results for number in numbers):
            if deadline_s is None and self._is_stopped():
                deadline_s = time.monotonic() + STOPPING_S
                self.stop()
            if deadline_s is not None and time.monotonic() > deadline_s:
                return False
            self._hear()
            on_progress()
        return deadline_s is None

    def tell_until(self, number: int, until: Mapping[str, int]) -> None:
        """Tell a consumer where to end."""
        self._tell(number, {"until": until})

    def stop(self) -> None:
        """Ask all to end, and to bring what they have."""
        for process in self._processes:
            if process.stdin is not None:
                try:
                    process.stdin.close()
                except BrokenPipeError:
                    pass

    def _tell(self, number: int, message: Message) -> None:
        stdin = self._processes[number].stdin
        if stdin is not None:
            try:
                stdin.write(json.dumps(message).encode() + b"\n")
                stdin.flush()
            except BrokenPipeError:
                pass  # it has said why, or its end is noticed

    def _hear(self) -> None:
        for key, _ in self._selector.select(TICK_S):
            number, stream = key.data, key.fileobj
            data = stream.read1(1 << 16)  # type: ignore[union-attr]
            if not data:
                self._selector.unregister(stream)
                if number not in self.results:
                    code = self._processes[number].wait()
                    raise BenchFailed(f"a process of the measurement ended with {code}")
                continue
            *lines, self._buffers[number] = (self._buffers[number] + data).split(b"\n")
            for line in lines:
                self._take(number, json.loads(line))

    def _take(self, number: int, message: Message) -> None:
        if "failed" in message:
            raise BenchFailed(message["failed"])
        if "ready" in message:
            self._ready.add(number)
        elif "progress" in message:
            self.progress[number] = message["progress"]
        elif "done" in message:
            self.results[number] = message["done"]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        deadline_s = time.monotonic() + CLOSING_S if len(self.results) else 0.0
        for process in self._processes:
            try:
                process.wait(max(0.5, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._selector.close()
