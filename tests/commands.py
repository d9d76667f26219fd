"""Running the installed console script, as a user's shell would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

SEAWALL = str(Path(sys.executable).with_name("seawall"))
TIMEOUT_S = 120


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[bytes]:
        return self.out.splitlines()


Cli = Callable[..., Ended]  # the fixture `cli`: a command in this process


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The present environment without what would change a command's behaviour."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SEAWALL", "_SEAWALL"))}
    # No contexts of whoever runs the tests.
    return {**kept, "XDG_CONFIG_HOME": os.devnull, "COLUMNS": "80", **(extra or {})}


def seawall(
    *arguments: str | Path,
    stdin: bytes = b"",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run `seawall` to its end."""
    done = subprocess.run(
        [SEAWALL, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=environment(env),
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr.decode())


@contextmanager
def running(*arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`seawall` in the background with pipes; killed at the end if it still runs."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    options.setdefault("env", environment())
    process = subprocess.Popen([SEAWALL, *map(str, arguments)], **{**pipes, **options})
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        process.wait(TIMEOUT_S)


def pipe_of(stream: IO[bytes] | None) -> IO[bytes]:
    """One of a process's pipes, which is there because `running` asked for it."""
    if stream is None:
        raise ValueError("not a pipe")
    return stream


def eventually(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Wait until a condition holds; fail if it never does."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError("it never happened")
        time.sleep(0.02)


def is_asleep(*pids: int) -> bool:
    """Whether no thread of these processes has anything to do, at several looks in a row.

    One that waits for its turn on a busy machine counts as running, not as asleep.
    """
    for _ in range(5):
        for pid in pids:
            for status in Path(f"/proc/{pid}/task").glob("*/stat"):
                try:
                    state = status.read_text().rpartition(") ")[2][:1]
                except (FileNotFoundError, ProcessLookupError):
                    continue  # the thread has ended meanwhile
                if state != "S":
                    return False
        time.sleep(0.01)
    return True
