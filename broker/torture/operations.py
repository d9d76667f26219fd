"""Every operation that changes a directory, as a workload does it.

A test fails when a public method that changes something is neither named here nor known
to change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from seawall.broker.consumer import Consumer
from seawall.broker.delivery import Delivery
from seawall.broker.group_consumer import GroupConsumer
from seawall.broker.torture.performer import Performer, Step, operation
from seawall.broker.translation import translated
from seawall.wal.appender import Appended
from seawall.wal.log import Log
from seawall.wal.records import Record, encode_batch

# Small files: a log of a few KiB has segments, an index and a history of drops.
CONFIG: Mapping[str, str | int] = {"segment.bytes": 4096, "index.interval.bytes": 512}
TOPICS = {"orders": 2, "audit": 1, "prices": 1}  # always there; others come and go
FOR_EVER_MS = 1 << 62
# By size and age, where all others go by what is acknowledged.
EXPIRING = "audit"
# By the last value of each key.
KEYED = "prices"
MOST_PARTITIONS = 5

# -- topics --------------------------------------------------------------------------------


@operation("Broker.create_topic", "Catalog.begin_create", "Catalog.finish_create")
def create(performer: Performer, step: Step) -> None:
    """Create a topic."""
    topic, config = step["topic"], dict(CONFIG)
    if topic == EXPIRING:
        config |= {"cleanup.policy": "delete", "retention.ms": -1}
    if topic == KEYED:
        config |= {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": 0}
    with performer.marked("create", topic=topic, partitions=step["partitions"]):
        performer.broker.create_topic(topic, step["partitions"], config)


@operation(
    "Broker.delete_topic",
    "Catalog.begin_delete",
    "Catalog.finish_delete",
    "Log.mark_deleted",
    "State.delete_partition",
)
def delete(performer: Performer, step: Step) -> None:
    """Delete a topic."""
    if performer.has(step["topic"]):
        with performer.marked("delete", topic=step["topic"]):
            performer.broker.delete_topic(step["topic"])


@operation("Broker.alter_topic", "Catalog.set_config")
def configure(performer: Performer, step: Step) -> None:
    """Change a topic's settings."""
    if performer.has(step["topic"]):
        size = str(4096 + int(step["part"] * 4096))
        performer.broker.alter_topic(step["topic"], {"segment.bytes": size})


@operation("Broker.set_config", "Catalog.set_broker_config")
def tune(performer: Performer, step: Step) -> None:
    """Change a setting of the broker, or take it back to its default."""
    minutes = int(step["part"] * 10_000)
    performer.broker.set_config({"offsets.retention.minutes": minutes or None})


@operation(
    "Broker.add_partitions",
    "Catalog.begin_grow",
    "Catalog.finish_grow",
    "Catalog.undo_grow",
    "State.begin_partitions",
)
def grow(performer: Performer, step: Step) -> None:
    """Give a topic another partition."""
    topic = step["topic"]
    if performer.has(topic):
        total = len(performer.broker.topic(topic).partitions) + 1
        if total <= MOST_PARTITIONS:
            with performer.marked("grow", topic=topic, partitions=total):
                performer.broker.add_partitions(topic, total)


# -- records -------------------------------------------------------------------------------


@operation("Broker.producer", "Producer.send", "Producer.flush", "Producer.close", "Producer.hurry")
def produce(performer: Performer, step: Step) -> None:
    """Publish records, and wait until they are on disk."""
    produce_in(performer, step, "fsync")


@operation("Log.sync")
def produce_os(performer: Performer, step: Step) -> None:
    """Publish records that a power cut may take back, and sync them a moment later."""
    produce_in(performer, step, "os")


def produce_in(
    performer: Performer, step: Step, durability: str, *, idempotent: bool = False
) -> None:
    """Publish a step's records in one of the ways that there are."""
    topic, partition = step["topic"], step["partition"]
    if not performer.has(topic):
        return
    number, keyed = performer.began_send(
        topic, partition, step["records"], step["size"], has_keys=topic == KEYED
    )
    with performer.ending(number):
        with performer.broker.producer(
            # Long enough for all to be sent. It is also for how long an idempotent one tries.
            linger_ms=1_000 if idempotent else 60_000,
            delivery_timeout_ms=0,
            compression=step["compression"],
            durability=durability,
            idempotent=idempotent,
        ) as producer:
            sent = [
                producer.send(
                    topic,
                    value.encode(),
                    key=key,
                    partition=partition,
                    timestamp=performer.timestamp(),
                )
                for value, key in keyed
            ]
            if durability == "fsync":
                # What a callback is told is acknowledged from that moment on.
                sent[-1].add_done_callback(lambda _: _acknowledged(performer, number, sent))
            for each in sent:
                each.result(30)
        if durability == "os":
            with translated(topic, partition):
                performer.log(topic, partition).sync()
            _acknowledged(performer, number, sent)


