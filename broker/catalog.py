"""The catalogue: which topics there are, their partitions and settings. ``catalog.db``.

SQLite in WAL mode with ``synchronous=FULL``, through SQLAlchemy Core. Layout (version 1,
in ``user_version``)::

    topics      id  name  uuid  state  created_ms
    partitions  id  topic_id  number
    settings    topic_id  name  value                 what was set, not the defaults

Ids are AUTOINCREMENT: never used again, so what is stored elsewhere under an id can
never be taken for another topic's. A topic's state is one of

    creating    its row is there, its logs may not be: not visible yet
    live
    deleting    on its way out; the name may be used again at once

and a crash leaves it in the first or the last, for `unfinished` to give to whoever
finishes it. Writers begin with BEGIN IMMEDIATE, so they wait for each other, for at
most ``busy_timeout_ms``, instead of failing halfway. Transactions are short.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import sqlalchemy as sa

from seawall.broker.catalog_connection import CatalogConnection
from seawall.broker.errors import (
    CatalogDamaged,
    CatalogUnusable,
    TopicExists,
    UnknownTopic,
    UnsupportedFormat,
)
from seawall.broker.topic_info import PartitionInfo, TopicInfo

__all__ = ["Catalog", "PartitionInfo", "TopicInfo", "Version"]

SCHEMA_VERSION = 1
BUSY_TIMEOUT_MS = 10_000

CREATING = "creating"
LIVE = "live"
DELETING = "deleting"

Version = tuple[int, int, int]

_metadata = sa.MetaData()

_topics = sa.Table(
    "topics",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("uuid", sa.Text, nullable=False, unique=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created_ms", sa.Integer, nullable=False),
    sa.CheckConstraint("state IN ('creating', 'live', 'deleting')"),
    sqlite_autoincrement=True,
)
sa.Index("topics_by_name", _topics.c.name, unique=True, sqlite_where=sa.text("state <> 'deleting'"))
_partitions = sa.Table(
    "partitions",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("topic_id", sa.ForeignKey("topics.id", ondelete="CASCADE"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.UniqueConstraint("topic_id", "number"),
    sqlite_autoincrement=True,
)
_settings = sa.Table(
    "settings",
    _metadata,
    sa.Column("topic_id", sa.ForeignKey("topics.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


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
            return self._load(connection, _topics.c.state == LIVE)

    def topic(self, name: str) -> TopicInfo:
        """One live topic. Raises `UnknownTopic`."""
        with self._file.transaction("BEGIN") as connection:
            return self._one(connection, name, LIVE)

    def unfinished(self) -> list[TopicInfo]:
        """Topics that are being created or deleted, or were when somebody died."""
        with self._file.transaction("BEGIN") as connection:
            return self._load(connection, _topics.c.state != LIVE)

    def begin_create(self, name: str, partitions: int, config: Mapping[str, str]) -> TopicInfo:
        """Store a topic that is not visible yet. Raises `TopicExists`.

        Name and settings have been checked. Follow it with `finish_create`.
        """
        with self._writing() as connection:
            taken = connection.scalar(
                sa.select(_topics.c.state).where(
                    _topics.c.name == name, _topics.c.state != DELETING
                )
            )
            if taken is not None:
                raise TopicExists(topic=name, state=taken)
            row = {
                "name": name,
                "uuid": str(uuid.uuid4()),
                "state": CREATING,
                "created_ms": time.time_ns() // 1_000_000,
            }
            topic_id = connection.execute(sa.insert(_topics), row).lastrowid
            numbers = [{"topic_id": topic_id, "number": number} for number in range(partitions)]
            connection.execute(sa.insert(_partitions), numbers)
            self._put_settings(connection, topic_id, config)
            return self._one(connection, name, CREATING)

    def finish_create(self, topic_id: int) -> None:
        """Make a topic visible whose logs are there. Does nothing if it is live."""
        with self._writing() as connection:
            connection.execute(
                sa.update(_topics)
                .where(_topics.c.id == topic_id, _topics.c.state == CREATING)
                .values(state=LIVE)
            )

    def begin_delete(self, name: str) -> TopicInfo:
        """Hide a topic, be it live or still being created. Raises `UnknownTopic`.

        Follow it with `finish_delete` once its logs are gone.
        """
        with self._writing() as connection:
            info = self._one(connection, name, LIVE, CREATING)
            connection.execute(
                sa.update(_topics).where(_topics.c.id == info.id).values(state=DELETING)
            )
            return self._load(connection, _topics.c.id == info.id)[0]

    def finish_delete(self, topic_id: int) -> None:
        """Forget a topic that is being deleted. Does nothing if it is gone, or not that."""
        with self._writing() as connection:
            connection.execute(
                sa.delete(_topics).where(_topics.c.id == topic_id, _topics.c.state == DELETING)
            )

    def config(self, name: str) -> Mapping[str, str]:
        """What was set for a live topic. Raises `UnknownTopic`."""
        return self.topic(name).config

    def set_config(self, name: str, changes: Mapping[str, str | None]) -> TopicInfo:
        """Change settings, which have been checked; None takes one back to its default.

        Raises `UnknownTopic`.
        """
        with self._writing() as connection:
            topic_id = self._one(connection, name, LIVE).id
            connection.execute(
                sa.delete(_settings).where(
                    _settings.c.topic_id == topic_id, _settings.c.name.in_(list(changes))
                )
            )
            kept = {key: value for key, value in changes.items() if value is not None}
            self._put_settings(connection, topic_id, kept)
            return self._one(connection, name, LIVE)

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
    def _writing(self) -> Iterator[sa.Connection]:
        with self._file.transaction("BEGIN IMMEDIATE") as connection:
            yield connection
        self._writes += 1

    def _check_schema(self, *, create: bool) -> None:
        with self._file.bare() as raw:
            [version] = raw.execute("PRAGMA user_version").fetchone()
            if version not in (0, SCHEMA_VERSION):
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
            with self._writing() as connection:
                _metadata.create_all(connection)  # leaves alone what another has just made
                connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _one(self, connection: sa.Connection, name: str, *states: str) -> TopicInfo:
        found = self._load(connection, (_topics.c.name == name) & _topics.c.state.in_(states))
        if not found:
            raise UnknownTopic(topic=name)
        return found[0]

    def _load(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[TopicInfo]:
        wanted = sa.select(_topics.c.id).where(which).scalar_subquery()
        partitions: dict[int, list[PartitionInfo]] = {}
        for row in connection.execute(
            sa.select(_partitions)
            .where(_partitions.c.topic_id.in_(wanted))
            .order_by(_partitions.c.number)
        ):
            partition = PartitionInfo(id=row.id, number=row.number)
            partitions.setdefault(row.topic_id, []).append(partition)
        settings: dict[int, dict[str, str]] = {}
        for row in connection.execute(
            sa.select(_settings).where(_settings.c.topic_id.in_(wanted)).order_by(_settings.c.name)
        ):
            settings.setdefault(row.topic_id, {})[row.name] = row.value
        try:
            return [
                TopicInfo(
                    id=row.id,
                    name=row.name,
                    uuid=uuid.UUID(row.uuid),
                    state=row.state,
                    created_ms=row.created_ms,
                    partitions=tuple(partitions[row.id]),
                    config=settings.get(row.id, {}),
                )
                for row in connection.execute(
                    sa.select(_topics).where(which).order_by(_topics.c.name, _topics.c.id)
                )
            ]
        except (KeyError, ValueError) as error:
            reason = f"a topic's row makes no sense ({error})"
            raise CatalogDamaged(path=self.path, reason=reason) from error

    def _put_settings(
        self, connection: sa.Connection, topic_id: int, config: Mapping[str, str]
    ) -> None:
        if config:
            connection.execute(
                sa.insert(_settings),
                [{"topic_id": topic_id, "name": k, "value": v} for k, v in config.items()],
            )
