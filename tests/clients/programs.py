"""The client programs: how each is started, and talking to one that runs."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parent.parent.parent
SOURCES = Path(__file__).parent
# What `make clients` builds.
BUILT = ROOT / ".venv" / "clients"

# Longer than the programs themselves wait for anything.
PATIENCE_S = 150.0


@dataclass(frozen=True, slots=True)
class Client:
    """One client. ``missing`` says why it cannot be started here, "" if it can."""

    name: str
    command: tuple[str, ...]
    missing: str


def _python(name: str, module: str, program: str) -> Client:
    is_there = importlib.util.find_spec(module) is not None
    return Client(
        name,
        (sys.executable, str(SOURCES / "python" / program)),
        "" if is_there else f"the package {module} is not installed",
    )


def _built(name: str, stamp: str, *command: str | Path) -> Client:
    is_there = (BUILT / f"{stamp}.built").exists() and shutil.which(command[0]) is not None
    return Client(
        name,
        tuple(map(str, command)),
        "" if is_there else "it is not built: `make clients` does that, or says what it lacks",
    )


CLIENTS = (
    _python("confluent-kafka", "confluent_kafka", "with_confluent.py"),
    _python("aiokafka", "aiokafka", "with_aiokafka.py"),
    _python("kafka-python", "kafka", "with_kafka_python.py"),
    Client(
        "kcat",
        (sys.executable, str(SOURCES / "python" / "with_kcat.py")),
        "" if shutil.which("kcat") else "the program kcat is not installed",
    ),
    _built("kafkajs", "kafkajs", "node", BUILT / "kafkajs" / "program.js"),
    _built("franz-go", "go", BUILT / "go" / "franz"),
    _built("kafka-go", "go", BUILT / "go" / "segmentio"),
    _built(
        "Java",
        "java",
        "java",
        # It lives for seconds, and is not alone.
        *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx128m"),
        *("-cp", f"{BUILT / 'java'}/*", "Program"),
    ),
)


class Died(Exception):
    """A client program ended before it answered."""


class Running:
    """A client program: commands in, events and answers out. Ends with the ``with``."""

    def __init__(self, client: Client, address: str) -> None:
        self._client = client
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        self._process = subprocess.Popen(
            [*client.command, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,  # killed with whatever it starts
        )
        self.events: list[dict[str, Any]] = []
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # a library's chatter
            if "event" in said:
                self.events.append(said)
            else:
                self._answers.put(said)
        self._answers.put(None)

    def begin(self, do: str, **arguments: Any) -> None:
        """Give a command; `answer` has what comes of it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()

    def answer(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The answer to the oldest command that has none. Raises `Died`, `TimeoutError`."""
        try:
            said = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no answer in {timeout_s} s:\n{self.stderr()}") from None
        if said is None:
            raise Died(self.stderr() or "it ended without a word")
        return said

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.begin(do, **arguments)
        return self.answer()

    def unasked(self) -> dict[str, Any] | None:
        """An answer that has come and was not taken yet, None if there is none.

        What reads until it is told otherwise, and answers, has failed.
        """
        with contextlib.suppress(IndexError):
            return self._answers.queue[0]
        return None

    def events_of(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in list(self.events) if each["event"] == kind]

    def owned(self) -> set[int]:
        """What a member of a group was assigned and has not given up."""
        owned: set[int] = set()
        for each in list(self.events):
            if each["event"] == "assigned":
                owned |= set(each["partitions"])
            elif each["event"] == "revoked":
                owned -= set(each["partitions"])
        return owned

    def kill(self) -> None:
        """SIGKILL, with whatever it started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stderr(self) -> str:
        size = os.fstat(self._said.fileno()).st_size
        return os.pread(self._said.fileno(), 3000, max(0, size - 3000)).decode(errors="replace")

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if error is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
        self.kill()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._said.close()


def wait_for(
    what: str,
    programs: list[Running],
    condition: Callable[[], bool],
    timeout_s: float = PATIENCE_S,
) -> None:
    """Wait until something is so, and the programs are at it.

    Raises `TimeoutError`, or at once `RuntimeError` if one of them has ended or has answered, with
    what they said.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        answers = [each.unasked() for each in programs]
        has_ended = any(answers) or not all(each.is_alive() for each in programs)
        if condition():
            return
        if has_ended or time.monotonic() > deadline_s:
            said = "\n".join(f"{each.events[-3:]} {each.stderr()}" for each in programs)
            if has_ended:
                raise RuntimeError(f"not {what}, and one has ended with {answers}:\n{said}")
            raise TimeoutError(f"not {what} in {timeout_s} s:\n{said}")
        time.sleep(0.02)
