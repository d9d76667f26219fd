"""Idempotent producers: what can pass is tried again, and each record is stored once."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from brokers import LONG_S, Interruption, broker_on, eventually, in_thread, read_all, values
from storage import FaultyFiles

from seawall.broker import Broker, Delivery, Producer, idempotence
from seawall.broker.errors import (
    AppendLockTimeout,
    BrokerClosed,
    LogFenced,
    OutcomeUnknown,
    StorageFull,
    SyncFailed,
    UnknownTopic,
    WriteFailed,
)
from seawall.broker.producer_ids import LAST_EPOCH
from seawall.wal.errors import OutOfOrderSequence, PublishTimeout
from seawall.wal.files import Files
from seawall.wal.locks import FileLock
from seawall.wal.log import Log
from seawall.wal.producers import BATCHES_KEPT


def idempotent(broker: Broker, **settings: Any) -> Producer:
    return broker.producer(idempotent=True, **{"linger_ms": 0, **settings})


def log_of(broker: Broker) -> Log:
    return broker.engine.log(broker.engine.partition_id("orders", 0))


def numbers(broker: Broker) -> list[tuple[int, int]]:
    """Epoch and last sequence of each producer that the partition knows."""
    return [(each.epoch, each.last_sequence) for each in broker.producers("orders", 0)]


class Stumbling:
    """Has some calls of a method raise: before they do anything, or after they did it."""

    def __init__(
        self, patch: pytest.MonkeyPatch, name: str, error: Callable[[], BaseException], times: int
    ) -> None:
        self.left, self.calls = times, 0
        self.is_after = False
        call = getattr(Log, name)

        def stumble(log: Log, *arguments: Any) -> Any:
            self.calls += 1
            result = call(log, *arguments) if self.is_after or not self.left else None
            if self.left:
                self.left -= 1
                raise error()
            return result

        patch.setattr(Log, name, stumble)


def publish_timeout() -> PublishTimeout:
    return PublishTimeout(path="run/ends", holder_pid=1, timeout_ms=5)


def out_of_order() -> OutOfOrderSequence:
    return OutOfOrderSequence(producer_id=1, epoch=0, sequence=1, expected=0)


# -- in good times -----------------------------------------------------------------------


def test_records_are_numbered_in_each_partition(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders", 2)
        with idempotent(broker, linger_ms=60_000, batch_bytes=200) as producer:
            sent = [
                producer.send("orders", b"%d" % number * 20, partition=number % 3 // 2)
                for number in range(30)
            ]
        assert [delivery.result().offset for delivery in sent[:3]] == [0, 1, 0]
        (one,), (other,) = broker.producers("orders", 0), broker.producers("orders", 1)
        assert one.producer_id == other.producer_id
        assert (one.epoch, one.last_sequence, other.last_sequence) == (0, 19, 9)
        assert one.last_timestamp <= time.time() * 1000
        with idempotent(broker) as producer:
            producer.send("orders", b"another", partition=0).result()
        assert len(broker.producers("orders", 0)) == 2
    with Broker.open(folder) as broker:
        assert [each.last_sequence for each in broker.producers("orders", 0)] == [19, 0]


def test_a_plain_producer_has_no_number(broker: Broker) -> None:
    with broker.producer() as producer:
        producer.send("orders", b"a")
    assert broker.producers("orders", 0) == []


def test_settings() -> None:
    with pytest.raises(ValueError, match="delivery_timeout_ms"):
        Producer(None, delivery_timeout_ms=-1)  # type: ignore[arg-type]


# -- what can pass -----------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True])
def test_what_was_stored_is_not_stored_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """It was written, but could not be published: unknown to those who do not try again."""
    with idempotent(broker, linger_ms=0 if waits else 60_000) as producer:
        producer.send("orders", b"before").result()
        stumbling = Stumbling(monkeypatch, "commit", publish_timeout, 2)
        sent = [producer.send("orders", b"%d" % number) for number in range(3)]
        if waits:
            assert sent[0].result(timeout=LONG_S).offset == 1
        producer.flush(timeout_ms=1000 * LONG_S)
        assert [delivery.result(timeout=LONG_S).offset for delivery in sent] == [1, 2, 3]
        assert stumbling.calls >= 3
        assert producer._sender.buffered_bytes == 0
    assert values(read_all(broker)) == [b"before", b"0", b"1", b"2"]
    assert numbers(broker) == [(0, 3)]


def test_more_batches_than_a_log_remembers_come_again_together(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 3 * BATCHES_KEPT
    with idempotent(broker, linger_ms=60_000, batch_bytes=100) as producer:
        Stumbling(monkeypatch, "commit", publish_timeout, 1)
        sent = [producer.send("orders", b"%d" % number * 30) for number in range(count)]
        producer.flush(timeout_ms=1000 * LONG_S)
        assert [delivery.result().offset for delivery in sent] == list(range(count))
    assert values(read_all(broker)) == [b"%d" % number * 30 for number in range(count)]


def test_what_comes_behind_waits_and_keeps_its_order(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with idempotent(broker) as producer:
        Stumbling(monkeypatch, "commit", publish_timeout, 3)
        sent = []
        for number in range(20):
            sent.append(producer.send("orders", b"%d" % number))
            time.sleep(0.01)
        assert [delivery.result(timeout=LONG_S).offset for delivery in sent] == list(range(20))
    assert values(read_all(broker)) == [b"%d" % number for number in range(20)]
    assert numbers(broker) == [(0, 19)]


def test_another_partition_does_not_wait(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders", 2)
        with idempotent(broker) as producer:
            stumbling = Stumbling(monkeypatch, "append_checked", publish_timeout, 1)
            stuck = producer.send("orders", b"a", partition=0)
            eventually(lambda: not stumbling.left)
            assert producer.send("orders", b"b", partition=1).result(timeout=LONG_S).offset == 0
            assert stuck.result(timeout=LONG_S).offset == 0


def test_a_disk_that_is_full_for_a_while(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        with idempotent(broker) as producer:
            producer.send("orders", b"before").result()
            files.fail("pwritev", error=errno.ENOSPC, times=3)
            assert producer.send("orders", b"while").result(timeout=LONG_S).offset == 1
            assert files.hits == 3
        assert values(read_all(broker)) == [b"before", b"while"]


def test_a_lock_that_is_taken_for_a_while(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder, lock_timeout_ms=50) as broker:
        broker.create_topic("orders")
        with idempotent(broker) as producer:
            producer.send("orders", b"before").result()
            other = files.open(log_of(broker).context.lock_path, 2)
            try:
                assert files.try_lock(other)
                sent = producer.send("orders", b"while")
                with pytest.raises(TimeoutError):
                    sent.result(timeout=0.2)
                with pytest.raises(TimeoutError):
                    producer.flush(timeout_ms=100)
            finally:
                files.close(other)
            assert sent.result(timeout=LONG_S).offset == 1


def test_an_interrupt_anywhere_in_a_round_and_all_is_stored_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotence, "FIRST_PAUSE_S", 0.001)
    at = 0
    expected: list[bytes | None] = []
    while True:
        at += 1
        with idempotent(broker, linger_ms=60_000, batch_bytes=200) as producer:
            monkeypatch.setattr(producer._sender, "_start", lambda: None)  # it is ours alone
            new = [b"%d/%d" % (at, number) + b"x" * 100 for number in range(4)]
            sent = [producer.send("orders", value) for value in new]
            with Interruption(at) as interruption:
                try:
                    sent[-1].result()
                except KeyboardInterrupt:
                    pass
            producer.flush(timeout_ms=1000 * LONG_S)
            offsets = [delivery.result(timeout=LONG_S).offset for delivery in sent]
            assert offsets == list(range(len(expected), len(expected) + 4)), at
            expected += new
            assert producer._sender.buffered_bytes == 0
        if interruption.places < at:
            break
    assert at > 40
    assert values(read_all(broker)) == expected


# -- what fails for good -----------------------------------------------------------------


def test_after_the_timeout_it_is_unknown_and_the_next_epoch_begins(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with idempotent(broker, delivery_timeout_ms=150) as producer:
        producer.send("orders", b"a").result()
        stumbling = Stumbling(monkeypatch, "commit", publish_timeout, 1000)
        with pytest.raises(OutcomeUnknown):
            producer.send("orders", b"stored, as it happens").result(timeout=LONG_S)
        stumbling.left = 0
        assert producer.send("orders", b"b").result(timeout=LONG_S).offset == 2
    assert numbers(broker) == [(1, 0)]
    assert values(read_all(broker)) == [b"a", b"stored, as it happens", b"b"]


def test_an_attempt_that_may_have_stored_it_is_not_forgotten(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last attempt stored nothing, but the first one may have."""
    with broker_on(FaultyFiles(), folder, lock_timeout_ms=50) as broker:
        broker.create_topic("orders")
        with idempotent(broker) as producer:
            producer.send("orders", b"a").result()
            path = log_of(broker)._appender._lock.path
            lock = FileLock(Files(), path, timeout_ms=60_000)  # as another process has it

            def too_late() -> PublishTimeout:
                lock.acquire()  # before anybody can try again
                return publish_timeout()

            stumbling = Stumbling(monkeypatch, "commit", too_late, 1)
            tries = Stumbling(monkeypatch, "append_checked", publish_timeout, 0)
            sent = producer.send("orders", b"b")
            try:
                eventually(lambda: not stumbling.left)
                eventually(lambda: tries.calls == 2)
                writer = producer._sender._writer
                assert isinstance(writer, idempotence.IdempotentWriter)
                writer._delivery_timeout_s = 0.0
                with pytest.raises(OutcomeUnknown, match=r"them, and then.* locked"):
                    sent.result(timeout=LONG_S)
            finally:
                lock.abandon()
        log_of(broker).sync()
        assert values(read_all(broker)) == [b"a", b"b"]


