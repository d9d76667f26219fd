"""Bad input and bad luck: each a named error with its facts, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import broker_on, eventually, put, read_all, values
from storage import Child, FaultyFiles, flip

from seawall.broker import Broker
from seawall.broker.errors import (
    BrokerError,
    CatalogDamaged,
    DirectoryUnusable,
    ForeignDirectory,
    InvalidTopicName,
    LogDamaged,
    OffsetOutOfRange,
    RecordTooLarge,
    StateDamaged,
    StorageFull,
    UnknownTopic,
    UnsupportedFormat,
)
from seawall.wal.files import Files


def made(folder: str) -> str:
    """A directory with one topic, two records and a group that acknowledged one."""
    path = os.path.join(folder, "data")
    with Broker.open(path) as broker:
        broker.create_topic("orders")
        put(broker, b"one", b"two")
        with broker.consumer("orders", group="g") as consumer:
            consumer.ack(consumer.poll(1))
    return path


def content(path: str) -> dict[str, bytes]:
    return {
        str(each.relative_to(path)): each.read_bytes() if each.is_file() else b"(folder)"
        for each in Path(path).rglob("*")
    }


# -- directories ---------------------------------------------------------------------


def test_a_foreign_directory_is_refused_and_not_touched(folder: str) -> None:
    Path(folder, "thesis.txt").write_text("mine")
    Path(folder, "sub").mkdir()
    before = content(folder)
    with pytest.raises(ForeignDirectory) as caught:
        Broker.open(folder)
    assert (caught.value.path, caught.value.found) == (folder, "sub")
    assert content(folder) == before


def test_a_file_where_a_directory_is_wanted(folder: str) -> None:
    path = Path(folder, "file")
    path.write_text("mine")
    for wanted in (path, path / "below"):
        with pytest.raises(DirectoryUnusable) as caught:
            Broker.open(wanted)
        assert caught.value.path == str(wanted)
        assert caught.value.reason
    assert path.read_text() == "mine"


@pytest.mark.parametrize("text", ["seawall 2\ncluster-id x\n", "", "garbage", "seawall 1\n"])
def test_another_format_is_refused_and_not_touched(folder: str, text: str) -> None:
    path = made(folder)
    Path(path, "FORMAT").write_text(text)
    before = content(path)
    with pytest.raises(UnsupportedFormat) as caught:
        Broker.open(path)
    assert (caught.value.path, caught.value.supported) == (path, "seawall 1")
    assert content(path) == before


def test_a_directory_that_lost_its_format_file(folder: str) -> None:
    path = made(folder)
    os.unlink(os.path.join(path, "FORMAT"))
    with pytest.raises(UnsupportedFormat):
        Broker.open(path)
    assert os.listdir(os.path.join(path, "logs")) == ["1-orders-0"]


def test_an_unreadable_directory(folder: str) -> None:
    path = made(folder)
    os.chmod(folder, 0o755)
    os.chmod(path, 0o700)

    def look(say: Callable[[str], None]) -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        else:
            os.chmod(path, 0)
        with pytest.raises(DirectoryUnusable) as caught:
            Broker.open(path)
        assert caught.value.path == path
        with pytest.raises(DirectoryUnusable):
            Broker.open(os.path.join(folder, "new"))
        say(caught.value.reason)

    assert Child(look).wait() == ["Permission denied"]
    os.chmod(path, 0o700)
    with Broker.open(path) as broker:
        assert values(read_all(broker)) == [b"one", b"two"]


def test_a_read_only_directory(folder: str) -> None:
    path = made(folder)
    os.chmod(folder, 0o755)
    for each in [path, *map(str, Path(path).rglob("*"))]:
        os.chmod(each, 0o755 if os.path.isdir(each) else 0o644)

    def look(say: Callable[[str], None]) -> None:
        if os.getuid() != 0:
            say("cannot change to another user")
            return
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(DirectoryUnusable) as caught:
            Broker.open(path)
        say(caught.value.reason)

    assert Child(look).wait()[0] in ("Permission denied", "cannot change to another user")


def test_a_directory_that_is_removed_while_it_is_open(folder: str) -> None:
    path = made(folder)
    with Broker.open(path) as broker:
        shutil.rmtree(path)
        with pytest.raises(BrokerError):
            broker.create_topic("x")


# -- damage --------------------------------------------------------------------------


def test_a_damaged_catalogue(folder: str) -> None:
    path = made(folder)
    catalog = Path(path, "catalog.db")
    good = catalog.read_bytes()
    for bad in (b"", b"garbage" * 1000, b"\0" * len(good)):
        catalog.write_bytes(bad)
        with pytest.raises(CatalogDamaged) as caught:
            Broker.open(path)
        assert caught.value.path == str(catalog)
    catalog.write_bytes(good)
    with Broker.open(path) as broker:
        assert values(read_all(broker)) == [b"one", b"two"]


def test_a_damaged_state(folder: str) -> None:
    path = made(folder)
    state = Path(path, "state.lmdb", "data.mdb")
    good = state.read_bytes()
    for bad in (b"", b"garbage" * 1000, good[:5000]):
        state.write_bytes(bad)
        with pytest.raises(StateDamaged):
            Broker.open(path)
    state.write_bytes(good)
    with Broker.open(path) as broker, broker.consumer("orders", group="g") as consumer:
        assert values(consumer.poll()) == [b"two"]


def test_a_missing_truth_is_not_made_anew(folder: str) -> None:
    path = made(folder)
    for name, error in (("state.lmdb", StateDamaged), ("catalog.db", BrokerError)):
        away = os.path.join(folder, "away")
        os.rename(os.path.join(path, name), away)
        with pytest.raises(error):
            Broker.open(path)
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(path, name))
        os.rename(away, os.path.join(path, name))
    with Broker.open(path) as broker:
        assert broker.group("g").offsets[0].committed == 1


@pytest.mark.parametrize("how", ["gone", "garbage", "empty", "owner", "foreign"])
def test_a_damaged_index_is_built_again(folder: str, how: str) -> None:
    path = made(folder)
    index = Path(path, "index.lmdb")
    if how == "gone":
        shutil.rmtree(index)
    elif how == "garbage":
        (index / "data.mdb").write_bytes(b"garbage" * 1000)
    elif how == "empty":
        (index / "data.mdb").write_bytes(b"")
    elif how == "foreign":
        with Broker.open(os.path.join(folder, "other")):
            pass
        shutil.rmtree(index)
        shutil.copytree(os.path.join(folder, "other", "index.lmdb"), index)
    else:
        data = (index / "data.mdb").read_bytes()
        with Broker.open(path) as broker:
            cluster_id = broker.cluster_id
        flip(str(index / "data.mdb"), data.rfind(cluster_id.encode()))
    for loses_run in (False, True):
        if loses_run:
            shutil.rmtree(os.path.join(path, "run"))
        with Broker.open(path) as broker:
            assert values(read_all(broker)) == [b"one", b"two"]
            assert broker.offset_for_time("orders", 0, 0) is not None
            assert list(broker.verify()) == []


def test_a_truncated_and_a_flipped_segment(folder: str) -> None:
    path = made(folder)
    segment = os.path.join(path, "logs", "1-orders-0", "00000000000000000000.log")
    flip(segment, 66)
    with Broker.open(path) as broker:
        with pytest.raises(LogDamaged) as caught:
            read_all(broker)
        error = caught.value
        assert (error.path, error.position, error.offset) == (segment, 0, 0)
        put(broker, b"three")  # appends go on
        assert values(read_all(broker, start="-1")) == [b"three"]
    flip(segment, 66)
    os.truncate(segment, 80)
    with Broker.open(path) as broker:
        with pytest.raises(LogDamaged) as caught:
            read_all(broker)
        assert caught.value.path == segment


@pytest.mark.parametrize("loses_run", [False, True])
def test_any_damaged_value_of_the_index(folder: str, loses_run: bool) -> None:
    """Whatever is wrong in it, the index is only a cache."""
    path = made(folder)
    with Broker.open(path) as broker:
        put(broker, *[b"x" * 1000] * 20)
    index = os.path.join(path, "index.lmdb", "data.mdb")
    for key in (b"C", b"E", b"T"):
        key += (1).to_bytes(8, "big")
        at = Path(index).read_bytes().rfind(key)
        assert at > 0 or key[:1] != b"C"
        flip(index, at + len(key) + (3 if key[:1] == b"C" else 19))
    if loses_run:
        shutil.rmtree(os.path.join(path, "run"))
    with Broker.open(path) as broker:
        put(broker, b"after")
        got = values(read_all(broker))
        assert (len(got), got[-1]) == (23, b"after")
        for start in range(23):
            assert len(read_all(broker, start=start)) == 23 - start


# -- requests ------------------------------------------------------------------------


def test_what_is_asked_for_in_vain(folder: str) -> None:
    with Broker.open(made(folder)) as broker, broker.producer() as producer:
        with pytest.raises(UnknownTopic):
            producer.send("nowhere", b"")
        with pytest.raises(UnknownTopic):
            broker.consumer("nowhere")
        with pytest.raises(InvalidTopicName):
            broker.create_topic("no/where")
        with pytest.raises(RecordTooLarge):
            producer.send("orders", b"x" * (2 << 20))
        with pytest.raises(OffsetOutOfRange):
            broker.consumer("orders", start=99)
        assert values(read_all(broker)) == [b"one", b"two"]


# -- no room -------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(path: str, size: str) -> Iterator[str]:
    """A file system of its own that is soon full."""
    os.makedirs(path)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True
    )
    if done.returncode:
        pytest.skip("may not mount a small file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_a_disk_that_is_really_full(folder: str) -> None:
    with small_disk(os.path.join(folder, "disk"), "8m") as disk:
        with Broker.open(os.path.join(disk, "data")) as broker:
            broker.create_topic("orders")
            room = Path(disk, "room")
            room.write_bytes(b"x" * (2 << 20))
            stored: list[bytes] = []
            with broker.producer() as producer:
                with pytest.raises(StorageFull) as caught:
                    for number in range(10_000):
                        value = b"%05d" % number + b"x" * 20_000
                        producer.send("orders", value).result()
                        stored.append(value)
                assert caught.value.topic == "orders"
                assert len(stored) > 5
                assert values(read_all(broker))[: len(stored)] == stored
                filler = Path(disk, "filler")
                with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                    while True:
                        file.write(b"x" * 4096)
                # Now nothing at all has room: each says so, and nothing breaks.
                failures: list[Callable[[], object]] = [
                    lambda: broker.create_topic("more", 50),
                    lambda: broker.reset_group("h" * 200, "orders", {0: 1}),
                    lambda: broker.consumer("orders", group="i"),
                    lambda: producer.send("orders", b"x" * 9000).result(),
                ]
                for call in failures:
                    with contextlib.suppress(StorageFull):
                        call()
                assert values(read_all(broker))[: len(stored)] == stored
                filler.unlink()
                room.unlink()
                # Room again: everything works, without a restart.
                producer.send("orders", b"after").result()
                if "more" not in [topic.name for topic in broker.topics()]:
                    broker.create_topic("more", 2)
                put(broker, b"x", topic="more", partition=1)
                with broker.consumer("orders", group="g") as consumer:
                    got = []
                    while records := consumer.poll():
                        got += values(records)
                    consumer.ack()
                    assert got[: len(stored)] == stored
                    assert got[-1] == b"after"
                eventually(lambda: not list(broker.verify()))
        with Broker.open(os.path.join(disk, "data")) as broker:
            assert values(read_all(broker))[-1] == b"after"
            assert broker.group("g").offsets[0].lag == 0
            assert list(broker.verify()) == []


def test_a_file_size_limit(folder: str) -> None:
    path = made(folder)

    def live(say: Callable[[str], None]) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with Broker.open(path) as broker, broker.producer() as producer:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            limit = os.path.getsize(os.path.join(path, "state.lmdb", "data.mdb")) + 65_536
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            count = 0
            with pytest.raises(StorageFull):
                while True:
                    producer.send("orders", b"x" * 10_000).result()
                    count += 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            producer.send("orders", b"after").result()
            say(str(count))

    [count] = Child(live).wait()
    assert int(count) > 3
    with Broker.open(path) as broker:
        got = values(read_all(broker))
        assert len(got) == 2 + int(count) + 1
        assert got[-1] == b"after"
        assert list(broker.verify()) == []


@pytest.mark.parametrize("kind", ["pwrite", "pwritev", "allocate", "sync", "open", "truncate"])
def test_any_call_that_fails_while_producing(folder: str, kind: str) -> None:
    """Whichever call fails, what was acknowledged is there, and it goes on after reopening."""
    number = 0
    for nth in range(1, 12):
        path = os.path.join(folder, f"{nth}")
        error = 28 if nth % 2 else 5
        files = FaultyFiles(Files().boot_id())
        kept: list[bytes] = []
        broker = broker_on(files, path)
        broker.create_topic("orders", config={"segment.bytes": 4096})
        files.fail(kind, nth=nth, error=error, where="orders" if kind == "open" else "")
        with contextlib.suppress(BrokerError), broker.producer() as producer:
            for _ in range(12):
                number += 1
                value = b"%d" % number + b"x" * 700
                with contextlib.suppress(BrokerError):
                    producer.send("orders", value).result()
                    kept.append(value)
        files.heal()
        with contextlib.suppress(BrokerError):
            broker.close()
        with Broker.open(path) as again:
            put(again, b"after")
            got = [value for value in values(read_all(again)) if value in (*kept, b"after")]
            assert got == [*kept, b"after"]
            assert list(again.verify()) == []
