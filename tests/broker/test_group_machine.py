"""Groups against a model: members that come, go, are paused, are killed, in any order.

Real consumers on a real directory; only the clock of their signs of life is the machine's,
and the thread that looks after them (`Keeper`) does so when the machine says. A member that
is *paused* is a process that was stopped: it neither polls nor beats, and wakes up later.

What must hold, whatever is done:

* a partition has one owner or none; whoever is handed a record owns its partition then;
* whoever was declared dead can acknowledge nothing, and joins anew when it polls;
* nobody else is ever taken for dead;
* no committed offset moves, but by an acknowledgement (forwards) or a reset;
* every group gets every record, in order, without a gap behind what it has committed;
* what a registered group has not acknowledged is not trimmed;
* once nobody is paused, all that somebody wants is read by somebody.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from planting import ROOT, copy_code, parse
from storage import memory_folder

from seawall.broker import Broker, Record
from seawall.broker.consumer import Consumer
from seawall.broker.errors import (
    FencedInstanceId,
    GroupBusy,
    GroupFenced,
    InconsistentGroupProtocol,
    OffsetOutOfRange,
    PartitionRevoked,
)
from seawall.broker.group_consumer import GroupConsumer
from seawall.broker.group_format import Member
from seawall.broker.keeper import Keeper
from seawall.broker.liveness import Lives

Place = tuple[str, int]

TOPICS = {"t": 3, "u": 1}
MOST_PARTITIONS = 5
GROUPS = st.sampled_from(["g", "h"])
SUBSCRIPTIONS = st.sampled_from([["t"], ["t", "u"]])
ASSIGNORS = st.sampled_from(
    [
        ("cooperative-sticky", "range"),
        ("range", "roundrobin", "cooperative-sticky"),
        ("roundrobin", "range"),
        ("roundrobin",),
    ]
)
ACKNOWLEDGED = st.sampled_from(["nothing", "all", "some", "one"])
SHARES = st.sampled_from([0.0, 0.4, 0.8, 1.0])
MOST_MEMBERS = 5
SESSION_MS = 10_000
HEARTBEAT_MS = 3_000
NS_PER_MS = 1_000_000


@dataclass(eq=False, repr=False)
class Actor:
    """One consumer, and what the model knows of it.

    ``heard_ms`` is when it last gave a sign of life. ``is_declared``: taken for dead, or its
    place was taken; ``must_notice``: its next poll has to find that out.
    """

    group: str
    topics: list[str]
    instance: str | None
    assignors: tuple[str, ...]
    numbers: tuple[int, ...] | None
    acks_when_revoked: bool
    heard_ms: int = 0
    is_paused: bool = False
    is_away: bool = False  # killed, or a static one that was closed
    is_killed: bool = False
    is_declared: bool = False
    must_notice: bool = False
    is_overdue: bool = False
    name: str = ""
    has_to_join: bool = False
    positions: dict[Place, int] = field(default_factory=dict)
    handed: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.consumer: GroupConsumer = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.name} of {self.group}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # for Hypothesis

    @property
    def is_awake(self) -> bool:
        return not (self.is_paused or self.is_away)


@dataclass
class Registered:
    """What the model knows of a group that is registered."""

    committed: dict[Place, int] = field(default_factory=dict)
    # What it was never to be given: trimmed before it came, or passed over by a reset.
    passed: dict[Place, set[int]] = field(default_factory=dict)
    given: dict[Place, set[int]] = field(default_factory=dict)


class GroupMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = memory_folder()
        self.path = self.folder.__enter__()
        self.now_ms = 1_000_000
        self.clients = itertools.count()
        self.actors: list[Actor] = []
        self.registered: dict[str, Registered] = {}
        self.generations: dict[str, int] = {}
        self.published: dict[Place, int] = {
            (topic, number): 0 for topic, count in TOPICS.items() for number in range(count)
        }

    @initialize(in_one_process=st.booleans())
    def begin(self, in_one_process: bool) -> None:
        self.broker = broker = Broker.open(self.path)
        engine = broker.engine
        engine.compactor.close()  # it would trim whenever it likes
        engine.lives = Lives(
            engine.files, engine.lives._folder, clock_ns=lambda: self.now_ms * NS_PER_MS
        )
        self.in_one_process = in_one_process

        class Hand(Keeper):
            """It ticks when it is told to; between processes nobody is poked."""

            def _wake(self) -> None: ...

            def poke(self, membership: Any) -> None:
                if in_one_process:
                    super().poke(membership)

        self.keeper = engine.keeper = Hand(
            engine.groups, engine.lives, layout=engine.layout, notify=engine.watcher.notify
        )
        for topic, count in TOPICS.items():
            broker.create_topic(topic, count)
        self.producer = broker.producer(linger_ms=60_000)  # a flush is a batch, always
        for topic, partition in self.published:
            self.publish_to(topic, partition, 3)
        for group in ("g", "g", "h"):
            self.add(Actor(group, ["t", "u"], None, ("cooperative-sticky", "range"), None, False))

    # -- the model -------------------------------------------------------------------

    def count(self, topic: str) -> int:
        return sum(1 for name, _ in self.published if name == topic)

    def places(self, actor: Actor) -> list[Place]:
        """What it reads, or would read were it alone."""
        numbers = actor.numbers
        return [
            place
            for place in self.published
            if place[0] in actor.topics and (numbers is None or place[1] in numbers)
        ]

    def is_dead(self, actor: Actor) -> bool:
        """Whether the others may take it for dead now."""
        if actor.is_killed and actor.instance is None:
            return True
        return self.now_ms - actor.heard_ms > SESSION_MS

    def in_group(self, group: str) -> list[Actor]:
        """Those who are members, dead or alive."""
        return [each for each in self.actors if each.group == group and not each.is_declared]

    def look_around(self, group: str, *, but: Actor | None = None) -> None:
        """Somebody has looked who of a group is dead."""
        for each in self.in_group(group):
            if each is not but and self.is_dead(each):
                each.is_declared = True

    def poke(self, group: str, *, but: Actor | None) -> None:
        if self.in_one_process:
            for each in self.actors:
                if each.group == group and each is not but and not each.is_away:
                    each.must_notice = each.is_declared

    def refusal(self, actor: Actor, *, again: bool) -> type[Exception] | None:
        """Why it could not join now."""
        others = []
        for each in self.in_group(actor.group):
            if each is actor or self.is_dead(each):
                continue
            if each.instance is not None and each.instance == actor.instance:
                if again:
                    return FencedInstanceId
                continue
            others.append(each)
        named = [set(self.places(each)) for each in others if each.numbers is not None]
        if actor.numbers is not None and any(set(self.places(actor)) & each for each in named):
            return GroupBusy
        sharing = [set(each.assignors) for each in [*others, actor] if each.numbers is None]
        if sharing and not set.intersection(*sharing):
            return InconsistentGroupProtocol
        return None

    def joined(self, actor: Actor) -> None:
        """It is a member from now on."""
        for each in self.in_group(actor.group):
            if each is not actor and each.instance == actor.instance is not None:
                each.is_declared = True
        actor.heard_ms = self.now_ms
        actor.is_declared = actor.must_notice = actor.is_overdue = False
        group = self.registered.setdefault(actor.group, Registered())
        for place in self.places(actor):
            if place not in group.committed:
                start = self.broker.ends(*place).log_start
                group.committed[place] = start
                group.passed[place] = set(range(start))
                group.given[place] = set()
        self.look_around(actor.group, but=actor)
        self.poke(actor.group, but=actor)

    # -- coming and going ------------------------------------------------------------

    @precondition(lambda self: sum(each.is_awake for each in self.actors) < MOST_MEMBERS)
    @rule(
        group=GROUPS,
        topics=SUBSCRIPTIONS,
        assignors=ASSIGNORS,
        instance=st.none() | st.none() | st.sampled_from(["i", "j"]),
        numbers=st.none() | st.none() | st.none() | st.sampled_from([(0,), (1, 2)]),
        acks_when_revoked=st.booleans(),
    )
    def join(
        self,
        group: str,
        topics: list[str],
        assignors: tuple[str, ...],
        instance: str | None,
        numbers: tuple[int, ...] | None,
        acks_when_revoked: bool,
    ) -> None:
        topics = topics if numbers is None else ["t"]
        self.add(Actor(group, topics, instance, assignors, numbers, acks_when_revoked))

    def add(self, actor: Actor) -> None:
        actor.name = f"c{next(self.clients):03}"
        refused = self.refusal(actor, again=False)

        def open_consumer() -> Consumer:
            return self.broker.consumer(
                actor.topics,
                group=actor.group,
                # Members are ordered by their ids, and those are random behind this.
                client_id=actor.name,
                partitions=actor.numbers,
                group_instance_id=actor.instance,
                partition_assignment_strategy=actor.assignors,
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=HEARTBEAT_MS,
                on_assigned=lambda places: self.assigned(actor, places),
                on_revoked=lambda places: self.revoked(actor, places),
                on_lost=lambda places: self.lost(actor, places),
            )

        if refused is not None:
            with pytest.raises(refused):
                open_consumer()
            return
        consumer = open_consumer()
        assert isinstance(consumer, GroupConsumer)
        actor.consumer = consumer
        self.actors.append(actor)
        self.joined(actor)

    def awake(self, data: st.DataObject) -> Actor:
        return data.draw(st.sampled_from([each for each in self.actors if each.is_awake]))

    @precondition(lambda self: any(each.is_awake for each in self.actors))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        actor = self.awake(data)
        if actor.is_declared:
            actor.acks_when_revoked = False
        actor.consumer.close()
        if actor.instance is None or actor.is_declared:
            self.actors.remove(actor)
            if not actor.is_declared:
                self.look_around(actor.group)
            self.poke(actor.group, but=actor)
        else:
            actor.is_away, actor.heard_ms = True, self.now_ms

    @precondition(lambda self: any(not each.is_away for each in self.actors))
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        actor = data.draw(st.sampled_from([each for each in self.actors if not each.is_away]))
        actor.consumer.membership.vanish()
        Consumer.close(actor.consumer)
        actor.is_away = actor.is_killed = True

    @rule(data=st.data())
    def pause_or_wake_up(self, data: st.DataObject) -> None:
        there = [each for each in self.actors if not each.is_away]
        if there:
            actor = data.draw(st.sampled_from(there))
            actor.is_paused = not actor.is_paused

    @precondition(lambda self: any(each.is_awake for each in self.actors))
    @rule(data=st.data(), is_long=st.booleans(), what=ACKNOWLEDGED, polls=st.booleans())
    def sleep(self, data: st.DataObject, is_long: bool, what: str, polls: bool) -> None:
        """It is paused, and goes on a moment later as if nothing had been."""
        actor = self.awake(data)
        for topic, partition in actor.consumer.assignment()[:1]:
            self.publish_to(topic, partition, 2)  # so that it has something in hand
        self.poll_one(actor, 500)
        actor.is_paused = True
        self.time_passes(is_long)
        actor.is_paused = False
        if polls:
            self.poll_one(actor, 500)
        self.ack_what(data, actor, what)

    @precondition(lambda self: any(each.is_awake for each in self.actors))
    @rule(data=st.data())
    def dawdle(self, data: st.DataObject) -> None:
        """It does not poll for longer than it may."""
        actor = self.awake(data)
        actor.consumer.membership.polled_s = -math.inf
        actor.is_overdue = True

    # -- time ------------------------------------------------------------------------

    @rule()
    def tick(self) -> None:
        """The processes that are not stopped look after their members."""
        awake = [each for each in self.actors if each.is_awake]
        for each in awake:
            if each.is_overdue:
                each.is_declared, each.is_overdue = True, False
            elif self.now_ms - each.heard_ms >= HEARTBEAT_MS:
                each.heard_ms = self.now_ms
        for group in {each.group for each in awake}:
            self.look_around(group)
        self.keeper.tick([each.consumer.membership for each in awake])
        for each in awake:
            each.must_notice = each.is_declared

    @rule(is_long=st.booleans())
    def time_passes(self, is_long: bool) -> None:
        for _ in range(6 if is_long else 2):
            self.now_ms += 2_000
            self.tick()

    # -- reading ---------------------------------------------------------------------

    def assigned(self, actor: Actor, places: Sequence[Place]) -> None:
        for place in places:
            assert place not in actor.positions
            actor.positions[place] = self.registered[actor.group].committed[place]

    def revoked(self, actor: Actor, places: Sequence[Place]) -> None:
        if actor.acks_when_revoked:
            self.acknowledge(actor, None)
        for place in places:
            del actor.positions[place]

    def lost(self, actor: Actor, places: Sequence[Place]) -> None:
        assert actor.has_to_join
        assert set(places) == set(actor.positions)
        actor.positions = {}

    @precondition(lambda self: any(each.is_awake for each in self.actors))
    @rule(data=st.data(), most=st.sampled_from([1, 3, 500]), what=ACKNOWLEDGED)
    def work(self, data: st.DataObject, most: int, what: str) -> None:
        actor = self.awake(data)
        self.poll_one(actor, most)
        self.ack_what(data, actor, what)

    @rule(group=GROUPS)
    def catch_up(self, group: str) -> None:
        """All of a group that are awake read and acknowledge all they can; then some may go."""
        for each in self.actors:
            if each.group == group and each.is_awake:
                self.poll_one(each, 500)
                self.acknowledge(each, None)
        self.trim()

    def poll_one(self, actor: Actor, most: int) -> list[Record]:
        before = actor.consumer.member_id
        asleep = self.now_ms - actor.heard_ms > SESSION_MS
        # It may look earlier than it must.
        looks = actor.must_notice or asleep or actor.consumer.membership.needs_attention
        has_to_join = actor.is_declared and looks
        refused = self.refusal(actor, again=True) if has_to_join else None
        if refused is not None:
            with pytest.raises(refused):
                actor.consumer.poll(most)
            actor.positions = {}
            return []
        if has_to_join:
            actor.has_to_join = True
            self.joined(actor)
        records = actor.consumer.poll(most)
        assert (actor.consumer.member_id != before) == has_to_join
        actor.has_to_join = False
        actor.is_overdue = False
        actor.handed += records
        if not actor.is_declared:
            self.check_handed(actor, records)
        # Something it gave up may be had by others now.
        self.poke(actor.group, but=actor)
        return records

    def check_handed(self, actor: Actor, records: Sequence[Record]) -> None:
        [entry] = [
            each for each in self.members(actor.group) if each.member_id == actor.consumer.member_id
        ]
        owned = {self.place(each) for each in entry.owned}
        assert owned == set(actor.consumer.assignment()) == set(actor.positions)
        for record in records:
            place = record.topic, record.partition
            assert place in owned
            start = self.broker.ends(*place).log_start
            if actor.positions[place] < start <= self.registered[actor.group].committed[place]:
                # It has acknowledged more than it has read in this life, and that went.
                actor.positions[place] = start
            assert record.offset == actor.positions[place]
            assert record.value == b"%d" % record.offset
            actor.positions[place] += 1
            self.registered[actor.group].given[place].add(record.offset)

    @precondition(lambda self: any(each.is_awake and each.handed for each in self.actors))
    @rule(data=st.data(), what=ACKNOWLEDGED)
    def ack(self, data: st.DataObject, what: str) -> None:
        readers = [each for each in self.actors if each.is_awake and each.handed]
        self.ack_what(data, data.draw(st.sampled_from(readers)), what)

    def ack_what(self, data: st.DataObject, actor: Actor, what: str) -> None:
        if what == "all":
            self.acknowledge(actor, None)
        elif what == "some" and actor.handed:
            end = data.draw(st.integers(1, len(actor.handed)))
            self.acknowledge(actor, actor.handed[:end])
        elif what == "one" and actor.handed:
            # Of any time: it may be behind what is acknowledged, or somebody else's by now.
            self.acknowledge(actor, [data.draw(st.sampled_from(actor.handed))])

    def acknowledge(self, actor: Actor, records: Sequence[Record] | None) -> None:
        consumer = actor.consumer
        group = self.registered.get(actor.group, Registered())
        assigned = consumer.assignment()
        wanted: dict[Place, int] = {}
        if records is None:
            wanted = {place: consumer.position(*place) for place in assigned}
        for record in records or ():
            place = record.topic, record.partition
            wanted[place] = max(wanted.get(place, 0), record.offset + 1)
        ahead = {
            place: offset
            for place, offset in wanted.items()
            if place in assigned and offset > (consumer.committed(*place) or 0)
        }
        if actor.is_declared and ahead:
            with pytest.raises(GroupFenced):
                consumer.ack(records)
            return
        if wanted.keys() - set(assigned):
            with pytest.raises(PartitionRevoked):
                consumer.ack(records)
        else:
            consumer.ack(records)
        for place, offset in ahead.items():
            assert offset > group.committed[place]
            group.committed[place] = offset
            # By a record from before it was fenced: that stands for all before it, too.
            group.passed[place] |= set(range(actor.positions[place], offset))

    # -- the topics, and what an operator does ----------------------------------------

    @rule(data=st.data(), count=st.integers(1, 6))
    def publish(self, data: st.DataObject, count: int) -> None:
        topic, partition = data.draw(st.sampled_from(sorted(self.published)))
        self.publish_to(topic, partition, count)

    def publish_to(self, topic: str, partition: int, count: int) -> None:
        end = self.published[topic, partition]
        for offset in range(end, end + count):
            self.producer.send(topic, b"%d" % offset, partition=partition)
        self.producer.flush()
        self.published[topic, partition] = end + count

    @precondition(lambda self: self.count("t") < MOST_PARTITIONS)
    @rule(count=st.integers(0, 4))
    def grow(self, count: int) -> None:
        number = self.count("t")
        self.broker.add_partitions("t", number + 1)
        self.published["t", number] = 0
        for group in self.registered.values():
            if any(topic == "t" for topic, _ in group.committed):
                group.committed["t", number] = 0
                group.passed["t", number], group.given["t", number] = set(), set()
        if count:
            self.publish_to("t", number, count)

    @rule()
    def trim(self) -> None:
        places = [(each.name, part) for each in self.broker.topics() for part in each.partitions]
        for _, partition in places:
            self.broker.engine.log(partition.id).roll()
        self.broker.compact()
        for topic, partition in places:
            place = topic, partition.number
            committed = [
                each.committed[place]
                for each in self.registered.values()
                if place in each.committed
            ]
            # A sealed segment that everybody has acknowledged goes; nothing else does.
            log_start = self.broker.ends(*place).log_start
            assert log_start <= min(committed, default=log_start)
            if committed and min(committed) == self.published[place]:
                assert log_start == self.published[place]

    @contextmanager
    def refused_if_busy(self, group: str) -> Iterator[None]:
        """What is only done while a group has no living members."""
        if any(not self.is_dead(each) for each in self.in_group(group)):
            with pytest.raises(GroupBusy):
                yield
        else:
            yield
            for each in self.in_group(group):
                each.is_declared = True

    @precondition(lambda self: self.registered)
    @rule(data=st.data(), part=SHARES)
    def reset(self, data: st.DataObject, part: float) -> None:
        group = data.draw(st.sampled_from(sorted(self.registered)))
        place = data.draw(st.sampled_from(sorted(self.registered[group].committed)))
        offset = int(part * self.published[place])
        if offset < self.broker.ends(*place).log_start:
            with pytest.raises(OffsetOutOfRange):
                self.broker.reset_group(group, place[0], {place[1]: offset})
            return
        was_busy = any(not self.is_dead(each) for each in self.in_group(group))
        with self.refused_if_busy(group):
            self.broker.reset_group(group, place[0], {place[1]: offset})
        if not was_busy:
            found = self.registered[group]
            found.passed[place] |= set(range(found.committed[place], offset))
            found.given[place] -= set(range(offset, self.published[place]))
            found.committed[place] = offset

    @precondition(lambda self: self.registered)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.registered)))
        was_busy = any(not self.is_dead(each) for each in self.in_group(group))
        with self.refused_if_busy(group):
            self.broker.delete_group(group)
        if not was_busy:
            del self.registered[group]

    # -- always ----------------------------------------------------------------------

    def members(self, group: str) -> list[Member]:
        return self.broker.engine.groups.members(group)[1]

    def place(self, partition_id: int) -> Place:
        found = self.broker.engine.place(partition_id)
        assert found is not None
        return found[0].name, found[1].number

    @invariant()
    def a_partition_has_one_owner(self) -> None:
        for group in self.registered:
            entries = self.members(group)
            owned = [each for entry in entries for each in entry.owned]
            assert len(owned) == len(set(owned))
            # And so say the consumers themselves, those that nobody has declared dead.
            read = [
                place
                for actor in self.in_group(group)
                if not actor.is_away
                for place in actor.consumer.assignment()
            ]
            assert len(read) == len(set(read))
            assert {each.member_id for each in entries} == {
                each.consumer.member_id for each in self.in_group(group)
            }

    @invariant()
    def what_is_committed_is_what_was_acknowledged(self) -> None:
        if not hasattr(self, "broker"):
            return
        assert self.broker.groups() == sorted(self.registered)
        for name, group in self.registered.items():
            stored = self.broker.engine.state.committed(name)
            assert {self.place(key): each.offset for key, each in stored.items()} == group.committed
            generation = self.broker.engine.groups.members(name)[0]
            assert generation >= self.generations.get(name, 0)
            self.generations[name] = generation

    @invariant()
    def nothing_is_trimmed_that_is_wanted(self) -> None:
        for group in self.registered.values():
            for place, committed in group.committed.items():
                assert self.broker.ends(*place).log_start <= committed

    @rule()
    def settle(self) -> None:
        """A few rounds later everything is read by somebody who wants it."""
        for _ in range(4):
            self.tick()
            for each in self.actors:
                if each.is_awake:
                    self.poll_one(each, 1)
        for group in self.registered:
            living = self.in_group(group)
            if not all(each.is_awake for each in living):
                continue
            assert all(set(each.owned) == set(each.target) for each in self.members(group))
            read = {place for each in living for place in each.consumer.assignment()}
            assert read == {place for each in living for place in self.places(each)}

    def teardown(self) -> None:
        try:
            if hasattr(self, "broker"):
                self.finish()
        finally:
            if hasattr(self, "broker"):
                self.broker.close()
            self.folder.__exit__(None, None, None)

    def finish(self) -> None:
        """Whoever takes over in the end gets what is left; and all of it may go then."""
        for each in self.actors:
            each.acks_when_revoked = False
            each.consumer.close()
        self.now_ms += SESSION_MS + 1
        self.actors = []
        for name, group in self.registered.items():
            last = Actor(name, sorted(TOPICS), None, ("range",), None, False)
            last.consumer = consumer = self.broker.consumer(  # type: ignore[assignment]
                last.topics,
                group=name,
                partition_assignment_strategy="range",
                on_assigned=lambda places, last=last: self.assigned(last, places),
            )
            self.actors.append(last)
            self.joined(last)
            while self.poll_one(last, 500):
                pass
            consumer.ack()
            for place, end in self.published.items():
                assert group.given[place] | group.passed[place] == set(range(end))
            group.committed = dict(self.published)
            consumer.close()
        if self.registered:
            self.trim()
        self.producer.close()


TestGroups = GroupMachine.TestCase
if os.environ.get("HYPOTHESIS_PROFILE") == "thorough":
    TestGroups.settings = settings(max_examples=5_000, stateful_step_count=80)
    TestGroups = pytest.mark.timeout(3600)(TestGroups)
else:
    TestGroups.settings = settings(max_examples=100, stateful_step_count=40)


# -- what the machine must be able to find ---------------------------------------------

SEED = 5  # with which none of them takes long
PLANTED = ROOT / "tests" / "planted" / "groups"

# Runs in the child: the machine, on the copy, until it finds something; it does not shrink.
_HUNT = """
import logging, sys
import seawall.broker
if not seawall.broker.__path__[0].startswith(sys.argv[1]):
    sys.exit(f"seawall.broker comes from {seawall.broker.__path__[0]}")
