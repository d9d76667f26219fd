"""Holding a directory against what it has promised.

Run after every fault: whatever was acknowledged or seen is there and unchanged, in its
order; nothing is there that was never sent; committed offsets are where they were
acknowledged; and the directory works: records are appended behind all that, and
everything is read once more. The promises are those of docs/durability.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from seawall.broker.broker import Broker
from seawall.broker.torture.marks import Ledger, PartitionLedger
from seawall.wal.log import LogEnds
from seawall.wal.torture.search import Broken

READ_LIMIT = 1_000_000  # records of one partition; more cannot come of any workload here


def check(broker: Broker, ledger: Ledger, *, word: str = "after", twice: bool = True) -> None:
    """Raise `Broken` for the first promise that does not hold.

    It appends to every partition, and reads everything after that; with `twice`, before it
    as well. `word` makes the values appended unlike those of an earlier check of the same
    directory. The ledger learns what is visible, so a later check with the same ledger sees
    to it that it stays so.
    """
    check_topics(broker, ledger)
    if twice:
        for topic, partition, promised in _partitions(broker, ledger):
            check_records(broker, topic, partition, promised)
    check_committed(broker, ledger)
    check_sent_back(broker, ledger)
    appended = _append_again(broker, ledger, word)
    for topic, partition, promised in _partitions(broker, ledger):
        if (topic, partition) in appended:
            check_records(broker, topic, partition, promised)


def check_topics(broker: Broker, ledger: Ledger) -> None:
    """Topics that were created are there, deleted ones are not, others never were."""
    present = {topic.name: len(topic.partitions) for topic in broker.topics()}
    for name, promised in ledger.topics.items():
        if promised.must_exist and name not in present:
            raise Broken(f"topic {name!r} was created and is not there")
        if not promised.may_exist and name in present:
            raise Broken(f"topic {name!r} was deleted and is there")
        most = len(promised.partitions)
        if name in present and not promised.least_partitions <= present[name] <= most:
            raise Broken(f"topic {name!r} has {present[name]} partitions")
    for name in present.keys() - ledger.topics.keys():
        raise Broken(f"topic {name!r} is there, which nobody created")


def _partitions(broker: Broker, ledger: Ledger) -> Iterator[tuple[str, int, PartitionLedger]]:
    for topic in broker.topics():
        for number, promised in ledger.topics[topic.name].partitions.items():
            if number < len(topic.partitions):  # it may have been about to grow
                yield topic.name, number, promised


def check_records(broker: Broker, topic: str, partition: int, promised: PartitionLedger) -> None:
    """The records of one partition are what they were, and in order."""
    where = f"{topic}/{partition}"
    ends = broker.ends(topic, partition)
    if not promised.least_start <= ends.log_start <= promised.greatest_start:
        raise Broken(
            f"{where} starts at {ends.log_start}, not between "
            f"{promised.least_start} and {promised.greatest_start}"
        )
    visible = read_all(broker, topic, partition, ends)
    superseded = promised.superseded(visible)
    for offset, value in promised.known.items():
        if offset in superseded:
            continue
        if offset >= ends.log_start and visible.get(offset) != value:
            found = visible.get(offset)
            raise Broken(f"{where} offset {offset} was {_short(value)} and is {_short(found)}")
    last = -1
    for offset, value in visible.items():
        turns = promised.order.get(value)
        if turns is None:
            raise Broken(f"{where} offset {offset} is {_short(value)}, which nobody sent")
        if value in promised.refused:
            raise Broken(f"{where} offset {offset} is {_short(value)}, whose sending failed")
        last = next((turn for turn in turns if turn > last), -1)
        if last < 0:
            raise Broken(f"{where} offset {offset} is {_short(value)}, out of order or again")
    for value in promised.wanted - set(visible.values()):
        raise Broken(f"{where} lacks {_short(value)}, a dead letter of what was acknowledged")
    promised.known.update(visible)


def read_all(
    broker: Broker, topic: str, partition: int, ends: LogEnds | None = None
) -> dict[int, bytes]:
    """Offset -> value of every visible record, in order."""
    start, durable_end, log_end = ends or broker.ends(topic, partition)
    if not start <= durable_end <= log_end:
        raise Broken(f"{topic}/{partition} has ends {start}, {durable_end}, {log_end}")
    visible: dict[int, bytes] = {}
    with broker.consumer(topic, partitions=[partition], start="start") as consumer:
        expected = start
        while consumer.position(topic, partition) < durable_end and len(visible) < READ_LIMIT:
            records = consumer.poll(timeout_ms=0)
            for record in records:
                if record.offset < expected:
                    raise Broken(f"{topic}/{partition} gives offset {record.offset} again")
                expected = record.offset + 1
                visible[record.offset] = b"" if record.value is None else record.value
            if not records and consumer.position(topic, partition) < durable_end:
                raise Broken(
                    f"{topic}/{partition} gives nothing at offset "
                    f"{consumer.position(topic, partition)}, and ends at {durable_end}"
                )
    return visible


def check_committed(broker: Broker, ledger: Ledger) -> None:
    """Committed offsets are where they were acknowledged, and not beyond the end."""
    groups = set(broker.groups())
    found = {
        (group, place.topic, place.partition): place.committed
        for group in groups
        for place in broker.group(group).offsets
    }
    topics = {topic.name for topic in broker.topics()}
    for key, possible in ledger.committed.items():
        committed = found.get(key)
        if key[1] in topics and committed not in possible:
            wanted = " or ".join(str(each) for each in sorted(possible, key=str))
            raise Broken(f"group {key[0]!r} has committed {committed} in {key[1:]}, not {wanted}")
    for (group, topic, partition), committed in found.items():
        end = broker.ends(topic, partition).durable_end
        if committed > end:
            raise Broken(f"group {group!r} has committed {committed} in {topic}, beyond {end}")


def check_sent_back(broker: Broker, ledger: Ledger) -> None:
    """Where it says that dead letters were sent back, though nobody was told, they are there."""
    groups = set(broker.groups())
    for mark in ledger.sent_back:
        place, back = (mark["topic"], mark["partition"]), mark["back"]
        offsets = broker.group(mark["group"]).offsets if mark["group"] in groups else ()
        if not any(
            (each.topic, each.partition) == place and each.committed >= mark["offset"]
            for each in offsets
        ):
            continue
        topic, partition = back["topic"], back["partition"]
        promised = ledger.topics[topic].partitions[partition]
        visible = read_all(broker, topic, partition)
        last = {promised.keys.get(value): at for at, value in visible.items()}
        for at, value in enumerate(back["values"], back["offset"]):
            is_superseded = promised.is_compacted and at < last.get(
                promised.keys.get(value.encode()), -1
            )
            if (
                at >= broker.ends(topic, partition).log_start
                and visible.get(at) != value.encode()
                and not (is_superseded and at not in visible)
            ):
                raise Broken(
                    f"{topic}/{partition} offset {at} is {_short(visible.get(at))}, though "
                    f"{_short(value.encode())} is written down in {place} as sent back there"
                )


def _append_again(broker: Broker, ledger: Ledger, word: str) -> set[tuple[str, int]]:
    """Two records for each partition, behind all that is there."""
    appended = set()
    with broker.producer(linger_ms=0) as producer:
        deliveries = []
        for topic, partition, promised in _partitions(broker, ledger):
            end = broker.ends(topic, partition).log_end
            for number in range(2):
                value = f"{word}.{topic}.{partition}.{number}".encode()
                promised.sends(value, ledger.next_turn())
                promised.keys[value] = f"{word}.{number}"
                delivery = producer.send(
                    topic, value, key=promised.keys[value].encode(), partition=partition
                )
                deliveries.append((delivery, value, promised, end))
            appended.add((topic, partition))
        for delivery, value, promised, end in deliveries:
            offset = delivery.result(30).offset
            if offset < end:
                raise Broken(f"{value!r} was appended at {offset}, below the end {end}")
            promised.learn(offset, [value])
    return appended


def _short(value: bytes | None) -> str:
    """A value without its padding, which is what tells it from others."""
    return "None" if value is None else repr(value.rstrip(b"~"))
