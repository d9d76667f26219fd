"""Ctrl-C that comes while librdkafka calls back, as it does all the time while a server is away."""

from __future__ import annotations

import os
import signal

import pytest
from confluent_kafka import KafkaError
from outages import PATIENCE_S, QUICK, location, serving

from seawall.broker import connect
from seawall.broker.remote.broker import RemoteBroker
from seawall.broker.remote.errors import lost_signal


@pytest.mark.parametrize("group", [None, "billing"])
def test_it_is_not_lost(folder: str, monkeypatch: pytest.MonkeyPatch, group: str | None) -> None:
    pressed = []
    is_away = False
    told = RemoteBroker._on_error

    def interrupted(self: RemoteBroker, error: KafkaError) -> None:
        if is_away and not pressed:
            pressed.append(error)
            os.kill(os.getpid(), signal.SIGINT)
        told(self, error)

    monkeypatch.setattr(RemoteBroker, "_on_error", interrupted)
    with serving(folder) as server, connect(location(server.port), **QUICK) as broker:
        broker.create_topic("orders")
        with broker.consumer("orders", group=group) as consumer:
            consumer.poll(timeout_ms=500)
            server.kill()
            is_away = True
            with pytest.raises(KeyboardInterrupt):
                consumer.poll(timeout_ms=PATIENCE_S * 1000)
    assert pressed


def test_what_is_no_signal_stays_what_it_is() -> None:
    error = SystemError("something else")
    assert lost_signal(error) is error
