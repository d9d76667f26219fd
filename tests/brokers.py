"""Brokers in temporary directories, and short words for what their tests do all the time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import pytest
from storage import FaultyFiles, InterruptAt

from seawall.broker import Broker, Consumer, Record
from seawall.broker.dispatcher import Dispatcher
from seawall.broker.engine import Engine, acquire_engine
from seawall.broker.group_consumer import GroupConsumer
from seawall.wal.files import Files

# Nothing takes that long, even on a machine that stands still now and then.
LONG_S = 60.0


def read_all(broker: Broker, topic: str = "orders", **settings: Any) -> list[Record]:
    """Every record of a topic, by a consumer in no group."""
    with broker.consumer(topic, **settings) as consumer:
        return drain(consumer)


def drain(consumer: Consumer, max_records: int = 500) -> list[Record]:
    """What a consumer can have right now."""
    records: list[Record] = []
    while found := consumer.poll(max_records):
        records += found
    return records


def values(records: list[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def put(broker: Broker, *wanted: bytes, topic: str = "orders", partition: int = 0) -> None:
    """Publish, and wait until it is on disk."""
    with broker.producer(linger_ms=0) as producer:
        for value in wanted:
            producer.send(topic, value, partition=partition)


def broker_on(files: Files, path: str, *, lock_timeout_ms: int = 10_000) -> Broker:
    """A broker whose calls to the operating system go through `files`."""
    engine = acquire_engine(
        path,
        create=True,
        open_timeout_ms=10_000,
        lock_timeout_ms=lock_timeout_ms,
        files=files,
    )
    return Broker(engine, durability="fsync")


def crash(broker: Broker) -> None:
    """Let go of a broker as the kernel does when its process dies: nothing is flushed.

    In a child process of the test this would be a SIGKILL; within the test's own it is
    the nearest there is.
    """
    engine: Engine = broker.engine
    for user in list(broker._users):
        sender = getattr(user, "_sender", None)
        if sender is not None:
            thread = sender._thread
            with sender.lock:
                sender._stop = True
                sender._wake.notify_all()
            if thread is not None:
                thread.join()
            sender._pending.clear()
        if isinstance(user, GroupConsumer):
            user.membership.vanish()
    housekeeper = engine.housekeeper
    with housekeeper._work:
        housekeeper._dirty.clear()
        housekeeper._unsynced.clear()
    broker.close()


@contextlib.contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run `work` beside the test; what it raises, the test raises."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(LONG_S)
        assert not thread.is_alive(), "the thread is stuck"
    if failures:
        raise failures[0]


def eventually(condition: Callable[[], bool], timeout_s: float = LONG_S) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.005)


def closing_of_handlers(patch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the end of partitions has begun: no handler begins any more."""
    begun = threading.Event()
    revoke = Dispatcher.revoke

    def tell(*arguments: Any) -> None:
        revoke(*arguments)
        begun.set()

    patch.setattr(Dispatcher, "revoke", tell)
    return begun


class RefusedLocks(FaultyFiles):
    """Tells of a lock that a thread has not got."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = threading.Event()

    def try_lock(self, descriptor: int, *, exclusive: bool = True) -> bool:
        is_free = super().try_lock(descriptor, exclusive=exclusive)
        if not is_free:
            self.refused.set()
        return is_free


class Interruption(InterruptAt):
    """The same, in what writes a round."""

    INSIDE = (
        *("_drain", "_take", "_settle", "append", "commit", "_sync", "encode", "resolve"),
        *("_appended", "_append", "_numbering", "number", "_succeeded", "_failed"),
    )
    FILES = ("sender.py", "writing.py", "idempotence.py", "rounds.py", "delivery.py")

    def __init__(self, at: int) -> None:
        super().__init__(at, *self.FILES)

    def is_inside(self, code: CodeType) -> bool:
        return code.co_name in self.INSIDE and super().is_inside(code)
