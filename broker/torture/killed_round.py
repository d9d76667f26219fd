"""One round of "random-kills": who is started, when they die, and what they say until then."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from seawall.broker.torture.carried import Carried
from seawall.broker.torture.children import Child, ChildFailed, Children, Silent
from seawall.broker.torture.killed_clients import consume, produce
from seawall.wal.torture.search import Broken

PRODUCERS, CONSUMERS = 4, 2
REPLACED = 3  # so many of those that are killed first have a successor, in some rounds
LONGEST_S = 0.5  # that somebody lives
OPENING_S = 0.08  # about so long it takes until everyone is at work
TOGETHER, ONE_BY_ONE, REPLACING = "together", "one by one", "replacing"

PATIENCE_S = 60.0
PAUSE_S = 0.002


@dataclass(frozen=True, slots=True)
class Death:
    """Somebody dies, so long after the beginning; who takes their place, if anybody."""

    at_s: float
    who: str
    successor: str = ""


def deaths_of(choose: random.Random, who: Sequence[str], mode: str) -> list[Death]:
    """When each of these dies, and in REPLACING their successors, in order."""
    if mode == TOGETHER:
        # Some of them before everyone is there.
        at_s = choose.uniform(0, choose.choice((OPENING_S, LONGEST_S)))
        return [Death(at_s, each) for each in who]
    order = choose.sample(who, len(who))
    times = sorted(choose.uniform(0, LONGEST_S) for _ in order)
    deaths = [Death(at_s, each) for at_s, each in zip(times, order, strict=True)]
    if mode == REPLACING:
        for number, death in enumerate(deaths[:REPLACED]):
            successor = f"{death.who}s"
            deaths[number] = Death(death.at_s, death.who, successor)
            deaths.append(Death(choose.uniform(death.at_s, LONGEST_S), successor))
        deaths.sort(key=lambda death: death.at_s)
    return deaths


class Round:
    """Starts everyone, kills everyone, and hands on what they said."""

    def __init__(
        self,
        children: Children,
        path: str,
        number: int,
        choose: random.Random,
        *,
        places: Sequence[str],
        groups: Sequence[str],
    ) -> None:
        self._children = children
        self._path = path
        self._choose = choose
        self._places = list(places)
        self._groups = list(groups)
        self._living: dict[str, Child] = {}
        names = [f"{number}p{each}" for each in range(PRODUCERS)]
        names += [f"{number}c{each}" for each in range(CONSUMERS)]
        self._first = names
        self.mode = choose.choice((TOGETHER, ONE_BY_ONE, REPLACING))
        self._deaths = deaths_of(choose, names, self.mode)
        self.killed = len(self._deaths)
        self.producers = [death.who for death in self._deaths if "p" in death.who]

    def play(self, carried: Carried) -> None:
        """From the first start to the last death. Raises `Broken`."""
        carried.begin(self.producers)
        try:
            for who in self._first:
                self._start(who)
            began_s = time.monotonic()
            deaths = iter(self._deaths)
            death = next(deaths, None)
            while death is not None:
                left_s = began_s + death.at_s - time.monotonic()
                if left_s > 0:
                    self._listen(carried)
                    time.sleep(min(left_s, PAUSE_S))
                    continue
                dying = [death]
                while (death := next(deaths, None)) is not None and death.at_s == dying[0].at_s:
                    dying.append(death)
                self._kill(carried, dying)
        finally:
            self._children.kill()

    def _start(self, who: str) -> None:
        choose = self._choose
        if "p" in who:
            plan = {
                "who": who,
                "seed": choose.getrandbits(32),
                "places": choose.sample(self._places, choose.randint(1, len(self._places))),
                "linger_ms": choose.choice((0, 1, 5)),
                "durability": choose.choice(("fsync", "fsync", "fsync", "os")),
                "compression": choose.choice(("none", "none", "lz4")),
                "pauses": choose.choice((0.0, 0.3)),
                "idempotent": choose.choice((False, True)),
            }
            self._living[who] = self._children.start(produce, self._path, plan)
        else:
            plan = {
                "seed": choose.getrandbits(32),
                "topics": list(dict.fromkeys(place.partition("/")[0] for place in self._places)),
                "group": choose.choice(self._groups),
                "acks": choose.choice((0.2, 1.0)),
            }
            self._living[who] = self._children.start(consume, self._path, plan)

    def _kill(self, carried: Carried, deaths: Sequence[Death]) -> None:
        dying = [(death.who, self._living.pop(death.who)) for death in deaths]
        for _, child in dying:
            child.signal(signal.SIGKILL)
        for death in deaths:
            if death.successor:
                self._start(death.successor)
        for who, child in dying:
            while self._hear(carried, who, child, PATIENCE_S):
                pass
            status = child.wait(PATIENCE_S)
            if status != -signal.SIGKILL:
                raise Broken(f"client {who} ended with {status} before it was killed")

    def _listen(self, carried: Carried) -> None:
        """Take what everyone has said."""
        for who, child in self._living.items():
            try:
                while self._hear(carried, who, child, 0):
                    pass
            except Silent:
                continue
            raise Broken(f"client {who} ended by itself, with {child.wait(PATIENCE_S)}")

    def _hear(self, carried: Carried, who: str, child: Child, timeout_s: float) -> bool:
        """Take one report; False at the end of them."""
        try:
            report = child.hear(timeout_s)
        except ChildFailed as error:
            raise Broken(f"client {who}: {error}") from error
        if report is None:
            return False
        carried.take(who, report)
        return True
