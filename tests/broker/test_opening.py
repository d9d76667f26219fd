"""What a sole opener finishes, judges and rebuilds; what those who join leave alone."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import broker_on, drain, put, read_all, values
from storage import Child, FaultyFiles

from seawall.broker import Broker
from seawall.broker.errors import DirectoryError, DirectoryUnusable, LockTimeout, LogFenced
from seawall.broker.opening import MOST_NAME_CHARACTERS, folder_name
from seawall.broker.translation import translated
from seawall.wal.files import Files


def test_folder_names_fit_whatever_the_topic_is_called() -> None:
    assert folder_name(17, "orders", 0) == "17-orders-0"
    longest = folder_name(2**63, "x" * 249, 9999)
    assert len(longest) < 255
    assert "x" * MOST_NAME_CHARACTERS in longest


def test_a_dead_process_needs_no_scan(folder: str) -> None:
    def live(say: Callable[[str], None]) -> None:
        broker = Broker.open(folder)
        broker.create_topic("orders")
        put(broker, *[b"x" * 10_000] * 100)
        os.kill(os.getpid(), signal.SIGKILL)

    assert Child(live).wait() == []
    files = FaultyFiles(Files().boot_id())
    with broker_on(files, folder) as broker:
        reads = files.counts["pread"]
        assert len(read_all(broker)) == 100
    assert reads < 30


def test_what_a_dead_process_did_not_sync_is_synced_and_shown(folder: str) -> None:
    def live(say: Callable[[str], None]) -> None:
        broker = Broker.open(folder)
        broker.create_topic("orders")
        with broker.producer(durability="os") as producer:
            producer.send("orders", b"x").result()
            os.kill(os.getpid(), signal.SIGKILL)

    assert Child(live).wait() == []
    files = FaultyFiles(Files().boot_id())
    with broker_on(files, folder) as broker:
        assert files.counts["sync"] >= 1
        assert values(read_all(broker)) == [b"x"]


def test_a_folder_that_belongs_to_nothing_is_put_aside(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
    stray = Path(folder, "logs", "99-stray-0")
    stray.mkdir()
    (stray / "00000000000000000000.log").write_bytes(b"somebody's")
    with Broker.open(folder):
        assert os.listdir(Path(folder, "logs")) == ["1-orders-0"]
        [kept] = Path(folder, "quarantine").iterdir()
        assert (kept / "00000000000000000000.log").read_bytes() == b"somebody's"


def test_no_room_to_mend_one_log_keeps_nobody_from_the_others(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Broker.open(folder) as broker:
        for topic in ("orders", "mails"):
            broker.create_topic(topic)
            put(broker, b"x", topic=topic)
    shutil.rmtree(Path(folder, "run"))
    files = FaultyFiles(Files().boot_id())
    files.fail("pwrite", where="orders-0/", error=errno.ENOSPC)
    with broker_on(files, folder) as broker:
        assert "no room" in caplog.text
        assert values(read_all(broker)) == [b"x"]
        put(broker, b"y", topic="mails")
        with broker.producer() as producer, pytest.raises(LogFenced):
            producer.send("orders", b"y").result()
        with broker.consumer("orders", group="g") as consumer:
            consumer.ack(consumer.poll()[-1])
    caplog.clear()
    with broker_on(files, folder) as broker:
        put(broker, b"y")
        assert values(read_all(broker)) == [b"x", b"y"]
        assert values(read_all(broker, "mails")) == [b"x", b"y"]
    assert caplog.text == ""


def test_a_log_folder_that_is_gone(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        put(broker, b"a", b"b")
        with broker.consumer("orders", group="g") as consumer:
            consumer.poll()
            consumer.ack()
    shutil.rmtree(Path(folder, "logs", "1-orders-0"))
    shutil.rmtree(Path(folder, "run"))
    with Broker.open(folder) as broker:
        # No offset is used twice, and nobody is told that all is well.
        assert broker.ends("orders", 0).durable_end == 2
        put(broker, b"c")
        assert values(read_all(broker, start=2)) == [b"c"]
        assert list(broker.verify()) != []
    assert "missing" in caplog.text


@pytest.mark.parametrize("loses", ["index.lmdb", "run", "both", "quarantine"])
def test_what_can_be_built_again(folder: str, loses: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders", config={"segment.bytes": 4096})
        put(broker, *[b"%d" % number * 100 for number in range(100)])
        with broker.consumer("orders", group="g") as consumer:
            consumer.ack(drain(consumer)[49])
        before = read_all(broker)
    for name in ("index.lmdb", "run", "quarantine"):
        if loses == name or (loses == "both" and name != "quarantine"):
            shutil.rmtree(Path(folder, name))
    with Broker.open(folder) as broker:
        assert read_all(broker) == before
        assert broker.group("g").offsets[0].committed == 50
        assert broker.offset_for_time("orders", 0, before[70].timestamp) is not None
        assert list(broker.verify()) == []


def test_a_recovery_that_dies_anywhere_is_done_again(folder: str) -> None:
    """With run/ lost and a torn tail, one call in six fails: the next opening succeeds alike."""
    offset = random.randrange(6)
    path = os.path.join(folder, "made")
    with Broker.open(path) as broker:
        broker.create_topic("orders")
        put(broker, b"a", b"b")
    segment = Path(path, "logs", "1-orders-0", "00000000000000000000.log")
    good = segment.read_bytes().rstrip(b"\0")
    segment.write_bytes(good + good[:40])  # the beginning of a batch
    shutil.rmtree(Path(path, "run"))
    for nth in range(1, 400):
        copy = os.path.join(folder, f"{nth}")
        shutil.copytree(path, copy)
        files = FaultyFiles(Files().boot_id())
        files.fail("", nth=nth * 6 - offset, error=5)
        failed = False
        try:
            with translated():
                broker_on(files, copy).close()
        except DirectoryError:
            failed = True
        files.heal()
        with broker_on(files, copy) as broker:
            assert values(read_all(broker))[:2] == [b"a", b"b"]
            put(broker, b"c")
            assert values(read_all(broker)) == [b"a", b"b", b"c"]
            assert list(broker.verify()) == []
        shutil.rmtree(copy)
        if not failed and not files.hits:
            break
    assert nth > 6


def test_whoever_joins_judges_nothing(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        stray = Path(folder, "logs", "99-stray-0")
        stray.mkdir()

        def join(say: Callable[[str], None]) -> None:
            with Broker.open(folder) as other:
                say(str(len(other.topics())))

        assert Child(join).wait() == ["1"]
        assert stray.is_dir()


def test_joining_without_run(folder: str) -> None:
    with Broker.open(folder):
        shutil.rmtree(Path(folder, "run"))

        def join(say: Callable[[str], None]) -> None:
            with pytest.raises(DirectoryUnusable) as caught:
                Broker.open(folder)
            say(caught.value.reason[:30])

        assert "run/" in Child(join).wait()[0]


def test_a_sole_opener_that_hangs_is_waited_for_but_not_for_ever(folder: str) -> None:
    Broker.open(folder).close()

    def hold(say: Callable[[str], None]) -> None:
        files = Files()
        descriptor = files.open(os.path.join(folder, "LOCK"), os.O_RDWR)
        assert files.try_lock(descriptor)
        say("holding")
        time.sleep(60)

    child = Child(hold)
    try:
        assert child.line() == "holding"
        with pytest.raises(LockTimeout) as caught:
            Broker.open(folder, open_timeout_ms=150)
        assert (caught.value.holder_pid, caught.value.timeout_ms) == (child.pid, 150)
    finally:
        child.kill(signal.SIGKILL)
        child.wait()
    Broker.open(folder).close()


def test_an_older_row_does_not_move_the_log_start_back(folder: str) -> None:
    """The same run/ends as it was earlier, or a death before the row was written."""
    with Broker.open(folder) as broker:
        broker.create_topic("orders", config={"segment.bytes": 4096})
        put(broker, *[b"x" * 1500] * 9)
        log = broker.engine.log(1)
        row = log.context.row()
        broker.engine.state.set_log_start(1, 5)
        log.drop_segments(5)
    with Broker.open(folder) as broker:
        assert broker.ends("orders", 0).log_start == 5
        broker.engine.opening.ends.write(1, row)
    with Broker.open(folder) as broker:
        assert broker.ends("orders", 0) == (5, 9, 9)
        assert len(read_all(broker)) == 4
