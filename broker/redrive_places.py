"""Where it is remembered which dead letters were redriven: see `dead_letters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from seawall.broker.closing import Closes
from seawall.broker.group_consumer import GroupConsumer
from seawall.broker.names import REDRIVE_GROUP
from seawall.broker.redriven import Redriven

if TYPE_CHECKING:
    from seawall.broker.broker import Broker
    from seawall.wal.records import Record


class RedriveSession(Closes, Protocol):
    """A redrive under way: nobody else redrives these partitions meanwhile."""

    def poll(self, max_records: int) -> Sequence[Record]:
        """The next dead letters, partition by partition in their order; none at the end."""
        ...

    def remember(self, number: int, place: Redriven) -> None:
        """Store what was redriven of a partition. Raises `GroupFenced` and the like."""
        ...


class RedrivePlaces(Protocol):
    """The group of redrives, in a directory or a cluster."""

    def redriven(self, topic: str) -> dict[int, Redriven]:
        """What was redriven, of each partition."""
        ...

    def open(self, topic: str, starts: Mapping[int, int]) -> RedriveSession:
        """Begin to read from these offsets on. Raises `GroupBusy` if another redrive is
        under way."""
        ...


class DirectoryRedrives:
    """The group of redrives in a directory."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def redriven(self, topic: str) -> dict[int, Redriven]:
        """See `RedrivePlaces`."""
        engine = self._broker.engine
        committed = {}
        if engine.groups.group(REDRIVE_GROUP) is not None:
            committed = engine.state.committed(REDRIVE_GROUP)
        found = {}
        for partition in self._broker.topic(topic).partitions:
            place = committed.get(partition.id)
            found[partition.number] = Redriven(*(place.offset, place.metadata) if place else ())
        return found

    def open(self, topic: str, starts: Mapping[int, int]) -> RedriveSession:
        """See `RedrivePlaces`."""
        consumer = self._broker.consumer(topic, group=REDRIVE_GROUP, partitions=sorted(starts))
        if not isinstance(consumer, GroupConsumer):
            raise TypeError("a consumer in a group is none")
        return _DirectorySession(consumer, topic, starts)


class _DirectorySession:
    def __init__(self, consumer: GroupConsumer, topic: str, starts: Mapping[int, int]) -> None:
        self._consumer = consumer
        self._topic = topic
        try:
            for number, start in starts.items():
                if consumer.position(topic, number) < start:  # purged
                    consumer.seek(topic, number, start)
        except BaseException:
            consumer.close()
            raise

    def poll(self, max_records: int) -> Sequence[Record]:
        return self._consumer.poll(max_records)

    def remember(self, number: int, place: Redriven) -> None:
        partition_id = self._consumer.partition_id(self._topic, number)
        self._consumer.membership.commit({partition_id: place.committed}, str(place))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._consumer.close()
