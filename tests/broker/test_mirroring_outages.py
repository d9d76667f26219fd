"""A mirror one of whose servers goes away: it waits for as long as that takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from outages import PATIENCE_S, QUICK, Server, location, serving
from storage import memory_folder

from seawall.broker import AnyBroker, MirrorProgress, connect, mirror
from seawall.broker.remote.broker import RemoteBroker
from seawall.broker.silence import Silence

RECORDS = 6_000
RECORD_BYTES = 2_500
# A fifth of all records.
QUEUES = "queued.max.messages.kbytes=3000&queue.buffering.max.kbytes=3000"
AWAY_S = 2.0  # besides what it takes to start


def fill(broker: AnyBroker) -> None:
    """More than is fetched ahead, or than a producer's buffer takes."""
    broker.create_topic("orders")
    with broker.producer() as producer:
        for number in range(RECORDS):
            producer.send("orders", b"%d" % number + bytes(RECORD_BYTES))


@contextmanager
def killed_once(
    server: Server, is_missed: threading.Event | None = None
) -> Iterator[Callable[[MirrorProgress], None]]:
    """What kills the server when it is called first; it comes back after a while, and when it is
    missed."""
    restarts: list[threading.Thread] = []

    def restart() -> None:
        if is_missed is not None:
            is_missed.wait(PATIENCE_S)
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
    """It is away for longer than servers that are there may be silent: an hour, by the clock of
    those that listen."""
    is_missed = threading.Event()
    late_s = 0.0
    ends = RemoteBroker.ends

    def asked(self: RemoteBroker, topic: str, partition: int) -> object:
        nonlocal late_s
        if server.process is None and not is_missed.is_set():
            late_s = 3_600.0
            is_missed.set()
        return ends(self, topic, partition)

    def listening(broker: AnyBroker) -> Silence:
        return Silence(broker, lambda: time.monotonic() + late_s)

    monkeypatch.setattr(RemoteBroker, "ends", asked)
    monkeypatch.setattr("seawall.broker.stretch.Silence", listening)
    monkeypatch.setattr("seawall.broker.mirror_session.Silence", listening)
    monkeypatch.setattr("seawall.broker.silence.ASK_S", 0.2)
    with (
        memory_folder() as folder,
        serving(folder) as server,
        connect(location(server.port, QUEUES), **QUICK) as source,
        connect(tmp_path / "copy") as target,
    ):
        fill(source)
        with killed_once(server, is_missed) as kill:
            done = mirror(source, target, on_progress=kill)
        assert is_missed.is_set()
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
        connect(location(server.port, QUEUES), **QUICK) as target,
    ):
        fill(source)
        with killed_once(server) as kill:
            done = mirror(
                source, target, on_progress=kill, checkpoint_interval_ms=60_000, verify=True
            )
        assert (done.records, done.difference) == (RECORDS, None)
        assert target.ends("orders", 0).durable_end == RECORDS
