"""Every error that the storage engine raises.

::

    SeawallError                    the root of everything that seawall raises
    └── WalError
        ├── DirectoryError          the directory cannot be opened as it is
        │   ├── DirectoryUnusable   missing, not a directory, not readable or writable
        │   ├── ForeignDirectory    holds files, but is not seawall's
        │   ├── UnsupportedFormat   written by another version of the format
        │   ├── ForeignNamespace    is open in another PID namespace or container
        │   ├── DirectoryInUse      is open elsewhere, where it must not be
        │   ├── UnsupportedPlatform the system lacks what durability needs
        │   └── EnvironmentDamaged  an LMDB environment that is the only copy is damaged
        ├── HandleUnusable
        │   ├── HandleClosed        used after close()
        │   └── ForkedHandle        used in a child after fork()
        ├── LockTimeout             somebody else kept a lock too long
        │   ├── AppendLockTimeout
        │   └── PublishTimeout
        ├── WriteError
        │   ├── StorageFull         ENOSPC, EDQUOT or EFBIG: nothing was appended
        │   ├── WriteFailed         any other failed write: nothing was appended
        │   ├── SyncFailed          a sync failed: the outcome is unknown
        │   ├── AppendLost          the log ends before what was appended: the outcome is unknown
        │   └── LogFenced           a sync failed earlier: the log takes no appends
        ├── LogGone                 the partition was deleted
        ├── LogStateLost            run/ends has no row for the partition
        ├── OffsetOutOfRange        below the log start or above the durable end
        ├── ProducerError           a producer id, its epoch and sequence: nothing was appended
        │   ├── OutOfOrderSequence  not what comes next from that producer
        │   └── InvalidProducerEpoch
        │                           a higher epoch of that producer was here already
        ├── BatchInvalid            bytes that are not one whole, valid record batch
        ├── RecordsUnreadable       a batch with a right CRC whose records do not parse
        ├── LogDamaged              damage in what was once durable
        └── ValueDamaged            an LMDB value that does not match its checksum

Errors carry their facts as attributes, named as in the constructor.
"""

from __future__ import annotations


class SeawallError(Exception):
    """The root of everything that seawall raises on purpose."""


class WalError(SeawallError):
    """The root of the storage engine's errors."""