def test_what_may_be_stored_never_comes_under_another_number(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has forgotten the producer between two attempts, the first of which stored it."""
    stumbling = Stumbling(monkeypatch, "append_checked", out_of_order, 0)

    def forgotten() -> PublishTimeout:
        assert log_of(broker).ends().log_end == 2
        stumbling.left = 1
        return publish_timeout()

    with idempotent(broker) as producer:
        producer.send("orders", b"a").result()
        Stumbling(monkeypatch, "commit", forgotten, 1)
        sent = producer.send("orders", b"b")
        with pytest.raises(OutcomeUnknown, match="comes with sequence"):
            sent.result(timeout=LONG_S)
        assert not stumbling.left
        assert producer.send("orders", b"c").result(timeout=LONG_S).offset == 2
    assert values(read_all(broker)) == [b"a", b"b", b"c"]
    assert numbers(broker) == [(1, 0)]


def test_asking_for_what_waits_behind_takes_no_longer_than_it_may(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with idempotent(broker, delivery_timeout_ms=600_000) as producer:
        producer.send("orders", b"a").result()
        stumbling = Stumbling(monkeypatch, "commit", publish_timeout, 1000)
        stuck = producer.send("orders", b"b")
        eventually(lambda: stumbling.left < 1000)
        behind = producer.send("orders", b"c")
        begun_s = time.monotonic()
        for delivery in (behind, stuck):
            with pytest.raises(TimeoutError):
                delivery.result(timeout=0.1)
        assert time.monotonic() - begun_s < LONG_S
        stumbling.left = 0
        assert behind.result(timeout=LONG_S).offset == 2


@pytest.mark.parametrize(
    ("kind", "error", "expected"),
    [("pwritev", errno.EIO, WriteFailed), ("sync", errno.EIO, SyncFailed)],
)
def test_what_does_not_pass_fails_at_once(
    folder: str, kind: str, error: int, expected: type[Exception]
) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        with idempotent(broker) as producer:
            producer.send("orders", b"a").result()
            files.fail(kind, where="logs/", error=error)
            with pytest.raises(expected):
                producer.send("orders", b"b").result(timeout=LONG_S)
            if expected is SyncFailed:
                with pytest.raises(LogFenced):
                    producer.send("orders", b"c").result(timeout=LONG_S)
            else:
                assert producer.send("orders", b"c").result(timeout=LONG_S).offset == 1
                assert numbers(broker) == [(1, 0)]
    with Broker.open(folder) as broker, idempotent(broker) as producer:
        producer.send("orders", b"d").result()
        stored = values(read_all(broker))
        assert (stored[0], stored[-1]) == (b"a", b"d")


def test_when_epochs_run_out_another_id_begins(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        with idempotent(broker) as producer:
            producer.send("orders", b"a").result()
            writer: Any = producer._sender._writer
            (numbering,) = writer._numberings.values()
            numbering.epoch, numbering.next_sequence = LAST_EPOCH, 0
            producer.send("orders", b"b").result()
            files.fail("pwritev")
            with pytest.raises(WriteFailed):
                producer.send("orders", b"c").result()
            producer.send("orders", b"d").result()
        first, second = broker.producers("orders", 0)
        assert (first.epoch, second.epoch) == (LAST_EPOCH, 0)
        assert values(read_all(broker)) == [b"a", b"b", b"d"]


def test_a_log_that_has_forgotten_is_met_with_another_id(broker: Broker) -> None:
    """As after its index was lost together with the segments that had the last batches."""
    with idempotent(broker) as producer:
        producer.send("orders", b"a").result()
        writer: Any = producer._sender._writer
        (numbering,) = writer._numberings.values()
        numbering.next_sequence = 7
        with pytest.raises(OutOfOrderSequence):
            log_of(broker).append_checked(_batch(numbering))
        assert producer.send("orders", b"b").result().offset == 1
    assert numbers(broker) == [(0, 0), (0, 0)]


def _batch(numbering: Any) -> list[bytearray]:
    from storage import batch

    return [
        batch(
            b"x",
            producer_id=numbering.producer_id,
            producer_epoch=numbering.epoch,
            base_sequence=numbering.next_sequence,
        )
    ]


def test_a_topic_that_is_made_again(broker: Broker) -> None:
    with idempotent(broker) as producer:
        for number in range(3):
            producer.send("orders", b"%d" % number).result()
        broker.delete_topic("orders")
        with pytest.raises(UnknownTopic):
            producer.send("orders", b"nowhere").result()
        broker.create_topic("orders")
        for number in range(3):
            assert producer.send("orders", b"%d" % number).result().offset == number
    assert values(read_all(broker)) == [b"0", b"1", b"2"]


# -- closing while it is tried again -----------------------------------------------------


def test_closing_settles_what_still_waits(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    producer = idempotent(broker)
    producer.send("orders", b"a").result()
    Stumbling(monkeypatch, "commit", publish_timeout, 1000)
    stuck = producer.send("orders", b"b")
    eventually(lambda: log_of(broker).ends().log_end == 2)
    behind = producer.send("orders", b"c")
    with pytest.raises(TimeoutError):
        producer.close(timeout_ms=50)
    assert isinstance(stuck.exception(timeout=0), OutcomeUnknown)
    assert isinstance(behind.exception(timeout=0), BrokerClosed)


def test_closing_says_what_the_last_attempt_met(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        producer = idempotent(broker)
        producer.send("orders", b"a").result()
        files.fail("pwritev", error=errno.ENOSPC, times=10_000)
        stuck = producer.send("orders", b"b")
        eventually(lambda: files.hits > 0)
        with pytest.raises(TimeoutError):
            producer.close(timeout_ms=50)
        assert isinstance(stuck.exception(timeout=0), StorageFull)
        files.heal()
        assert values(read_all(broker)) == [b"a"]


def test_another_thread_closes_while_one_flushes(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = idempotent(broker)
    producer.send("orders", b"a").result()
    Stumbling(monkeypatch, "commit", publish_timeout, 1000)
    stuck = producer.send("orders", b"b")
    flushing = threading.Event()

    def flush() -> None:
        flushing.set()
        with pytest.raises(BrokerClosed):
            producer.flush()

    with in_thread(flush):
        flushing.wait(LONG_S)
        time.sleep(0.05)
        producer._sender.stop(BrokerClosed(what="producer"))
    assert isinstance(stuck.exception(timeout=0), OutcomeUnknown)
    producer.close()


def test_callbacks_hear_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Delivery] = []
    with idempotent(broker, on_delivery=heard.append) as producer:
        Stumbling(monkeypatch, "commit", publish_timeout, 2)
        sent = [producer.send("orders", b"%d" % number) for number in range(5)]
    assert sorted(map(id, heard)) == sorted(map(id, sent))
    assert all(delivery.exception() is None for delivery in sent)


def test_without_a_sync_it_is_tried_again_as_well(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        with idempotent(broker, durability="os") as producer:
            files.fail("pwritev", error=errno.ENOSPC)
            assert producer.send("orders", b"a").result(timeout=LONG_S).offset == 0
            assert files.hits == 1


def test_a_plain_producer_does_not_try_again(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder, lock_timeout_ms=50) as broker:
        broker.create_topic("orders")
        with broker.producer() as producer:
            producer.send("orders", b"a").result()
            with log_of(broker)._appender._lock, pytest.raises(AppendLockTimeout):
                producer.send("orders", b"b").result(timeout=LONG_S)


def test_how_long_a_producer_is_remembered_can_be_set(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        with idempotent(broker) as producer:
            producer.send("orders", b"a").result()
            log = log_of(broker)
            assert log.context.config.producer_id_expiration_ms == 86_400_000
            assert len(broker.producers("orders", 0)) == 1
            broker.set_config({"producer.id.expiration.ms": 1})
            broker.topics()  # which looks
            assert log.context.config.producer_id_expiration_ms == 1
            eventually(lambda: broker.producers("orders", 0) == [])
            assert producer.send("orders", b"b").result().offset == 1
    with Broker.open(folder) as broker:
        assert log_of(broker).context.config.producer_id_expiration_ms == 1
