"""The search "random-kills": SIGKILL at any moment, under everyone who uses a directory.

One directory is carried through all rounds. In each, four producers and two consumers,
processes of their own, open it, work, and are killed at moments that a seed decides: all
at once, or one by one while the others go on, with or without somebody new in their
place. Then it is opened and held against what they were told: see `carried`.

The same seed gives the same clients and moments, though not the same order of things
within the kernel. A case is the rounds to play, from the first on a new directory to the
last; the search itself plays only the last one of each on the directory that it carries.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator

from seawall.broker.broker import Broker
from seawall.broker.torture.actors import warm_children
from seawall.broker.torture.carried import Carried
from seawall.broker.torture.children import Children
from seawall.broker.torture.connect import KEEPS_ALL
from seawall.broker.torture.killed_clients import token_of
from seawall.broker.torture.killed_round import Round
from seawall.wal.torture.search import Broken, Case, Search, Setting, seed_for

QUICK_ROUNDS = 20
FULL_ROUNDS = 1_000

TOPICS = {"orders": 3, "audit": 1}
PLACES = [f"{topic}/{number}" for topic, count in TOPICS.items() for number in range(count)]
GROUPS = ("billing", "search")
# So small that a round rolls over several.
CONFIG = {**KEEPS_ALL, "segment.bytes": 32_768, "index.interval.bytes": 1024}

STAYS_OPEN = 0.25  # how often another process has the directory open during a round
# Every so many rounds groups catch up and old segments are dropped; and everything is read.
DROP_EVERY = 4
READ_ALL_EVERY = 20
# Of each log so many records are not dropped.
KEPT_RECORDS = 500

MOST_RECORDS = 5_000  # of one poll


class RandomKills(Search):
    """Everyone is killed, again and again."""

    name = "random-kills"
    title = "random SIGKILL under 4 producers and 2 consumers, one directory"
    most_shares = 1

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._rounds = FULL_ROUNDS if setting.full else QUICK_ROUNDS
        self._children: Children | None = None
        self._folder = ""
        # The directory that is carried: its first round, its last, and what it has told.
        self._first = self._last = 0
        self._carried = Carried((), ())

    def prepare(self) -> None:
        self._children = warm_children()
        self._folder = tempfile.mkdtemp(prefix="random-kills-", dir=self.setting.memory)

    def cases(self) -> Iterator[Case]:
        """As many as rounds; after a failure the next begins with a new directory."""
        first = 1
        for number in range(1, self._rounds + 1):
            yield {"first": first, "last": number}
            if (self._first, self._last) != (first, number):
                first = number + 1

    def smaller(self, case: Case) -> Iterator[Case]:
        for count in (1, 3, 10):
            first = int(case["last"]) + 1 - count
            if first > int(case["first"]):
                yield {"first": first, "last": case["last"]}

    def run(self, case: Case) -> None:
        """Play the rounds that this directory has not been through. Raises `Broken`."""
        first, last = int(case["first"]), int(case["last"])
        if self._first != first or self._last >= last:
            self._begin(first)
        try:
            while self._last < last:
                self._play(self._last + 1)
                self._last += 1
        except BaseException:
            self._first = self._last = 0
            raise

    def close(self) -> None:
        if self._children is not None:
            self._children.close()
            self._children = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    # -- a directory -------------------------------------------------------------------

    @property
    def _path(self) -> str:
        return os.path.join(self._folder, "data")

    def _begin(self, first: int) -> None:
        """A new directory, whose first round that will be."""
        shutil.rmtree(self._path, ignore_errors=True)
        with Broker.open(self._path) as broker:
            for topic, partitions in TOPICS.items():
                broker.create_topic(topic, partitions, CONFIG)
            for group in GROUPS:
                broker.consumer(list(TOPICS), group=group).close()
        self._carried = Carried(PLACES, GROUPS)
        self._first, self._last = first, first - 1

    def _play(self, number: int) -> None:
        choose = random.Random(seed_for(self.name, self.setting.seed, number))
        other = Broker.open(self._path) if choose.random() < STAYS_OPEN else None
        try:
            played = Round(
                self._started(), self._path, number, choose, places=PLACES, groups=GROUPS
            )
            played.play(self._carried)
            if other is not None:
                self._look(other)
        finally:
            if other is not None:
                other.close()
        with Broker.open(self._path) as broker:
            self._look(broker)
            self._check(broker, reads_all=number % READ_ALL_EVERY == 0)
            if number % DROP_EVERY == 0:
                self._catch_up(broker)
                self._drop(broker)
        self._count(played.killed)

    def _started(self) -> Children:
        if self._children is None:
            raise RuntimeError("`prepare` comes first")
        return self._children

    def _count(self, killed: int) -> None:
        carried = self._carried
        for name, count in (
            ("processes killed", killed),
            ("records acknowledged", carried.acknowledged),
            ("records seen", carried.seen),
        ):
            self.figures[name] = self.figures.get(name, 0) + count
        carried.acknowledged = carried.seen = 0

    # -- the verdict -------------------------------------------------------------------

    def _look(self, broker: Broker) -> None:
        """Read what is new."""
        for place in PLACES:
            topic, partition = _split(place)
            start, durable_end, log_end = broker.ends(topic, partition)
            known = self._carried.end(place)
            if start != self._carried.start(place):
                raise Broken(f"{place} starts at {start}, not {self._carried.start(place)}")
            if not known <= durable_end <= log_end:
                raise Broken(f"{place} ended at {known}, and now at {durable_end}, {log_end}")
            self._read(broker, place, known, durable_end)

    def _read(self, broker: Broker, place: str, offset: int, end: int) -> None:
        topic, partition = _split(place)
        with broker.consumer(topic, partitions=[partition], start=offset) as consumer:
            while offset < end:
                records = consumer.poll(MOST_RECORDS)
                if not records:
                    raise Broken(f"{place} gives nothing at {offset}, and ends at {end}")
                for record in records:
                    if record.offset != offset:
                        raise Broken(f"{place} gives {record.offset} at {offset}")
                    self._carried.read(place, offset, token_of(place, record.value))
                    offset += 1

    def _check(self, broker: Broker, *, reads_all: bool) -> None:
        """Everybody is dead, and everything that is new has been read."""
        carried = self._carried
        for place in PLACES:
            ends = broker.ends(*_split(place))
            if ends.durable_end != ends.log_end:
                raise Broken(f"{place} was not brought to disk by its sole opener: {ends}")
        carried.judge()
        for group in GROUPS:
            self._check_committed(broker, group)
        if reads_all:
            for place in PLACES:
                self._read(broker, place, carried.start(place), carried.end(place))
            for finding in broker.verify():
                raise Broken(f"verify finds damage: {finding}")

    def _check_committed(self, broker: Broker, group: str) -> None:
        found = {
            f"{each.topic}/{each.partition}": each.committed for each in broker.group(group).offsets
        }
        for place in PLACES:
            if place not in found:
                raise Broken(f"group {group!r} has no place in {place} any more")
            self._carried.committed(group, place, found[place])

    def _catch_up(self, broker: Broker) -> None:
        """Each group reads on to the end, so that not everything is kept for it."""
        for group in GROUPS:
            with broker.consumer(list(TOPICS), group=group) as consumer:
                for place in PLACES:
                    self._carried.committed(group, place, consumer.position(*_split(place)))
                while records := consumer.poll(MOST_RECORDS):
                    for record in records:
                        place = f"{record.topic}/{record.partition}"
                        self._carried.read(place, record.offset, token_of(place, record.value))
                consumer.ack()
            for place in PLACES:
                self._carried.acknowledge_all(group, place)
            self._check_committed(broker, group)

    def _drop(self, broker: Broker) -> None:
        for place in PLACES:
            topic, partition = _split(place)
            offset = self._carried.end(place) - KEPT_RECORDS
            if offset > self._carried.start(place):
                engine = broker.engine
                log = engine.log(broker.topic(topic).partitions[partition].id)
                engine.state.set_log_start(log.context.partition_id, offset)
                log.drop_segments(offset)
                self._carried.drop(place, offset)


def _split(place: str) -> tuple[str, int]:
    topic, _, partition = place.partition("/")
    return topic, int(partition)
