"""The root of the broker's errors, and those about a directory as a whole.

Import them from ``seawall.broker.errors``, whose docstring draws the whole tree.
"""

from __future__ import annotations

from seawall.wal.errors import SeawallError


class BrokerError(SeawallError):
    """The root of the broker's errors."""

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive a pickle by themselves, and
        # multiprocessing sends them from a worker to its parent.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    kind: type[BrokerError], args: tuple[object, ...], facts: dict[str, object]
) -> BrokerError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


def place(topic: str | None, partition: int | None) -> str:
    """A partition for people."""
    if topic is None:
        return "the partition"
    if partition is None:
        return f"topic {topic!r}"
    return f"partition {partition} of topic {topic!r}"


def holder(pid: int) -> str:
    return f"process {pid}" if pid else "another process"


class StorageFull(BrokerError):
    """No room on the disk. Nothing was changed; try again once there is room."""

    def __init__(
        self,
        *,
        path: str,
        reason: str,
        topic: str | None = None,
        partition: int | None = None,
    ) -> None:
        super().__init__(f"no room to write {path!r} ({reason}); free some space, then try again")
        self.path = path
        self.reason = reason
        self.topic = topic
        self.partition = partition


class LockTimeout(BrokerError):
    """Another process, or another thread, keeps a lock. Nothing was changed."""

    def __init__(self, *, path: str, holder_pid: int, timeout_ms: int) -> None:
        super().__init__(
            f"{holder(holder_pid)} has held {path!r} for more than {timeout_ms} ms; "
            "continue or end that process, then try again"
        )
        self.path = path
        self.holder_pid = holder_pid
        self.timeout_ms = timeout_ms


class DirectoryError(BrokerError):
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
    """Written in a version of the format that this program does not know."""

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
        super().__init__(
            f"{path!r} is open in {holder(holder_pid)}; stop all that use it, then try again",
            path=path,
        )
        self.holder_pid = holder_pid


class ServerRunning(DirectoryError):
    """Another process serves the directory already; nothing was changed.

    ``holder_pid`` and ``address`` are that server's; 0 and empty if it has only just begun.
    """

    def __init__(self, *, path: str, holder_pid: int, address: str) -> None:
        where = f" at {address}" if address else ""
        super().__init__(
            f"{path!r} is served by {holder(holder_pid)}{where} already; connect to that one, "
            "or stop it first",
            path=path,
        )
        self.holder_pid = holder_pid
        self.address = address


class UnsupportedPlatform(DirectoryError):
    """The operating system lacks what the promises rest on."""

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"cannot open {path!r} on this system: {reason}", path=path)
        self.reason = reason


class CatalogError(BrokerError):
    """About the file that holds the topics and their settings."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class CatalogDamaged(CatalogError):
    """The catalogue is damaged, missing or empty. Nothing was changed."""

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(
            f"the catalogue {path!r} is damaged: {reason}; restore it from a backup",
            path=path,
        )
        self.reason = reason


class CatalogBusy(CatalogError):
    """The catalogue was locked for too long. Nothing was changed."""

    def __init__(self, *, path: str, timeout_ms: int) -> None:
        super().__init__(
            f"another process has kept the catalogue {path!r} locked for more than "
            f"{timeout_ms} ms; continue or end that process, then try again",
            path=path,
        )
        self.timeout_ms = timeout_ms


class CatalogUnusable(CatalogError):
    """The catalogue cannot be read or written. Nothing was changed."""

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"cannot use the catalogue {path!r}: {reason}", path=path)
        self.reason = reason


class StateDamaged(BrokerError):
    """Acknowledgements or log starts are damaged. Nothing was changed."""

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(
            f"{path!r}, which holds what was acknowledged, is damaged: {reason}; restore it "
            "from a backup, or move it aside to start without the acknowledgements"
        )
        self.path = path
        self.reason = reason


class StateLost(BrokerError):
    """``run/ends`` lost a partition's row while the directory was open."""

    def __init__(self, *, path: str, topic: str | None, partition: int | None) -> None:
        super().__init__(
            f"{path!r} has lost {place(topic, partition)}; let every process close the "
            "directory, then open it again"
        )
        self.path = path
        self.topic = topic
        self.partition = partition


class BrokerClosed(BrokerError):
    """Used after ``close()``."""

    def __init__(self, *, what: str = "broker") -> None:
        super().__init__(f"the {what} is closed; open another one")
        self.what = what


class ForkedBroker(BrokerError):
    """Used in a child process after ``fork()``."""

    def __init__(self, *, what: str, opened_by_pid: int) -> None:
        super().__init__(
            f"the {what} was opened by process {opened_by_pid}, before fork(); "
            "open it in the worker's start-up hook instead"
        )
        self.what = what
        self.opened_by_pid = opened_by_pid
