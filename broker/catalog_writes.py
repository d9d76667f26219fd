"""What is written to the catalogue: its tables, and each change as one statement.

SQLAlchemy Core composes the statements; SQLite's own connection runs them, so that a
transaction has one owner. Importing SQLAlchemy takes longer than all else that a short
command does, and reading does without: nobody imports this module but to write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

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
    sa.Column("state", sa.Text, nullable=False, server_default="live"),
    sa.UniqueConstraint("topic_id", "number"),
    sa.CheckConstraint("state IN ('creating', 'live')"),
    sqlite_autoincrement=True,
)
_settings = sa.Table(
    "settings",
    _metadata,
    sa.Column("topic_id", sa.ForeignKey("topics.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_broker_settings = sa.Table(
    "broker_settings",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

_Change = TypeVar("_Change", sa.Update, sa.Delete)
_DIALECT = sqlite.dialect(paramstyle="named")


class Writer:
    """Changes to the catalogue, inside a transaction that its user began and will end.

    Its methods raise sqlite3.Error, as does ``connection`` for what its user reads in the
    same transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def create_tables(self, version: int) -> None:
        """Make the tables, but those that another process has just made, and say which
        version of the layout they are."""
        for table in _metadata.sorted_tables:
            self._execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                self._execute(CreateIndex(index, if_not_exists=True))
        self.connection.execute(f"PRAGMA user_version={version}")

    def upgrade(self, version: int) -> None:
        """Bring tables of version 1 to this one."""
        # SQLAlchemy has no words for it: they are in Alembic.
        self.connection.execute(
            "ALTER TABLE partitions ADD COLUMN state TEXT NOT NULL DEFAULT 'live' "
            "CHECK (state IN ('creating', 'live'))"
        )
        self.create_tables(version)

    def add_topic(self, row: Mapping[str, object], partitions: int) -> int:
        """Add a topic with so many partitions, and return its id."""
        topic_id = self._execute(sa.insert(_topics).values(row)).lastrowid
        if topic_id is None:
            raise sqlite3.InternalError("a row was added, and has no id")
        self.add_partitions(topic_id, range(partitions), "live")
        return topic_id

    def add_partitions(self, topic_id: int, numbers: Iterable[int], state: str) -> None:
        """Add partitions with these numbers."""
        columns = ("topic_id", "number", "state")
        rows = ({"topic_id": topic_id, "number": each, "state": state} for each in numbers)
        self._execute_many(sa.insert(_partitions), columns, rows)

    def set_partition_state(self, topic_id: int, state: str, *, only_from: str) -> None:
        """Move a topic's partitions that are in one state to another."""
        self._execute(_in_state(sa.update(_partitions), topic_id, only_from).values(state=state))

    def remove_partitions(self, topic_id: int, *, only_from: str) -> None:
        """Remove a topic's partitions that are in one state."""
        self._execute(_in_state(sa.delete(_partitions), topic_id, only_from))

    def set_state(self, topic_id: int, state: str, *, only_from: str | None = None) -> None:
        """Move a topic to another state; with ``only_from``, if it is in that one."""
        statement = sa.update(_topics).where(_topics.c.id == topic_id)
        if only_from is not None:
            statement = statement.where(_topics.c.state == only_from)
        self._execute(statement.values(state=state))

    def remove_topic(self, topic_id: int, *, only_from: str) -> None:
        """Remove a topic, with its partitions and settings, if it is in that state."""
        self._execute(
            sa.delete(_topics).where(_topics.c.id == topic_id, _topics.c.state == only_from)
        )

    def add_settings(self, topic_id: int, config: Mapping[str, str]) -> None:
        """Add settings that a topic does not have."""
        rows = [{"topic_id": topic_id, "name": k, "value": v} for k, v in config.items()]
        self._execute_many(sa.insert(_settings), ("topic_id", "name", "value"), rows)

    def remove_settings(self, topic_id: int, names: Iterable[str]) -> None:
        """Remove settings, as far as a topic has them."""
        keys = [{"topic_id": topic_id, "name": name} for name in names]
        same = (_settings.c[column] == sa.bindparam(column) for column in ("topic_id", "name"))
        self._execute_many(sa.delete(_settings).where(*same), (), keys)

    def change_broker_settings(self, changes: Mapping[str, str | None]) -> None:
        """Set settings of the broker, or remove those that are None."""
        same = _broker_settings.c.name == sa.bindparam("name")
        self._execute_many(
            sa.delete(_broker_settings).where(same), (), [{"name": name} for name in changes]
        )
        rows = [{"name": k, "value": v} for k, v in changes.items() if v is not None]
        self._execute_many(sa.insert(_broker_settings), ("name", "value"), rows)

    def _execute(self, statement: sa.ClauseElement) -> sqlite3.Cursor:
        compiled = statement.compile(dialect=_DIALECT)
        return self.connection.execute(str(compiled), compiled.params or {})

    def _execute_many(
        self,
        statement: sa.ClauseElement,
        columns: Iterable[str],
        rows: Iterable[Mapping[str, object]],
    ) -> None:
        compiled = statement.compile(dialect=_DIALECT, column_keys=list(columns))
        self.connection.executemany(str(compiled), rows)


def _in_state(statement: _Change, topic_id: int, state: str) -> _Change:
    return statement.where(_partitions.c.topic_id == topic_id, _partitions.c.state == state)