def _acknowledged(performer: Performer, number: int, sent: Sequence[Delivery]) -> None:
    if all(each.done() and each.exception() is None for each in sent):
        performer.done(number, offset=sent[0].metadata().offset)


@operation("Log.append", "Log.commit")
def burst(performer: Performer, step: Step) -> None:
    """Append batches to several partitions, then commit them all (or leave them open)."""
    appended: list[tuple[int, Log, Appended]] = []
    for topic, partition, count, size in step["appends"]:
        if not performer.has(topic):
            continue
        log = performer.log(topic, partition)
        # Without keys, wherever they go: then nothing ever takes their place.
        number, keyed = performer.began_send(topic, partition, count, size)
        records = [(performer.timestamp(), key, value.encode(), ()) for value, key in keyed]
        with performer.ending(number), translated(topic, partition):
            appended.append((number, log, log.append([encode_batch(records)])))
    for number, log, where in appended:
        if not step["commit"]:
            performer.ended(number, None)
            continue
        with performer.ending(number), translated():
            log.commit(where.next_offset)
            performer.done(number, offset=where.base_offset)


@operation("Broker.consumer", "Consumer.poll", "Consumer.seek", "Consumer.close")
def consume(performer: Performer, step: Step) -> None:
    """Read a few records from somewhere in a partition, in no group."""
    topic, partition = step["topic"], step["partition"]
    if not performer.has(topic):
        return
    ends = performer.broker.ends(topic, partition)
    start = ends.log_start + int(step["part"] * (ends.durable_end - ends.log_start))
    with performer.broker.consumer(topic, partitions=[partition], start="start") as consumer:
        consumer.seek(topic, partition, start)
        performer.see(consumer.poll(step["records"], timeout_ms=0))


@operation("Log.roll")
def roll(performer: Performer, step: Step) -> None:
    """Begin a new segment."""
    if performer.has(step["topic"]):
        with translated():
            performer.log(step["topic"], step["partition"]).roll()


@operation("Log.checkpoint")
def checkpoint(performer: Performer, step: Step) -> None:
    """Bring the index up to the durable end."""
    if performer.has(step["topic"]):
        with translated():
            performer.log(step["topic"], step["partition"]).checkpoint()


@operation("Broker.delete_records", "Log.drop_segments", "State.set_log_start")
def drop(performer: Performer, step: Step) -> None:
    """Delete records: raise a partition's log start, and remove the segments below it."""
    topic, partition = step["topic"], step["partition"]
    if not performer.has(topic):
        return
    ends = performer.broker.ends(topic, partition)
    # Mostly nearly all of it, so that logs stay short.
    part = 1 - (1 - step["part"]) ** 3
    offset = ends.log_start + int(part * (ends.durable_end - ends.log_start))
    with performer.marked("drop", topic=topic, partition=partition, offset=offset):
        performer.broker.delete_records(topic, {partition: offset})


@operation("Broker.compact", "State.trim")
def trim(performer: Performer, step: Step) -> None:
    """Remove what all groups have acknowledged; some may have caught up with a sealed segment."""
    topic = step["topic"]
    if not performer.has(topic):
        return
    if step["caught_up"]:
        with translated():
            performer.log(topic, 0).roll()
    for group in step["caught_up"]:
        end = performer.broker.ends(topic, 0).durable_end
        with performer.marked("reset", group=group, topic=topic, partition=0, offset=end):
            performer.broker.reset_group(group, topic, {0: end})
    _compact(performer, "trim", topic)


@operation()
def expire(performer: Performer, step: Step) -> None:
    """Remove what is too much, or all of it, which has long been too old."""
    if performer.has(EXPIRING):
        limits = {"retention.bytes": 4096, "retention.ms": -1 if step["part"] < 0.7 else 1000}
        performer.broker.alter_topic(EXPIRING, limits)
        ends = performer.broker.ends(EXPIRING, 0)
        _compact(performer, "expire", EXPIRING, durable_end=ends.durable_end)


