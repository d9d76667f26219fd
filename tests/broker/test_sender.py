"""`Sender`: whoever writes, and whatever interrupts it, every record gets an outcome."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

import pytest
from brokers import (
    LONG_S,
    Interruption,
    RefusedLocks,
    broker_on,
    eventually,
    in_thread,
    read_all,
    values,
)
from storage import FaultyFiles, InterruptAt

from seawall.broker import Broker
from seawall.broker.errors import (
    BrokerClosed,
    BrokerError,
    LogFenced,
    OutcomeUnknown,
    StorageFull,
    SyncFailed,
    WriteFailed,
)
from seawall.broker.sender import MOST_FAILED


def test_an_interrupt_anywhere_in_a_round_leaves_no_record_without_an_outcome(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = 0
    at = 0
    while True:
        at += 1
        with broker.producer(linger_ms=60_000, batch_bytes=200) as producer:
            monkeypatch.setattr(producer._sender, "_start", lambda: None)  # it is ours alone
            sent = [producer.send("orders", b"x" * 100) for _ in range(4)]
            with Interruption(at) as interruption:
                try:
                    sent[-1].result()
                except (KeyboardInterrupt, BrokerError):
                    pass
            for delivery in sent:
                error = delivery.exception(timeout=LONG_S)
                assert error is None or isinstance(error, OutcomeUnknown)
                stored += error is None
            # It works on, and the buffer has all its room.
            assert producer.send("orders", b"y").result(timeout=LONG_S).offset >= 0
            producer.flush(timeout_ms=1000 * LONG_S)
            assert producer._sender.buffered_bytes == 0
        if interruption.places < at:
            break
    assert at > 40
    # Whatever was reported as stored is stored; what is unknown may be.
    assert len(read_all(broker)) >= stored + at


def test_an_interrupt_anywhere_in_sending_leaves_a_producer_that_works(broker: Broker) -> None:
    modules = ("broker/sender.py", "broker/producer.py", "broker/delivery.py")
    at = places = 0
    with broker.producer(linger_ms=60_000) as producer:
        while places >= at:
            at += 1
            interrupt = InterruptAt(at, *modules)
            with contextlib.suppress(KeyboardInterrupt, BrokerError), interrupt:
                producer.send("orders", b"x").result()
            places = interrupt.places
            # From any thread, and nobody but the record that was interrupted is to suffer.
            assert producer.send("orders", b"y").result(LONG_S).offset >= 0
            with in_thread(lambda: producer.send("orders", b"z").result(LONG_S)):
                pass
        assert at > 20
        with contextlib.suppress(OutcomeUnknown):  # of the records that were interrupted
            producer.flush(timeout_ms=1000 * LONG_S)
    got = values(read_all(broker))
    assert (got.count(b"y"), got.count(b"z")) == (at, at)


def test_flushing_ends_wherever_sending_was_interrupted(broker: Broker) -> None:
    at = places = 0
    with broker.producer(linger_ms=60_000) as producer:
        while places >= at:
            at += 1
            interrupt = InterruptAt(at, "broker/sender.py", "broker/producer.py")
            with contextlib.suppress(KeyboardInterrupt), interrupt:
                producer.send("orders", b"x")
            places = interrupt.places
            producer.flush(timeout_ms=1000 * LONG_S)
            assert producer._sender.buffered_bytes == 0
    assert at > 5


def test_an_interrupt_while_the_thread_is_woken_leaves_it_no_record(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with broker.producer(linger_ms=0) as producer:
        sender = producer._sender
        producer.send("orders", b"x").result(LONG_S)
        eventually(lambda: sender._parked)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(sender._wake, "notify", interrupt)
            producer.send("orders", b"y")
        written = threading.Event()
        producer.send("orders", b"z").add_done_callback(lambda _: written.set())
        assert written.wait(LONG_S)  # though nobody asks for it


def test_ctrl_c_while_the_lock_is_not_free(folder: str) -> None:
    files = RefusedLocks()

    def interrupt() -> None:
        # To the process, as a terminal does: raised in this thread, it would not wake the other
        # where that waits for a thread of ours that waits for the file.
        if files.refused.wait(LONG_S):
            os.kill(os.getpid(), signal.SIGINT)

    with broker_on(files, folder, lock_timeout_ms=600_000) as broker:
        broker.create_topic("orders")
        log = broker.engine.log(broker.topic("orders").partitions[0].id)
        with broker.producer(linger_ms=3_600_000) as producer:
            other = files.open(log.context.lock_path, 2)
            try:
                assert files.try_lock(other)
                sent = producer.send("orders", b"x")
                with in_thread(interrupt), pytest.raises(KeyboardInterrupt):
                    sent.result()
            finally:
                files.close(other)
            assert isinstance(sent.exception(timeout=LONG_S), OutcomeUnknown)
            assert producer.send("orders", b"y").result(timeout=LONG_S).offset == 0


class Alarm(Exception):
    """What a signal handler raises that gives some work only so much time."""


@pytest.mark.parametrize("call", ["pwritev", "sync"])
@pytest.mark.parametrize("kind", [Alarm, TimeoutError, KeyboardInterrupt])
@pytest.mark.parametrize("idempotent", [False, True])
def test_what_a_signal_handler_raises_is_no_failure_of_the_disk(
    folder: str, call: str, kind: type[BaseException], idempotent: bool
) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        with broker.producer(linger_ms=3_600_000, idempotent=idempotent) as producer:
            producer.send("orders", b"before").result(timeout=LONG_S)
            sent = producer.send("orders", b"x")
            files.fail(call, error=kind)
            with pytest.raises(kind):
                sent.result(timeout=LONG_S)
            assert producer.send("orders", b"after").result(timeout=LONG_S).offset >= 1
            error = sent.exception(timeout=LONG_S)
            assert (error is None) if idempotent else isinstance(error, OutcomeUnknown)
        stored = values(read_all(broker))
        assert stored.count(b"x") <= 1 if error else stored == [b"before", b"x", b"after"]


# -- failures of the disk ------------------------------------------------------------


def test_a_failed_write_stores_nothing_and_works_again(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker, broker_producer(broker) as producer:
        producer.send("orders", b"before").result()
        files.fail("pwritev")
        with pytest.raises(WriteFailed) as caught:
            producer.send("orders", b"lost").result()
        error = caught.value
        assert (error.topic, error.partition) == ("orders", 0)
        assert error.path.endswith(".log")
        assert error.position > 0
        producer.send("orders", b"after").result()
        assert values(read_all(broker)) == [b"before", b"after"]


@pytest.mark.parametrize("kind", ["pwritev", "allocate"])
def test_a_full_disk_stores_nothing_and_works_again(folder: str, kind: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker, broker_producer(broker) as producer:
        files.fail(kind, error=28, times=5)
        with pytest.raises(StorageFull) as caught:
            producer.send("orders", b"lost").result()
        assert (caught.value.topic, caught.value.partition) == ("orders", 0)
        files.heal()
        producer.send("orders", b"after").result()
        assert values(read_all(broker)) == [b"after"]


def test_a_short_write_stores_nothing(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker, broker_producer(broker) as producer:
        files.fail("pwritev", short=lambda size: size // 2)
        with pytest.raises(StorageFull):
            producer.send("orders", b"lost").result()
        producer.send("orders", b"after").result()
        assert values(read_all(broker)) == [b"after"]


def test_a_failed_sync_fences_until_it_is_opened_again(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        with broker_producer(broker) as producer:
            producer.send("orders", b"before").result()
            files.fail("sync")
            with pytest.raises(SyncFailed) as caught:
                producer.send("orders", b"perhaps").result()
            assert isinstance(caught.value, OutcomeUnknown)
            assert (caught.value.topic, caught.value.partition) == ("orders", 0)
            for _ in range(2):
                with pytest.raises(LogFenced) as fenced:
                    producer.send("orders", b"no").result()
                assert fenced.value.topic == "orders"
        assert values(read_all(broker)) == [b"before"]
    with Broker.open(folder) as broker, broker_producer(broker, create=False) as producer:
        assert values(read_all(broker))[:1] == [b"before"]
        producer.send("orders", b"after").result()
        assert values(read_all(broker)) in ([b"before", b"perhaps", b"after"],)
        assert list(broker.verify()) == []


def broker_producer(broker: Broker, *, create: bool = True) -> Any:
    if create:
        broker.create_topic("orders")
    return broker.producer(linger_ms=60_000)


def test_followers_of_a_failed_sync_get_to_know(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker, broker_producer(broker) as producer:
        files.fail("sync", times=100)
        errors: list[BrokerError | None] = []

        def publish() -> None:
            errors.append(producer.send("orders", b"x").exception(timeout=LONG_S))

        workers = [threading.Thread(target=publish) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(errors) == 8
        assert all(isinstance(error, (SyncFailed, LogFenced)) for error in errors)
        producer._sender.failed.clear()


def test_os_durability_and_a_failed_sync(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        with broker.producer(durability="os", linger_ms=0) as producer:
            files.fail("sync", times=100)
            producer.send("orders", b"x").result()
            eventually(lambda: "could not sync" in caplog.text)
            files.heal()
            with pytest.raises(LogFenced):
                producer.send("orders", b"y").result()
    caplog.clear()  # its errors' tracebacks keep files open


# -- the thread ----------------------------------------------------------------------


def test_an_unexpected_error_is_wrapped_and_the_thread_lives_on(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    with broker.producer(linger_ms=0) as producer:
        with monkeypatch.context() as patch:
            patch.setattr(log, "append", lambda batches: 1 // 0)
            sent = producer.send("orders", b"x")
            eventually(sent.done)  # in the main thread it may be a signal handler's
            error = sent.exception()
            assert type(error) is BrokerError
            assert isinstance(error.__cause__, ZeroDivisionError)
        assert "an unexpected error" in caplog.text
        assert producer.send("orders", b"y").result().offset == 0


def test_no_wake_up_of_the_thread_is_lost(broker: Broker) -> None:
    """Records that nobody asks about go out in time, whatever the thread was doing."""
    for linger_ms in (0, 1, 5):
        with broker.producer(linger_ms=linger_ms) as producer:
            for number in range(60):
                sent = producer.send("orders", b"x")
                if number % 3 == 0:
                    time.sleep(0.0005 * (number % 7))
                eventually(sent.done)


def test_the_thread_sleeps_without_a_timer_when_idle(broker: Broker) -> None:
    with broker.producer(linger_ms=1) as producer:
        producer.send("orders", b"x").result()
        eventually(lambda: producer._sender._parked)
        sent = producer.send("orders", b"y")
        eventually(sent.done)


def test_a_callback_that_waits_for_others_is_refused_not_stuck(broker: Broker) -> None:
    caught: list[BaseException] = []

    def flush(delivery: object) -> None:
        try:
            producer.flush()
        except RuntimeError as error:
            caught.append(error)

    with broker.producer(on_delivery=flush) as producer:
        producer.send("orders", b"x").result(timeout=LONG_S)
        assert caught


def test_a_callback_may_close_the_producer(broker: Broker) -> None:
    closed = threading.Event()

    def close(delivery: object) -> None:
        try:
            producer.close()
        except RuntimeError:
            closed.set()

    producer = broker.producer(on_delivery=close, linger_ms=0)
    producer.send("orders", b"x")
    assert closed.wait(LONG_S)
    with pytest.raises(BrokerClosed):
        producer.send("orders", b"y")


def test_failures_that_nobody_asks_about_are_bounded(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        producer = broker.producer(linger_ms=60_000, batch_bytes=1)
        files.fail("pwritev", times=10_000)
        for _ in range(MOST_FAILED + 50):
            producer.send("orders", b"x")
        with pytest.raises(BrokerError):
            producer.flush()
        for _ in range(MOST_FAILED + 50):
            producer.send("orders", b"x")
        producer._sender.drain_all(None)
        assert len(producer._sender.failed) <= MOST_FAILED
        with pytest.raises(BrokerError):
            producer.close()


def test_flush_in_time_or_not_at_all(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder, lock_timeout_ms=600_000) as broker:
        broker.create_topic("orders")
        log = broker.engine.log(broker.topic("orders").partitions[0].id)
        with broker.producer(linger_ms=0) as producer:
            other = files.open(log.context.lock_path, 2)
            try:
                assert files.try_lock(other)
                sent = producer.send("orders", b"x")
                time.sleep(0.05)
                started = time.monotonic()
                with pytest.raises(TimeoutError):
                    producer.flush(timeout_ms=100)
                with pytest.raises(TimeoutError):
                    sent.result(timeout=0.1)
                assert time.monotonic() - started < LONG_S
            finally:
                files.close(other)
            producer.flush()
            assert sent.result().offset == 0


def test_closing_while_a_caller_writes_waits_for_it(folder: str) -> None:
    files = RefusedLocks()
    with broker_on(files, folder, lock_timeout_ms=600_000) as broker:
        broker.create_topic("orders")
        log = broker.engine.log(broker.topic("orders").partitions[0].id)
        producer = broker.producer(linger_ms=3_600_000)
        other = files.open(log.context.lock_path, 2)
        assert files.try_lock(other)
        offsets: list[int] = []

        def publish() -> None:
            offsets.append(producer.send("orders", b"x").result().offset)

        with in_thread(publish):
            try:
                assert files.refused.wait(LONG_S)
                with in_thread(producer.close):
                    try:
                        time.sleep(0.1)
                        assert offsets == []
                    finally:
                        files.close(other)
                        other = -1
            finally:
                if other >= 0:
                    files.close(other)
        assert offsets == [0]
