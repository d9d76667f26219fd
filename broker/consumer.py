"""Reading records from any offset.

A `Consumer` reads its partitions in turn and hands out records in offset order within
each. Its *position* is the offset of the next record to hand out. In a group (see
`group_consumer`) it also has a *committed* offset.

`poll` and iteration are for one thread at a time; `ack` and `close` may be called from
any.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from seawall.broker.closing import Closing
from seawall.broker.errors import (
    BrokerClosed,
    BrokerError,
    ForkedBroker,
    NotInGroup,
    UnknownPartition,
)
from seawall.broker.fetch import Fetcher
from seawall.broker.running import Running
from seawall.broker.threads import bounded_s
from seawall.broker.translation import from_os_error, translate
from seawall.wal import forks
from seawall.wal.errors import WalError
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.engine import Engine
    from seawall.broker.handling_place import RunPlace

logger = logging.getLogger("seawall.broker")

TopicPartition = tuple[str, int]
AUTO_OFFSET_RESETS = ("earliest", "latest", "error")
DEFAULT_MAX_RECORDS = 500


def check_auto_offset_reset(name: str) -> None:
    """Raise ValueError unless it is one of `AUTO_OFFSET_RESETS`."""
    if name not in AUTO_OFFSET_RESETS:
        known = ", ".join(AUTO_OFFSET_RESETS)
        raise ValueError(f"auto_offset_reset is one of {known}, not {name!r}")


class Consumer(Running, Closing):
    """Reads from the topics of one broker. Made by `Broker.consumer`."""

    def __init__(
        self,
        engine: Engine,
        fetchers: Mapping[TopicPartition, Fetcher],
        *,
        release: Callable[[Consumer], None] = lambda consumer: None,
    ) -> None:
        self._engine = engine
        self._fetchers = dict(fetchers)
        self._order = list(self._fetchers.values())
        self._release = release
        self._unusable: BrokerError | None = None
        # What iteration has read, but not handed out yet.
        self._rest: deque[Record] = deque()
        # What `poll` is not to read for now: `run` has enough of it.
        self.held_back: frozenset[TopicPartition] = frozenset()
        self.is_running = False
        # For who reads in its name: what was not handed out goes back before it closes.
        self.before_closing: Callable[[], object] = lambda: None
        self._closing = threading.Lock()
        forks.register(self)

    # -- reading ---------------------------------------------------------------------

    def poll(
        self, max_records: int = DEFAULT_MAX_RECORDS, timeout_ms: float | None = 0
    ) -> list[Record]:
        """The next records, `max_records` at the most; empty when time ran out.

        `timeout_ms` is how long to wait for the first one: 0 does not wait, None waits
        until the consumer is closed.

        Raises `RecordDecodeError` or `LogDamaged` at a batch that cannot be read; every
        poll raises it again until `seek` goes past it. `UnknownTopic` once a topic is
        deleted.
        """
        if max_records < 1:
            raise ValueError(f"max_records is at least 1, not {max_records}")
        if self._rest:
            self._give_back_rest()
        deadline_s: float | None = None
        while True:
            generation = self._engine.watcher.generation
            self._attend()
            records = self._gather(max_records)
            if records:
                return records
            if timeout_ms is not None:
                now_s = time.monotonic()
                if deadline_s is None:
                    deadline_s = now_s + timeout_ms / 1000
                if now_s >= deadline_s:
                    return []
            left_s = None if deadline_s is None else bounded_s(deadline_s - time.monotonic())
            self._engine.watcher.wait(generation, left_s)

    def _attend(self) -> None:
        """What has to be seen to before records are handed out."""
        self._check_usable()

    def _gather(self, max_records: int) -> list[Record]:
        """What is there now, without waiting."""
        records: list[Record] = []
        order = self._order
        for turn in range(len(order)):
            fetcher = order[turn]
            if self.held_back and (fetcher.topic, fetcher.partition) in self.held_back:
                continue
            position = fetcher.position
            try:
                found = fetcher.take(max_records - len(records))
            except (WalError, OSError) as error:
                if records:
                    break  # the next poll raises it
                raise self._named(error, fetcher) from error
            except BaseException:
                # A signal's, say: the caller gets nothing, so nothing was handed out.
                fetcher.rewind(position)
                self.give_back(records)
                raise
            if found:
                records = records + found if records else found
                if len(records) >= max_records:
                    # The next poll begins with the next partition.
                    self._order = order[turn + 1 :] + order[: turn + 1]
                    break
        return records

    def __iter__(self) -> Iterator[Record]:
        """Every record from here on; waits for new ones, and ends with `close`.

        The position is behind the record that was handed out last, so leaving the loop
        loses nothing, and `ack` inside it acknowledges no record that is still to come.
        """
        while True:
            try:
                records = self.poll(timeout_ms=None)
            except BrokerClosed:
                return
            yield from self.hand_out(records)

    def hand_out(self, records: Sequence[Record]) -> Iterator[Record]:
        """Give the records of the last `poll` one by one; the rest of them count as not
        handed out until then, and belong to whoever polls next."""
        rest = self._rest = deque(records)
        next_one = rest.popleft
        while rest:
            yield next_one()

    def _give_back_rest(self) -> None:
        """Let go of what an iterator has not handed out; it is read again."""
        rest, self._rest = self._rest, deque()
        self.give_back(list(rest))
        rest.clear()

    def give_back(self, records: Sequence[Record]) -> None:
        """Hand these records out again; they are the last ones that were taken."""
        for partition, offset in first_offsets(records).items():
            fetcher = self._fetchers.get(partition)
            if fetcher is not None:
                fetcher.rewind(offset)

    # -- places ----------------------------------------------------------------------

    def assignment(self) -> list[TopicPartition]:
        """The (topic, partition) pairs that this consumer reads."""
        return list(self._fetchers)

    @property
    def is_rebalancing(self) -> bool:
        """Whether partitions are on their way to it or from it; never without a group."""
        return False

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record that `poll` hands out."""
        position = self._fetcher(topic, partition).position
        return first_offsets(self._rest.copy()).get((topic, partition), position)

    def reached(self, topic: str, partition: int) -> int:
        """The same here: a position lies behind offsets without a record as well."""
        return self.position(topic, partition)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read on from another offset; what is committed does not change.

        Raises `OffsetOutOfRange` unless ``log_start <= offset <= durable_end``.
        """
        self._check_usable()
        fetcher = self._fetcher(topic, partition)
        if self._rest:
            self._give_back_rest()
        try:
            fetcher.seek(offset)
        except (WalError, OSError) as error:
            raise self._named(error, fetcher) from error

    def committed(self, topic: str, partition: int) -> int | None:
        """The offset behind the last acknowledged record; None without a group."""
        self._fetcher(topic, partition)
        return None

    def lag(self) -> dict[TopicPartition, int]:
        """How many offsets each partition's durable end is ahead.

        Ahead of what is committed; without a group, ahead of the position.
        """
        self._check_usable()
        lags = {}
        for partition, fetcher in self._fetchers.items():
            try:
                durable_end = fetcher.ends().durable_end
            except (WalError, OSError) as error:
                raise self._named(error, fetcher) from error
            lags[partition] = max(0, durable_end - self._done(fetcher))
        return lags

    def _done(self, fetcher: Fetcher) -> int:
        """The offset behind what counts as consumed."""
        return self.position(fetcher.topic, fetcher.partition)

    def ack(self, records: Record | Sequence[Record] | None = None) -> None:
        """Without a group there is nothing to acknowledge for: raises `NotInGroup`."""
        self._check_usable()
        raise NotInGroup()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._unusable is not None

    def place_to_run(self) -> RunPlace:
        """What handlers are run with. Raises `NotInGroup`."""
        self._check_usable()
        raise NotInGroup()

    # -- the rest --------------------------------------------------------------------

    def _fetcher(self, topic: str, partition: int) -> Fetcher:
        fetcher = self._fetchers.get((topic, partition))
        if fetcher is None:
            raise UnknownPartition(
                topic=topic,
                partition=partition,
                partitions=sum(1 for name, _ in self._fetchers if name == topic),
                is_read=False,
            )
        return fetcher

    def _named(self, error: WalError | OSError, fetcher: Fetcher) -> BrokerError:
        if isinstance(error, OSError):
            return from_os_error(error, topic=fetcher.topic, partition=fetcher.partition)
        return translate(error, topic=fetcher.topic, partition=fetcher.partition)

    def check_usable(self) -> None:
        """Raise `BrokerClosed` after `close`, and `ForkedBroker` in a child after a fork."""
        self._check_usable()

    def _check_usable(self) -> None:
        if self._unusable is not None:
            raise self._unusable

    def close(self) -> None:
        """Stop reading. Safe to call twice, and from any thread."""
        with self._closing:
            if self._unusable is not None:
                return
            self._unusable = BrokerClosed(what="consumer")
        self._engine.watcher.notify()
        for fetcher in self._order:
            fetcher.close()
        self._release(self)

    def abandon(self) -> None:
        """In a forked child: refuse everything."""
        if self._unusable is None:
            self._unusable = ForkedBroker(what="consumer", opened_by_pid=self._engine.pid)
        self._closing = threading.Lock()


def first_offsets(records: Iterable[Record]) -> dict[TopicPartition, int]:
    """The offset of the first of these records in each partition."""
    first: dict[TopicPartition, int] = {}
    for record in records:
        first.setdefault((record.topic, record.partition), record.offset)
    return first
