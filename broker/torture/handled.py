"""The operation of handlers: records that succeed, are tried again, or become dead letters.

`Consumer.run` has threads, which no script can repeat. This does what they do, in one thread
and in one order: of all that `run` consists of, only its loop is not exercised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from seawall.broker.dead_letter_format import SUFFIX
from seawall.broker.delivery import RecordMetadata
from seawall.broker.dispatcher import Entry
from seawall.broker.errors import BrokerError
from seawall.broker.group_consumer import GroupConsumer
from seawall.broker.group_running import GroupOptions
from seawall.broker.handling import DeliveredRecord, Failure
from seawall.broker.runner import Runner
from seawall.broker.running import options_of
from seawall.broker.torture.operations import create, join
from seawall.broker.torture.performer import Performer, Step, operation
from seawall.wal.records import Record

MOST_DELIVERIES = 2


class HandlerError(Exception):
    """What the handler of a workload raises."""


@operation(
    "GroupConsumer.run",
    "GroupConsumer.ack_offsets",
    "GroupConsumer.attend",
    "GroupConsumer.open_notes",
    "GroupConsumer.close_notes",
    "GroupConsumer.open_dead_letters",
    "GroupConsumer.rewind",
)
def handle(performer: Performer, step: Step) -> None:
    """Have records handled in a group's name: some succeed at once, some when they come again,
    and some never; those become dead letters. Then they are acknowledged."""
    topic = step["topic"]
    if not performer.has(topic):
        return
    if not performer.has(topic + SUFFIX):
        # With one partition only: whoever writes to another one has to see to it.
        create(performer, {"topic": topic + SUFFIX, "partitions": 1})
    with join(performer, step["group"], topic) as consumer:
        _Handler(performer, consumer, step).run()


class _Handler:
    """One `run` of a handler; what it does to a record is decided by its offset."""

    def __init__(self, performer: Performer, consumer: GroupConsumer, step: Step) -> None:
        self._performer = performer
        self._consumer = consumer
        self._step = step
        # By place: offset and value of what the handler gave up.
        self._given_up: dict[tuple[str, int], dict[int, str]] = {}
        self._sends: dict[tuple[str, int, int], int] = {}
        options = options_of(
            max_deliveries=MOST_DELIVERIES,
            retry_backoff_ms=0,
            ordering=step["ordering"],
            on_dead_letter=self._is_dead,
        )
        self._runner = Runner(consumer, options)
        self._handling = self._runner.handling

    def run(self) -> None:
        handling = self._handling
        handling.begin()
        try:
            for _ in range(2):
                handling.fetch(self._step["records"], 0)
                while (entry := self._take()) is not None:
                    self._do(entry)
                with self._acknowledging():
                    handling.acknowledge()
        except BrokerError:
            self._end()
            raise
        except BaseException:
            # The process has died. When what is open is let go of, nothing is acknowledged.
            self._consumer.swap_options(GroupOptions())
            raise
        self._end()

    def _end(self) -> None:
        self._handling.stop()
        with self._acknowledging(is_told=False):
            self._handling.end()

    def _take(self) -> Entry | None:
        with self._handling.lock:
            return self._handling.take()

    def _do(self, entry: Entry) -> None:
        record = entry.record
        if entry.failure is None or record is None:
            self._runner.do(entry, self._handle)
            return
        performer, topic = self._performer, record.topic + SUFFIX
        value = self._give_up(record)
        total = record.partition + 1
        grows = total > len(performer.broker.topic(topic).partitions)
        growing = [performer.began("grow", topic=topic, partitions=total)] if grows else []
        number = performer.began("send", topic=topic, partition=record.partition, values=[value])
        self._sends[record[:3]] = number
        self._runner.do(entry, self._handle)
        if self._sends.pop(record[:3], None) is None:
            performer.done(*growing)
        else:
            for each in (*growing, number):
                performer.ended(each, None)

    def _handle(self, record: DeliveredRecord) -> None:
        self._performer.see([record])
        kind = record.offset % 4
        if kind == 1 and record.delivery_count < MOST_DELIVERIES:
            raise HandlerError("not yet")
        if kind == 3:
            if record.delivery_count == MOST_DELIVERIES:
                self._give_up(record)
            raise HandlerError("never")

    def _is_dead(self, record: Record, _: Failure, metadata: RecordMetadata) -> None:
        self._performer.done(self._sends.pop(record[:3]), offset=metadata.offset)

    def _give_up(self, record: Record) -> str:
        value = (record.value or b"").decode()
        self._given_up.setdefault((record.topic, record.partition), {})[record.offset] = value
        return value

    @contextmanager
    def _acknowledging(self, *, is_told: bool = True) -> Iterator[None]:
        """Mark that what is done, without a gap, is acknowledged in the block; if nobody
        `is_told` whether it was, that this is unknown."""
        performer, group = self._performer, self._step["group"]
        with self._handling.lock:
            progress = self._handling.dispatcher.progress()
        acks = []
        for (topic, partition), offset in progress.items():
            given_up = self._given_up.get((topic, partition), {})
            dead = [[topic + SUFFIX, value] for at, value in given_up.items() if at < offset]
            fields = {"topic": topic, "partition": partition, "offset": offset, "dead": dead}
            acks.append(performer.began("ack", group=group, **fields))
        with performer.ending(*acks):
            yield
            if is_told:
                performer.done(*acks)
            else:
                for number in acks:
                    performer.ended(number, None)
