"""A mirror one of whose servers goes away: it waits for as long as that takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from outages import QUICK, Server, location, serving
from storage import memory_folder

from seawall.broker import AnyBroker, MirrorProgress, connect, mirror
from seawall.broker.remote.broker import RemoteBroker

RECORDS = 6_000
AWAY_S = 3.0


def fill(broker: AnyBroker) -> None:
    """More than is fetched ahead, or than a producer's buffer takes."""
    broker.create_topic("orders")
    with broker.producer() as producer:
        for number in range(RECORDS):
            producer.send("orders", b"%d" % number + bytes(10_000))


@contextmanager
def killed_once(server: Server) -> Iterator[Callable[[MirrorProgress], None]]:
    """What kills the server when it is called first; it comes back after a while."""
    restarts: list[threading.Thread] = []

    def restart() -> None:
        time.sleep(AWAY_S)
        server.start()

    def kill(progress: MirrorProgress) -> None:
        if not restarts:
            server.kill()
            restarts.append(threading.Thread(target=restart))
            restarts[0].start()

    try:
        yield kill
    finally:
        for each in restarts:
            each.join()


def test_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is away for longer than servers that are there may be silent."""
    monkeypatch.setattr("seawall.broker.silence.SILENCE_S", AWAY_S / 3)
    monkeypatch.setattr("seawall.broker.silence.ASK_S", 0.2)
    with (
        memory_folder() as folder,
        serving(folder) as server,
        connect(location(server.port), **QUICK) as source,
        connect(tmp_path / "copy") as target,
    ):
        fill(source)
        with killed_once(server) as kill:
            done = mirror(source, target, on_progress=kill)
        assert (done.records, target.ends("orders", 0).durable_end) == (RECORDS, RECORDS)


def test_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is away for longer than `send` waits for room by itself, were that so much shorter."""
    make = RemoteBroker.producer

    def producer(self: RemoteBroker, *, max_block_ms: float = 60_000, **given: Any) -> object:
        return make(self, max_block_ms=max_block_ms / 60, **given)

    monkeypatch.setattr(RemoteBroker, "producer", producer)
    with (
        memory_folder() as folder,
        memory_folder() as copy,
        serving(copy) as server,
        connect(folder) as source,
        connect(location(server.port), **QUICK) as target,
    ):
        fill(source)
        with killed_once(server) as kill:
            done = mirror(
                source, target, on_progress=kill, checkpoint_interval_ms=60_000, verify=True
            )
        assert (done.records, done.difference) == (RECORDS, None)
        assert target.ends("orders", 0).durable_end == RECORDS