@operation("Log.compact")
def compact(performer: Performer, step: Step) -> None:
    """Keep the last value of each key."""
    if performer.has(KEYED):
        with performer.marked("compact", topic=KEYED):
            performer.broker.compact(KEYED)


def _compact(performer: Performer, op: str, topic: str, **fields: int) -> None:
    number = performer.began(op, topic=topic, **fields)
    with performer.ending(number):
        trimmed = performer.broker.compact(topic)
        performer.done(number, starts=[[each.partition, each.log_start] for each in trimmed])


# -- groups --------------------------------------------------------------------------------


@operation("GroupConsumer.ack", "GroupConsumer.close", "GroupState.join", "GroupState.leave")
def acknowledge(performer: Performer, step: Step) -> None:
    """Go on reading in a group's name, and acknowledge what was read; then some of it again."""
    group, topic = step["group"], step["topic"]
    if not performer.has(topic):
        return
    with join(performer, group, topic) as consumer:
        records = _read(performer, consumer, step)
        for some in (records, records[:1]):
            acknowledge_some(performer, consumer, group, some)


@operation("GroupConsumer.poll", "GroupState.commit", "GroupState.reconcile", "GroupState.refresh")
def share(performer: Performer, step: Step) -> None:
    """Read a topic as two members of a group, of which one dies, and the other goes on."""
    group, topic = step["group"], step["topic"]
    if not performer.has(topic):
        return
    engine = performer.broker.engine
    with join(performer, group, topic) as first:
        with join(performer, group, topic) as second:
            for _ in range(2):  # the first time it gives up what the other one takes
                for each in (second, first):
                    acknowledge_some(performer, each, group, _read(performer, each, step))
            second.membership.vanish()
        for dead in engine.groups.refresh(group, engine.layout(), engine.lives.is_dead):
            engine.lives.clear(dead)
        first.membership.needs_attention = True
        acknowledge_some(performer, first, group, _read(performer, first, step))


def join(performer: Performer, group: str, topic: str) -> GroupConsumer:
    """A member of a group that reads a topic from its beginning."""
    joins = [
        performer.began(
            "join",
            group=group,
            topic=topic,
            partition=each.number,
            offset=performer.broker.ends(topic, each.number).log_start,
        )
        for each in performer.broker.topic(topic).partitions
    ]
    with performer.ending(*joins):
        consumer = cast(GroupConsumer, performer.broker.consumer(topic, group=group))
        performer.done(*joins)
    return consumer


def _read(performer: Performer, consumer: GroupConsumer, step: Step) -> list[Record]:
    records = consumer.poll(step["records"], timeout_ms=0)
    performer.see(records)
    return records


def acknowledge_some(
    performer: Performer, consumer: Consumer, group: str, records: Sequence[Record]
) -> None:
    """Acknowledge some records in a group's name."""
    behind = {(record.topic, record.partition): record.offset + 1 for record in records}
    acks = [
        performer.began("ack", group=group, topic=topic, partition=partition, offset=offset)
        for (topic, partition), offset in behind.items()
    ]
    with performer.ending(*acks):
        consumer.ack(records)
        performer.done(*acks)


@operation("Broker.reset_group", "GroupState.reset")
def reset(performer: Performer, step: Step) -> None:
    """Set a group's place to the end, and then back to somewhere else."""
    group, topic = step["group"], step["topic"]
    if not performer.has(topic):
        return
    ends = performer.broker.ends(topic, 0)
    offset = ends.log_start + int(step["part"] * (ends.durable_end - ends.log_start))
    for target in (ends.durable_end, offset):
        with performer.marked("reset", group=group, topic=topic, partition=0, offset=target):
            performer.broker.reset_group(group, topic, {0: target})


@operation("Broker.delete_group", "GroupState.delete")
def forget(performer: Performer, step: Step) -> None:
    """Delete a group."""
    if step["group"] in performer.broker.groups():
        with performer.marked("forget", group=step["group"]):
            performer.broker.delete_group(step["group"])


@operation("GroupState.expire")
def lapse(performer: Performer, step: Step) -> None:
    """Forget a group because nobody was in it for long."""
    if step["group"] in performer.broker.groups():
        with performer.marked("forget", group=step["group"]), translated():
            engine = performer.broker.engine
            engine.groups.expire(step["group"], FOR_EVER_MS, engine.lives.is_dead)


# -- the directory -------------------------------------------------------------------------


@operation("Broker.close", "Broker.open")
def reopen(performer: Performer, step: Step) -> None:
    """Close the directory in good order, and open it again."""
    performer.reconnect()
