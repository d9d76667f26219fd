"""The operations on dead letters: they are sent back, and removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from seawall.broker.broker import Broker
from seawall.broker.dead_letter_format import SUFFIX, DeadLetter
from seawall.broker.dead_letters import DeadLetters
from seawall.broker.names import REDRIVE_GROUP
from seawall.broker.producer import Producer
from seawall.broker.redrive_places import DirectoryRedrives
from seawall.broker.torture.operations import KEYED
from seawall.broker.torture.performer import Performer, Step, operation

# Longer than any of it takes, so that nothing is sent by the clock.
LINGER_MS = 60_000


class _Unhurried:
    """A broker whose producers wait for somebody who asks for a result."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def producer(self, **settings: Any) -> Producer:
        return self._broker.producer(**{**settings, "linger_ms": LINGER_MS})


def _letters(performer: Performer, step: Step) -> DeadLetters | None:
    if not performer.has(step["topic"] + SUFFIX):
        return None
    broker = cast(Broker, _Unhurried(performer.broker))
    return DeadLetters(broker, DirectoryRedrives(broker), step["topic"])


@operation("DeadLetters.redrive")
def redrive(performer: Performer, step: Step) -> None:
    """Send all dead letters of a topic back that were not sent back before."""
    letters = _letters(performer, step)
    if letters is None or not performer.has(step["topic"]):
        return
    found: dict[int, list[DeadLetter]] = {}
    for letter in letters.records():
        found.setdefault(letter.record.partition, []).append(letter)
    has_keys = all(each.record.key is not None for some in found.values() for each in some)
    if not found or (step["topic"] == KEYED and not has_keys):
        return  # its producers refuse what has no key; a burst did not ask them
    broker, dead_topic = performer.broker, letters.topic
    joins = [
        performer.began(
            "join",
            group=REDRIVE_GROUP,
            topic=dead_topic,
            partition=each.number,
            offset=broker.ends(dead_topic, each.number).log_start,
        )
        for each in broker.topic(dead_topic).partitions
    ]
    sends = {partition: _began_back(performer, each) for partition, each in found.items()}
    acks = []
    for partition, letters_there in found.items():
        send = sends[partition]
        place = {"group": REDRIVE_GROUP, "topic": dead_topic, "partition": partition}
        # What lies before the first was sent back or removed earlier: nothing is left to do.
        begin = letters_there[0].record.offset
        acks.append(performer.began("ack", **place, offset=begin))
        # They may be written in several batches, of which only the first come through.
        for at, letter in enumerate(letters_there):
            back = {**send, "values": send["values"][at : at + 1], "offset": send["offset"] + at}
            end = letter.record.offset + 1
            acks.append(performer.began("ack", **place, offset=end, back=back))
    numbers = [send["id"] for send in sends.values()]
    with performer.ending(*joins, *numbers, *acks, has_begun=True):
        letters.redrive()
        performer.done(*joins)
        for send in sends.values():
            performer.done(send["id"], offset=send["offset"])
        performer.done(*acks)


def _began_back(performer: Performer, letters: list[DeadLetter]) -> Mapping[str, Any]:
    """Mark that the dead letters of one partition are about to be sent back, all to one; where
    that will be."""
    topic, partition = letters[0].topic, letters[0].partition
    if topic is None or partition is None:
        raise ValueError("a dead letter of nobody's")
    values = [(each.record.value or b"").decode() for each in letters]
    keys = [each.record.key.decode() for each in letters if each.record.key is not None]
    where = {"topic": topic, "partition": partition, "values": values}
    return {
        **where,
        "offset": performer.broker.ends(topic, partition).log_end,
        "id": performer.began("send", **where, keys=keys if len(keys) == len(values) else []),
    }


@operation("DeadLetters.purge")
def purge(performer: Performer, step: Step) -> None:
    """Remove some of the dead letters of a topic, after a look at all."""
    letters = _letters(performer, step)
    if letters is None:
        return
    performer.see([each.record for each in letters.records(with_redriven=True)])
    offsets = {}
    for each in performer.broker.topic(letters.topic).partitions:
        start, durable_end, _ = performer.broker.ends(letters.topic, each.number)
        offsets[each.number] = start + int(step["part"] * (durable_end - start))
    drops = [
        performer.began("drop", topic=letters.topic, partition=partition, offset=offset)
        for partition, offset in offsets.items()
    ]
    with performer.ending(*drops):
        letters.purge(offsets)
        performer.done(*drops)
