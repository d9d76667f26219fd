"""Opening a directory: what a sole opener has to judge, finish and rebuild.

Whoever opens a directory alone brings it in order before others may come in; whoever
joins others takes it as it is. In order, for a sole opener:

1. the folders, ``state.lmdb`` (checked, never replaced), ``catalog.db``, ``index.lmdb``
   (replaced if it is damaged or another directory's);
2. ``run/ends`` if it is of this boot, else a new one;
3. every partition that the row in it does not vouch for is recovered; bytes that a dead
   process left un-synced are synced;
4. topics that a crash left half created or half deleted are finished, partitions that it
   left half added are taken back;
5. folders of logs that belong to no partition go to ``quarantine/``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from seawall.broker.catalog import Catalog, PartitionInfo, TopicInfo
from seawall.broker.errors import StateDamaged
from seawall.broker.group_state import GroupState
from seawall.broker.liveness import Lives
from seawall.broker.state import State
from seawall.wal.appender import Appender
from seawall.wal.context import LogConfig, LogContext, wall_clock_ms
from seawall.wal.directory import Directory
from seawall.wal.ends import FENCED, Ends, EndsRow
from seawall.wal.errors import (
    DirectoryInUse,
    DirectoryUnusable,
    EnvironmentDamaged,
    LogFenced,
    SyncFailed,
    ValueDamaged,
)
from seawall.wal.files import Descriptor, Files
from seawall.wal.index import Index
from seawall.wal.kv import Environment
from seawall.wal.kv_check import Kind, Verdict, check, check_in_child
from seawall.wal.kv_folder import remove_environment, remove_leftovers
from seawall.wal.locks import lock_holder
from seawall.wal.quarantine import Quarantine
from seawall.wal.recovery import Finding, Recovered, caught_up, recover

if TYPE_CHECKING:
    from seawall.broker.delivery_notes import NotesFolder

logger = logging.getLogger("seawall.broker")

INDEX_MAP_BYTES = 64 << 30
STATE_MAP_BYTES = 16 << 30
# Log folders are named for people; what counts is the id in front. A file name has at
# most 255 bytes, and a topic's name alone may have 249.
MOST_NAME_CHARACTERS = 200


def folder_name(partition_id: int, topic: str, partition: int) -> str:
    """The name of a partition's folder under ``logs/``."""
    return f"{partition_id}-{topic[:MOST_NAME_CHARACTERS]}-{partition}"


def log_config(topic: TopicInfo) -> LogConfig:
    """The settings of a topic's logs."""
    settings = topic.settings
    segment_ms = settings.segment_ms
    if settings.compacts:
        # What is appended to is not compacted (KIP-354).
        segment_ms = min(segment_ms, settings.max_compaction_lag_ms)
    return LogConfig(
        segment_bytes=settings.segment_bytes,
        segment_ms=segment_ms,
        index_interval_bytes=settings.index_interval_bytes,
    )


