"""What groups have acknowledged, and where logs start: ``state.lmdb``. A truth.

Partitions go by their id, which is never used again, and never by a topic's name: a
topic that is deleted and created again inherits nothing.

The bytes are laid out in ``state_format``.

A generation begins whenever a consumer takes hold of a group. It grows, also when the
group is deleted and made anew in between, so that a consumer which was fenced stays so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from seawall.broker import state_format as layout
from seawall.broker.errors import GroupFenced, StateDamaged, UnknownGroup, UnsupportedFormat
from seawall.broker.names import check_group_name
from seawall.broker.state_format import FORMAT, Committed, Group, Holder, Malformed
from seawall.broker.translation import translate
from seawall.wal.errors import WalError
from seawall.wal.kv import Environment
from seawall.wal.kv_view import ReadTransaction, WriteTransaction

__all__ = ["Committed", "Group", "Holder", "State"]

MAX_METADATA_BYTES = 4096  # Kafka's offset.metadata.max.bytes


class State:
    """The acknowledgements and log starts of one directory, for every thread.

    Each change is one synced transaction: it is durable when the method returns, and
    after any error but `SyncFailed` nothing has changed. All methods may raise
    `StateDamaged`, `LockTimeout`, `StorageFull`, `BrokerClosed` and `ForkedBroker`.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Take an open environment, which `close` closes; mark it if it is new.

        Raises `UnsupportedFormat`, and `StateDamaged` if it has entries but no mark.
        """
        self._environment = environment
        self._clock_ms = clock_ms
        with self._read() as view:
            stored = view.get(layout.FORMAT_KEY)
            if stored is None and view.first_at_or_after(b"\0") is not None:
                raise Malformed("its format is missing")
            found = None if stored is None else layout.unpack_format(stored)
        if found is None:
            with self._write() as transaction:
                transaction.put(layout.FORMAT_KEY, layout.pack_format(FORMAT))
        elif found != FORMAT:
            raise UnsupportedFormat(path=environment.path, found=str(found), supported=str(FORMAT))

    @property
    def path(self) -> str:
        return self._environment.path

    @contextmanager
    def _read(self) -> Iterator[ReadTransaction]:
        try:
            with self._environment.read() as view:
                yield view
        except WalError as error:
            raise translate(error) from error
        except Malformed as error:
            raise StateDamaged(path=self.path, reason=str(error)) from error

    @contextmanager
    def _write(self) -> Iterator[WriteTransaction]:
        try:
            with self._environment.write() as transaction:
                yield transaction
        except WalError as error:
            raise translate(error) from error
        except Malformed as error:
            raise StateDamaged(path=self.path, reason=str(error)) from error

    # -- groups ----------------------------------------------------------------------

    def claim(self, group: str, holder: Holder, *, protocol: str = "") -> int:
        """Begin a new generation of a group, registering it if it is new.

        From now on only this generation can commit. The caller has made sure that the
        holder before it is gone.
        """
        check_group_name(group)
        with self._write() as transaction:
            return self._begin_generation(
                transaction, Group(name=group, generation=0, holder=holder, protocol=protocol)
            )

    def group(self, group: str) -> Group | None:
        """A registered group, None if there is none."""
        with self._read() as view:
            return self._group(view, group)

    def holder(self, group: str) -> Holder | None:
        """Who took hold of a group last, None if it is not registered."""
        found = self.group(group)
        return None if found is None else found.holder

    def groups(self) -> list[Group]:
        """Every registered group, by name."""
        with self._read() as view:
            entries = view.iterate(b"G", b"H")
            return [layout.unpack_group(layout.group_of(key), value) for key, value in entries]

    def delete_group(self, group: str) -> bool:
        """Forget a group and all it has committed. False if there is none.

        A consumer that still holds it is fenced.
        """
        with self._write() as transaction:
            old = self._group(transaction, group)
            if old is None:
                return False
            newest = max(old.generation, self._newest_deleted(transaction))
            transaction.put(layout.NEWEST_DELETED_KEY, layout.pack_generation(newest))
            for partition_id in self._partitions_of(transaction, group):
                transaction.delete(layout.offset_key(partition_id, group))
            transaction.delete_range(*layout.member_range(group))
            transaction.delete(layout.group_key(group))
        return True

    # -- committed offsets -----------------------------------------------------------

    def initialise(self, group: str, generation: int, starts: Mapping[int, int]) -> dict[int, int]:
        """Store where a group begins in the partitions (by id) in which it has nothing.

        One that has been trimmed since it was looked up becomes the log start. Gives the
        group's committed offset for each of these partitions, old or new. Raises
        `GroupFenced`.
        """
        committed = {}
        with self._write() as transaction:
            self._check_generation(transaction, group, generation)
            for partition_id, start in starts.items():
                old = self._committed(transaction, group, partition_id)
                if old is None:
                    start = max(start, self._log_start(transaction, partition_id))
                    self._put(transaction, group, partition_id, start, "")
                committed[partition_id] = start if old is None else old.offset
        return committed

    def commit(
        self,
        group: str,
        generation: int,
        offsets: Mapping[int, int],
        *,
        metadata: str = "",
    ) -> None:
        """Store the next offset to read for each partition (by id).

        A committed offset never moves backwards: a lower or an equal one changes
        nothing. Raises `GroupFenced` if the generation is not in force; the check and
        the change are one transaction.
        """
        _check_metadata(metadata)
        with self._write() as transaction:
            self._check_generation(transaction, group, generation)
            for partition_id, offset in offsets.items():
                old = self._committed(transaction, group, partition_id)
                if old is None or offset > old.offset:
                    self._put(transaction, group, partition_id, offset, metadata)

    def reset(self, group: str, offsets: Mapping[int, int]) -> dict[int, int]:
        """Set committed offsets, also backwards. Registers the group if it is new.

        The caller has made sure that nobody holds it; should somebody do so, they are
        fenced, because a new generation begins. If an offset lies below its partition's
        log start, nothing is changed; the log starts of these partitions are returned.
        """
        check_group_name(group)
        with self._write() as transaction:
            starts = {each: self._log_start(transaction, each) for each in offsets}
            trimmed = {each: start for each, start in starts.items() if offsets[each] < start}
            if trimmed:
                return trimmed
            self._begin_generation(
                transaction,
                self._group(transaction, group) or Group(name=group, generation=0, holder=None),
            )
            for partition_id, offset in offsets.items():
                self._put(transaction, group, partition_id, offset, "")
        return {}

    def committed(self, group: str) -> dict[int, Committed]:
        """What a group has committed, by partition id. Raises `UnknownGroup`."""
        with self._read() as view:
            if self._group(view, group) is None:
                raise UnknownGroup(group=group)
            found = {}
            for partition_id in self._partitions_of(view, group):
                committed = self._committed(view, group, partition_id)
                if committed is None:
                    raise Malformed(f"group {group!r} lacks its offset in {partition_id}")
                found[partition_id] = committed
        return found

    def committed_in(self, partition_id: int) -> dict[str, Committed]:
        """What every group has committed in one partition."""
        with self._read() as view:
            return self._committed_in(view, partition_id)

    def highest_committed(self, partition_id: int) -> int | None:
        """The greatest offset that a group has committed in a partition.

        Recovery may not end a log below it.
        """
        offsets = [entry.offset for entry in self.committed_in(partition_id).values()]
        return max(offsets, default=None)

    # -- partitions ------------------------------------------------------------------

    def set_log_start(self, partition_id: int, offset: int) -> None:
        """Store the first offset that readers may have. It never moves backwards."""
        key = layout.partition_key(b"L", partition_id)
        with self._write() as transaction:
            old = transaction.get(key)
            if old is None or offset > layout.unpack_log_start(old):
                transaction.put(key, layout.pack_log_start(offset))

    def log_start(self, partition_id: int) -> int:
        """The first offset that readers may have; 0 if none was ever stored."""
        with self._read() as view:
            return self._log_start(view, partition_id)

    def trim(self, partition_id: int, ceiling: int) -> int:
        """Raise the log start to `ceiling` if every group has committed that much.

        Every group, that is, which has committed anything in the partition; without any
        nothing is raised. The groups' offsets are read, and the log start is written, in
        one transaction, and so is a group's first offset (see `initialise`): no group is
        ever overtaken. Gives the log start that is in force now.
        """
        with self._write() as transaction:
            log_start = self._log_start(transaction, partition_id)
            committed = self._committed_in(transaction, partition_id).values()
            acknowledged = min((entry.offset for entry in committed), default=0)
            if not log_start < ceiling <= acknowledged:
                return log_start
            key = layout.partition_key(b"L", partition_id)
            transaction.put(key, layout.pack_log_start(ceiling))
            return ceiling

    def delete_partition(self, partition_id: int) -> None:
        """Forget a partition: its log start, and what groups committed in it."""
        with self._write() as transaction:
            for group in self._committed_in(transaction, partition_id):
                transaction.delete(layout.member_key(group, partition_id))
            transaction.delete_range(
                layout.partition_key(b"O", partition_id),
                layout.partition_key(b"O", partition_id + 1),
            )
            transaction.delete(layout.partition_key(b"L", partition_id))

    def partition_ids(self) -> set[int]:
        """Every partition that something is stored for, for whoever clears up."""
        found = set()
        with self._read() as view:
            for prefix, end in ((b"L", b"M"), (b"O", b"P")):
                entry = view.first_at_or_after(prefix, end)
                while entry is not None:
                    partition_id = layout.partition_of(entry[0])
                    found.add(partition_id)
                    # On to the next partition, whatever lies between.
                    entry = view.first_at_or_after(
                        layout.partition_key(prefix, partition_id + 1), end
                    )
        return found

    def close(self) -> None:
        """Close the environment. Safe to call twice."""
        self._environment.close()

    # -- inside a transaction --------------------------------------------------------

    def _log_start(self, view: ReadTransaction, partition_id: int) -> int:
        stored = view.get(layout.partition_key(b"L", partition_id))
        return 0 if stored is None else layout.unpack_log_start(stored)

    def _begin_generation(self, transaction: WriteTransaction, group: Group) -> int:
        """Store a group under the generation that follows its last one."""
        old = self._group(transaction, group.name)
        last = self._newest_deleted(transaction) if old is None else old.generation
        begun = replace(group, generation=last + 1)
        transaction.put(layout.group_key(group.name), layout.pack_group(begun))
        return begun.generation

    def _newest_deleted(self, view: ReadTransaction) -> int:
        stored = view.get(layout.NEWEST_DELETED_KEY)
        return 0 if stored is None else layout.unpack_generation(stored)

    def _check_generation(self, view: ReadTransaction, group: str, generation: int) -> None:
        found = self._group(view, group)
        if found is None or found.generation != generation:
            current = 0 if found is None else found.generation
            raise GroupFenced(group=group, generation=generation, current=current)

    def _group(self, view: ReadTransaction, group: str) -> Group | None:
        stored = view.get(layout.group_key(group))
        return None if stored is None else layout.unpack_group(group, stored)

    def _committed(self, view: ReadTransaction, group: str, partition_id: int) -> Committed | None:
        stored = view.get(layout.offset_key(partition_id, group))
        return None if stored is None else layout.unpack_committed(stored)

    def _committed_in(self, view: ReadTransaction, partition_id: int) -> dict[str, Committed]:
        start, end = (layout.partition_key(b"O", each) for each in (partition_id, partition_id + 1))
        return {
            layout.group_of_offset(key): layout.unpack_committed(stored)
            for key, stored in view.iterate(start, end)
        }

    def _partitions_of(self, view: ReadTransaction, group: str) -> list[int]:
        entries = view.iterate(*layout.member_range(group))
        return [layout.partition_of_member(key) for key, _ in entries]

    def _put(
        self,
        transaction: WriteTransaction,
        group: str,
        partition_id: int,
        offset: int,
        metadata: str,
    ) -> None:
        if offset < 0:
            raise ValueError(f"a committed offset is not negative, but {offset}")
        committed = Committed(offset, self._clock_ms(), metadata)
        transaction.put(layout.offset_key(partition_id, group), layout.pack_committed(committed))
        member = layout.member_key(group, partition_id)
        if transaction.get(member) is None:
            transaction.put(member, b"")


def _check_metadata(metadata: str) -> None:
    if len(metadata.encode()) > MAX_METADATA_BYTES:
        raise ValueError(f"metadata has at most {MAX_METADATA_BYTES} bytes")