logging.disable(logging.CRITICAL)
import conftest, test_group_machine
from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
run_state_machine_as_test(
    seed(int(sys.argv[2]))(test_group_machine.GroupMachine),
    settings=settings(
        max_examples=400, stateful_step_count=40, phases=[Phase.generate], database=None,
        report_multiple_bugs=False,
    ),
)
"""


def hunt(root: Path, seed: int) -> str:
    """What the machine finds in the code below `root`; "" if nothing."""
    paths = root, ROOT / "tests", ROOT / "tests" / "broker"
    process = subprocess.run(
        [sys.executable, "-P", "-c", _HUNT, str(root), str(seed)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
        },
        cwd=root,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    return process.stderr if process.returncode else ""


@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in sorted(PLANTED.iterdir())])
def test_a_planted_bug_is_found(path: Path, tmp_path: Path) -> None:
    planted = parse(path.stem, path.read_text())
    assert planted.search == "test_group_machine"
    planted.apply(copy_code(tmp_path))
    found = hunt(tmp_path, SEED)
    # A check of the machine's, and not a patch that does not even run.
    checks = r"^(AssertionError|Failed: DID NOT RAISE|seawall\.broker\.errors)"
    assert re.search(checks, found, re.MULTILINE), found or "the machine finds nothing"
