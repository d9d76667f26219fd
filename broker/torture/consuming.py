"""Clients that read, alone and in groups, and that look after groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from seawall.broker.errors import GroupBusy, GroupFenced, PartitionRevoked, UnknownGroup
from seawall.broker.torture.clients import Client, name_of, pause
from seawall.broker.torture.connection import Connection, ConsumerLike
from seawall.broker.torture.events import Recorder
from seawall.wal.records import Record


class ConsumingClient(Client):
    """Reads from anywhere, and seeks to anywhere else."""

    def turn(self, connection: Connection) -> bool:
        """Open a consumer, poll and seek for a while, close it."""
        consumer = self._open(connection)
        if consumer is None:
            pause(self.random, 0.05)
            return True
        for _ in range(self.random.randrange(1, 30)):
            if self.surroundings.is_over():
                break
            self._step(connection, consumer)
            pause(self.random, 0.005)
        if self.random.random() < 0.9:
            consumer.close()
        return True

    def _open(self, connection: Connection) -> ConsumerLike | None:
        pick = self.random
        topics = pick.sample(list(self.surroundings.topics), pick.randrange(1, 3))
        partitions = None
        if len(topics) == 1 and pick.random() < 0.5:
            partitions = [pick.randrange(self.surroundings.topics[topics[0]])]
        number = self.recorder.invoke("assign")
        consumer = connection.consumer(
            topics,
            partitions=partitions,
            start=pick.choice(["start", "end", "-1", "-10", "-100", "@-100ms"]),
            fetch_bytes=pick.choice([1, 1_000, 1 << 20]),
        )
        self.recorder.ok(number, "assign", places=positions_of(consumer))
        return consumer

    def _step(self, connection: Connection, consumer: ConsumerLike) -> list[Record]:
        chance = self.random.random()
        assignment = consumer.assignment()
        if chance < 0.1 and assignment:
            topic, partition = self.random.choice(assignment)
            ends = connection.ends(topic, partition)
            offset = self.random.randint(ends.log_start, ends.durable_end)
            number = self.recorder.invoke("seek", places={f"{topic}/{partition}": offset})
            consumer.seek(topic, partition, offset)
            self.recorder.ok(number, "seek")
            return []
        left = self._left(connection, consumer) if chance < 0.3 else 0
        number = self.recorder.invoke("poll")
        if left:
            records = self._iterate(consumer, self.random.randint(1, left))
        else:
            records = consumer.poll(
                self.random.choice([1, 2, 10, 100, 500]),
                timeout_ms=self.random.choice([0, 0, 1, 20]),
            )
        self.recorder.ok(number, "poll", records=as_said(records))
        return records

    def _iterate(self, consumer: ConsumerLike, most: int) -> list[Record]:
        """Take records in a loop; as many must be there, else it waits for ever."""
        records = []
        for record in consumer:
            records.append(record)
            if len(records) >= most:
                break
        return records

    def _left(self, connection: Connection, consumer: ConsumerLike) -> int:
        """How many records a consumer can have without waiting, 50 at the most."""
        left = 0
        for topic, partition in consumer.assignment():
            left += connection.ends(topic, partition).durable_end
            left -= consumer.position(topic, partition)
        return min(left, 50)


class GroupClient(ConsumingClient):
    """Reads in a group, and acknowledges in every way that there is."""

    def _open(self, connection: Connection) -> ConsumerLike | None:
        pick = self.random
        self._group = pick.choice(self.surroundings.groups)
        number = self.recorder.invoke("assign", group=self._group)
        consumer = connection.consumer(
            pick.sample(list(self.surroundings.topics), pick.randrange(1, 3)),
            group=self._group,
            auto_offset_reset=pick.choice(["earliest", "latest"]),
            fetch_bytes=pick.choice([1_000, 1 << 20]),
            on_assigned=lambda places: self._assigned(consumer, places),
        )
        self.recorder.ok(number, "assign", places=positions_of(consumer))
        return consumer

    def _assigned(self, consumer: ConsumerLike, places: Sequence[tuple[str, int]]) -> None:
        """Inside a poll: it reads on where the group is; in the first one, what it began with."""
        begun = {
            f"{topic}/{partition}": consumer.committed(topic, partition) or 0
            for topic, partition in places
        }
        number = self.recorder.invoke("assign", group=self._group)
        self.recorder.ok(number, "assign", places=begun)
        # To begin means to have left everything else, which it has not; and it may have sought.
        number = self.recorder.invoke("seek", places=positions_of(consumer))
        self.recorder.ok(number, "seek")

    def _left(self, connection: Connection, consumer: ConsumerLike) -> int:
        """None that are certain: others may get them."""
        return 0

    def _step(self, connection: Connection, consumer: ConsumerLike) -> list[Record]:
        records = super()._step(connection, consumer)
        chance = self.random.random()
        if chance < 0.2:
            self._ack(consumer, None, positions_of(consumer))
        elif chance < 0.6 and records:
            some = self.random.sample(records, self.random.randrange(1, len(records) + 1))
            if chance < 0.4:
                places: dict[str, int] = {}
                for record in some:
                    where = f"{record.topic}/{record.partition}"
                    places[where] = max(places.get(where, 0), record.offset + 1)
                self._ack(consumer, some, places)
            else:
                first = some[0]
                where = f"{first.topic}/{first.partition}"
                self._ack(consumer, first, {where: first.offset + 1})
        return records

    def _ack(
        self,
        consumer: ConsumerLike,
        records: Record | Sequence[Record] | None,
        places: Mapping[str, int],
    ) -> None:
        number = self.recorder.invoke("ack", group=self._group, places=places)
        try:
            consumer.ack(records)
        except (GroupFenced, PartitionRevoked) as error:
            self.recorder.info(number, "ack", error)  # some of it may have been done
        else:
            self.recorder.ok(number, "ack")


# -- operating -----------------------------------------------------------------------


class OperatingClient(Client):
    """Looks at groups, moves them, and deletes them."""

    def turn(self, connection: Connection) -> bool:
        """One look, or one change."""
        time.sleep(self.random.random() * 0.02)
        group, topic = self.random.choice(self.surroundings.groups), self._topic()
        chance = self.random.random()
        if chance < 0.7:
            look_at(connection, group, self.recorder)
        elif chance < 0.95:
            partition = self.random.randrange(self.surroundings.topics[topic])
            ends = connection.ends(topic, partition)
            offset = self.random.randint(ends.log_start, ends.durable_end)
            self._change(
                self.recorder.invoke("reset", group=group, places={f"{topic}/{partition}": offset}),
                "reset",
                lambda: connection.reset_group(group, topic, {partition: offset}),
            )
        elif group == self.surroundings.groups[0]:  # the checker knows more of the others
            self._change(
                self.recorder.invoke("forget", group=group),
                "forget",
                lambda: connection.delete_group(group),
            )
        return True

    def _change(self, number: int, op: str, change: Callable[[], None]) -> None:
        try:
            change()
        except (GroupBusy, UnknownGroup) as error:
            self.recorder.fail(number, op, error)
        else:
            self.recorder.ok(number, op)


def look_at(connection: Connection, group: str, recorder: Recorder) -> None:
    """Ask where a group is, and write that down."""
    number = recorder.invoke("committed", group=group)
    try:
        offsets = connection.group(group).offsets
    except UnknownGroup as error:
        recorder.fail(number, "committed", error)
        return
    places = {f"{each.topic}/{each.partition}": each.committed for each in offsets}
    recorder.ok(number, "committed", places=places)


def positions_of(consumer: ConsumerLike) -> dict[str, int]:
    """Where a consumer is in each of its partitions."""
    return {
        f"{topic}/{partition}": consumer.position(topic, partition)
        for topic, partition in consumer.assignment()
    }


def as_said(records: Sequence[Record]) -> dict[str, list[tuple[int, str]]]:
    """Records as histories have them."""
    said: dict[str, list[tuple[int, str]]] = {}
    for record in records:
        named = record.offset, name_of(record.value)
        said.setdefault(f"{record.topic}/{record.partition}", []).append(named)
    return said