class DirectoryError(WalError):
    """A directory that cannot be opened as it is. Nothing in it was changed."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class DirectoryUnusable(DirectoryError):
    """Missing, not a directory, or not readable and writable by this user."""

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"cannot use {path!r} as a broker directory: {reason}", path=path)
        self.reason = reason


class ForeignDirectory(DirectoryError):
    """Neither empty nor a seawall directory: refused, untouched."""

    def __init__(self, *, path: str, found: str) -> None:
        super().__init__(
            f"{path!r} is not a seawall directory and not empty (it holds {found!r}); "
            "choose an empty or a new directory",
            path=path,
        )
        self.found = found


class UnsupportedFormat(DirectoryError):
    """The FORMAT file names a version that this program does not know."""

    def __init__(self, *, path: str, found: str, supported: str) -> None:
        super().__init__(
            f"{path!r} has format {found!r}, but this version reads {supported!r}; "
            "open it with the version of seawall that wrote it, or a newer one",
            path=path,
        )
        self.found = found
        self.supported = supported


class ForeignNamespace(DirectoryError):
    """Open in another PID namespace, where locks by pid mean nothing."""

    def __init__(self, *, path: str, namespace: str, own_namespace: str) -> None:
        super().__init__(
            f"{path!r} is open in another PID namespace or container ({namespace}, "
            f"this one is {own_namespace}); share it over `seawall serve` instead",
            path=path,
        )
        self.namespace = namespace
        self.own_namespace = own_namespace


class DirectoryInUse(DirectoryError):
    """Open elsewhere, in another process or in this one, and wanted alone.

    ``holder_pid`` is a process that has it open, 0 if unknown.
    """

    def __init__(self, *, path: str, holder_pid: int) -> None:
        holder = f"process {holder_pid}" if holder_pid else "another process"
        super().__init__(
            f"{path!r} is open in {holder}; stop all that use it, then try again", path=path
        )
        self.holder_pid = holder_pid


class UnsupportedPlatform(DirectoryError):
    """The operating system lacks what the promises rest on."""

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"cannot open {path!r} on this system: {reason}", path=path)
        self.reason = reason


class EnvironmentDamaged(DirectoryError):
    """An LMDB environment is damaged. ``disposable`` ones are rebuilt, never reported."""

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(
            f"{path!r} is damaged: {reason}; restore it from a backup, or move it aside "
            "to start without the acknowledgements that it held",
            path=path,
        )
        self.reason = reason


class HandleUnusable(WalError):
    """A handle that can no longer be used."""


class HandleClosed(HandleUnusable):
    """Used after ``close()``."""

    def __init__(self, *, what: str) -> None:
        super().__init__(f"the {what} is closed")
        self.what = what


class ForkedHandle(HandleUnusable):
    """Used in a child process after ``fork()``."""

    def __init__(self, *, what: str, opened_by_pid: int) -> None:
        super().__init__(
            f"the {what} was opened by process {opened_by_pid}, before fork(); "
            "open it in the worker's start-up hook instead"
        )
        self.what = what
        self.opened_by_pid = opened_by_pid


class LockTimeout(WalError):
    """A lock was not free within its bound. Nothing was changed.

    ``holder_pid`` is the process that last took the lock, 0 if unknown.
    """

    def __init__(self, *, path: str, holder_pid: int, timeout_ms: int) -> None:
        holder = f"process {holder_pid}" if holder_pid else "another process"
        super().__init__(
            f"{holder} has held {path!r} for more than {timeout_ms} ms; "
            "continue or end that process, then try again"
        )
        self.path = path
        self.holder_pid = holder_pid
        self.timeout_ms = timeout_ms


class AppendLockTimeout(LockTimeout):
    """The append lock of a partition was not free in time. Nothing was appended."""


class PublishTimeout(LockTimeout):
    """The records are on disk, but could not be published: the outcome is unknown."""


class WriteError(WalError):
    """An append that did not come through."""


class StorageFull(WriteError):
    """No room (ENOSPC, EDQUOT, EFBIG). Nothing was appended; try again once there is room."""

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"no room to write {path!r} ({reason}); free some space, then try again")
        self.path = path
        self.reason = reason


class WriteFailed(WriteError):
    """A write failed. Nothing was appended."""

    def __init__(self, *, path: str, position: int, reason: str) -> None:
        super().__init__(f"writing {path!r} at position {position} failed: {reason}")
        self.path = path
        self.position = position
        self.reason = reason


class SyncFailed(WriteError):
    """A sync failed: whether the records of this append survive is unknown."""

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(
            f"syncing {path!r} failed ({reason}): the outcome of the append is unknown; "
            "check the disk, then let every process close the directory and open it again"
        )
        self.path = path
        self.reason = reason


class AppendLost(WriteError):
    """A log ends before what was appended to it, so somebody has moved its end back.

    It takes no more appends, in any process, until the directory is opened afresh.
    Whether the records up to ``next_offset`` survive is unknown; up to ``durable_end`` there
    may be those of others by now.
    """

    def __init__(self, *, path: str, next_offset: int, durable_end: int) -> None:
        super().__init__(
            f"{path!r} ends at offset {durable_end}, before records that were just appended up "
            f"to {next_offset}: `run/ends` was replaced, or somebody writes without the lock; "
            "let every process close the directory, then open it again"
        )
        self.path = path
        self.next_offset = next_offset
        self.durable_end = durable_end


class LogFenced(WriteError):
    """A sync failed earlier, or the log's end cannot be read, or somebody has moved it back.

    It takes no appends until the directory is opened afresh.
    """

    def __init__(self, *, path: str) -> None:
        super().__init__(
            f"a sync of {path!r} failed earlier, or its end cannot be trusted, so it takes no "
            "more records; check the disk, run `seawall verify`, then let every process close "
            "the directory and open it again"
        )
        self.path = path


class LogGone(WalError):
    """The partition was deleted while this handle was open."""

    def __init__(self, *, path: str) -> None:
        super().__init__(f"the partition in {path!r} was deleted")
        self.path = path


class LogStateLost(WalError):
    """``run/ends`` has no readable row for the partition."""

    def __init__(self, *, path: str, partition_id: int) -> None:
        super().__init__(
            f"{path!r} has no row for partition {partition_id}; "
            "let every process close the directory, then open it again"
        )
        self.path = path
        self.partition_id = partition_id


class OffsetOutOfRange(WalError):
    """An offset outside ``log_start <= offset <= durable_end``."""

    def __init__(self, *, offset: int, log_start: int, durable_end: int) -> None:
        super().__init__(
            f"offset {offset} is out of range: the log holds {log_start} to {durable_end}"
        )
        self.offset = offset
        self.log_start = log_start
        self.durable_end = durable_end


class ProducerError(WalError):
    """A batch that its producer cannot append as it is. Nothing was appended."""

    def __init__(self, message: str, *, producer_id: int, epoch: int) -> None:
        super().__init__(message)
        self.producer_id = producer_id
        self.epoch = epoch


class OutOfOrderSequence(ProducerError):
    """A batch that is not the next one of its producer, nor one of its last five."""

    def __init__(self, *, producer_id: int, epoch: int, sequence: int, expected: int) -> None:
        super().__init__(
            f"producer {producer_id}, epoch {epoch}, comes with sequence {sequence}, "
            f"but {expected} is next",
            producer_id=producer_id,
            epoch=epoch,
        )
        self.sequence = sequence
        self.expected = expected


class InvalidProducerEpoch(ProducerError):
    """The producer has come with a higher epoch already."""

    def __init__(self, *, producer_id: int, epoch: int, current_epoch: int) -> None:
        super().__init__(
            f"producer {producer_id} comes with epoch {epoch}, but has come with epoch "
            f"{current_epoch} already",
            producer_id=producer_id,
            epoch=epoch,
        )
        self.current_epoch = current_epoch


class BatchInvalid(WalError):
    """Bytes that are not one whole, valid record batch."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"not a valid record batch: {reason}")
        self.reason = reason


