"""`run` over disks that fail, and processes that die, at any call that changes something.

Whatever happens: reopened, it goes on, and every record was handled or is a dead letter.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
from collections.abc import Callable

from brokers import broker_on, put, read_all, values
from deaths import DyingFiles
from storage import Child, FaultyFiles, memory_folder

from seawall.broker import Broker, DeliveredRecord, Reject
from seawall.broker.errors import BrokerError

RECORDS = (b"good", b"bad", b"after")


def handle(seen: list[bytes | None], record: DeliveredRecord) -> None:
    if record.value == b"bad":
        raise Reject("no")
    seen.append(record.value)


def work(broker: Broker, seen: list[bytes | None], timeout_ms: float = 10_000) -> None:
    with broker.consumer("orders", group="g") as consumer:
        consumer.run(
            lambda record: handle(seen, record),
            timeout_ms=timeout_ms,
            stop=Done(consumer),
            ack_interval_ms=10,
            shutdown_timeout_ms=1_000,
        )


class Done:
    """The stop event of a run: set once there is nothing left to acknowledge."""

    def __init__(self, consumer: object) -> None:
        self._consumer = consumer

    def is_set(self) -> bool:
        lag = self._consumer.lag()  # type: ignore[attr-defined]
        return sum(lag.values()) == 0


def check(folder: str, seen: list[bytes | None], *, more: bytes) -> None:
    """Reopen, go on, publish one more: nothing is missing."""
    with Broker.open(folder) as broker:
        put(broker, more)
        work(broker, seen)
        assert {b"good", b"after", more} <= set(seen)
        assert b"bad" not in seen
        assert set(values(read_all(broker, "orders.dlq"))) == {b"bad"}
        assert broker.group("g").offsets[0].lag == 0


class FailingFiles(FaultyFiles):
    """The n-th call that changes something fails."""

    def __init__(self, fails_at: int) -> None:
        super().__init__()
        self.fails_at = fails_at
        self.changes = 0

    def _call(self, kind: str, path: str, size_bytes: int = -1) -> int | None:
        if kind in DyingFiles.CHANGES:
            self.changes += 1
            if self.changes == self.fails_at:
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return super()._call(kind, path, size_bytes)

    def boot_id(self) -> bytes:
        return super(FaultyFiles, self).boot_id()


# Of all the calls, every sixth; each run of the tests begins with another one.
STEP = 6


def test_a_fault_at_any_call_loses_nothing() -> None:
    for fails_at in range(1 + random.randrange(STEP), 1_000, STEP):
        with memory_folder() as folder:
            with Broker.open(folder) as broker:
                broker.create_topic("orders")
                put(broker, *RECORDS)
            files = FailingFiles(0)
            broker = broker_on(files, folder)
            seen: list[bytes | None] = []
            with contextlib.suppress(BrokerError):
                files.fails_at = files.changes + fails_at
                work(broker, seen, timeout_ms=400)
            was_hit = files.changes >= files.fails_at
            files.fails_at = 0
            with contextlib.suppress(BrokerError):
                broker.close()
            check(folder, seen, more=b"more")
        if not was_hit:
            break
    assert fails_at > 20


def test_a_death_at_any_call_loses_nothing() -> None:
    with memory_folder() as folder:
        with Broker.open(folder) as broker:
            broker.create_topic("orders")
        for dies_at in range(1 + random.randrange(STEP), 1_000, STEP):

            def live(say: Callable[[str], None], dies_at: int = dies_at) -> None:
                files = DyingFiles(0)
                broker = broker_on(files, folder)
                files.dies_at = files.changes + dies_at
                put(broker, *RECORDS)
                work(broker, [])
                say("survived")
                os.kill(os.getpid(), signal.SIGKILL)

            survived = Child(live).wait() == ["survived"]
            with Broker.open(folder) as broker:
                published = values(read_all(broker))
                work(broker, [])
                assert broker.group("g").offsets[0].lag == 0
                if b"bad" in published:
                    letters = values(read_all(broker, "orders.dlq"))
                    assert set(letters) == {b"bad"}
                    assert len(letters) >= published.count(b"bad")
            if survived:
                break
        assert dies_at > 20
