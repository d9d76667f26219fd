"""What groups have acknowledged, and where logs start: ``state.lmdb``. A truth.

Partitions go by their id, which is never used again, and never by a topic's name: a
topic that is deleted and created again inherits nothing.

The bytes are laid out in ``state_format``. Who is in a group, and may therefore change
what it has acknowledged, is in ``group_state``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from seawall.broker import state_format as layout
from seawall.broker.errors import StateDamaged, UnknownGroup, UnsupportedFormat
from seawall.broker.state_format import FORMAT, Committed, Malformed
from seawall.broker.translation import translate
from seawall.wal.errors import WalError
from seawall.wal.kv import Environment
from seawall.wal.kv_view import ReadTransaction, WriteTransaction

__all__ = ["Committed", "State"]


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
        upgrades: bool = False,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Take an open environment, which `close` closes; mark it if it is new.

        With `upgrades`, which takes a sole opener, one of format 1 becomes one of this format.

        Raises `UnsupportedFormat`, and `StateDamaged` if it has entries but no mark.
        """
        self._environment = environment
        self.clock_ms = clock_ms
        with self.read() as view:
            stored = view.get(layout.FORMAT_KEY)
            if stored is None and view.first_at_or_after(b"\0") is not None:
                raise Malformed("its format is missing")
            found = None if stored is None else layout.unpack_format(stored)
        if found is None:
            with self.write() as transaction:
                transaction.put(layout.FORMAT_KEY, layout.pack_format(FORMAT))
        elif found == 1 and upgrades:
            from seawall.broker.state_upgrade import upgrade

            with self.write() as transaction:
                upgrade(transaction, self.clock_ms())
        elif found != FORMAT:
            raise UnsupportedFormat(path=environment.path, found=str(found), supported=str(FORMAT))

    @property
    def path(self) -> str:
        return self._environment.path

    @contextmanager
    def read(self) -> Iterator[ReadTransaction]:
        """A short look at what is stored, with the broker's errors."""
        try:
            with self._environment.read() as view:
                yield view
        except WalError as error:
            raise translate(error) from error
        except Malformed as error:
            raise StateDamaged(path=self.path, reason=str(error)) from error

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        """A change, synced at the end of the block, with the broker's errors."""
        try:
            with self._environment.write() as transaction:
                yield transaction
        except WalError as error:
            raise translate(error) from error
        except Malformed as error:
            raise StateDamaged(path=self.path, reason=str(error)) from error

    # -- committed offsets -----------------------------------------------------------

    def committed(self, group: str) -> dict[int, Committed]:
        """What a group has committed, by partition id. Raises `UnknownGroup`."""
        with self.read() as view:
            if view.get(layout.group_key(group)) is None:
                raise UnknownGroup(group=group)
            found = {}
            for partition_id in self.partitions_of(view, group):
                committed = self.committed_at(view, group, partition_id)
                if committed is None:
                    raise Malformed(f"group {group!r} lacks its offset in {partition_id}")
                found[partition_id] = committed
        return found

    def committed_in(self, partition_id: int) -> dict[str, Committed]:
        """What every group has committed in one partition."""
        with self.read() as view:
            return self._committed_in(view, partition_id)

    def is_lowest(self, partition_id: int, offset: int) -> bool:
        """Whether no group has committed less than that in a partition. Ends at the first."""
        start, end = (layout.partition_key(b"O", each) for each in (partition_id, partition_id + 1))
        with self.read() as view:
            return all(
                layout.unpack_committed(stored).offset >= offset
                for _, stored in view.iterate(start, end)
            )

    def highest_committed(self, partition_id: int) -> int | None:
        """The greatest offset that a group has committed in a partition.

        Recovery may not end a log below it.
        """
        offsets = [entry.offset for entry in self.committed_in(partition_id).values()]
        return max(offsets, default=None)

    # -- producer ids ----------------------------------------------------------------

    def take_producer_ids(self, count: int) -> int:
        """Take `count` producer ids, for good; gives the first of them.

        They begin at the time of day, 1,000 to the millisecond. So none is given out twice
        even if this environment was lost, or is an old copy, while the logs know newer ones.
        """
        with self.write() as transaction:
            stored = transaction.get(layout.NEXT_PRODUCER_ID_KEY)
            first = self.clock_ms() * layout.PRODUCER_IDS_PER_MS
            if stored is not None:
                first = max(first, layout.unpack_producer_id(stored))
            transaction.put(layout.NEXT_PRODUCER_ID_KEY, layout.pack_producer_id(first + count))
        return first

    # -- partitions ------------------------------------------------------------------

    def set_log_start(self, partition_id: int, offset: int) -> None:
        """Store the first offset that readers may have. It never moves backwards."""
        key = layout.partition_key(b"L", partition_id)
        with self.write() as transaction:
            old = transaction.get(key)
            if old is None or offset > layout.unpack_log_start(old):
                transaction.put(key, layout.pack_log_start(offset))

    def log_start(self, partition_id: int) -> int:
        """The first offset that readers may have; 0 if none was ever stored."""
        with self.read() as view:
            return self.log_start_at(view, partition_id)

    def trim(self, partition_id: int, ceiling: int) -> int:
        """Raise the log start to `ceiling` if every group has committed that much.

        Every group, that is, which has committed anything in the partition; without any
        nothing is raised. The groups' offsets are read, and the log start is written, in
        one transaction, and so is a group's first offset (see `initialise`): no group is
        ever overtaken. Gives the log start that is in force now.
        """
        with self.write() as transaction:
            log_start = self.log_start_at(transaction, partition_id)
            committed = self._committed_in(transaction, partition_id).values()
            acknowledged = min((entry.offset for entry in committed), default=0)
            if not log_start < ceiling <= acknowledged:
                return log_start
            key = layout.partition_key(b"L", partition_id)
            transaction.put(key, layout.pack_log_start(ceiling))
            return ceiling

    def begin_partitions(self, old: Sequence[int], new: Sequence[int]) -> None:
        """Have every group that is in one of a topic's old partitions begin in its new ones.

        At once, whether anybody of it is there or not: what is published before they look
        is theirs as well, and is not trimmed before they have acknowledged it.
        """
        with self.write() as transaction:
            groups = {group for each in old for group in self._committed_in(transaction, each)}
            for group in sorted(groups):
                for partition_id in new:
                    if self.committed_at(transaction, group, partition_id) is None:
                        self.put_committed(transaction, group, partition_id, 0)

    def delete_partition(self, partition_id: int) -> None:
        """Forget a partition: its log start, and what groups committed in it."""
        with self.write() as transaction:
            for group in self._committed_in(transaction, partition_id):
                transaction.delete(layout.place_key(group, partition_id))
            transaction.delete_range(
                layout.partition_key(b"O", partition_id),
                layout.partition_key(b"O", partition_id + 1),
            )
            transaction.delete(layout.partition_key(b"L", partition_id))

    def partition_ids(self) -> set[int]:
        """Every partition that something is stored for, for whoever clears up."""
        found = set()
        with self.read() as view:
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

    def committed_at(
        self, view: ReadTransaction, group: str, partition_id: int
    ) -> Committed | None:
        """What a group has committed in a partition, None if nothing."""
        stored = view.get(layout.offset_key(partition_id, group))
        return None if stored is None else layout.unpack_committed(stored)

    def log_start_at(self, view: ReadTransaction, partition_id: int) -> int:
        """See `log_start`."""
        stored = view.get(layout.partition_key(b"L", partition_id))
        return 0 if stored is None else layout.unpack_log_start(stored)

    def _committed_in(self, view: ReadTransaction, partition_id: int) -> dict[str, Committed]:
        start, end = (layout.partition_key(b"O", each) for each in (partition_id, partition_id + 1))
        return {
            layout.group_of_offset(key): layout.unpack_committed(stored)
            for key, stored in view.iterate(start, end)
        }

    def partitions_of(self, view: ReadTransaction, group: str) -> list[int]:
        """The partitions in which a group has committed something."""
        entries = view.iterate(*layout.group_range(b"P", group))
        return [layout.partition_of_place(key) for key, _ in entries]

    def put_committed(
        self,
        transaction: WriteTransaction,
        group: str,
        partition_id: int,
        offset: int,
        metadata: str = "",
    ) -> None:
        """Store what a group has committed in a partition, be it less than before."""
        if offset < 0:
            raise ValueError(f"a committed offset is not negative, but {offset}")
        committed = Committed(offset, self.clock_ms(), metadata)
        transaction.put(layout.offset_key(partition_id, group), layout.pack_committed(committed))
        place = layout.place_key(group, partition_id)
        if transaction.get(place) is None:
            transaction.put(place, b"")