class RecordsUnreadable(WalError):
    """A batch whose CRC is right, but whose records do not parse.

    ``offset`` is the batch's base offset, ``next_offset`` where reading can go on.
    """

    def __init__(self, *, offset: int, next_offset: int, reason: str) -> None:
        super().__init__(
            f"the records of the batch at offset {offset} do not parse ({reason}); "
            f"seek to {next_offset} to go on behind it"
        )
        self.offset = offset
        self.next_offset = next_offset
        self.reason = reason


class LogDamaged(WalError):
    """Bytes that were durable once are not valid any more.

    ``offset`` is the first offset that cannot be read, ``next_offset`` the next one that
    perhaps can.
    """

    def __init__(
        self, *, path: str, position: int, offset: int, next_offset: int, reason: str
    ) -> None:
        super().__init__(
            f"{path!r} is damaged at position {position} (offset {offset}): {reason}; "
            f"run `seawall verify`, restore the file, or seek to {next_offset} behind it"
        )
        self.path = path
        self.position = position
        self.offset = offset
        self.next_offset = next_offset
        self.reason = reason


class ValueDamaged(WalError):
    """A value in an LMDB environment whose CRC-32C, which covers its key too, is wrong."""

    def __init__(self, *, path: str, key: bytes) -> None:
        super().__init__(
            f"the value of key {key!r} in {path!r} is damaged; run `seawall verify`, then "
            "restore that folder from a backup"
        )
        self.path = path
        self.key = key
