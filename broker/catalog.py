"""The catalogue: which topics there are, their partitions and settings. ``catalog.db``.

SQLite in WAL mode with ``synchronous=FULL``. Layout (version 2, in ``user_version``)::

    topics           id  name  uuid  state  created_ms
    partitions       id  topic_id  number  state
    settings         topic_id  name  value            what was set, not the defaults
    broker_settings  name  value                      the same, of the broker as a whole

Version 1 had neither a partition's state nor settings of the broker; whoever opens it
first brings it up to date, in one transaction.

Ids are AUTOINCREMENT: never used again, so what is stored elsewhere under an id can
never be taken for another topic's. A topic's state is one of

    creating    its row is there, its logs may not be: not visible yet
    live
    deleting    on its way out; the name may be used again at once

and a crash leaves it in the first or the last, for `unfinished` to give to whoever
finishes it. A partition that is added to a live topic is ``creating`` as well, until its
log is there; `unfinished` gives those as a topic that is ``growing``. Writers begin with
BEGIN IMMEDIATE, so they wait for each other, for at most ``busy_timeout_ms``, instead of
failing halfway. Transactions are short.

Reading is plain SQL here; what is written, SQLAlchemy composes in `catalog_writes`, which
is imported for the first change: most processes only read, and start in half the time.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from seawall.broker.catalog_connection import CatalogConnection
from seawall.broker.errors import (
    CatalogDamaged,
    CatalogUnusable,
    TopicExists,
    UnknownTopic,
    UnsupportedFormat,
)
from seawall.broker.topic_info import PartitionInfo, TopicInfo

if TYPE_CHECKING:
    from seawall.broker.catalog_writes import Writer

__all__ = ["Catalog", "PartitionInfo", "TopicInfo", "Version"]

SCHEMA_VERSION = 2
BUSY_TIMEOUT_MS = 10_000

CREATING = "creating"
LIVE = "live"
DELETING = "deleting"
GROWING = "growing"  # in no row: a live topic with partitions that are being created

Version = tuple[int, int, int]


class Catalog:
    """The catalogue of one directory, for every thread of this process.

    All methods may raise `CatalogDamaged`, `CatalogBusy`, `CatalogUnusable`,
    `StorageFull`, `BrokerClosed` and `ForkedBroker`; then nothing has changed.
    """

    def __init__(self, path: str, *, create: bool, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        """Open the catalogue, or, with ``create``, make one where none is.

        Raises `UnsupportedFormat` for a version that this program does not know, and
        `CatalogDamaged` for a file that holds no catalogue.
        """
        self.path = path
        self._writes = 0  # of this process
        self._file = CatalogConnection(path, create=create, busy_timeout_ms=busy_timeout_ms)
        try:
            self._check_schema(create=create)
        except BaseException:
            self._file.close()
            raise

    # -- topics ----------------------------------------------------------------------

    def topics(self) -> list[TopicInfo]:
        """Every live topic, by name."""
        with self._file.transaction("BEGIN") as connection:
            return self._load(connection, "state = ?", LIVE)

    def topic(self, name: str) -> TopicInfo:
        """One live topic. Raises `UnknownTopic`."""
        with self._file.transaction("BEGIN") as connection:
            return self._one(connection, name, LIVE)

    def unfinished(self) -> list[TopicInfo]:
        """What is being created or deleted, or was when somebody died.

        A topic that is growing comes with only the partitions that are not visible yet.
        """
        with self._file.transaction("BEGIN") as connection:
            return [*self._load(connection, "state <> ?", LIVE), *self._growing(connection)]

    def begin_create(self, name: str, partitions: int, config: Mapping[str, str]) -> TopicInfo:
        """Store a topic that is not visible yet. Raises `TopicExists`.

        Name and settings have been checked. Follow it with `finish_create`.
        """
        with self._writing() as writer:
            taken = writer.connection.execute(
                "SELECT state FROM topics WHERE name = ? AND state <> ?", (name, DELETING)
            ).fetchone()
            if taken is not None:
                raise TopicExists(topic=name, state=taken[0])
            row = {
                "name": name,
                "uuid": str(uuid.uuid4()),
                "state": CREATING,
                "created_ms": time.time_ns() // 1_000_000,
            }
            topic_id = writer.add_topic(row, partitions)
            writer.add_settings(topic_id, config)
            return self._one(writer.connection, name, CREATING)

    def finish_create(self, topic_id: int) -> None:
        """Make a topic visible whose logs are there. Does nothing if it is live."""
        with self._writing() as writer:
            writer.set_state(topic_id, LIVE, only_from=CREATING)

    def begin_delete(self, name: str, only: uuid.UUID | None = None) -> TopicInfo:
        """Hide a topic, be it live or still being created. Raises `UnknownTopic`, also if
        `only` is given and is not its UUID.

        Follow it with `finish_delete` once its logs are gone.
        """
        with self._writing() as writer:
            info = self._one(writer.connection, name, LIVE, CREATING)
            if only is not None and info.uuid != only:
                raise UnknownTopic(topic=name)
            writer.set_state(info.id, DELETING)
            return self._load(writer.connection, "id = ?", info.id)[0]

    def finish_delete(self, topic_id: int) -> None:
        """Forget a topic that is being deleted. Does nothing if it is gone, or not that."""
        with self._writing() as writer:
            writer.remove_topic(topic_id, only_from=DELETING)

    def begin_grow(self, name: str, total: int) -> TopicInfo:
        """Store further partitions of a topic, up to so many, which are not visible yet.

        Gives the topic with these partitions only. Follow it with `finish_grow` once their
        logs are there, or with `undo_grow` once they are not. Raises `UnknownTopic`.
        """
        with self._writing() as writer:
            info = self._one(writer.connection, name, LIVE)
            writer.add_partitions(info.id, range(len(info.partitions), total), CREATING)
            return self._growing(writer.connection, info.id)[0]

    def finish_grow(self, topic_id: int) -> None:
        """Make added partitions visible. Does nothing if there are none."""
        with self._writing() as writer:
            writer.set_partition_state(topic_id, LIVE, only_from=CREATING)

    def undo_grow(self, topic_id: int) -> None:
        """Forget added partitions that are not visible yet, whose logs are gone."""
        with self._writing() as writer:
            writer.remove_partitions(topic_id, only_from=CREATING)

    def config(self, name: str) -> Mapping[str, str]:
        """What was set for a live topic. Raises `UnknownTopic`."""
        return self.topic(name).config

    def set_config(self, name: str, changes: Mapping[str, str | None]) -> TopicInfo:
        """Change settings, which have been checked; None takes one back to its default.

        Raises `UnknownTopic`.
        """
        with self._writing() as writer:
            topic_id = self._one(writer.connection, name, LIVE).id
            writer.remove_settings(topic_id, changes)
            kept = {key: value for key, value in changes.items() if value is not None}
            writer.add_settings(topic_id, kept)
            return self._one(writer.connection, name, LIVE)

    # -- the broker as a whole -------------------------------------------------------

    def broker_config(self) -> dict[str, str]:
        """What was set for the broker."""
        with self._file.transaction("BEGIN") as connection:
            return dict(connection.execute("SELECT name, value FROM broker_settings"))

    def set_broker_config(self, changes: Mapping[str, str | None]) -> None:
        """Change settings of the broker, which have been checked; None as in `set_config`."""
        with self._writing() as writer:
            writer.change_broker_settings(changes)

    # -- the file as a whole ---------------------------------------------------------

    def version(self) -> Version:
        """Something that differs whenever anything was changed, by whichever process.

        Quick, so that a process may keep what it read and still see every change.
        """
        with self._file.bare() as raw:
            data_version: int = raw.execute("PRAGMA data_version").fetchone()[0]
            return self._file.opened, data_version, self._writes

    def integrity_check(self) -> list[str]:
        """What SQLite finds wrong with the file, in its words; empty if nothing."""
        problems = []
        try:
            with self._file.bare() as raw:
                problems += [row[0] for row in raw.execute("PRAGMA integrity_check")]
                for row in raw.execute("PRAGMA foreign_key_check"):
                    problems.append(f"row {row[1]} of {row[0]} refers to no row of {row[2]}")
            self.topics()
        except CatalogDamaged as error:
            problems.append(error.reason)
        return [problem for problem in problems if problem != "ok"]

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._file.close()

    def abandon(self) -> None:
        """In a forked child: never use it again."""
        self._file.abandon()

    # -- rows ------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        # Before the transaction: others would wait for the import.
        from seawall.broker.catalog_writes import Writer

        with self._file.transaction("BEGIN IMMEDIATE") as connection:
            yield Writer(connection)
        self._writes += 1

    def _check_schema(self, *, create: bool) -> None:
        with self._file.bare() as raw:
            [version] = raw.execute("PRAGMA user_version").fetchone()
            if not 0 <= version <= SCHEMA_VERSION:
                raise UnsupportedFormat(
                    path=self.path, found=str(version), supported=str(SCHEMA_VERSION)
                )
            if not version and not create:
                raise CatalogDamaged(path=self.path, reason="it is empty")
            [mode] = raw.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                reason = "its file system has no shared memory"
                raise CatalogUnusable(path=self.path, reason=reason)
        if not version:
            with self._writing() as writer:
                writer.create_tables(SCHEMA_VERSION)
        elif version < SCHEMA_VERSION:
            with self._writing() as writer:
                [version] = writer.connection.execute("PRAGMA user_version").fetchone()
                if version < SCHEMA_VERSION:  # nobody was quicker
                    writer.upgrade(SCHEMA_VERSION)

    def _growing(self, connection: sqlite3.Connection, topic_id: int = 0) -> list[TopicInfo]:
        """Live topics with partitions that are being created, and those alone; or this one."""
        which = "state = ? AND id IN (SELECT topic_id FROM partitions WHERE state = ?)"
        found = self._load(connection, which, LIVE, CREATING, partition_state=CREATING)
        return [
            replace(info, state=GROWING) for info in found if not topic_id or info.id == topic_id
        ]

    def _one(self, connection: sqlite3.Connection, name: str, *states: str) -> TopicInfo:
        any_state = " OR ".join(["state = ?"] * len(states))
        found = self._load(connection, f"name = ? AND ({any_state})", name, *states)
        if not found:
            raise UnknownTopic(topic=name)
        return found[0]

    def _load(
        self,
        connection: sqlite3.Connection,
        which: str,
        *values: str | int,
        partition_state: str = LIVE,
    ) -> list[TopicInfo]:
        """The topics that a condition holds for; ``values`` are what its ``?`` stand for.

        Of a live topic, only the partitions in one state.
        """
        wanted = f"(SELECT id FROM topics WHERE {which})"
        partitions: dict[int, list[PartitionInfo]] = {}
        for partition_id, topic_id, number in connection.execute(
            "SELECT partitions.id, topic_id, number FROM partitions "
            "JOIN topics ON topics.id = topic_id "
            f"WHERE topic_id IN {wanted} AND (topics.state <> ? OR partitions.state = ?) "
            "ORDER BY number",
            (*values, LIVE, partition_state),
        ):
            partition = PartitionInfo(id=partition_id, number=number)
            partitions.setdefault(topic_id, []).append(partition)
        settings: dict[int, dict[str, str]] = {}
        for topic_id, name, value in connection.execute(
            f"SELECT topic_id, name, value FROM settings WHERE topic_id IN {wanted} ORDER BY name",
            values,
        ):
            settings.setdefault(topic_id, {})[name] = value
        try:
            return [
                TopicInfo(
                    id=topic_id,
                    name=name,
                    uuid=uuid.UUID(text),
                    state=state,
                    created_ms=created_ms,
                    partitions=tuple(partitions[topic_id]),
                    config=settings.get(topic_id, {}),
                )
                for topic_id, name, text, state, created_ms in connection.execute(
                    "SELECT id, name, uuid, state, created_ms FROM topics "
                    f"WHERE {which} ORDER BY name, id",
                    values,
                )
            ]
        except (KeyError, ValueError, AttributeError) as error:  # not text, or no UUID
            reason = f"a topic's row makes no sense ({error})"
            raise CatalogDamaged(path=self.path, reason=reason) from error
