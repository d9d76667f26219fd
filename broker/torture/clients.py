"""Clients that do at random whatever clients do, and write down what they were told.

They know a broker only by the methods of `Connection`, so they do not care whether it is a
directory or at the other end of a network. Each is one thread, and in its history one
process; a seed decides what it does, though not what comes of it.

A record's value says which one it is (``<process>.<number>.<bytes>``), followed by so many
bytes that are calculated from that; so a consumer sees by itself whether it is whole.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from seawall.broker.torture.connection import Connection
from seawall.broker.torture.events import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the clients of a round have in common.

    ``topics``: how many partitions each has. ``is_over``: whether it is time to end.
    ``histories``: the folder that everyone's file goes to. ``address``: where the server is,
    for clients that connect to it by themselves.
    """

    connect: Callable[[], Connection]
    topics: Mapping[str, int]
    groups: Sequence[str]
    is_over: Callable[[], bool]
    histories: str
    address: str = ""

    def recorder(self, process: str) -> Recorder:
        """The history of a new process, which nobody else has the name of."""
        return Recorder(os.path.join(self.histories, process), process)


class Client(ABC):
    """One thread that connects, does something for a while, and does so again."""

    recorder: Recorder

    def __init__(self, surroundings: Surroundings, process: str, seed: int) -> None:
        self.surroundings = surroundings
        self.process = process
        self.random = random.Random(seed)

    def run(self) -> None:
        """Go on until it is over. What is raised should not have been."""
        with self.recording():
            while not self.surroundings.is_over():
                connection = self.surroundings.connect()
                try:
                    for _ in range(self.random.randrange(1, 8)):
                        if self.surroundings.is_over() or not self.turn(connection):
                            break
                finally:
                    connection.close()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Have a history meanwhile."""
        with self.surroundings.recorder(self.process) as self.recorder:
            yield

    @abstractmethod
    def turn(self, connection: Connection) -> bool:
        """Do something that takes some milliseconds; whether to go on with the connection."""

    def _topic(self) -> str:
        return self.random.choice(list(self.surroundings.topics))


def pause(randomness: random.Random, most_s: float) -> None:
    """Sleep a little, or not at all."""
    if randomness.random() < 0.5:
        time.sleep(randomness.random() * most_s)


# -- values --------------------------------------------------------------------------


def make_value(process: str, number: int, size_bytes: int) -> tuple[str, bytes]:
    """A value's name, and its bytes."""
    name = f"{process}.{number}.{size_bytes}"
    return name, name.encode() + b"~" + _filling(name, size_bytes)


def name_of(value: bytes | None) -> str:
    """The name of the value that somebody was given; of a damaged one, a name that no
    value has."""
    name, mark, filling = (value or b"").partition(b"~")
    text = name.decode(errors="replace")
    size = text.rpartition(".")[2]
    if mark and size.isdigit() and len(size) < 6 and filling == _filling(text, int(size)):
        return text
    return f"damaged: {value!r:.200}"


def _filling(name: str, size_bytes: int) -> bytes:
    return (name.encode() * (size_bytes // len(name) + 1))[:size_bytes]
