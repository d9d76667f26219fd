"""One partition's log: append, commit, read, find by time, roll, drop, verify.

The facade over the parts, each of which has a module of its own: `appender` writes and
syncs, `committer` shares syncs between threads, `reader` and `lookup` read, `checkpoint`
keeps the index up to date, `recovery` judges after a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from seawall.wal import lookup
from seawall.wal.appender import Appended, Appender
from seawall.wal.checked import CheckedAppender
from seawall.wal.checkpoint import checkpoint
from seawall.wal.committer import Committer
from seawall.wal.context import LogContext, write_error
from seawall.wal.ends import DELETED, EndsRow
from seawall.wal.errors import AppendLost, OffsetOutOfRange, WalError
from seawall.wal.files import remove_file
from seawall.wal.folder_lock import lock_folder
from seawall.wal.inventory import SegmentInfo, inventory, newest_ms
from seawall.wal.lookup import TimeFound
from seawall.wal.producers import Placed, ProducerEntry
from seawall.wal.reader import Reader
from seawall.wal.segment import list_segments

if TYPE_CHECKING:
    from seawall.wal.compaction import Compacted, Rules
    from seawall.wal.verify import Damage

REMOVE_ATTEMPTS = 20
REMOVE_PAUSE_S = 0.01

logger = logging.getLogger("seawall.wal")


class LogEnds(NamedTuple):
    """``log_start <= durable_end <= log_end``; the durable end is Kafka's high watermark."""

    log_start: int
    durable_end: int
    log_end: int


