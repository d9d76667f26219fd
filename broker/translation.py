"""The table that turns the storage engine's errors into the broker's.

Each leaf of ``wal/errors.py`` has a row, and a test fails when one lacks it. A row is
a function of the error and of what the caller knows about where it happened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from seawall.broker import errors as broker
from seawall.wal import errors as wal
from seawall.wal.files import NO_ROOM_ERRNOS

_Row = Callable[[Any, str | None, int | None], broker.BrokerError]


def _same(kind: Callable[..., broker.BrokerError], *fields: str) -> _Row:
    """A row that carries fields over, under the same names."""

    def row(error: Any, topic: str | None, partition: int | None) -> broker.BrokerError:
        return kind(**{field: getattr(error, field) for field in fields})

    return row


def _placed(kind: Callable[..., broker.BrokerError], *fields: str) -> _Row:
    """The same, with the topic and the partition added."""

    def row(error: Any, topic: str | None, partition: int | None) -> broker.BrokerError:
        values = {field: getattr(error, field) for field in fields}
        return kind(topic=topic, partition=partition, **values)

    return row


def _unpublished(
    error: wal.PublishTimeout, topic: str | None, partition: int | None
) -> broker.BrokerError:
    return broker.OutcomeUnknown(
        path=error.path,
        reason=f"the records are on disk, but process {error.holder_pid} has kept the lock "
        f"to publish them for more than {error.timeout_ms} ms",
        topic=topic,
        partition=partition,
    )


def _lost(error: wal.AppendLost, topic: str | None, partition: int | None) -> broker.BrokerError:
    return broker.OutcomeUnknown(
        path=error.path,
        reason=f"the log ends at offset {error.durable_end}, before records that were just "
        f"appended up to {error.next_offset}: `run/ends` was replaced, or somebody writes "
        "without the lock (let every process close the directory, then open it again)",
        topic=topic,
        partition=partition,
    )


TABLE: dict[type[wal.WalError], _Row] = {
    wal.DirectoryUnusable: _same(broker.DirectoryUnusable, "path", "reason"),
    wal.ForeignDirectory: _same(broker.ForeignDirectory, "path", "found"),
    wal.UnsupportedFormat: _same(broker.UnsupportedFormat, "path", "found", "supported"),
    wal.ForeignNamespace: _same(broker.ForeignNamespace, "path", "namespace", "own_namespace"),
    wal.DirectoryInUse: _same(broker.DirectoryInUse, "path", "holder_pid"),
    wal.UnsupportedPlatform: _same(broker.UnsupportedPlatform, "path", "reason"),
    wal.EnvironmentDamaged: _same(broker.StateDamaged, "path", "reason"),
    wal.ValueDamaged: lambda error, topic, partition: broker.StateDamaged(
        path=error.path, reason=f"the value of key {error.key!r} has the wrong checksum"
    ),
    wal.HandleClosed: _same(broker.BrokerClosed, "what"),
    wal.ForkedHandle: _same(broker.ForkedBroker, "what", "opened_by_pid"),
    wal.LockTimeout: _same(broker.LockTimeout, "path", "holder_pid", "timeout_ms"),
    wal.AppendLockTimeout: _placed(broker.AppendLockTimeout, "path", "holder_pid", "timeout_ms"),
    wal.PublishTimeout: _unpublished,
    wal.StorageFull: _placed(broker.StorageFull, "path", "reason"),
    wal.WriteFailed: _placed(broker.WriteFailed, "path", "position", "reason"),
    wal.SyncFailed: _placed(broker.SyncFailed, "path", "reason"),
    wal.AppendLost: _lost,
    wal.LogFenced: _placed(broker.LogFenced, "path"),
    wal.LogGone: lambda error, topic, partition: broker.UnknownTopic(topic=topic),
    wal.LogStateLost: _placed(broker.StateLost, "path"),
    wal.OffsetOutOfRange: _placed(broker.OffsetOutOfRange, "offset", "log_start", "durable_end"),
    wal.OutOfOrderSequence: _placed(
        broker.OutOfOrderSequence, "producer_id", "epoch", "sequence", "expected"
    ),
    wal.InvalidProducerEpoch: _placed(
        broker.InvalidProducerEpoch, "producer_id", "epoch", "current_epoch"
    ),
    wal.BatchInvalid: _placed(broker.InvalidRecord, "reason"),
    wal.RecordsUnreadable: _placed(broker.RecordDecodeError, "offset", "next_offset", "reason"),
    wal.LogDamaged: _placed(
        broker.LogDamaged, "path", "position", "offset", "next_offset", "reason"
    ),
}


def translate(
    error: wal.WalError, *, topic: str | None = None, partition: int | None = None
) -> broker.BrokerError:
    """The broker's error for one of the storage engine's.

    Raise what it returns ``from error``. A kind without a row of its own gets that of
    the nearest kind above it; one without any becomes a plain `BrokerError`.
    """
    for kind in type(error).__mro__:
        row = TABLE.get(kind)
        if row is not None:
            return row(error, topic, partition)
    return broker.BrokerError(str(error))


@contextlib.contextmanager
def translated(topic: str | None = None, partition: int | None = None) -> Iterator[None]:
    """Turn what the storage engine raises inside into the broker's errors."""
    try:
        yield
    except wal.WalError as error:
        raise translate(error, topic=topic, partition=partition) from error
    except OSError as error:
        raise from_os_error(error, topic=topic, partition=partition) from error


def from_os_error(
    error: OSError, *, topic: str | None = None, partition: int | None = None
) -> broker.BrokerError:
    """The broker's error for what the operating system said where nothing else names it."""
    path, reason = str(error.filename or "the directory"), error.strerror or str(error)
    if error.errno in NO_ROOM_ERRNOS:
        return broker.StorageFull(path=path, reason=reason, topic=topic, partition=partition)
    return broker.DirectoryUnusable(path=path, reason=reason)
