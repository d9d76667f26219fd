"""Whether a topic is still the one that was begun to be read."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from clients.endpoints import free_port
from outages import QUICK, read

from seawall.broker import Broker, connect
from seawall.broker.errors import ConnectionLost
from seawall.broker.kafka import metadata
from seawall.broker.kafka.threaded import ServerThread
from seawall.broker.remote import troubles
from seawall.broker.remote.topics import Topics


def test_a_question_that_nobody_answers_is_not_asked_for_each_record(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server may hang while others have records."""
    asked: list[bool] = []

    def hangs(*_: Any, **__: Any) -> Any:
        asked.append(True)
        raise ConnectionLost(location="there", attempts=0, reason="it hangs")

    broker.create_topic("t", 1)
    with broker.producer() as producer:
        for _ in range(10):
            producer.send("t", b"x")
    with (
        ServerThread(broker, listen="127.0.0.1:0", group_initial_rebalance_delay_ms=0) as server,
        connect(f"kafka://{server.address}") as remote,
        remote.consumer("t", group="g") as consumer,
    ):
        read(consumer, 1)
        monkeypatch.setattr(troubles, "SAME_INTERVAL_S", 600.0)
        monkeypatch.setattr(troubles, "LOOK_INTERVAL_S", 600.0)
        monkeypatch.setattr(Topics, "uuids", hangs)
        consumer._same_s -= 1_000  # type: ignore[union-attr]
        for _ in range(9):
            read(consumer, 1)
            consumer.ack()
    assert asked == [True]


@pytest.mark.parametrize("begins_without", [True, False])
def test_servers_that_know_no_ids(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, begins_without: bool
) -> None:
    """Older ones, while a cluster is brought up to date: that does not make a topic another."""
    monkeypatch.setattr(troubles, "SAME_INTERVAL_S", 0.0)
    broker.create_topic("t", 1)
    with broker.producer() as producer:
        for _ in range(4):
            producer.send("t", b"x")
    port = free_port()

    def serving(*, knows_ids: bool) -> ServerThread:
        server = ServerThread(broker, listen=f"127.0.0.1:{port}")
        server.start()
        if not knows_ids:
            apis = server.server.node.apis
            apis[metadata.API.key] = replace(metadata.API, versions=(0, 9))
        return server

    with connect(f"kafka://127.0.0.1:{port}", **QUICK) as remote, ExitStack() as stack:
        first = serving(knows_ids=not begins_without)
        stack.callback(first.stop)
        consumer = remote.consumer("t")
        read(consumer, 2)
        first.stop()
        stack.callback(serving(knows_ids=begins_without).stop)
        remote._supervisor.suspect()  # type: ignore[attr-defined]
        with broker.producer() as producer:
            producer.send("t", b"x")
        read(consumer, 3)
        consumer.close()
