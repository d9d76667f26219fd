"""Reading over the network: librdkafka fetches ahead, this hands out and keeps the place.

What is fetched goes through `_pending`, in the order in which it came. A partition's
*position* is the offset behind the last record that was handed out; what is fetched, but not
handed out, is behind it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from seawall.broker.closing import Closing
from seawall.broker.consumer import DEFAULT_MAX_RECORDS, first_offsets
from seawall.broker.errors import (
    BrokerClosed,
    BrokerError,
    ForkedBroker,
    NotInGroup,
    UnknownPartition,
)
from seawall.broker.remote.errors import kafka_error, lost_signal
from seawall.broker.remote.fetching import Fetching, Place
from seawall.broker.remote.supervisor import Link
from seawall.broker.remote.troubles import Troubles
from seawall.broker.remote.turn import Turn
from seawall.broker.running import Running
from seawall.wal import forks
from seawall.wal.records import Record

if TYPE_CHECKING:
    from uuid import UUID

    from seawall.broker.handling_place import RunPlace
    from seawall.broker.remote.asking import Asking
    from seawall.broker.remote.topics import Topics

logger = logging.getLogger("seawall.broker")

# How soon closing, a signal or a lost connection is noticed while nothing comes.
SLICE_S = 0.1
# How long a seek may have to wait until its partition is being fetched.
SEEK_S = 10.0


class RemoteConsumer(Troubles, Fetching, Running, Closing):
    """Reads topics of a cluster. Made by `RemoteBroker.consumer`; has what `Consumer` has."""

    def __init__(
        self,
        asking: Asking,
        topics: Topics,
        make: Callable[..., Client],
        *,
        uuids: Mapping[str, UUID],
        release: Callable[[RemoteConsumer], None],
    ) -> None:
        self._asking = asking
        self._supervisor = asking.supervisor
        self._topics = topics
        self._release = release
        self._unusable: BrokerError | None = None
        self._positions: dict[Place, int] = {}
        self._expected: dict[Place, int] = {}
        self._at_end: dict[Place, int] = {}
        self._pending: deque[Record] = deque()
        self._behind: dict[Place, int] = {}
        self._stopped: set[Place] = set()
        self._taken: list[Record] = []
        # What iteration has read, but not handed out yet.
        self._rest: deque[Record] = deque()
        self._raised: Exception | None = None
        # Set by who wants a poll to end.
        self._woken = False
        # One thread at a time has librdkafka call back, which happens in its poll.
        self._turn = Turn()
        self._closing = threading.Lock()
        self._failures = self._supervisor.failures
        self._uuids = dict(uuids)
        self._heard_s = self._same_s = time.monotonic()
        self._client: Client | None = make(**self._callbacks())
        forks.register(self)

    def begin(self, offsets: Mapping[Place, int]) -> None:
        """Read these partitions from these offsets on."""
        self._begin_at(offsets)
        self.client.assign([TopicPartition(*place, at) for place, at in offsets.items()])

    @property
    def client(self) -> Client:
        self._check_usable()
        if self._client is None:
            raise BrokerClosed(what="consumer")
        return self._client

    # -- reading ---------------------------------------------------------------------

    def poll(
        self, max_records: int = DEFAULT_MAX_RECORDS, timeout_ms: float | None = 0
    ) -> list[Record]:
        """The next records, `max_records` at the most; empty when time ran out.

        `timeout_ms` is how long to wait for the first one: 0 does not wait, None waits
        until the consumer is closed. While no server answers it waits as well.

        Raises `UnknownTopic` once a topic is deleted, also if another one has its name by then
        (a second may pass before that is seen), `RecordDecodeError` at a batch that cannot be
        read, `ConnectionLost` or `AccessRefused` when the supervisor gives up.
        """
        if max_records < 1:
            raise ValueError(f"max_records is at least 1, not {max_records}")
        try:
            records = self._poll(max_records, timeout_ms)
        except BaseException:
            self._untake()  # nobody gets to see them
            raise
        self._taken = []
        return records

    def _poll(self, max_records: int, timeout_ms: float | None) -> list[Record]:
        deadline_s = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        left_s = 0.0
        while True:
            if not self._turn.take(deadline_s, self._check_usable):
                return []  # who commits has it for as long as that takes
            try:
                self._check_usable()
                if self._rest:
                    self._give_back_rest()
                self._attend()
                if not self._pending:
                    self._serve(max_records, left_s)
                self._take(max_records)
                if self._taken or self._replaced is not None:
                    self._check_same()
                if self._taken:
                    self._heard_s = time.monotonic()
                    self._supervisor.worked()
                    return self._taken
                self._raise_pending()
                self._watch()
                self._look_for_topics()
            finally:
                self._turn.release()
            left_s = self._slice_s()
            if deadline_s is not None:
                left_s = min(left_s, deadline_s - time.monotonic())
            if left_s <= 0 or self._woken:
                self._woken = False
                return []

    def _slice_s(self) -> float:
        """How long it waits at a time, deaf to all else."""
        return SLICE_S

    def _callbacks(self) -> dict[str, Any]:
        """What librdkafka is to tell, by confluent-kafka's names."""
        return {}

    def _attend(self) -> None:
        """What has to be seen to before records are handed out."""

    def _raise_pending(self) -> None:
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised

    def _watch(self) -> None:
        """Nothing came: see whether the connection was given up."""
        supervisor = self._supervisor
        supervisor.refused()
        failures = supervisor.failures
        if failures != self._failures:
            lost, self._failures = supervisor.given_up(self._failures), failures
            if lost is not None:
                raise lost
        if supervisor.link is Link.GIVEN_UP:
            supervisor.suspect()

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
        while rest:
            record = rest.popleft()
            if (record.topic, record.partition) in self._positions:
                yield record  # else it was given up meanwhile

    def _give_back_rest(self) -> None:
        rest, self._rest = self._rest, deque()
        self.give_back(list(rest))
        rest.clear()  # whoever iterates over it ends

    def give_back(self, records: Sequence[Record]) -> None:
        """Hand these records out again; they are the last ones that were taken."""
        with self._turn:
            kept = [each for each in records if (each.topic, each.partition) in self._positions]
            self._pending.extendleft(reversed(kept))
            self._positions.update(first_offsets(kept))

    # -- places ----------------------------------------------------------------------

    def assignment(self) -> list[Place]:
        """The (topic, partition) pairs that this consumer reads."""
        return sorted(self._positions)

    @property
    def is_rebalancing(self) -> bool:
        """Whether partitions are on their way to it or from it; never without a group."""
        return False

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record that `poll` hands out."""
        position = self._position((topic, partition))
        return first_offsets(self._rest.copy()).get((topic, partition), position)

    def reached(self, topic: str, partition: int) -> int:
        """Like `position`, but behind offsets without a record, as far as it is known that
        nothing else was there. Only for consumers without a group."""
        place = topic, partition
        position = self.position(topic, partition)
        at_end = self._at_end.get(place, position)
        if at_end <= position or self._rest or any((e[0], e[1]) == place for e in self._pending):
            return position
        return at_end

    def _position(self, place: Place) -> int:
        position = self._positions.get(place)
        if position is None:
            topic, at = place
            count = sum(1 for name, _ in self._positions if name == topic)
            raise UnknownPartition(topic=topic, partition=at, partitions=count, is_read=False)
        return position

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read on from another offset; what is committed does not change.

        Raises `OffsetOutOfRange` unless ``log_start <= offset <= durable_end``.
        """
        self._check_usable()
        self._position((topic, partition))
        ends = self._topics.ends(topic, [partition])[partition]
        self._topics.check_offset(topic, partition, offset, ends)
        with self._turn:
            if self._rest:
                self._give_back_rest()
            self._go_to((topic, partition), offset)

    def _go_to(self, place: Place, offset: int) -> None:
        self._forget_pending({place})
        self._positions[place] = self._expected[place] = self._behind[place] = offset
        self._at_end.pop(place, None)
        deadline_s = time.monotonic() + SEEK_S
        while True:
            try:
                self._seek(self.client, place, offset)
                self._behind.pop(place, None)
                return
            except KafkaException as error:
                # It has only just begun to be read.
                failure = kafka_error(error)
                if failure.code() != KafkaError._STATE or time.monotonic() > deadline_s:
                    raise self._named(failure, *place) from error
            time.sleep(0.01)

    def _begin_at(self, offsets: Mapping[Place, int]) -> None:
        self._positions = dict(sorted({**self._positions, **offsets}.items()))
        self._expected.update(offsets)
        for place in offsets:
            self._behind.pop(place, None)
        self._stopped.difference_update(offsets)

    def _forget_pending(self, places: set[Place]) -> None:
        for name in ("_pending", "_rest"):
            kept = [e for e in getattr(self, name) if (e.topic, e.partition) not in places]
            getattr(self, name).clear()
            getattr(self, name).extend(kept)

    def committed(self, topic: str, partition: int) -> int | None:
        """The offset behind the last acknowledged record; None without a group."""
        self._position((topic, partition))
        return None

    def lag(self) -> dict[Place, int]:
        """How many offsets each partition's durable end is ahead.

        Ahead of what is committed; without a group, ahead of the position.
        """
        return self._lag(None)

    def _lag(self, deadline_s: float | None) -> dict[Place, int]:
        self._check_usable()
        places = list(self._positions)
        lags = {}
        for topic in dict.fromkeys(topic for topic, _ in places):
            numbers = [number for name, number in places if name == topic]
            found = self._topics.ends(topic, numbers, deadline_s=deadline_s)
            for number, ends in found.items():
                lags[topic, number] = max(0, ends.durable_end - self._done((topic, number)))
        return lags

    def _done(self, place: Place) -> int:
        """The offset behind what counts as consumed."""
        return self.position(*place)

    def ack(self, records: Record | Sequence[Record] | None = None) -> None:
        """Without a group there is nothing to acknowledge for: raises `NotInGroup`."""
        self._check_usable()
        raise NotInGroup()

    def place_to_run(self) -> RunPlace:
        """What handlers are run with. Without a group: raises `NotInGroup`."""
        self._check_usable()
        raise NotInGroup()

    # -- the rest --------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._unusable is not None

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
        with self._turn:
            self._end()

    def _end(self) -> None:
        client, self._client = self._client, None
        self._release(self)
        if client is not None:
            try:
                client.close()
            except SystemError as error:
                raise lost_signal(error) from None

    def abandon(self) -> None:
        """In a forked child: refuse everything. librdkafka's threads are not there."""
        if self._client is not None:
            forks.keep_for_ever(self._client)
        self._unusable = self._unusable or ForkedBroker(what="consumer", opened_by_pid=0)
        self._turn = Turn()
        self._closing = threading.Lock()
