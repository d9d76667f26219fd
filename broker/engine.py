"""Everything that is open for one directory in this process.

Several `Broker` objects on the same directory share one `Engine`, because LMDB allows
one environment per process, and because one watcher and one housekeeper are enough. The
first to open it makes it, the last to close it ends it.

Lock order, wherever more than one is taken: topics, catalogue, state, append, index.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from seawall.broker.acknowledger import Acknowledger
from seawall.broker.catalog import PartitionInfo, TopicInfo
from seawall.broker.compactor import Compactor
from seawall.broker.config import parse_broker_config
from seawall.broker.errors import BrokerClosed, UnknownPartition, UnknownTopic
from seawall.broker.keeper import Keeper
from seawall.broker.opening import Opening, log_config
from seawall.broker.producer_ids import ProducerIds
from seawall.wal import forks
from seawall.wal.errors import ForkedHandle, LogGone
from seawall.wal.files import Files
from seawall.wal.housekeeper import Housekeeper
from seawall.wal.kv_check import Verdict, check_in_child
from seawall.wal.locks import FileLock
from seawall.wal.watch import Watcher

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from seawall.broker.delivery_notes import NotesFolder
    from seawall.broker.rebalance import Layout
    from seawall.wal.log import Log

CHECKPOINT_INTERVAL_MS = 1_000
SYNC_INTERVAL_MS = 100
# How often a process that writes looks whether another one has changed a topic.
LOOK_INTERVAL_S = 0.5
# asyncio users' disk work runs on these, so that no event loop ever waits for a disk.
EXECUTOR_THREADS = 8

_engines: dict[tuple[int, int], Engine] = {}
_registry = threading.Lock()


class Engine:
    """One open directory. Get it with `acquire_engine`, give it back with `release`."""

    def __init__(
        self, opening: Opening, files: Files, identity: tuple[int, int], lock_timeout_ms: int
    ) -> None:
        self._opening = opening
        self._identity = identity
        self._lock = threading.Lock()
        self._logs: dict[int, Log] = {}
        self._places: dict[int, tuple[TopicInfo, PartitionInfo]] = {}
        self._topics: dict[str, TopicInfo] = {}
        self._layout: Layout = {}
        self._catalog_version: object = None
        self._looked_s = 0.0
        self._producer_id_expiration_ms = 0
        self.changes = 0  # how often the catalogue was found changed
        self._executors: dict[str, ThreadPoolExecutor] = {}  # by the name of their threads
        self._forked = False
        self._closed = False
        self.users = 0
        self.pid = os.getpid()
        self.files = files
        self.path = opening.path
        self.cluster_id = opening.directory.cluster_id
        self.catalog = opening.catalog
        self.state = opening.state
        self.groups = opening.groups
        self.lives = opening.lives
        self.acknowledger = Acknowledger(self.groups.commit)
        self.producer_ids = ProducerIds(self.state)
        # Under which topics are created and deleted, by one process at a time.
        self.topics_lock = FileLock(
            files, opening.directory.join("run", "topics.lock"), timeout_ms=lock_timeout_ms
        )
        self.watcher = Watcher(opening.ends.path)
        self.housekeeper = Housekeeper(
            checkpoint_interval_ms=CHECKPOINT_INTERVAL_MS, sync_interval_ms=SYNC_INTERVAL_MS
        )
        self.keeper = Keeper(
            self.groups, self.lives, layout=self.layout, notify=self.watcher.notify
        )
        self.compactor = Compactor(files, self.path, self._do_round)
        forks.register(self)

    # -- topics and logs -------------------------------------------------------------

    def topic(self, name: str) -> TopicInfo:
        """A live topic; sees at once what other processes have created or deleted."""
        self.check_usable()
        with self._lock:
            self._refresh()
            info = self._topics.get(name)
        if info is None:
            raise UnknownTopic(topic=name)
        return info

    def partition_id(self, topic: str, partition: int) -> int:
        """The id of a live topic's partition. Raises `UnknownTopic`, `UnknownPartition`."""
        partitions = self.topic(topic).partitions
        if not 0 <= partition < len(partitions):
            raise UnknownPartition(topic=topic, partition=partition, partitions=len(partitions))
        return partitions[partition].id

    def topics(self) -> list[TopicInfo]:
        """All live topics, sorted by name."""
        self.check_usable()
        with self._lock:
            self._refresh()
            return sorted(self._topics.values(), key=lambda info: info.name)

    def place(self, partition_id: int) -> tuple[TopicInfo, PartitionInfo] | None:
        """The topic and partition that an id belongs to, None if it was deleted."""
        with self._lock:
            self._refresh()
            return self._places.get(partition_id)

    def layout(self) -> Layout:
        """The partitions of all live topics; the same object until that changes."""
        with self._lock:
            self._refresh()
            return self._layout

    def _refresh(self) -> None:
        version = self.catalog.version()
        if version == self._catalog_version:
            return
        topics = self.catalog.topics()
        self._topics = {info.name: info for info in topics}
        self._layout = {info.name: [each.id for each in info.partitions] for info in topics}
        self._places = {each.id: (info, each) for info in topics for each in info.partitions}
        for partition_id in [each for each in self._logs if each not in self._places]:
            self._logs.pop(partition_id).close()
        settings = parse_broker_config(self.catalog.broker_config())
        self._producer_id_expiration_ms = settings.producer_id_expiration_ms
        for partition_id, log in self._logs.items():
            self._configure(log, self._places[partition_id][0])
        self._catalog_version = version
        self.changes += 1

    def _configure(self, log: Log, info: TopicInfo) -> None:
        config = log_config(info)
        config.producer_id_expiration_ms = self._producer_id_expiration_ms
        log.context.config.take(config)

    def look_for_changes(self) -> int:
        """How often the catalogue was found changed; cheap, for who asks all the time.

        What another process has changed is seen `LOOK_INTERVAL_S` later at the latest.
        """
        now_s = time.monotonic()
        if now_s >= self._looked_s + LOOK_INTERVAL_S:
            self._looked_s = now_s
            with self._lock:
                self._refresh()
        return self.changes

    def log(self, partition_id: int) -> Log:
        """The log of a partition. Raises `LogGone` if it was deleted."""
        log = self._logs.get(partition_id)
        if log is not None:
            return log
        self.check_usable()
        with self._lock:
            log = self._logs.get(partition_id)
            if log is None:
                self._refresh()
                if partition_id not in self._places:
                    raise LogGone(path=f"partition {partition_id}")
                log = self.new_log(*self._places[partition_id])
                self._configure(log, self._places[partition_id][0])
                self._logs[partition_id] = log
        return log

    def new_log(self, info: TopicInfo, partition: PartitionInfo) -> Log:
        """Open a log that this engine does not keep; the caller closes it."""
        from seawall.wal.log import Log  # whoever only asks the catalogue needs none

        try:
            return Log(
                self._opening.context(info, partition),
                on_change=self.watcher.notify,
                on_dirty=self.housekeeper.needs_checkpoint,
            )
        except FileNotFoundError:
            raise LogGone(path=f"{info.name}/{partition.number}") from None

    @property
    def notes(self) -> NotesFolder:
        """What was noted of deliveries to handlers."""
        return self._opening.notes()

    @property
    def opening(self) -> Opening:
        """The parts that the directory consists of."""
        return self._opening

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The threads that do the disk's work for event loops."""
        return self._executor("seawall-executor")

    @property
    def run_executor(self) -> ThreadPoolExecutor:
        """The threads that poll for `AsyncConsumer.run`. When partitions move they wait for
        handlers, and those may need one of the others."""
        return self._executor("seawall-run")

    def _executor(self, name: str) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor  # most have no event loop

        self.check_usable()
        with self._lock:
            if name not in self._executors:
                if self._closed:
                    raise BrokerClosed(what="broker")
                self._executors[name] = ThreadPoolExecutor(EXECUTOR_THREADS, name)
            return self._executors[name]

    def _do_round(self, wait: Callable[[float], bool], is_timed: bool) -> float:
        from seawall.broker.cleaning import clean  # only whoever holds the lease needs it

        return clean(self, wait, is_timed=is_timed)

    # -- the life of an engine -------------------------------------------------------

    def check_usable(self) -> None:
        """Raise `ForkedHandle` in a child of the process that opened this."""
        if self._forked:
            raise ForkedHandle(what="broker", opened_by_pid=self.pid)

    def release(self) -> None:
        """One user less; the last one closes everything."""
        with _registry:
            self.users -= 1
            if self.users or self._forked:
                return
            _engines.pop(self._identity, None)
            # Closed under the registry's lock, so that nobody opens the same
            # directory again while LMDB still has it open.
            self._close()

    def _close(self) -> None:
        with self._lock:
            self._closed = True
        with contextlib.ExitStack() as closing:
            closing.callback(self._opening.close)
            closing.callback(self.topics_lock.close)
            for log in self._logs.values():
                closing.callback(log.close)
            closing.callback(self.housekeeper.close)
            closing.callback(self.watcher.close)
            closing.callback(self.keeper.close)
            closing.callback(self.compactor.close)
            for executor in self._executors.values():
                closing.callback(executor.shutdown)

    def abandon(self) -> None:
        """In a forked child: let go of everything, touch nothing of the parent's."""
        self._forked = True
        self._lock = threading.Lock()
        self._executors = {}
        self.watcher.abandon()
        self.housekeeper.abandon()
        self.keeper.abandon()
        self.acknowledger.abandon()
        self.producer_ids.abandon()
        self.compactor.abandon()
        for log in self._logs.values():
            log.abandon()
        self._logs = {}
        self.topics_lock.abandon()
        self._opening.abandon(self.pid)
        forks.keep_for_ever(self)


def acquire_engine(
    path: str,
    *,
    create: bool,
    open_timeout_ms: int,
    lock_timeout_ms: int,
    files: Files | None = None,
    check_environment: Callable[[str], Verdict] = check_in_child,
) -> Engine:
    """The engine of a directory: this process's own if it has one, else a new one.

    `files` and `check_environment` are for those who break things on purpose.
    """
    files = files or Files()
    with _registry:
        identity = _identity(files, path)
        engine = _engines.get(identity) if identity else None
        if engine is None:
            opening = Opening(
                files,
                path,
                create=create,
                open_timeout_ms=open_timeout_ms,
                lock_timeout_ms=lock_timeout_ms,
                check_environment=check_environment,
            )
            try:
                identity = _identity(files, path) or (0, 0)
                engine = Engine(opening, files, identity, lock_timeout_ms)
            except BaseException:
                opening.close()
                raise
            _engines[identity] = engine
        engine.users += 1
        return engine


def _identity(files: Files, path: str) -> tuple[int, int] | None:
    try:
        return files.path_identity(path)
    except OSError:
        return None


def _after_fork_in_child() -> None:
    global _registry
    _engines.clear()
    _registry = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
