"""Repairing a directory: alone, what it is told, and never a truth."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from brokers import broker_on, put, read_all, values
from storage import FaultyFiles, batch, flip

from seawall.broker import Broker
from seawall.broker.errors import (
    CatalogDamaged,
    DirectoryInUse,
    DirectoryUnusable,
    LogFenced,
    StateDamaged,
    UnknownTopic,
)
from seawall.broker.repair import Repaired, repair
from seawall.broker.state_format import group_key
from seawall.wal.kv import Environment
from seawall.wal.sectors import PAGE_BYTES

SIZE = len(batch(b"value 0"))


@pytest.fixture
def path(folder: str) -> str:
    """A directory with two topics of five records; group g has acknowledged three."""
    with Broker.open(folder) as broker:
        for topic in ("orders", "other"):
            broker.create_topic(topic)
            for number in range(5):
                put(broker, b"value %d" % number, topic=topic)
        with broker.consumer("orders", group="g") as consumer:
            for record in consumer.poll(3):
                consumer.ack(record)
    return folder


def segment_of(path: str, topic: str) -> str:
    (found,) = Path(path).glob(f"logs/*-{topic}-0/*0.log")
    return str(found)


def snapshot(path: str) -> dict[str, bytes]:
    folders = ("logs", "quarantine", "index.lmdb", "state.lmdb")
    return {
        str(each): each.read_bytes()
        for folder in folders
        for each in sorted(Path(path, folder).rglob("*"))
        if (each.is_file() and each.suffix != ".mdb") or each.name == "data.mdb"
    }


def spoil(environment: Environment, key: bytes) -> None:
    """Have a value without its checksum."""
    with environment.write() as transaction:
        transaction._transaction.put(key, b"rubbish")


def damage_both(path: str) -> None:
    for topic in ("orders", "other"):
        flip(segment_of(path, topic), 3 * SIZE + 65)


def test_nothing_to_repair(path: str) -> None:
    before = snapshot(path)
    assert list(repair(path)) == []
    assert list(repair(path, "orders")) == []
    assert snapshot(path) == before


def test_damage_becomes_a_hole_and_groups_stay(path: str) -> None:
    damage_both(path)
    with Broker.open(path) as broker:
        found = list(broker.verify())
        assert [each.verdict for each in found] == ["damage", "damage"]
    done = list(repair(path))
    assert [each.finding for each in done] == found
    assert [each.action for each in done] == ["hole", "hole"]
    for each in done:
        assert each.quarantined is not None
        assert os.path.getsize(each.quarantined) == SIZE - 1  # without its last zero
    with Broker.open(path) as broker:
        assert list(broker.verify()) == []
        for topic in ("orders", "other"):
            assert [record.offset for record in read_all(broker, topic)] == [0, 1, 2, 4]
        with broker.consumer("orders", group="g") as consumer:
            assert [record.offset for record in consumer.poll()] == [4]
        put(broker, b"more")
        assert values(read_all(broker))[-1] == b"more"
    assert list(repair(path)) == []


def test_one_topic_only(path: str) -> None:
    damage_both(path)
    (done,) = repair(path, "other")
    assert (done.finding.topic, done.finding.partition) == ("other", 0)
    with Broker.open(path) as broker:
        assert [each.topic for each in broker.verify()] == ["orders"]
    for dry_run in (False, True):
        with pytest.raises(UnknownTopic):
            list(repair(path, "nowhere", dry_run=dry_run))


def test_a_dry_run_touches_nothing_and_others_may_be_there(path: str) -> None:
    damage_both(path)
    before = snapshot(path)
    with Broker.open(path):
        done = list(repair(path, dry_run=True))
    assert [(each.action, each.quarantined) for each in done] == [("hole", None)] * 2
    assert snapshot(path) == before


def test_it_wants_to_be_alone(path: str) -> None:
    damage_both(path)
    before = snapshot(path)
    with Broker.open(path):
        with pytest.raises(DirectoryInUse) as caught:
            list(repair(path))
        assert caught.value.holder_pid == os.getpid()
    assert snapshot(path) == before
    # The directory is free again as soon as the repair has ended, even half way.
    repairing = repair(path)
    next(repairing)
    with pytest.raises(Exception, match="LOCK"):
        Broker.open(path, open_timeout_ms=50)
    repairing.close()
    Broker.open(path).close()
    assert len(list(repair(path))) == 1


def test_there_must_be_a_directory(folder: str) -> None:
    with pytest.raises(DirectoryUnusable):
        list(repair(os.path.join(folder, "nowhere")))


def test_a_damaged_index_is_built_again(path: str) -> None:
    with Broker.open(path) as broker:
        spoil(broker.engine.opening.index_environment, b"C" + (1).to_bytes(8, "big"))
        (found,) = broker.verify()
        assert (found.verdict, found.path) == ("index", os.path.join(path, "index.lmdb"))
        assert "cache" in found.problem
    (planned,) = repair(path, dry_run=True)
    assert planned == Repaired(finding=found, action="rebuilt")
    (done,) = repair(path)
    assert done.action == "rebuilt"
    assert done.quarantined is not None
    assert Path(done.quarantined, "data.mdb").read_bytes()
    with Broker.open(path) as broker:
        assert list(broker.verify()) == []
        assert broker.engine.opening.index.checkpoint(1) is not None
        assert len(read_all(broker)) == 5


def test_the_truths_are_left_as_they_are(path: str) -> None:
    with Broker.open(path) as broker:
        spoil(broker.engine.opening.state_environment, group_key("g"))
    data = os.path.join(path, "state.lmdb", "data.mdb")
    before = Path(data).read_bytes()
    (done,) = repair(path)
    assert (done.finding.verdict, done.action) == ("state", "left")
    assert "backup" in done.finding.problem
    assert Path(data).read_bytes() == before
    for name, error in (("state.lmdb/data.mdb", StateDamaged), ("catalog.db", CatalogDamaged)):
        target = Path(path, name)
        whole = target.read_bytes()
        target.write_bytes(b"rubbish" * 1000)
        with pytest.raises(error):
            list(repair(path))
        assert target.read_bytes() == b"rubbish" * 1000
        target.write_bytes(whole)


class BadSectors(FaultyFiles):
    """A disk that does not give back what is around one byte of one file."""

    inode = -1
    position = 0

    def pread(self, descriptor: int, size_bytes: int, position: int) -> bytes:
        is_around = position <= self.position < position + size_bytes
        if is_around and os.fstat(descriptor).st_ino == self.inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread(descriptor, size_bytes, position)


def test_an_unreadable_end_is_given_up_only_when_told(folder: str) -> None:
    files = BadSectors()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        broker.create_topic("other")
        for number in range(6):
            put(broker, b"%d" % number * 1000)
        put(broker, b"fine", topic="other")
        files.inode, files.position = os.stat(segment_of(folder, "orders")).st_ino, PAGE_BYTES
    # Nobody knows how far it was on disk.
    os.unlink(os.path.join(folder, "run", "ends"))
    os.rename(os.path.join(folder, "index.lmdb"), os.path.join(folder, "run", "away"))
    for _ in range(2):
        with broker_on(files, folder) as broker:
            put(broker, b"fine", topic="other")
            with pytest.raises(LogFenced), broker.producer() as producer:
                producer.send("orders", b"x").result()
            found = list(broker.verify())
            assert [each.verdict for each in found] == ["unreadable"]
            assert found[0].path == segment_of(folder, "orders")
            assert found[0].problem.startswith("it cannot be read")
    (done,) = repair(folder, files=files)
    assert (done.finding.verdict, done.action) == ("hole", "hole")
    with broker_on(files, folder) as broker:
        assert list(broker.verify()) == []
        assert [record.offset for record in read_all(broker)] == [0, 1, 2, 4, 5]
        put(broker, b"more")
        assert read_all(broker)[-1].offset == 6
