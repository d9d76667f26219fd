"""catalog.db: topics that come and go, in several processes, on bad days."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seawall.broker import catalog_connection
from seawall.broker.catalog import Catalog, PartitionInfo
from seawall.broker.errors import (
    BrokerClosed,
    BrokerError,
    CatalogBusy,
    CatalogDamaged,
    CatalogUnusable,
    ForkedBroker,
    StorageFull,
    TopicExists,
    UnknownTopic,
    UnsupportedFormat,
)

PRELUDE = """
import os, sys, time
from seawall.broker.catalog import Catalog
from seawall.broker.errors import BrokerError
path = sys.argv[1]
def say(text):
    sys.stdout.write(str(text) + "\\n"); sys.stdout.flush()
def create(catalog, name):
    info = catalog.begin_create(name, 2, {})
    catalog.finish_create(info.id)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    catalog = Catalog(str(path), create=True)
    yield catalog
    catalog.close()


def create(catalog: Catalog, name: str, partitions: int = 2, **config: str) -> int:
    info = catalog.begin_create(name, partitions, config)
    catalog.finish_create(info.id)
    return info.id


def start(source: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + source, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def heard(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def tell(child: subprocess.Popen[str], text: str = "") -> None:
    assert child.stdin is not None
    child.stdin.write(text + "\n")
    child.stdin.flush()


# -- topics --------------------------------------------------------------------------


def test_a_topic_is_visible_once_it_is_finished(catalog: Catalog) -> None:
    info = catalog.begin_create("orders", 3, {"segment.bytes": "4096"})
    assert info.state == "creating"
    assert catalog.topics() == []
    with pytest.raises(UnknownTopic):
        catalog.topic("orders")
    assert catalog.unfinished() == [info]
    catalog.finish_create(info.id)
    catalog.finish_create(info.id)
    live = catalog.topic("orders")
    assert catalog.topics() == [live]
    assert catalog.unfinished() == []
    assert (live.id, live.name, live.uuid, live.state) == (info.id, "orders", info.uuid, "live")
    assert isinstance(live.uuid, uuid.UUID)
    assert [partition.number for partition in live.partitions] == [0, 1, 2]
    assert live.config == {"segment.bytes": "4096"}
    assert live.settings.segment_bytes == 4096
    assert abs(live.created_ms - time.time_ns() // 1_000_000) < 60_000


def test_a_name_is_taken_from_the_first_moment(catalog: Catalog) -> None:
    info = catalog.begin_create("orders", 1, {})
    with pytest.raises(TopicExists) as caught:
        catalog.begin_create("orders", 1, {})
    assert caught.value.state == "creating"
    catalog.finish_create(info.id)
    with pytest.raises(TopicExists) as caught:
        catalog.begin_create("orders", 1, {})
    assert caught.value.state == "live"
    create(catalog, "Orders")  # another name
    assert [topic.name for topic in catalog.topics()] == ["Orders", "orders"]


def test_a_deleted_topic_is_hidden_and_its_name_is_free(catalog: Catalog) -> None:
    first = create(catalog, "orders", **{"segment.ms": "5"})
    deleting = catalog.begin_delete("orders")
    assert (deleting.id, deleting.state) == (first, "deleting")
    assert catalog.topics() == []
    for action in (catalog.begin_delete, catalog.topic, catalog.config):
        with pytest.raises(UnknownTopic):
            action("orders")
    second = create(catalog, "orders")
    assert catalog.unfinished() == [deleting]
    catalog.finish_delete(second)  # not being deleted: stays
    catalog.finish_delete(first)
    catalog.finish_delete(first)
    assert catalog.unfinished() == []
    assert [topic.id for topic in catalog.topics()] == [second]
    assert catalog.config("orders") == {}


def test_one_that_was_never_finished_can_be_deleted(catalog: Catalog) -> None:
    info = catalog.begin_create("orders", 1, {})
    catalog.begin_delete("orders")
    catalog.finish_create(info.id)  # too late
    assert catalog.topics() == []
    catalog.finish_delete(info.id)
    assert catalog.unfinished() == []


def test_ids_are_never_used_again(path: Path) -> None:
    topic_ids: list[int] = []
    partition_ids: list[int] = []
    uuids = set()
    for _ in range(4):
        catalog = Catalog(str(path), create=True)
        create(catalog, "orders", 3)
        info = catalog.begin_delete("orders")
        catalog.finish_delete(info.id)
        topic_ids.append(info.id)
        partition_ids += [partition.id for partition in info.partitions]
        uuids.add(info.uuid)
        catalog.close()
    assert topic_ids == sorted(set(topic_ids))
    assert partition_ids == sorted(set(partition_ids))
    assert len(partition_ids) == 12
    assert len(uuids) == 4


def test_settings_change_one_by_one(catalog: Catalog) -> None:
    create(catalog, "orders", **{"segment.ms": "5", "segment.bytes": "4096"})
    create(catalog, "other", **{"segment.ms": "7"})
    info = catalog.set_config("orders", {"segment.ms": None, "segment.bytes": "8192"})
    assert info.config == catalog.config("orders") == {"segment.bytes": "8192"}
    catalog.set_config("orders", {})
    assert catalog.config("orders") == {"segment.bytes": "8192"}
    assert catalog.config("other") == {"segment.ms": "7"}
    with pytest.raises(UnknownTopic):
        catalog.set_config("nobody", {"segment.ms": "1"})


def test_an_error_halfway_changes_nothing(catalog: Catalog) -> None:
    for value in (object(), None):
        with pytest.raises(BrokerError):
            catalog.begin_create("orders", 2, {"segment.ms": value})  # type: ignore[dict-item]
    assert catalog.unfinished() == []
    create(catalog, "orders")


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
@pytest.mark.parametrize("denied", ["", "COMMIT", "ROLLBACK", "both", "undoing"])
def test_whatever_ends_it_no_transaction_stays_open(
    catalog: Catalog, path: Path, begin: str, denied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt, SQLite's refusal to commit or to undo, or an interrupt even before that."""
    create(catalog, "orders")
    opened = catalog.version()[0]

    def authorize(action: int, first: str | None, *rest: str | None) -> int:
        is_end = action == sqlite3.SQLITE_TRANSACTION and first in ("COMMIT", "ROLLBACK")
        is_denied = is_end and denied in (first, "both")
        return sqlite3.SQLITE_DENY if is_denied else sqlite3.SQLITE_OK

    def interrupted(self: object, connection: object) -> None:
        raise KeyboardInterrupt

    if denied == "undoing":
        monkeypatch.setattr(catalog_connection.CatalogConnection, "_undo", interrupted)
    ending = CatalogUnusable if denied in ("COMMIT", "both") else KeyboardInterrupt
    with pytest.raises(ending), catalog._file.transaction(begin) as connection:
        connection.set_authorizer(authorize)
        connection.execute("DELETE FROM topics")
        if ending is KeyboardInterrupt:
            raise KeyboardInterrupt
    monkeypatch.undo()
    closed = denied in ("ROLLBACK", "both", "undoing")  # which undoes it as well
    if not closed:
        connection.set_authorizer(None)
    assert [topic.name for topic in catalog.topics()] == ["orders"]
    other = Catalog(str(path), create=False, busy_timeout_ms=100)
    create(other, "others")
    other.close()
    assert [topic.name for topic in catalog.topics()] == ["orders", "others"]
    assert catalog.version()[0] == opened + closed


def test_an_interrupt_while_writing_changes_nothing(
    catalog: Catalog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seawall.broker.catalog_writes.Writer.add_settings", interrupted)
    before = catalog.version()
    with pytest.raises(KeyboardInterrupt):
        catalog.begin_create("orders", 2, {"segment.ms": "5"})
    monkeypatch.undo()
    assert (catalog.version(), catalog.unfinished()) == (before, [])
    create(catalog, "orders")


def test_only_writing_imports_sqlalchemy(catalog: Catalog, path: Path) -> None:
    """It takes longer than all else that a process does which only reads."""
    create(catalog, "orders", **{"segment.ms": "5"})
    source = """
catalog = Catalog(path, create=False)
catalog.topics(), catalog.topic("orders"), catalog.config("orders"), catalog.unfinished()
catalog.version(), catalog.integrity_check()
say("sqlalchemy" in sys.modules)
create(catalog, "others")
say("sqlalchemy" in sys.modules)
catalog.close()
"""
    with start(source, path) as child:
        assert (heard(child), heard(child)) == ("False", "True")
    assert child.returncode == 0


def test_many_partitions(catalog: Catalog) -> None:
    create(catalog, "wide", 5000)
    partitions = catalog.topic("wide").partitions
    assert partitions == tuple(PartitionInfo(id=n + 1, number=n) for n in range(5000))


# -- versions ------------------------------------------------------------------------


def test_every_change_has_another_version(catalog: Catalog) -> None:
    seen = {catalog.version()}

    def step(action: Callable[[], object]) -> None:
        assert catalog.version() in seen
        action()
        assert catalog.version() not in seen
        seen.add(catalog.version())

    step(lambda: catalog.begin_create("orders", 1, {}))
    step(lambda: catalog.finish_create(1))
    step(lambda: catalog.set_config("orders", {"segment.ms": "1"}))
    step(lambda: catalog.begin_delete("orders"))
    step(lambda: catalog.finish_delete(1))
    catalog.topics()
    assert catalog.version() in seen


def test_changes_of_other_processes_are_seen_at_once(catalog: Catalog, path: Path) -> None:
    source = """
catalog = Catalog(path, create=False)
for line in sys.stdin:
    create(catalog, line.strip()); say("done")
catalog.close()
"""
    with start(source, path) as child:
        for name in ("a", "b", "c"):
            before = catalog.version()
            assert catalog.version() == before
            tell(child, name)
            assert heard(child) == "done"
            assert catalog.version() != before
            assert catalog.topic(name).name == name
    assert child.returncode == 0


# -- other processes -----------------------------------------------------------------


def test_two_processes_create_the_same_topic_at_once(catalog: Catalog, path: Path) -> None:
    source = """
catalog = Catalog(path, create=True)
say("ready"); sys.stdin.readline()
wins = []
for n in range(30):
    try:
        create(catalog, "t%d" % n)
    except BrokerError as error:
        assert type(error).__name__ == "TopicExists", error
    else:
        wins.append(n)
say(wins)
catalog.close()
"""
    children = [start(source, path) for _ in range(2)]
    for child in children:
        assert heard(child) == "ready"
    for child in children:
        tell(child)
    wins = [eval(heard(child)) for child in children]
    for child in children:
        with child:
            pass
        assert child.returncode == 0
    assert sorted(wins[0] + wins[1]) == list(range(30))
    topics = catalog.topics()
    assert len(topics) == 30
    assert len({partition.id for topic in topics for partition in topic.partitions}) == 60


def test_processes_that_make_the_file_at_once(path: Path) -> None:
    source = """
catalog = Catalog(path, create=True)
create(catalog, "t%d" % os.getpid())
catalog.close()
"""
    children = [start(source, path) for _ in range(3)]
    for child in children:
        with child:
            pass
        assert child.returncode == 0
    catalog = Catalog(str(path), create=False)
    assert {topic.name for topic in catalog.topics()} == {f"t{child.pid}" for child in children}
    catalog.close()


@pytest.mark.parametrize("moment", ["creating", "deleting", "inside"])
def test_what_a_killed_process_began_is_found(path: Path, moment: str) -> None:
    source = """
catalog = Catalog(path, create=True)
create(catalog, "kept")
if sys.argv[2:] == [] and MOMENT == "creating":
    catalog.begin_create("orders", 2, {})
elif MOMENT == "deleting":
    create(catalog, "orders"); catalog.begin_delete("orders")
else:
    with catalog._writing() as writer:
        writer.connection.execute("DELETE FROM topics")
        say("now"); time.sleep(60)
say("now"); time.sleep(60)
"""
    with start(f"MOMENT = {moment!r}\n" + source, path) as child:
        assert heard(child) == "now"
        child.kill()
    catalog = Catalog(str(path), create=False)
    states = [(topic.name, topic.state) for topic in catalog.unfinished()]
    assert states == ([] if moment == "inside" else [("orders", moment)])
    assert [topic.name for topic in catalog.topics()] == ["kept"]
    assert catalog.integrity_check() == []
    catalog.close()


def test_a_stopped_writer_is_waited_for(path: Path) -> None:
    catalog = Catalog(str(path), create=True, busy_timeout_ms=150)
    source = """
catalog = Catalog(path, create=False)
with catalog._writing():
    say("inside"); sys.stdin.readline()
catalog.close()
"""
    with start(source, path) as child:
        assert heard(child) == "inside"
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(CatalogBusy) as caught:
            catalog.begin_create("orders", 1, {})
        assert (caught.value.path, caught.value.timeout_ms) == (str(path), 150)
        assert catalog.topics() == []  # readers do not wait
        child.send_signal(signal.SIGCONT)
        tell(child)
    create(catalog, "orders")
    catalog.close()


def test_many_threads(catalog: Catalog) -> None:
    problems: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(5):
                create(catalog, f"t-{thread}-{number}")
                assert catalog.topic(f"t-{thread}-{number}").partitions
                catalog.version()
                catalog.topics()
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(catalog.topics()) == 25


# -- damage and trouble --------------------------------------------------------------


def test_another_version_is_refused(path: Path) -> None:
    Catalog(str(path), create=True).close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version=3")
    raw.close()
    with pytest.raises(UnsupportedFormat) as caught:
        Catalog(str(path), create=True)
    assert (caught.value.found, caught.value.supported) == ("3", "2")


def test_a_missing_file_is_not_made_unasked(path: Path) -> None:
    with pytest.raises(CatalogUnusable):
        Catalog(str(path), create=False)
    assert not path.exists()
    path.touch()
    with pytest.raises(CatalogDamaged, match="empty"):
        Catalog(str(path), create=False)
    assert path.stat().st_size == 0


def damaged_at(path: Path, position: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(content)


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("content", [b"hello" * 1000, b"\0" * 4096, os.urandom(8192)])
def test_a_file_that_is_not_sqlite_is_named(path: Path, content: bytes, create: bool) -> None:
    path.write_bytes(content)
    with pytest.raises(CatalogDamaged) as caught:
        Catalog(str(path), create=create)
    assert caught.value.path == str(path)
    assert path.read_bytes() == content


def test_every_damaged_page_is_named(path: Path) -> None:
    catalog = Catalog(str(path), create=True)
    for number in range(40):
        create(catalog, f"topic-{number}", 8, **{"segment.ms": "5"})
    catalog.close()
    data = path.read_bytes()
    assert len(data) > 5 * 4096
    for page in range(len(data) // 4096):
        path.write_bytes(data)
        damaged_at(path, page * 4096, bytes(4096))
        with pytest.raises(CatalogDamaged):
            verify(path)
    for size in range(1, len(data), 1000):
        path.write_bytes(data[:size])
        with pytest.raises((CatalogDamaged, CatalogUnusable)):
            verify(path)
    path.write_bytes(data)
    assert len(verify(path)) == 40


def verify(path: Path) -> list[str]:
    catalog = Catalog(str(path), create=False)
    try:
        problems = catalog.integrity_check()
        if problems:
            raise CatalogDamaged(path=str(path), reason=problems[0])
        return [topic.name for topic in catalog.topics()]
    finally:
        catalog.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE topics SET uuid = 'no uuid'",
        "DELETE FROM partitions",
        "DROP TABLE settings",
    ],
)
def test_rows_that_make_no_sense_are_named(path: Path, change: str) -> None:
    catalog = Catalog(str(path), create=True)
    create(catalog, "orders")
    catalog.close()
    with sqlite3.connect(path) as raw:
        raw.execute(change)
    raw.close()
    catalog = Catalog(str(path), create=False)
    with pytest.raises(CatalogDamaged):
        catalog.topics()
    assert catalog.integrity_check() != []
    catalog.close()


def test_a_full_disk_changes_nothing_and_is_left(catalog: Catalog) -> None:
    create(catalog, "orders")
    with catalog._file.bare() as raw:
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageFull):
        catalog.begin_create("wide", 5000, {})
    assert [topic.name for topic in catalog.topics()] == ["orders"]
    with catalog._file.bare() as raw:
        raw.execute("PRAGMA max_page_count=100000")
    create(catalog, "wide", 5000)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnusable):
        Catalog(str(tmp_path / "nowhere" / "catalog.db"), create=True)
    with pytest.raises(CatalogUnusable):
        Catalog(str(tmp_path), create=True)


def test_odd_paths(tmp_path: Path) -> None:
    folder = tmp_path / "a b?c=%20#é&mode=ro"
    folder.mkdir()
    catalog = Catalog(str(folder / "catalog.db"), create=True)
    create(catalog, "orders")
    catalog.close()
    assert [path.name for path in folder.iterdir()] == ["catalog.db"]


# -- close and fork ------------------------------------------------------------------


def test_close_leaves_nothing_open(catalog: Catalog, path: Path) -> None:
    create(catalog, "orders")
    catalog.close()
    catalog.close()
    assert [path.name for path in path.parent.iterdir()] == ["catalog.db"]
    for action in (catalog.topics, catalog.version, lambda: catalog.begin_delete("orders")):
        with pytest.raises(BrokerClosed):
            action()


def in_child(action: Callable[[], object]) -> str:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            try:
                answer = repr(action())
            except BaseException as error:  # noqa: BLE001
                answer = f"{type(error).__name__}: {error}"
            os.write(writer, answer.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def test_a_child_may_not_use_it_but_may_open_it(catalog: Catalog, path: Path) -> None:
    create(catalog, "orders")
    before = catalog.version()

    def child() -> list[str]:
        with pytest.raises(ForkedBroker) as caught:
            catalog.topics()
        assert caught.value.opened_by_pid == os.getppid()
        catalog.close()
        catalog.abandon()
        own = Catalog(str(path), create=False)
        create(own, "child")
        names = [topic.name for topic in own.topics()]
        own.close()
        return names

    assert in_child(child) == "['child', 'orders']"
    assert catalog.version() != before
    assert [topic.name for topic in catalog.topics()] == ["child", "orders"]
    create(catalog, "parent")
    assert catalog.integrity_check() == []


def test_forks_while_threads_write(catalog: Catalog, path: Path) -> None:
    stop = threading.Event()
    made: list[str] = []

    def write() -> None:
        while not stop.is_set():
            name = f"t{len(made)}"
            create(catalog, name, 1)
            made.append(name)
            time.sleep(0.005)  # SQLite's locks are not fair

    def child() -> int:
        own = Catalog(str(path), create=False)
        create(own, f"child-{os.getpid()}", 1)
        count = len(own.topics())
        own.close()
        return count

    thread = threading.Thread(target=write)
    thread.start()
    counts = [int(in_child(child)) for _ in range(6)]
    stop.set()
    thread.join()
    assert counts == sorted(counts)
    names = {topic.name for topic in catalog.topics()}
    assert set(made) <= names
    assert len(names) == len(made) + 6
    assert catalog.integrity_check() == []


def test_a_fork_behind_pythons_back_is_refused(
    catalog: Catalog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A C library may fork without Python's hooks; then the open connection is inherited."""
    create(catalog, "orders")
    monkeypatch.setattr(catalog_connection.CatalogConnection, "_disconnect", lambda self: None)

    def child() -> object:
        return Catalog(str(path), create=False).topics()

    assert in_child(child).startswith("CatalogUnusable: ")
    monkeypatch.undo()
    assert [topic.name for topic in catalog.topics()] == ["orders"]


# -- version 1 -----------------------------------------------------------------------

VERSION_1 = """
CREATE TABLE topics (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,
    uuid TEXT NOT NULL, state TEXT NOT NULL, created_ms INTEGER NOT NULL, UNIQUE (uuid),
    CHECK (state IN ('creating', 'live', 'deleting')));
CREATE UNIQUE INDEX topics_by_name ON topics (name) WHERE state <> 'deleting';
CREATE TABLE partitions (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    topic_id INTEGER NOT NULL, number INTEGER NOT NULL, UNIQUE (topic_id, number),
    FOREIGN KEY(topic_id) REFERENCES topics (id) ON DELETE CASCADE);
CREATE TABLE settings (topic_id INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (topic_id, name),
    FOREIGN KEY(topic_id) REFERENCES topics (id) ON DELETE CASCADE);
INSERT INTO topics VALUES (7, 'orders', '11111111-2222-3333-4444-555555555555', 'live', 5);
INSERT INTO partitions VALUES (20, 7, 0), (21, 7, 1);
INSERT INTO settings VALUES (7, 'segment.ms', '9');
PRAGMA user_version = 1;
"""


def make_version_1(path: Path) -> None:
    raw = sqlite3.connect(path)
    raw.executescript("PRAGMA journal_mode=WAL;" + VERSION_1)
    raw.close()


def test_version_1_is_brought_up_to_date_by_whoever_is_first(path: Path) -> None:
    make_version_1(path)
    catalogs: list[Catalog] = []
    barrier = threading.Barrier(4)

    def open_it() -> None:
        barrier.wait()
        catalogs.append(Catalog(str(path), create=False))

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalogs) == 4
    for catalog in catalogs:
        [info] = catalog.topics()
        assert [(each.id, each.number) for each in info.partitions] == [(20, 0), (21, 1)]
        assert (info.id, info.config, catalog.broker_config()) == (7, {"segment.ms": "9"}, {})
    catalogs[0].set_broker_config({"offsets.retention.minutes": "5"})
    grown = catalogs[1].begin_grow("orders", 3)
    catalogs[1].finish_grow(grown.id)
    assert len(catalogs[2].topic("orders").partitions) == 3
    assert catalogs[3].broker_config() == {"offsets.retention.minutes": "5"}
    assert catalogs[3].integrity_check() == []
    for catalog in catalogs:
        catalog.close()


def test_an_interrupt_while_bringing_it_up_to_date_leaves_version_1(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_version_1(path)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seawall.broker.catalog_writes.Writer.create_tables", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Catalog(str(path), create=False)
    monkeypatch.undo()
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA user_version").fetchone() == (1,)
    columns = [row[1] for row in raw.execute("PRAGMA table_info(partitions)")]
    raw.close()
    assert columns == ["id", "topic_id", "number"]
    catalog = Catalog(str(path), create=False)
    assert len(catalog.topic("orders").partitions) == 2
    catalog.close()


# -- growing -------------------------------------------------------------------------


def test_added_partitions_are_visible_once_they_are_finished(catalog: Catalog) -> None:
    topic_id = create(catalog, "orders")
    create(catalog, "other")
    added = catalog.begin_grow("orders", 4)
    assert (added.id, added.state) == (topic_id, "growing")
    assert [each.number for each in added.partitions] == [2, 3]
    assert len(catalog.topic("orders").partitions) == 2
    assert catalog.unfinished() == [added]
    catalog.undo_grow(topic_id)
    catalog.finish_grow(topic_id)
    assert (len(catalog.topic("orders").partitions), catalog.unfinished()) == (2, [])
    again = catalog.begin_grow("orders", 3)
    assert again.partitions[0].id > added.partitions[-1].id
    catalog.finish_grow(topic_id)
    catalog.undo_grow(topic_id)  # too late
    assert [each.number for each in catalog.topic("orders").partitions] == [0, 1, 2]
    assert len(catalog.topic("other").partitions) == 2
    with pytest.raises(UnknownTopic):
        catalog.begin_grow("nobody", 3)


def test_a_deleted_topic_has_its_growing_partitions(catalog: Catalog) -> None:
    create(catalog, "orders")
    catalog.begin_grow("orders", 4)
    assert len(catalog.begin_delete("orders").partitions) == 4
    [left] = catalog.unfinished()
    assert (left.state, len(left.partitions)) == ("deleting", 4)
