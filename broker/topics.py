"""Creating, changing and deleting topics, so that a crash at any point leaves no half of one.

Creating: a row ``creating`` -> folders made and synced, rows in ``run/ends`` -> the row
``live``. Deleting: the row ``deleting`` -> refused by every open log -> acknowledgements
and index entries -> files -> no row. Adding partitions: as creating, with the partitions'
own rows; but what a process that died has left is taken back, which needs no room, and
its caller never heard that it worked. All of it happens under one lock of the directory;
whoever takes that lock next first finishes what a process that died has left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from seawall.broker.catalog import GROWING, PartitionInfo, TopicInfo
from seawall.broker.config import check_changes, check_config
from seawall.broker.errors import InvalidPartitions, TopicExists
from seawall.broker.names import check_topic_name
from seawall.wal.ends import DELETED
from seawall.wal.files import make_directory
from seawall.wal.recovery import recover

if TYPE_CHECKING:
    from uuid import UUID

    from seawall.broker.engine import Engine

# Kafka has no bound of its own; this one keeps a slip of the finger from making a
# million folders.
MOST_PARTITIONS = 10_000


def create_topic(
    engine: Engine,
    name: str,
    partitions: int,
    config: Mapping[str, str | int],
    *,
    if_not_exists: bool,
) -> TopicInfo:
    """Create a topic and return it as the catalogue has it."""
    check_topic_name(name)
    checked = check_config(config)
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise ValueError(f"a topic has 1 to {MOST_PARTITIONS} partitions, not {partitions}")
    with engine.topics_lock:
        _finish(engine, gives_way=name)
        try:
            info = engine.catalog.begin_create(name, partitions, checked)
        except TopicExists:
            if if_not_exists:
                return engine.topic(name)
            raise
        try:
            _finish_create(engine, info)
        except BaseException:
            # No room for its folders, say: better no topic than half of one.
            _undo_create(engine, info)
            raise
    return engine.topic(name)


def delete_topic(engine: Engine, name: str, uuid: UUID | None = None) -> None:
    """Delete a topic; with `uuid` only if it is that one."""
    with engine.topics_lock:
        _finish(engine)
        _finish_delete(engine, engine.catalog.begin_delete(name, uuid))


def alter_topic(engine: Engine, name: str, changes: Mapping[str, str | int | None]) -> TopicInfo:
    """Change a topic's settings; None takes one back to its default."""
    engine.catalog.set_config(name, check_changes(changes))
    return engine.topic(name)


def add_partitions(engine: Engine, name: str, total: int) -> TopicInfo:
    """Give a topic partitions until it has so many."""
    with engine.topics_lock:
        _finish(engine)
        present = len(engine.topic(name).partitions)
        if not present <= total <= MOST_PARTITIONS:
            raise InvalidPartitions(
                topic=name, partitions=present, wanted=total, most=MOST_PARTITIONS
            )
        if total > present:
            info = engine.catalog.begin_grow(name, total)
            try:
                _make_logs(engine, info)
                old = [each.id for each in engine.topic(name).partitions]
                engine.state.begin_partitions(old, [each.id for each in info.partitions])
                engine.catalog.finish_grow(info.id)
            except BaseException:
                # Taken back, unless the catalogue has them as live in spite of the error.
                _finish(engine)
                raise
    return engine.topic(name)


def finish_unfinished(engine: Engine) -> None:
    """Finish what a process that died has left half done."""
    if engine.catalog.unfinished():
        with engine.topics_lock:
            _finish(engine)


def _finish(engine: Engine, *, gives_way: str | None = None) -> None:
    """Finish what is unfinished. A creation of the name `gives_way` is taken back: its
    creator never heard that it worked, and somebody wants to create it anew."""
    for info in engine.catalog.unfinished():
        if info.state == "creating" and info.name == gives_way:
            _undo_create(engine, info)
        elif info.state == "creating":
            _finish_create(engine, info)
        elif info.state == GROWING:
            _undo_grow(engine, info)
        else:
            _finish_delete(engine, info)


def _finish_create(engine: Engine, info: TopicInfo) -> None:
    _make_logs(engine, info)
    engine.catalog.finish_create(info.id)


def _make_logs(engine: Engine, info: TopicInfo) -> None:
    opening = engine.opening
    for partition in info.partitions:
        context = opening.context(info, partition)
        make_directory(engine.files, context.folder)
        row = recover(context, opening.quarantine, log_start=0, floor=0, cache_is_certain=False).row
        opening.ends.write(partition.id, row)
    engine.files.sync_directory(opening.directory.join("logs"))


def _finish_delete(engine: Engine, info: TopicInfo) -> None:
    _remove_logs(engine, info)
    engine.catalog.finish_delete(info.id)


def _remove_logs(engine: Engine, info: TopicInfo) -> None:
    from seawall.wal.log import remove_log_files

    for partition in info.partitions:
        _refuse_log(engine, info, partition)
    for partition in info.partitions:
        context = engine.opening.context(info, partition)
        engine.state.delete_partition(partition.id)
        remove_log_files(context)


def _undo_create(engine: Engine, info: TopicInfo) -> None:
    engine.catalog.begin_delete(info.name)
    _finish_delete(engine, info)


def _undo_grow(engine: Engine, info: TopicInfo) -> None:
    _remove_logs(engine, info)
    engine.catalog.undo_grow(info.id)


def _refuse_log(engine: Engine, info: TopicInfo, partition: PartitionInfo) -> None:
    """Have every process refuse a log from now on."""
    context = engine.opening.context(info, partition)
    row = engine.opening.ends.read(partition.id)
    if row is None or row.flags & DELETED or not engine.files.is_directory(context.folder):
        return
    from seawall.wal.log import Log

    log = Log(context)
    try:
        log.mark_deleted()
    finally:
        log.close()
