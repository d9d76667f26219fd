"""What a workload did and what it was told, one mark after the other.

A mark is a small JSON object, because it may come through a pipe from a process that is
killed a moment later. Each operation leaves two: one when it begins, one when it ends::

    {"id": 7, "is": "began",  "op": "send", "topic": "orders", "partition": 0,
                              "values": ["7.0", "7.1"]}
    {"id": 7, "is": "done",   "offset": 12, …}          acknowledged
    {"id": 7, "is": "failed", "error": "StorageFull"}   certainly without effect
    {"id": 7, "is": "unknown", "error": "SyncFailed"}   with or without effect

An operation without an end was cut off: its outcome is as unknown. The operations, and
what belongs to each:

    create   topic, partitions                        delete   topic
    send     topic, partition, values     done: offset (of the first value)
             keys    (if they have any, as many as values)
    join     group, topic, partition, offset          where a group begins if it is new
    ack      group, topic, partition, offset (that of the next record to read)
             dead    (what of it was not handled, but is on disk as a dead letter:
                      [[topic, value], …])
             back    (what of it is on disk elsewhere, sent back: topic, partition, values,
                      the offset of the first)
    reset    group, topic, partition, offset
    forget   group                                    the group is deleted
    drop     topic, partition, offset                 the log start may rise to it
    trim     topic           done: starts             log starts may rise to what all groups
                                                      have acknowledged; they are [[partition,
                                                      log start], …] now
    expire   topic, durable_end  done: starts         … may rise to the durable end
    compact  topic                                    a value may go once a later one has its
                                                      key
    grow     topic, partitions                        the topic has so many now
    see      topic, partition, offset, values         a consumer was given these

`Ledger` takes marks in order and keeps what they promise; `seawall.broker.torture.promises`
holds a directory against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seawall.wal.torture.search import Broken

Mark = Mapping[str, Any]


@dataclass(slots=True)
class PartitionLedger:
    """What was promised about the records of one partition."""

    known: dict[int, bytes] = field(default_factory=dict)
    """Offset -> value, of each record that was acknowledged or seen by a consumer."""
    order: dict[bytes, list[int]] = field(default_factory=dict)
    """Value -> when it was sent, each time, of each record that may be there."""
    keys: dict[bytes, str] = field(default_factory=dict)
    """Value -> key, of each record that has one."""
    is_compacted: bool = False
    """Whether values may be gone of whose key there is a later one."""
    refused: set[bytes] = field(default_factory=set)
    """Values whose sending certainly failed."""
    wanted: set[bytes] = field(default_factory=set)
    """Values that must be there, wherever: dead letters of what was acknowledged."""
    least_start: int = 0
    """The log start is here at least …"""
    greatest_start: int = 0
    """… and here at the most: records from here on may not be dropped."""

    def superseded(self, visible: Mapping[int, bytes]) -> set[int]:
        """Where records may be missing, because a later one of those that are `visible` has
        their key."""
        if not self.is_compacted:
            return set()
        last = {self.keys[value]: at for at, value in visible.items() if value in self.keys}
        return {
            at
            for at, value in self.known.items()
            if at not in visible and at < last.get(self.keys.get(value, ""), -1)
        }

    def sends(self, value: bytes, turn: int) -> None:
        """This value is sent now. A dead letter may be so several times."""
        self.order.setdefault(value, []).append(turn)

    def learn(self, offset: int, values: Iterable[bytes]) -> None:
        """These records are visible from now on, at these offsets."""
        for at, value in enumerate(values, offset):
            before = self.known.setdefault(at, value)
            if before != value:
                was, now = before.rstrip(b"~"), value.rstrip(b"~")
                raise Broken(f"offset {at} was {was!r} and is now {now!r}")


@dataclass(slots=True)
class TopicLedger:
    """What was promised about a topic of this name since it was last created."""

    partitions: dict[int, PartitionLedger]
    least_partitions: int
    must_exist: bool = False
    may_exist: bool = True


class Ledger:
    """What a directory has promised, as far as the marks go that it was given.

    ``topics`` by name; a name that is created again begins anew. ``committed`` has, for
    each (group, topic, partition), the committed offsets that are possible: one, unless
    something was cut off; None among them says that there may be none. ``sent_back`` are
    the acknowledgements that must not be there before what they sent back is.
    """

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self.topics: dict[str, TopicLedger] = {}
        self.committed: dict[tuple[str, str, int], set[int | None]] = {}
        self.sent_back: list[Mark] = []
        self._open: dict[int, Mark] = {}
        self._sent = 0
        for mark in marks:
            self.take(mark)

    def take(self, mark: Mark) -> None:
        """Take the next mark."""
        if mark["is"] == "began":
            self._open[mark["id"]] = mark
            getattr(self, f"_began_{mark['op']}")(mark)
            return
        began = self._open.pop(mark["id"])
        ended = getattr(self, f"_{mark['is']}_{began['op']}", None)
        if ended is not None:
            ended({**began, **mark})

    def _partition(self, mark: Mark) -> PartitionLedger:
        return self.topics[mark["topic"]].partitions[mark["partition"]]

    # -- topics ----------------------------------------------------------------------

    def _began_create(self, mark: Mark) -> None:
        partitions = {number: PartitionLedger() for number in range(mark["partitions"])}
        self.topics[mark["topic"]] = TopicLedger(partitions, len(partitions))
        # If there was one of that name, it is gone: its deletion may have been cut off.
        self._forget_committed(mark["topic"])

    def _done_create(self, mark: Mark) -> None:
        self.topics[mark["topic"]].must_exist = True

    def _failed_create(self, mark: Mark) -> None:
        self.topics[mark["topic"]].may_exist = False

    def _began_delete(self, mark: Mark) -> None:
        self.topics[mark["topic"]].must_exist = False

    def _done_delete(self, mark: Mark) -> None:
        self.topics[mark["topic"]].may_exist = False
        self._forget_committed(mark["topic"])

    def _began_grow(self, mark: Mark) -> None:
        partitions = self.topics[mark["topic"]].partitions
        for number in range(len(partitions), mark["partitions"]):
            partitions[number] = PartitionLedger()
            for group in {group for group, topic, _ in self.committed if topic == mark["topic"]}:
                self.committed.setdefault((group, mark["topic"], number), {None}).add(0)

    def _done_grow(self, mark: Mark) -> None:
        topic, total = mark["topic"], mark["partitions"]
        self.topics[topic].least_partitions = total
        # Whoever is in the topic begins in all of it, and at once.
        certain = {
            group
            for (group, name, _), possible in self.committed.items()
            if name == topic and None not in possible
        }
        for group in certain:
            self.committed[group, topic, total - 1].discard(None)

    def _forget_committed(self, topic: str) -> None:
        for key in [key for key in self.committed if key[1] == topic]:
            del self.committed[key]

    # -- records ---------------------------------------------------------------------

    def next_turn(self) -> int:
        """A number that is greater than those of all records sent so far."""
        self._sent += 1
        return self._sent

    def _began_send(self, mark: Mark) -> None:
        partition = self._partition(mark)
        for value in mark["values"]:
            partition.sends(value.encode(), self.next_turn())
        for value, key in zip(mark["values"], mark.get("keys", ()), strict=False):
            partition.keys[value.encode()] = key

    def _done_send(self, mark: Mark) -> None:
        self._partition(mark).learn(mark["offset"], (each.encode() for each in mark["values"]))

    def _failed_send(self, mark: Mark) -> None:
        self._partition(mark).refused.update(each.encode() for each in mark["values"])

    def _began_see(self, mark: Mark) -> None:
        self._done_send(mark)

    def _began_drop(self, mark: Mark) -> None:
        partition = self._partition(mark)
        partition.greatest_start = max(partition.greatest_start, mark["offset"])
        # Dead letters that may go now. Whoever drops some has looked at all.
        partition.wanted -= {value for at, value in partition.known.items() if at < mark["offset"]}

    def _done_drop(self, mark: Mark) -> None:
        partition = self._partition(mark)
        partition.least_start = max(partition.least_start, mark["offset"])

    def _began_trim(self, mark: Mark) -> None:
        for number, partition in self.topics[mark["topic"]].partitions.items():
            covered = self._acknowledged_by_all(mark["topic"], number)
            partition.greatest_start = max(partition.greatest_start, covered)

    def _acknowledged_by_all(self, topic: str, partition: int) -> int:
        """The most that all groups of a partition may have acknowledged; 0 without groups."""
        certain: list[int] = []
        perhaps = [0]
        for (_, name, number), possible in self.committed.items():
            offsets = [each for each in possible if each is not None]
            if (name, number) == (topic, partition) and offsets:
                (perhaps if None in possible else certain).append(max(offsets))
        return min(certain) if certain else max(perhaps)

    def _began_expire(self, mark: Mark) -> None:
        partition = self.topics[mark["topic"]].partitions[0]
        partition.greatest_start = max(partition.greatest_start, mark["durable_end"])

    def _done_expire(self, mark: Mark) -> None:
        for number, start in mark["starts"]:
            partition = self.topics[mark["topic"]].partitions[number]
            partition.least_start = max(partition.least_start, start)

    _done_trim = _done_expire

    def _began_compact(self, mark: Mark) -> None:
        for partition in self.topics[mark["topic"]].partitions.values():
            partition.is_compacted = True

    # -- groups ----------------------------------------------------------------------

    def _possible(self, mark: Mark) -> set[int | None]:
        key = (mark["group"], mark["topic"], mark["partition"])
        return self.committed.setdefault(key, {None})

    def _began_join(self, mark: Mark) -> None:
        possible = self._possible(mark)
        if None in possible:
            possible.add(mark["offset"])

    def _done_join(self, mark: Mark) -> None:
        self._possible(mark).discard(None)

    def _began_ack(self, mark: Mark) -> None:
        possible = self._possible(mark)
        for topic, value in mark.get("dead", ()):
            self.topics[topic].partitions[mark["partition"]].wanted.add(value.encode())
        if "back" in mark:
            # What is sent back now was not before, whatever became of that.
            self.sent_back = [
                each
                for each in self.sent_back
                if (each["topic"], each["partition"]) != (mark["topic"], mark["partition"])
                or each["offset"] < mark["offset"]
            ]
            self.sent_back.append(mark)
        if any(each is None or each < mark["offset"] for each in possible):
            possible.add(mark["offset"])

    def _done_ack(self, mark: Mark) -> None:
        if "back" in mark:  # they are known by now
            self.sent_back = [each for each in self.sent_back if each["id"] != mark["id"]]
        # One that was cut off earlier may have reached further.
        possible = self._possible(mark)
        further = {each for each in possible if each is not None and each >= mark["offset"]}
        possible.clear()
        possible.update(further or {mark["offset"]})

    def _began_reset(self, mark: Mark) -> None:
        self._possible(mark).add(mark["offset"])

    def _done_reset(self, mark: Mark) -> None:
        possible = self._possible(mark)
        possible.clear()
        possible.add(mark["offset"])

    def _began_forget(self, mark: Mark) -> None:
        for key, possible in self.committed.items():
            if key[0] == mark["group"]:
                possible.add(None)

    def _done_forget(self, mark: Mark) -> None:
        for key, possible in self.committed.items():
            if key[0] == mark["group"]:
                possible.clear()
                possible.add(None)
        for began in self._open.values():  # and who is about to join begins anew
            if began["op"] == "join" and began["group"] == mark["group"]:
                self._began_join(began)
