"""Reading as a member of a cluster's group: the coordinator there shares the partitions out.

What is promised is what `seawall.broker.group_consumer` promises: a group begins at a place
that is stored, `ack` is durable on return and never goes back, and whoever comes back reads
on from what was acknowledged. A server that is started again may not know its members, if
others had the group meanwhile; then an acknowledgement joins anew and is made in the new
membership, if the partition is this member's again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaException, TopicPartition

from seawall.broker.group_running import GroupOptions
from seawall.broker.remote.acknowledging import LOOK_S
from seawall.broker.remote.consumer import RemoteConsumer
from seawall.broker.remote.errors import AWAY, FENCED, kafka_error
from seawall.broker.remote.fetching import Place
from seawall.broker.remote.handling import RemoteRunning
from seawall.broker.remote.supervisor import Link

if TYPE_CHECKING:
    from uuid import UUID

    from seawall.broker.handling_place import DeadLetterSink
    from seawall.broker.membership import MemberSettings
    from seawall.broker.remote.asking import Asking
    from seawall.broker.remote.topics import Topics

logger = logging.getLogger("seawall.broker")

COMMITTED_TIMEOUT_S = 2.0
# How long closing may take while no server answers; librdkafka ends behind it.
CLOSING_S = 2.0
# What passes: a server comes back, or the member joins anew and is assigned its partitions again.
_PASSING = AWAY | FENCED


class RemoteGroupConsumer(RemoteRunning):
    """A member. Made by `RemoteBroker.consumer`.

    `starts`: where the group begins in partitions in which it is nowhere yet;
    `find_start(topic, partition)` says so for partitions that come later.
    `open_dead_letters(group)` makes what writes those of handlers.
    """

    def __init__(
        self,
        asking: Asking,
        topics: Topics,
        make: Callable[..., Client],
        *,
        group: str,
        uuids: Mapping[str, UUID],
        member: MemberSettings,
        options: GroupOptions,
        starts: Mapping[Place, int],
        find_start: Callable[[str, int], int],
        is_settled: Callable[[], bool],
        open_dead_letters: Callable[[str], DeadLetterSink],
        release: Callable[[RemoteConsumer], None],
    ) -> None:
        super().__init__(asking, topics, make, uuids=uuids, release=release)
        self.group = group
        self._names = tuple(uuids)
        self._member = member
        self._options = options
        self._starts = dict(starts)
        self._find_start = find_start
        self._is_settled = is_settled
        self._open_dead_letters = open_dead_letters
        self._is_cooperative = member.partition_assignment_strategy[0] == "cooperative-sticky"
        self._committed: dict[Place, int] = {}
        self._announced: set[Place] = set()
        self._news: list[Place] = []
        # Partitions of which it is not known yet where the group is in them.
        self._put_off: dict[Place, TopicPartition] = {}
        self._assignments = 0
        self._wanted: dict[int, dict[Place, int]] = {}
        self._acknowledging = threading.RLock()
        self._auto_commit_due_s = time.monotonic() + options.auto_commit_interval_ms / 1000
        self._deadline_s = 0.0
        self.client.subscribe(
            list(uuids),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    @property
    def is_rebalancing(self) -> bool:
        """Whether partitions are on their way to it, or may be: it has none so far."""
        if self._assignments == 0 or self._put_off:
            return True
        return not self._positions and not self._is_settled()

    # -- partitions come and go ------------------------------------------------------

    def _attend(self) -> None:
        self._announce()
        options = self._options
        if options.enable_auto_commit and time.monotonic() >= self._auto_commit_due_s:
            self._auto_commit_due_s = time.monotonic() + options.auto_commit_interval_ms / 1000
            self._auto_commit(list(self._positions))

    def _serve(self, count: int, wait_s: float) -> None:
        if self._put_off and self._supervisor.require(0):
            self._assign(self.client, list(self._put_off.values()))
        super()._serve(count, wait_s)
        self._announce()

    def _announce(self) -> None:
        """Tell of what came; after librdkafka's own call, so that a seek is possible."""
        news, self._news = self._news, []
        new = [each for each in news if each in self._positions]
        if new:
            self._announced.update(new)
            if self._options.on_assigned is not None:
                self._options.on_assigned(new)

    def _recover(self) -> None:
        """Also a call of librdkafka's may have been thrown away: then it has done without."""
        if self._is_calling_back:
            return  # the turn that this is part of has not come to its end yet
        super()._recover()
        client = self.client
        held = {(each.topic, each.partition): each for each in client.assignment()}
        gone = self._positions.keys() - held.keys()
        if gone:
            self._lose(gone)
        known = self._positions.keys() | self._put_off.keys()
        new = [each for place, each in held.items() if place not in known]
        if new:
            self._tell_unassigned(client, new)
            self._assign(client, new)
            self._assignments += 1

    def _on_assign(self, client: Client, partitions: list[TopicPartition]) -> None:
        if self._leaving_for is not None:  # nothing can be asked any more
            self._tell_assigned(client, [])
            return
        self._put_off |= {(each.topic, each.partition): each for each in partitions}
        # What is not assigned in here librdkafka would begin to read by itself, anywhere.
        self._tell_assigned(client, [])
        self._assign(client, partitions)
        self._assignments += 1

    def _assign(self, client: Client, partitions: list[TopicPartition]) -> None:
        """Begin to read. If it cannot be found out where: later again, in `_serve`."""
        self._put_off |= {(each.topic, each.partition): each for each in partitions}
        try:
            self._calling_back = threading.get_ident()
            self._assigned(client, partitions)
        except KafkaException as error:
            failure = kafka_error(error)
            if failure.code() in _PASSING:
                self._supervisor.suspect(is_use=False)
            else:
                self._raised = self._raised or self._named(failure, None, None)
        except Exception as error:  # noqa: BLE001 - raised by `poll`, not through librdkafka
            self._raised = self._raised or error
        finally:
            self._calling_back = None

    def _tell_assigned(self, client: Client, partitions: list[TopicPartition]) -> None:
        if self._is_cooperative:
            client.incremental_assign(partitions)
        else:
            client.assign(partitions)

    def _assign_again(self, client: Client, place: Place, offset: int) -> None:
        if self._is_cooperative:
            super()._assign_again(client, place, offset)
        else:
            offsets = {each: self._expected[each] for each in self._positions} | {place: offset}
            client.assign([TopicPartition(*each, at) for each, at in offsets.items()])

    def _assigned(self, client: Client, partitions: list[TopicPartition]) -> None:
        places = [(each.topic, each.partition) for each in partitions]
        if places:
            self._look_whether_same()
        committed = self._where_the_group_is(client, places)
        offsets, new = {}, {}
        for place in places:
            at = committed.get(place)
            if at is None:
                at = new[place] = self._start_of(place)
            acknowledging = [each.get(place, 0) for each in list(self._wanted.values())]
            wanted = max([self._done_before(place, at), *acknowledging])
            if wanted > at:
                at = new[place] = wanted
            offsets[place] = at
        if new:
            client.commit(
                offsets=[self._said(place, at) for place, at in new.items()], asynchronous=False
            )
        self._tell_assigned(client, [TopicPartition(*p, at) for p, at in offsets.items()])
        self._committed.update(offsets)
        self._begin_at(offsets)
        for place in places:
            self._put_off.pop(place, None)
        self._news += places
        logger.info("group %s: now reading %s", self.group, _shown(places))

    def _where_the_group_is(self, client: Client, places: Sequence[Place]) -> dict[Place, int]:
        asked = [TopicPartition(*place) for place in places]
        found = client.committed(asked, timeout=COMMITTED_TIMEOUT_S)
        for each in found:
            if each.error is not None:  # it may well be somewhere
                raise KafkaException(each.error)
        self._find(found)
        return {(e.topic, e.partition): e.offset for e in found if e.offset >= 0}

    def _start_of(self, place: Place) -> int:
        start = self._starts.pop(place, None)
        return self._find_start(*place) if start is None else start

    def _on_revoke(self, client: Client, partitions: list[TopicPartition]) -> None:
        places = {(each.topic, each.partition) for each in partitions}
        try:
            self._calling_back = threading.get_ident()
            self._auto_commit([each for each in self._positions if each in places])
            self._call(self._options.on_revoked, places)
        except Exception as error:  # noqa: BLE001 - raised by `poll`
            self._raised = self._raised or error
        finally:
            self._calling_back = None
            self._tell_unassigned(client, partitions)
            self._drop(places)
        logger.info("group %s: gave up %s", self.group, _shown(sorted(places)))

    def _tell_unassigned(self, client: Client, partitions: list[TopicPartition]) -> None:
        """Before they are dropped: those that were put off were not assigned."""
        if self._is_cooperative:
            put_off = self._put_off
            client.incremental_unassign(
                [each for each in partitions if (each.topic, each.partition) not in put_off]
            )
        else:
            client.unassign()

    def _on_lost(self, client: Client, partitions: list[TopicPartition]) -> None:
        self._tell_unassigned(client, partitions)
        self._lose({(each.topic, each.partition) for each in partitions})

    def _lose(self, places: set[Place]) -> None:
        """They are somebody else's already."""
        announced = places & self._announced
        self._was_at = {p: at for p, at in self._committed.items() if p in places}
        self._drop(places)
        try:
            self._calling_back = threading.get_ident()
            self._announced |= announced
            self._call(self._options.on_lost or self._options.on_revoked, announced)
        except Exception as error:  # noqa: BLE001 - raised by `poll`
            self._raised = self._raised or error
        finally:
            self._calling_back = None
            self._announced -= announced
        logger.warning(
            "group %s: lost %s; it is no member any more, and joins anew",
            self.group,
            _shown(sorted(places)),
        )

    def _call(self, callback: Callable[[list[Place]], object] | None, places: set[Place]) -> None:
        told = sorted(places & self._announced)
        if callback is not None and told:
            callback(told)

    def _drop(self, places: set[Place]) -> None:
        self._forget_pending(places)
        self._announced -= places
        for place in places:
            for known in (self._expected, self._committed, self._put_off):
                known.pop(place, None)
        self._positions = {p: at for p, at in self._positions.items() if p not in places}

    # -- the rest --------------------------------------------------------------------

    def _end(self) -> None:
        # `on_revoke` is called in here, and may acknowledge.
        client = self._client
        self._leaving_for = threading.get_ident()
        self._unusable, unusable = None, self._unusable
        try:
            if client is not None:
                self._close(client)
        finally:
            self._unusable = unusable
            self._client = None
            self._release(self)
        self._raise_pending()

    def _close(self, client: Client) -> None:
        """Leave the group. librdkafka waits for a commit that is on its way, and that for a
        server: while none answers, this waits for `CLOSING_S` at the most."""

        def close() -> None:
            with suppress(RuntimeError):  # it was closed already
                client.close()

        closing = threading.Thread(target=close, daemon=True)
        closing.start()
        away_s = 0.0
        while closing.is_alive() and away_s < CLOSING_S:
            began_s = time.monotonic()
            closing.join(LOOK_S)
            if closing.is_alive():
                self._supervisor.suspect(is_use=False)  # nobody else looks any more
                if self._supervisor.link in (Link.DOWN, Link.GIVEN_UP):
                    away_s += time.monotonic() - began_s

    def abandon(self) -> None:
        """In a forked child: refuse everything, leave no group."""
        super().abandon()
        self._acknowledging = threading.RLock()


def _shown(places: Sequence[Any]) -> str:
    return ", ".join(f"{topic}/{partition}" for topic, partition in places) or "nothing"