class Log:
    """An open log. Safe to use from any thread; one per partition and process.

    `on_change` is called after each publish by this process, and `on_dirty` after each
    append, so that someone takes care of checkpoints.
    """

    def __init__(
        self,
        context: LogContext,
        *,
        on_change: Callable[[], None] = lambda: None,
        on_dirty: Callable[[Log], None] = lambda log: None,
    ) -> None:
        self._appender = Appender(context)
        self._checked = CheckedAppender(context, self._appender)
        self._committer = Committer(self._sync)
        self._on_change = on_change
        self._on_dirty = on_dirty
        self.context = context

    # -- writing ---------------------------------------------------------------------

    def append(self, batches: Sequence[bytearray]) -> Appended:
        """Append valid record batches (see `Appender.append`); not durable until `commit`."""
        appended = self._appender.append(batches)
        self._on_dirty(self)
        return appended

    def append_at(self, offset: int, batches: Sequence[bytearray]) -> Appended | None:
        """Like `append`, if the log ends at `offset`; else None, and nothing is changed."""

        places: list[int] = []

        def choose(row: EndsRow) -> Sequence[bytearray]:
            places.append(row.next_offset)
            return batches if row.next_offset == offset else ()

        after = self._appender.append_chosen(choose)
        if places != [offset]:
            return None
        self._on_dirty(self)
        return Appended(offset, after.next_offset)

    def append_checked(self, batches: Sequence[bytearray]) -> list[Placed]:
        """Append batches of producers that have an id, each only if it is not there yet.

        See `CheckedAppender.append`. Commit the greatest ``next_offset``, of duplicates as
        well: what they repeat may not be durable yet.
        """
        placed = self._checked.append(batches)
        self._on_dirty(self)
        return placed

    def producers(self) -> dict[int, ProducerEntry]:
        """The producers with an id of which something stands in the log, by their id."""
        return self._checked.producers()

    def commit(self, next_offset: int) -> int:
        """Return once everything below `next_offset` is on disk and visible.

        Returns the durable end. Raises `SyncFailed`, `PublishTimeout`, or `AppendLost` if
        the log ends before that: the outcome is unknown then, and the log is fenced.
        """
        durable_end = self._committer.commit(next_offset)
        if durable_end < next_offset:
            # Somebody has written, or is about to, where these records are: what stands in
            # the newest segment is to be judged before anybody appends to it again.
            self._appender.fence()
            raise AppendLost(
                path=self.context.folder, next_offset=next_offset, durable_end=durable_end
            )
        return durable_end

    def sync(self) -> int:
        """Bring everything that was appended so far to disk; return the durable end."""
        return self.commit(self.context.row().next_offset)

    def _sync(self, next_offset: int) -> int:
        durable_end = self._appender.sync(next_offset)
        self._on_change()
        return durable_end

    def roll(self) -> None:
        """Begin a new segment, unless the newest one is empty."""
        self._appender.roll()
        self._on_dirty(self)

    def checkpoint(self) -> None:
        """Bring the index up to the durable end."""
        checkpoint(self.context)

    # -- reading ---------------------------------------------------------------------

    def ends(self) -> LogEnds:
        """Where the log begins and ends now, whichever process moved it."""
        row = self.context.row()
        return LogEnds(row.log_start, row.durable_offset, row.next_offset)

    def check_offset(self, offset: int) -> None:
        """Raise `OffsetOutOfRange` unless ``log_start <= offset <= durable_end``."""
        ends = self.ends()
        if not ends.log_start <= offset <= ends.durable_end:
            raise OffsetOutOfRange(
                offset=offset, log_start=ends.log_start, durable_end=ends.durable_end
            )

    def reader(self, offset: int) -> Reader:
        """A reader that begins at `offset`."""
        return Reader(self.context, offset)

    def offset_for_time(self, timestamp_ms: int) -> TimeFound | None:
        """The first record at or after a time (ms since the epoch), None if there is none."""
        return lookup.offset_for_time(self.context, timestamp_ms)

    def size_bytes(self) -> int:
        """The bytes of all batches in all segments, without what is allocated ahead."""
        row = self.context.row()
        total = row.position
        for base in list_segments(self.context.files, self.context.folder):
            if base < row.segment:
                total += self.context.files.path_size(self.context.segment_path(base)) or 0
        return total

    def segments(self) -> list[SegmentInfo]:
        """The segments that the log has, in order, without an empty active one."""
        return inventory(self.context)

    def newest_ms(self, segment: SegmentInfo, spend: Callable[[int], object]) -> int:
        """The greatest timestamp in one of `segments`; see `inventory.newest_ms`."""
        return newest_ms(self.context, segment, spend)

    def verify(self) -> Iterator[Damage]:
        """Read everything below the durable end and yield what is not valid."""
        from seawall.wal.verify import verify

        return verify(self.context)

    # -- the life of a log -----------------------------------------------------------

    def drop_segments(self, before_offset: int) -> int:
        """Remove the segments that lie wholly below `before_offset`; return how many.

        The log start must be at `before_offset` or above already, in whatever is the
        truth about it; here it is raised first, so that readers see it before the files
        go. While the log is compacted, none is removed: whoever drops next does that.
        """
        context = self.context
        self._appender.set_log_start(before_offset)
        with lock_folder(context, exclusive=False) as is_free:
            return self._drop_segments(before_offset) if is_free else 0

    def _drop_segments(self, before_offset: int) -> int:
        context = self.context
        row = context.row()
        try:
            bases = list_segments(context.files, context.folder)
            # The newest segment has no file until something is appended to it.
            sealed = [base for base in bases if base < row.segment]
            doomed = [
                base
                for base, after in itertools.pairwise([*sealed, row.segment])
                if after <= before_offset
            ]
            if doomed:
                # The index keeps the producers of what goes; without it, it goes as well.
                with contextlib.suppress(WalError):
                    self.checkpoint()
            for base in doomed:
                # Another process may be doing the same.
                remove_file(context.files, context.segment_path(base))
            if doomed:
                context.files.sync_directory(context.folder)
        except OSError as error:
            raise write_error(error, context.folder) from error
        if doomed:
            context.index.forget_segments(context.partition_id, doomed[-1] + 1)
        return len(doomed)

    def compact(
        self,
        rules: Rules,
        spend: Callable[[int], object] = lambda _: None,
        *,
        log_start: int = 0,
        dry_run: bool = False,
    ) -> Compacted:
        """Keep the last value of each key; see `compaction.compact`."""
        from seawall.wal.compaction import compact  # few processes ever do
        from seawall.wal.swap import Hands

        hands = Hands(spend, self._appender.fence)
        return compact(self.context, rules, hands, log_start=log_start, dry_run=dry_run)

    def mark_deleted(self) -> None:
        """Have every process refuse this log from now on."""
        self._appender.mark_deleted()

    def is_deleted(self) -> bool:
        """Whether the partition was deleted, by whichever process."""
        row = self.context.ends.read(self.context.partition_id)
        return row is None or bool(row.flags & DELETED)

    def close(self) -> None:
        """Close the files. Safe to call twice. Syncs nothing: see `sync`, `checkpoint`."""
        self._appender.close()

    def abandon(self) -> None:
        """In a forked child: let go without touching what is the parent's."""
        self._appender.abandon()
        self._checked.abandon()


def remove_log_files(context: LogContext) -> None:
    """Remove a deleted partition's folder, its index entries and its row."""
    files = context.files
    if files.is_directory(context.folder):
        for attempt in itertools.count():
            for name in files.list(context.folder):
                remove_file(files, os.path.join(context.folder, name))
            try:
                files.rmdir(context.folder)
            except OSError as error:
                # A compaction that has not yet seen that this log is deleted writes one more.
                if error.errno != errno.ENOTEMPTY or attempt == REMOVE_ATTEMPTS:
                    raise
                time.sleep(REMOVE_PAUSE_S)
            else:
                break
        files.sync_directory(os.path.dirname(context.folder))
    context.index.forget(context.partition_id)
    context.ends.clear(context.partition_id)
