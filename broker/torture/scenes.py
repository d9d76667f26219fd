"""What the cases of the search "locks" have in common: a directory and its processes."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from typing import Any

from seawall.broker.broker import Broker
from seawall.broker.torture import promises
from seawall.broker.torture.actors import Actor, Reply
from seawall.broker.torture.children import Children
from seawall.broker.torture.marks import Ledger
from seawall.broker.torture.performer import Step

OPEN: Step = {"op": "open", "lock_timeout_ms": 2_000, "open_timeout_ms": 2_000}
CLOSE: Step = {"op": "close"}
COPY_TIMEOUT_S = 60


class Scene:
    """A directory, the processes that have it open, and what they were told."""

    def __init__(
        self, count: Callable[[str], None], children: Children, folder: str, seed: int
    ) -> None:
        self.count = count
        self.choose = random.Random(seed)
        self.folder = folder
        self.path = os.path.join(folder, "data")
        self.ledger = Ledger()
        self._children = children
        self._actors = 0
        self._created = 0

    def actor(
        self, path: str = "", *, ledger: Ledger | None = None, is_foreign: bool = False
    ) -> Actor:
        """A process that has nothing open yet."""
        self._actors += 1
        return Actor(
            self._children,
            ledger or self.ledger,
            path or self.path,
            number=self._actors,
            is_foreign=is_foreign,
        )

    def opened(self) -> Actor:
        """A process that has the directory open."""
        actor = self.actor()
        actor.must(OPEN)
        return actor

    def furnish(self, actor: Actor, rounds: int = 1, *, rolls: bool = True) -> list[Step]:
        """Topics, records in several segments, groups and checkpoints; gives the steps."""
        script: list[Step] = [
            {"op": "create", "topic": topic, "partitions": partitions}
            for topic, partitions in (("orders", 2), ("audit", 1))
        ]
        for _ in range(rounds):
            for op in ("produce", "produce", "acknowledge", "checkpoint", "roll", "produce"):
                if rolls or op != "roll":
                    script.append(self.step(op))
        for step in script:
            actor.must(step)
        return script

    def step(self, op: str, partition: int = 0, group: str = "billing") -> Step:
        """A step with everything that any operation needs."""
        choose = self.choose
        step: dict[str, Any] = {
            "op": op,
            "topic": "orders",
            "partition": partition,
            "partitions": 2,
            "records": choose.randint(1, 6),
            "size": choose.choice((8, 40, 300, 1500)),
            "compression": "none",
            "part": choose.random(),
            "group": group,
            "appends": [["orders", 0, 2, 40], ["orders", 1, 3, 300], ["audit", 0, 1, 40]],
            "commit": True,
        }
        if op == "create":
            self._created += 1
            step["topic"] = f"new-{self._created}"
        elif op == "delete":
            step["topic"] = f"new-{self.choose.randint(1, max(1, self._created))}"
        return step

    def attempt(self, actor: Actor, step: Step) -> Reply:
        """Do a step that may also end in a named error: any other is broken."""
        reply = actor.do(step)
        self.count("named errors" if reply.error else "went on")
        return reply

    def check(self, *words: str) -> None:
        """All is there, twice, or once for each word."""
        for word in words or ("after", "again"):
            with Broker.open(self.path) as broker:
                promises.check(broker, self.ledger, word=word)


def copy_tree(source: str, target: str) -> None:
    """``cp -r``, as a user does it. What vanishes meanwhile is left out."""
    subprocess.run(
        ["cp", "-r", source, target],
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=COPY_TIMEOUT_S,
    )
