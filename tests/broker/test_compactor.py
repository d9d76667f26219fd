"""The compactor: one process at a time, only when there is something to do, gone at once."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from brokers import LONG_S, eventually, put
from storage import Child, batch

from seawall.broker import Broker, cleaning, compactor
from seawall.broker.cleaning import Round
from seawall.broker.errors import BrokerError, StorageFull

SMALL = {"segment.bytes": 4096}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("START_DELAY_S", "LEASE_INTERVAL_S", "SHORTEST_REST_S"):
        monkeypatch.setattr(compactor, name, 0.02)


@pytest.fixture
def broker(folder: str) -> Iterator[Broker]:
    with Broker.open(folder) as opened:
        opened.create_topic("orders", config=SMALL)
        yield opened


def fill(broker: Broker, topic: str = "orders") -> None:
    for number in range(6):
        put(broker, b"%d" % number * 1500, topic=topic)


def acknowledge(broker: Broker, topic: str = "orders") -> None:
    with broker.consumer(topic, group="g") as consumer:
        consumer.poll()
        consumer.ack()


def start_of(broker: Broker, topic: str = "orders") -> int:
    return broker.ends(topic, 0).log_start


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "seawall-compactor"]


def killed(child: Child) -> list[str]:
    child.kill(signal.SIGKILL)
    return child.wait()


def test_what_is_acknowledged_goes_soon(broker: Broker) -> None:
    fill(broker)
    acknowledge(broker)
    eventually(lambda: start_of(broker) > 0)
    before = start_of(broker)
    assert broker.engine.compactor.holds_lease
    fill(broker)
    acknowledge(broker)
    eventually(lambda: start_of(broker) > before)
    assert broker.ends("orders", 0).durable_end == 12


def test_acknowledgements_of_another_process_count(broker: Broker, folder: str) -> None:
    fill(broker)
    eventually(lambda: broker.engine.compactor.holds_lease)

    def work(say: Callable[[str], None]) -> None:
        with Broker.open(folder) as other:
            acknowledge(other)

    Child(work).wait()
    eventually(lambda: start_of(broker) > 0)


def test_readers_and_operators_have_no_thread(broker: Broker) -> None:
    broker.topics(), broker.groups(), broker.info(), broker.ends("orders", 0), broker.compact()
    with broker.consumer("orders") as consumer:
        consumer.poll()
    time.sleep(0.05)
    assert threads() == []
    assert not os.path.exists(broker.engine.compactor.lease_path)


def test_a_short_command_does_not_wait_for_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compactor, "START_DELAY_S", 3_600)
    put(broker, b"x")
    assert threads() == ["seawall-compactor"]
    began_s = time.monotonic()
    broker.close()
    assert time.monotonic() - began_s < LONG_S
    assert threads() == []
    assert not os.path.exists(broker.engine.compactor.lease_path)


def test_one_process_works_and_the_next_follows_when_it_dies(broker: Broker, folder: str) -> None:
    def work(say: Callable[[str], None]) -> None:
        with Broker.open(folder) as other:
            put(other, b"x")
            eventually(lambda: other.engine.compactor.holds_lease)
            say("mine")
            time.sleep(600)

    child = Child(work)
    try:
        assert child.line() == "mine"
        fill(broker)
        time.sleep(0.1)
        assert threads() == ["seawall-compactor"]
        assert not broker.engine.compactor.holds_lease
    finally:
        killed(child)
    eventually(lambda: broker.engine.compactor.holds_lease)
    acknowledge(broker)
    eventually(lambda: start_of(broker) > 0)


def test_closing_waits_for_nothing(broker: Broker, folder: str) -> None:
    """Neither a rest, nor a sleep, nor a round that is to take long."""
    fill(broker)
    eventually(lambda: broker.engine.compactor.holds_lease)
    began_s = time.monotonic()
    broker.close()
    assert time.monotonic() - began_s < LONG_S  # of the five minutes until it looks again
    with Broker.open(folder) as again:
        again.create_topic("old", config={**SMALL, "cleanup.policy": "delete"})
        again.set_config({"log.cleaner.io.max.bytes.per.second": 4096})
        with again.producer(linger_ms=0) as producer:
            for number in range(300):  # in segments that no index knows yet
                producer.send("old", b"%d" % number * 1500, timestamp=1)
            producer.flush()
        eventually(lambda: again.engine.compactor.holds_lease)
        time.sleep(0.05)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < LONG_S  # of some minutes
    assert threads() == []


def test_an_idle_directory_costs_nothing(broker: Broker) -> None:
    fill(broker)
    acknowledge(broker)
    eventually(lambda: start_of(broker) > 0)
    broker.engine.housekeeper.close()
    rounds = 0
    real = broker.engine.compactor._do_round

    def counted(wait: Callable[[float], bool], is_timed: bool) -> float:
        nonlocal rounds
        rounds += 1
        return real(wait, is_timed)

    broker.engine.compactor._do_round = counted

    def is_idle() -> bool:  # the last round may still be to come
        nonlocal rounds
        rounds = 0
        before = resource.getrusage(resource.RUSAGE_SELF)
        time.sleep(0.5)
        after = resource.getrusage(resource.RUSAGE_SELF)
        busy_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return rounds == 0 and busy_s < 0.1

    eventually(is_idle)


def test_what_grows_old_goes_when_the_interval_is_over(broker: Broker) -> None:
    broker.set_config({"log.retention.check.interval.ms": 100})
    broker.create_topic("old", config={"cleanup.policy": "delete", "retention.ms": 300})
    put(broker, b"x", topic="old")
    eventually(lambda: broker.engine.compactor.holds_lease)
    eventually(lambda: start_of(broker, "old") == 1)


def test_a_changed_setting_is_heard(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:  # it begins when the record is there, and old
        patched.setattr(type(broker.engine.compactor), "start", lambda self: None)
        broker.create_topic("old", config={"cleanup.policy": "delete", "retention.ms": 1})
        put(broker, b"x", topic="old")
        time.sleep(0.005)
    broker.engine.compactor.start()
    eventually(lambda: start_of(broker, "old") == 1)
    put(broker, b"y", topic="old")
    time.sleep(0.1)
    assert start_of(broker, "old") == 1  # in five minutes
    broker.set_config({"log.retention.check.interval.ms": 100})
    eventually(lambda: start_of(broker, "old") == 2)


def test_trouble_is_told_and_tried_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker.create_topic("other", config=SMALL)
    fill(broker)
    fill(broker, "other")
    real = cleaning.trim

    def trim(engine: object, info: object, *more: object) -> object:
        if getattr(info, "name", "") == "orders":
            raise StorageFull(path="state.lmdb", reason="none left")
        return real(engine, info, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(cleaning, "trim", trim)
        acknowledge(broker)
        acknowledge(broker, "other")
        eventually(lambda: start_of(broker, "other") > 0)
        eventually(lambda: "orders/0: not trimmed: no room" in caplog.text)
    acknowledge(broker)
    broker.reset_group("g", "orders", {0: 6})  # a write, so that it looks again
    eventually(lambda: start_of(broker) > 0)


def test_what_a_process_that_is_gone_has_not_synced_is_seen_all_the_same(broker: Broker) -> None:
    """It was acknowledged, with durability="os", and nobody appends any more."""
    put(broker, b"first")
    log = broker.engine.log(broker.engine.partition_id("orders", 0))
    log.append([batch(b"second")])
    with broker.consumer("orders", start="start") as consumer:
        assert [record.value for record in consumer.poll()] == [b"first"]
        acknowledge(broker)  # a member of a group, and so the compactor, is there
        eventually(lambda: broker.ends("orders", 0).durable_end == 2, timeout_s=60)
        assert [record.value for record in consumer.poll()] == [b"second"]


def test_what_is_fenced_is_not_synced_again_and_again(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    log = broker.engine.log(broker.engine.partition_id("orders", 0))
    log.append([batch(b"never synced")])
    log._appender.fence()
    cleaning.clean(broker.engine, lambda timeout_s: False, is_timed=True)
    assert not broker.engine.housekeeper._unsynced
    assert caplog.text == ""


def test_one_job_is_not_the_others_trouble(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[bool] = []

    def fails(now: Round) -> None:
        raise BrokerError("out of order")

    def works(now: Round) -> None:
        done.append(now.is_timed)

    monkeypatch.setattr(cleaning, "JOBS", (fails, works))
    assert cleaning.clean(broker.engine, lambda timeout_s: False, is_timed=True) == 300
    assert done == [True]
    assert "fails: out of order" in caplog.text


def test_a_catalogue_that_cannot_be_read_is_tried_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> dict[str, str]:
        raise BrokerError("not today")

    with monkeypatch.context() as patched:
        patched.setattr(broker.engine.catalog, "broker_config", refuse)
        fill(broker)
        eventually(lambda: "nothing was removed: not today" in caplog.text)
    acknowledge(broker)
    eventually(lambda: start_of(broker) > 0)


def test_what_cannot_begin_is_tried_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk has no room for the lease's file; nothing has to be restarted."""

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr("seawall.broker.compactor.Descriptor", refuse)
        fill(broker)
        eventually(lambda: "in the background: [Errno 28] no space left" in caplog.text)
    with monkeypatch.context() as patched:
        patched.setattr("seawall.wal.watch.FolderWatch", refuse)
        eventually(lambda: not broker.engine.compactor.holds_lease)
    acknowledge(broker)
    eventually(lambda: start_of(broker) > 0)