class Opening:
    """An open directory's parts, and the sole opener's work on them."""

    def __init__(
        self,
        files: Files,
        path: str,
        *,
        create: bool,
        open_timeout_ms: int,
        lock_timeout_ms: int,
        alone: bool = False,
        check_environment: Callable[[str], Verdict] = check_in_child,
    ) -> None:
        """Open everything; a sole opener also brings it in order, and then lets others in.

        With `alone` it never lets them in, and raises `DirectoryInUse` if they are.
        `check_environment` reads all of an LMDB environment that a power cut may have torn.

        Raises a `DirectoryError`, `LockTimeout`, a `CatalogError`, `StateDamaged`, and
        `DirectoryUnusable` for whatever else the operating system says.
        """
        self._files = files
        self._lock_timeout_ms = lock_timeout_ms
        self._check_environment = check_environment
        with contextlib.ExitStack() as undo:
            self.directory = Directory.open(files, path, create=create, timeout_ms=open_timeout_ms)
            undo.callback(self.directory.close)
            self.path = self.directory.path
            try:
                if alone and not self.directory.is_sole:
                    raise DirectoryInUse(path=self.path, holder_pid=self._other_holder())
                self._open_parts(undo)
                if self.directory.is_sole:
                    self._bring_in_order()
                    if not alone:
                        self.directory.share()
            except OSError as error:
                reason = error.strerror or str(error)
                raise DirectoryUnusable(path=self.path, reason=reason) from error
            undo.pop_all()

    def _other_holder(self) -> int:
        self.directory.close()  # or it would be us
        descriptor = Descriptor(self._files, self.directory.join("LOCK"))
        return lock_holder(self._files, descriptor.number)

    def _open_parts(self, undo: contextlib.ExitStack) -> None:
        directory, files = self.directory, self._files
        if directory.is_sole:
            directory.make_folders()
        self.quarantine = Quarantine(files, directory.join("quarantine"))
        self.state_environment = self._open_state()
        undo.callback(self.state_environment.close)
        self.state = State(self.state_environment, upgrades=directory.is_sole)
        self.groups = GroupState(self.state)
        self.lives = Lives(files, directory.join("run", "members"))
        self.catalog = Catalog(
            directory.join("catalog.db"),
            create=directory.is_new,
            busy_timeout_ms=self._lock_timeout_ms,
        )
        undo.callback(self.catalog.close)
        self.index_environment = self._open_index()
        undo.callback(self.index_environment.close)
        self.index = Index(self.index_environment)
        if directory.is_sole and not self._is_index_ours():
            self.index_environment.close()
            remove_environment(files, self.index_environment.path)
            self._begin_index()
            undo.callback(self.index_environment.close)
        if directory.is_new:
            directory.finish_making()
        self.ends, self._is_other_boot = self._open_ends()
        undo.callback(self.ends.close)

    def _open_state(self) -> Environment:
        path = self.directory.join("state.lmdb")
        if self.directory.is_sole:
            verdict = self._judge_environment(path)
            if verdict.kind is Kind.DAMAGED or (
                verdict.kind is Kind.ABSENT and not self.directory.is_new
            ):
                raise EnvironmentDamaged(path=path, reason=verdict.reason)
        return self._environment(path, STATE_MAP_BYTES, create=self.directory.is_new)

    def _open_index(self) -> Environment:
        path = self.directory.join("index.lmdb")
        if self.directory.is_sole:
            verdict = self._judge_environment(path)
            if verdict.kind is Kind.DAMAGED:
                logger.warning("%s is damaged (%s): building it again", path, verdict.reason)
                remove_environment(self._files, path)
            try:
                return self._environment(path, INDEX_MAP_BYTES, create=True)
            except EnvironmentDamaged as error:
                logger.warning("%s is damaged (%s): building it again", path, error.reason)
                remove_environment(self._files, path)
        return self._environment(path, INDEX_MAP_BYTES, create=self.directory.is_sole)

    def _begin_index(self) -> None:
        self.index_environment = self._open_index()
        self.index = Index(self.index_environment)
        self.index.set_owner(self.directory.cluster_id)

    def replace_index(self) -> str:
        """Move the index to quarantine, begin an empty one, and say where the old one is.

        For a sole opener who stays one.
        """
        path = self.index_environment.path
        self.index_environment.close()
        kept = self.quarantine.keep_folder(path, now_ms=wall_clock_ms())
        self._begin_index()
        return kept

    def _judge_environment(self, path: str) -> Verdict:
        """Whether an LMDB environment may be opened; clears up what was left beside it."""
        remove_leftovers(self._files, path)
        verdict = check(self._files, path)
        if verdict.kind is Kind.FINE and not self._is_this_boot():
            # After a power cut the quick look is not enough.
            verdict = self._check_environment(path)
        return verdict

    def _is_index_ours(self) -> bool:
        try:
            return self.index.owner() == self.directory.cluster_id
        except (EnvironmentDamaged, ValueDamaged) as error:
            logger.warning("%s: building it again", error)
            return False

    def _environment(self, path: str, map_size_bytes: int, *, create: bool) -> Environment:
        return Environment(
            path,
            files=self._files,
            map_size_bytes=map_size_bytes,
            create=create,
            write_lock_timeout_ms=self._lock_timeout_ms,
        )

    def _is_this_boot(self) -> bool:
        """Whether somebody had the directory open since the machine was booted."""
        path = self.directory.join("run", "ends")
        ends = Ends.open(self._files, path, self._files.boot_id())
        if ends is None:
            return False
        ends.close()
        return True

    def _open_ends(self) -> tuple[Ends, bool]:
        """``run/ends``, and whether what was there is from before the last boot."""
        path, boot_id = self.directory.join("run", "ends"), self._files.boot_id()
        ends = Ends.open(self._files, path, boot_id)
        if ends is not None:
            return ends, False
        if not self.directory.is_sole:
            raise DirectoryUnusable(
                path=self.path,
                reason="its folder run/ was removed while it is open; "
                "let every process close it, then open it again",
            )
        is_other_boot = Ends.written_in_another_boot(self._files, path, boot_id)
        return Ends.create(self._files, path, boot_id), is_other_boot

    # -- the sole opener's work ------------------------------------------------------

    def _bring_in_order(self) -> None:
        known: dict[int, str] = {}
        for topic in self.catalog.topics():
            for partition in topic.partitions:
                known[partition.id] = folder_name(partition.id, topic.name, partition.number)
                self._vouch(self.context(topic, partition))
        for topic in self.catalog.unfinished():
            # Whatever state it was in: `finish_unfinished` decides, under its lock.
            for partition in topic.partitions:
                known[partition.id] = folder_name(partition.id, topic.name, partition.number)
        for partition_id in self.state.partition_ids() - known.keys():
            self.state.delete_partition(partition_id)
        folders = set(known.values())
        for name in self._files.list(self.directory.join("logs")):
            if name not in folders:
                path = self.directory.join("logs", name)
                kept = self.quarantine.keep_folder(path, now_ms=wall_clock_ms())
                logger.warning("%s belongs to no partition: moved to %s", path, kept)
        if self._files.is_directory(self.directory.join("run", "deliveries")):
            self.notes().tidy(known.keys())
        try:
            members = [
                member.member_id
                for group in self.groups.groups()
                for member in self.groups.members(group.name)[1]
            ]
        except StateDamaged:
            return  # whoever needs what is damaged hears of it
        self.lives.tidy(members)

    def notes(self) -> NotesFolder:
        """What was noted of deliveries to handlers."""
        from seawall.broker.delivery_notes import NotesFolder  # most have no handlers

        return NotesFolder(self._files, self.directory.join("run", "deliveries"))

    def context(self, topic: TopicInfo, partition: PartitionInfo) -> LogContext:
        """What the log of a partition needs."""
        return LogContext(
            files=self._files,
            folder=self.directory.join(
                "logs", folder_name(partition.id, topic.name, partition.number)
            ),
            partition_id=partition.id,
            ends=self.ends,
            index=self.index,
            config=log_config(topic),
            append_lock_timeout_ms=self._lock_timeout_ms,
        )

    def _vouch(self, context: LogContext) -> None:
        """Have a row for a partition that says the truth about what is on disk."""
        row = self.ends.read(context.partition_id)
        if row is not None and not row.flags & FENCED and self._catch_up(context, row):
            row = self.ends.read(context.partition_id)
            if row is not None and row.next_offset == row.durable_offset:
                return
            try:
                self._sync(context)
            except (SyncFailed, LogFenced, OSError) as error:
                logger.warning("%s: %s", context.folder, error)
            else:
                return
            row = self.ends.read(context.partition_id)
        self.recover(context, row)

    def _catch_up(self, context: LogContext, row: EndsRow) -> bool:
        """Have the row say what stands in the newest segment; False: it must be judged."""
        log_start = self.state.log_start(context.partition_id)
        if row.log_start < log_start:
            # Somebody put an older run/ back, or died between the state and the row.
            row = row._replace(log_start=log_start)
            self.ends.write(context.partition_id, row)
        true_row = caught_up(context, row)
        if true_row is not None and true_row != row:
            logger.warning(
                "%s: keeping offsets %d to %d, whose writer died before it said so",
                context.folder,
                row.next_offset,
                true_row.next_offset,
            )
            self.ends.write(context.partition_id, true_row)
        return true_row is not None

    def _sync(self, context: LogContext) -> None:
        """Bring to disk what a process that is gone has appended."""
        appender = Appender(context)
        try:
            appender.sync()
        finally:
            appender.close()

    def recover(
        self, context: LogContext, row: EndsRow | None, *, gives_up_unreadable: bool = False
    ) -> list[Finding]:
        """Judge the newest segment of a log anew (see `wal.recovery`), and write its row."""
        floor = self.state.highest_committed(context.partition_id) or 0
        log_start = self.state.log_start(context.partition_id) or 0
        floor = max(floor, row.durable_offset if row else 0)

        def judge() -> Recovered:
            return recover(
                context,
                self.quarantine,
                log_start=log_start,
                floor=floor,
                cache_is_certain=self._is_other_boot,
                gives_up_unreadable=gives_up_unreadable,
            )

        try:
            recovered = judge()
        except (EnvironmentDamaged, ValueDamaged) as error:
            # Without the index everything is read, and it is built again as time goes by.
            logger.warning("%s: doing without it", error)
            self.index.forget(context.partition_id)
            recovered = judge()
        for finding in recovered.findings:
            _report(finding)
        self.ends.write(context.partition_id, recovered.row)
        return recovered.findings

    # -- ending ----------------------------------------------------------------------

    def close(self) -> None:
        """Close everything. Safe to call twice."""
        self.ends.close()
        self.index_environment.close()
        self.catalog.close()
        self.state_environment.close()
        self.directory.close()

    def abandon(self, pid_of_opener: int) -> None:
        """In a forked child: let go of everything without touching what is the parent's."""
        self.ends.abandon(pid_of_opener)
        self.index_environment.abandon()
        self.state_environment.abandon()
        self.catalog.abandon()
        self.directory.abandon()


def _report(finding: Finding) -> None:
    logger.warning(
        "%s: %s at position %d (offsets %d to %d): %s%s",
        finding.path,
        finding.verdict.value,
        finding.position,
        finding.offset,
        finding.next_offset,
        finding.reason,
        f"; kept in {finding.quarantined}" if finding.quarantined else "",
    )
