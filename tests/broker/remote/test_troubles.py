"""Whether a topic is still the one that was begun to be read."""

from __future__ import annotations

from typing import Any

import pytest
from outages import read

from seawall.broker import Broker, connect
from seawall.broker.errors import ConnectionLost
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
