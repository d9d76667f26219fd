"""What a producer's process does, with a location that stalls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from seawall.broker.bench import worker
from seawall.broker.bench.plan import Task, shares
from seawall.broker.bench.worker import ProducingWorker
from seawall.broker.errors import BrokerError, UnknownTopic

STALL_S = 0.3


class Acknowledged:
    def __init__(self, error: BrokerError | None = None) -> None:
        self._error = error

    def exception(self) -> BrokerError | None:
        return self._error

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        callback(self)


class Location:
    """Acknowledges at once, but for one send that takes long; or fails from some record on."""

    def __init__(self, stall_at: int = -1, fail_at: int = -1) -> None:
        self.sent: list[bytes] = []
        self._stall_at = stall_at
        self._fail_at = fail_at

    def producer(self, **settings: Any) -> Location:
        return self

    def send(self, topic: str, value: bytes) -> Acknowledged:
        if len(self.sent) == self._stall_at:
            time.sleep(STALL_S)
        self.sent.append(value)
        if len(self.sent) > self._fail_at >= 0:
            return Acknowledged(UnknownTopic(topic=topic))
        return Acknowledged()

    def flush(self, timeout_ms: float) -> None:
        pass


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "say", lambda message: None)


def measured(location: Any, **task: Any) -> ProducingWorker:
    found = ProducingWorker(Task(role="produce", location="", topic="t", **task), location)
    found.run(time.monotonic_ns())
    return found


def test_records_that_a_stall_has_kept_back_count_from_when_they_were_due() -> None:
    """Else one slow record would be all that a stall of the location leaves."""
    found = measured(Location(stall_at=50), throughput=1000, records=500)
    assert found.records == 500
    late = sum(count for bound, count in found.histogram.rows() if bound > 100_000)
    # The 200 that were due 100 ms and more before the stall was over. A busy machine adds some.
    assert late >= 200
    assert found.histogram.max_us >= STALL_S * 1e6


def test_the_plan_is_kept_afterwards() -> None:
    """What was missed is caught up with, and not spread over the rest."""
    began_s = time.monotonic()
    location = Location(stall_at=10)
    measured(location, throughput=1000, records=400)
    assert len(location.sent) == 400
    assert time.monotonic() - began_s >= 0.399


def test_what_is_sent_to_warm_up_is_not_counted() -> None:
    location = Location()
    found = measured(location, throughput=500, records=50, warmup_s=0.2)
    assert (found.records, len(location.sent)) == (50, 150)
    assert found.bytes == 50 * 100


def test_the_time_ends_it() -> None:
    location = Location()
    found = measured(location, throughput=200, limit_s=0.1)
    assert found.records == len(location.sent) <= 20


def test_a_failure_ends_it_and_is_told() -> None:
    found = measured(Location(fail_at=7), records=1000)
    assert found.records == 7
    assert found.error == str(UnknownTopic(topic="t"))
    assert found.result()["error"] == found.error


def test_records_differ_and_have_their_size() -> None:
    location = Location()
    measured(location, records=64, record_bytes=33)
    assert {len(value) for value in location.sent} == {33}
    assert len(set(location.sent)) == 64


def test_shares() -> None:
    assert shares(10, 3) == [4, 3, 3]
    assert shares(1, 2) == [1, 0]
