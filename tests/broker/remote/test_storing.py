"""Commits for handlers: what a cluster refuses, and reports that never come."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from outages import PATIENCE_S, thread_serving

from seawall.broker import AnyBroker, DeliveredRecord, Handled, connect
from seawall.broker.remote import storing
from seawall.broker.remote.notes import LEASE_OFFSETS
from seawall.broker.remote.storing import Storing


@pytest.fixture
def broker(folder: str) -> Iterator[AnyBroker]:
    with (
        thread_serving(folder) as server,
        connect(f"kafka://{server.address}") as opened,
    ):
        opened.create_topic("orders")
        with opened.producer() as producer:
            for number in range(20):
                producer.send("orders", b"%d" % number)
        yield opened


def run(broker: AnyBroker, **settings: Any) -> tuple[Handled, list[int]]:
    seen: list[int] = []

    def handler(record: DeliveredRecord) -> None:
        seen.append(record.offset)

    with broker.consumer("orders", group="g") as consumer:
        done = consumer.run(
            handler, max_records=20, ack_interval_ms=10, timeout_ms=PATIENCE_S * 1000, **settings
        )
    return done, seen


def test_a_cluster_that_keeps_no_such_text(
    broker: AnyBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses the first commit; then counts stay within the process, and all else goes on."""
    monkeypatch.setattr(storing, "pack", lambda committed, carried: "x" * 5_000)
    with caplog.at_level(logging.WARNING, "seawall.broker"):
        done, seen = run(broker)
    assert done == Handled(handled=20)
    assert seen == list(range(20))
    assert broker.group("g").offsets[0].committed == 20
    assert "keeps too little beside an offset" in caplog.text


def test_a_report_that_never_comes_does_not_stop_the_others(
    broker: AnyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = []
    report = Storing._on_commit

    def forgetful(self: Storing, *what: Any) -> None:
        reports.append(what)
        if len(reports) > 1:
            report(self, *what)

    monkeypatch.setattr(Storing, "_on_commit", forgetful)
    monkeypatch.setattr(storing, "OLD_S", 0.7)
    done, seen = run(broker)
    assert done == Handled(handled=20)
    assert seen == list(range(20))
    assert len(reports) > 1
    assert broker.group("g").offsets[0].committed == 20


def test_what_stands_beside_the_offset(broker: AnyBroker) -> None:
    """While a handler is at work, the lease; afterwards, nothing."""
    found: list[str] = []
    groups = broker._groups  # type: ignore[attr-defined]

    def handler(record: DeliveredRecord) -> None:
        if record.offset == 0:
            found.append(groups.places("g")["orders", 0][1])

    with broker.consumer("orders", group="g") as consumer:
        consumer.run(handler, max_records=20, timeout_ms=PATIENCE_S * 1000)
    # The lease goes on from what has been fetched, which may be less than all.
    assert found[0] in [f"seawall.run:{LEASE_OFFSETS + n};0:1" for n in range(1, 21)]
    assert groups.places("g") == {("orders", 0): (20, "")}
