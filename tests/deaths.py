"""Processes that die at any call that changes something, and what they leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from brokers import broker_on
from storage import Child, FaultyFiles, Say

from seawall.broker import Broker


class DyingFiles(FaultyFiles):
    """The process dies at the n-th call that changes something."""

    CHANGES = frozenset(
        {"pwrite", "pwritev", "allocate", "truncate", "sync", "rename", "unlink", "mkdir"}
        | {"sync_directory", "open"}
    )

    def __init__(self, dies_at: int) -> None:
        super().__init__()
        self.dies_at = dies_at
        self.changes = 0
        self.boot = b""

    def _call(self, kind: str, path: str, size_bytes: int = -1) -> int | None:
        if kind in self.CHANGES:
            self.changes += 1
            if self.changes == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return super()._call(kind, path, size_bytes)

    def rmdir(self, path: str) -> None:
        self._call("unlink", path)
        super().rmdir(path)

    def boot_id(self) -> bytes:
        return super(FaultyFiles, self).boot_id()


def dies_at_every_call(
    folder: str, work: Callable[[Broker], None], check: Callable[[int, bool], None]
) -> int:
    """Let processes die at each call that `work` makes, and look at what they left."""
    dies_at = 0
    while True:
        dies_at += 1

        def live(say: Say, dies_at: int = dies_at) -> None:
            files = DyingFiles(0)
            broker = broker_on(files, folder)
            files.dies_at = files.changes + dies_at
            work(broker)
            say("survived")
            os.kill(os.getpid(), signal.SIGKILL)

        survived = Child(live).wait() == ["survived"]
        check(dies_at, survived)
        if survived:
            return dies_at