def test_removals_are_logged(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "seawall.broker")
    fill(broker)
    acknowledge(broker)
    eventually(lambda: "(acknowledged)" in caplog.text)
    assert "orders/0: removed" in caplog.text


def test_a_forked_child_neither_works_nor_keeps_the_lease(broker: Broker, folder: str) -> None:
    fill(broker)
    eventually(lambda: broker.engine.compactor.holds_lease)

    def work(say: Callable[[str], None]) -> None:
        kept = []
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # listdir's own
                kept.append(os.readlink(f"/proc/self/fd/{number}"))
        say(str([each for each in kept if "compactor" in each or "inotify" in each]))
        say(str(broker.engine.compactor.holds_lease))
        time.sleep(600)

    child = Child(work)
    try:
        assert child.line() == "[]"
        assert child.line() == "False"
        broker.close()
        with Broker.open(folder) as again:
            fill(again)
            eventually(lambda: again.engine.compactor.holds_lease)
    finally:
        killed(child)


def test_no_more_threads(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        broker.engine.compactor.start()
    assert threads() == []
    broker.engine.compactor.start()
    broker.engine.compactor.start()
    assert threads() == ["seawall-compactor"]
    broker.close()
    broker.engine.compactor.start()
    assert threads() == []


def test_it_imports_nothing_before_it_works(folder: str) -> None:
    Broker.open(folder).close()
    source = f"""
import sys
from seawall.broker import Broker
with Broker.open({folder!r}) as broker:
    broker.topics()
print([name for name in sys.modules if name.startswith("seawall.broker.") and
       name.rpartition(".")[2] in ("cleaning", "trimming", "pace")])
"""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
