"""Reading as a member of a cluster's group: the coordinator there shares the partitions out.

What is promised is what `seawall.broker.group_consumer` promises: a group begins at a place
that is stored, `ack` is durable on return and never goes back, and whoever comes back reads
on from what was acknowledged. A server that is started again does not know its members;
then an acknowledgement joins anew and is made in the new membership, if the partition is
this member's again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from seawall.broker.errors import (
    BrokerError,
    GroupFenced,
    OffsetOutOfRange,
    PartitionRevoked,
    UnknownPartition,
)
from seawall.broker.group_running import GroupOptions
from seawall.broker.remote.consumer import SLICE_S, Place, RemoteConsumer
from seawall.broker.remote.errors import AWAY, FENCED, kafka_error, named
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.membership import MemberSettings
    from seawall.broker.remote.asking import Asking
    from seawall.broker.remote.topics import Topics

logger = logging.getLogger("seawall.broker")

_PAUSE_S = 0.05
COMMITTED_TIMEOUT_S = 5.0
MOST_LOOKS = 5


class RemoteGroupConsumer(RemoteConsumer):
    """A member. Made by `RemoteBroker.consumer`.

    `starts`: where the group begins in partitions in which it is nowhere yet;
    `find_start(topic, partition)` says so for partitions that come later.
    """

    def __init__(
        self,
        asking: Asking,
        topics: Topics,
        make: Callable[[], Client],
        *,
        group: str,
        names: Sequence[str],
        member: MemberSettings,
        options: GroupOptions,
        starts: Mapping[Place, int],
        find_start: Callable[[str, int], int],
        release: Callable[[RemoteConsumer], None],
    ) -> None:
        super().__init__(asking, topics, make, release=release)
        self.group = group
        self._names = tuple(names)
        self._member = member
        self._options = options
        self._starts = dict(starts)
        self._find_start = find_start
        self._is_cooperative = member.partition_assignment_strategy[0] == "cooperative-sticky"
        self._committed: dict[Place, int] = {}
        self._announced: set[Place] = set()
        self._news: list[Place] = []
        # How often partitions were assigned: another number, another membership.
        self._assignments = 0
        self._is_calling_back = False
        # What is being acknowledged; who joins anew meanwhile begins behind it.
        self._wanted: dict[Place, int] = {}
        self._acknowledging = threading.RLock()
        # Commits wait in a thread of their own, so that a signal reaches who waits for them.
        self._committer = ThreadPoolExecutor(1, "seawall-remote-commit")
        self._auto_commit_due_s = time.monotonic() + options.auto_commit_interval_ms / 1000
        self._deadline_s = 0.0
        self.client.subscribe(
            list(names),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    @property
    def member_id(self) -> str:
        """Which member of the group it is; empty before it has joined."""
        return self.client.memberid() or ""

    @property
    def is_rebalancing(self) -> bool:
        """Whether partitions are on their way to it: it has not been given any yet."""
        return self._assignments == 0

    # -- partitions come and go ------------------------------------------------------

    def _attend(self) -> None:
        self._announce()
        options = self._options
        if options.enable_auto_commit and time.monotonic() >= self._auto_commit_due_s:
            self._auto_commit_due_s = time.monotonic() + options.auto_commit_interval_ms / 1000
            self._auto_commit(list(self._positions))

    def _serve(self, count: int, wait_s: float) -> None:
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

    def _on_assign(self, client: Client, partitions: list[TopicPartition]) -> None:
        try:
            self._is_calling_back = True
            self._assigned(client, partitions)
        except Exception as error:  # noqa: BLE001 - raised by `poll`, not through librdkafka
            self._raised = self._raised or error
        finally:
            self._is_calling_back = False
            self._assignments += 1

    def _assigned(self, client: Client, partitions: list[TopicPartition]) -> None:
        places = [(each.topic, each.partition) for each in partitions]
        committed = self._where_the_group_is(client, places)
        offsets, new = {}, {}
        for place in places:
            at = committed.get(place)
            if at is None:
                at = new[place] = self._start_of(place)
            wanted = self._wanted.get(place, 0)
            if wanted > at:
                at = new[place] = wanted
            offsets[place] = at
        if new:
            client.commit(
                offsets=[TopicPartition(*place, at) for place, at in new.items()],
                asynchronous=False,
            )
        self._committed.update(offsets)
        self._begin_at(offsets)
        assigned = [TopicPartition(*place, at) for place, at in offsets.items()]
        if self._is_cooperative:
            client.incremental_assign(assigned)
        else:
            client.assign(assigned)
        self._news += places
        logger.info("group %s: now reading %s", self.group, _shown(places))

    def _where_the_group_is(self, client: Client, places: Sequence[Place]) -> dict[Place, int]:
        asked = [TopicPartition(*place) for place in places]
        for look in range(MOST_LOOKS):
            try:
                found = client.committed(asked, timeout=COMMITTED_TIMEOUT_S)
            except KafkaException as error:
                if kafka_error(error).code() not in AWAY or look == MOST_LOOKS - 1:
                    raise
                self._supervisor.suspect()
                time.sleep(_PAUSE_S)
            else:
                return {(e.topic, e.partition): e.offset for e in found if e.offset >= 0}
        return {}

    def _start_of(self, place: Place) -> int:
        start = self._starts.pop(place, None)
        return self._find_start(*place) if start is None else start

    def _on_revoke(self, client: Client, partitions: list[TopicPartition]) -> None:
        places = {(each.topic, each.partition) for each in partitions}
        try:
            self._is_calling_back = True
            self._auto_commit([each for each in self._positions if each in places])
            self._call(self._options.on_revoked, places)
        except Exception as error:  # noqa: BLE001 - raised by `poll`
            self._raised = self._raised or error
        finally:
            self._is_calling_back = False
            self._drop(places)
            if self._is_cooperative:
                client.incremental_unassign(partitions)
            else:
                client.unassign()
        logger.info("group %s: gave up %s", self.group, _shown(sorted(places)))

    def _on_lost(self, client: Client, partitions: list[TopicPartition]) -> None:
        places = {(each.topic, each.partition) for each in partitions}
        announced = places & self._announced
        self._drop(places)
        try:
            self._is_calling_back = True
            self._announced |= announced
            self._call(self._options.on_lost or self._options.on_revoked, announced)
        except Exception as error:  # noqa: BLE001 - raised by `poll`
            self._raised = self._raised or error
        finally:
            self._is_calling_back = False
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
            for known in (self._expected, self._committed):
                known.pop(place, None)
        self._positions = {p: at for p, at in self._positions.items() if p not in places}

    # -- acknowledging ---------------------------------------------------------------

    def committed(self, topic: str, partition: int) -> int | None:
        """The offset behind the last acknowledged record."""
        self._position((topic, partition))
        return self._committed.get((topic, partition))

    def _done(self, place: Place) -> int:
        return self._committed.get(place, self._positions[place])

    def ack(self, records: Record | Sequence[Record] | None = None) -> None:
        """Acknowledge, durably on return: the group never gets these records again.

        Cumulative, and never backwards, as everywhere. Waits while no server answers.
        Raises `GroupFenced` if this consumer was taken for dead and did not get to join
        again, `PartitionRevoked` for a partition that was given up, and `ConnectionLost`.
        What can be acknowledged is, before it raises.
        """
        self._check_usable()
        wanted: dict[Place, int] = {}
        if records is None:
            wanted = self._handed_out(list(self._positions))
        else:
            for record in (records,) if isinstance(records, Record) else records:
                place = record.topic, record.partition
                wanted[place] = max(wanted.get(place, 0), record.offset + 1)
        self.ack_offsets(wanted)

    def ack_offsets(self, wanted: Mapping[Place, int]) -> None:
        """Acknowledge all before an offset in each partition; raises like `ack`."""
        refusal: BrokerError | None = None
        with self._acknowledging:
            ahead = {}
            for place, offset in wanted.items():
                try:
                    if self._is_ahead(place, offset):
                        ahead[place] = offset
                except BrokerError as error:
                    refusal = error
            if ahead:
                refusal = self._commit(ahead) or refusal
        if refusal is not None:
            raise refusal

    def _is_ahead(self, place: Place, offset: int) -> bool:
        topic, partition = place
        position = self._positions.get(place)
        if position is None and self._assignments and not self._has_lost():
            if topic not in self._names:
                raise UnknownPartition(topic=topic, partition=partition, partitions=0)
            raise PartitionRevoked(group=self.group, topic=topic, partition=partition)
        if offset <= self._committed.get(place, -1):
            return False
        if position is None or offset > position:
            ends = self._topics.ends(topic, [partition])[partition]
            if offset > ends.durable_end:
                raise OffsetOutOfRange(
                    topic=topic,
                    partition=partition,
                    offset=offset,
                    log_start=ends.log_start,
                    durable_end=ends.durable_end,
                )
        return True

    def _has_lost(self) -> bool:
        """Whether it has no partitions at all, so that it may be about to join again."""
        return not self._positions

    def _commit(self, ahead: dict[Place, int]) -> BrokerError | None:
        """Have the coordinator store it, in this membership or the next. Gives the refusal
        of what could not be."""
        self._deadline_s = time.monotonic() + self._member.session_timeout_ms / 1000
        self._wanted = dict(ahead)
        refusal: BrokerError | None = None
        try:
            while ahead:
                self._check_usable()
                for place in [p for p in ahead if p not in self._positions]:
                    if self._assignments == 0 or self._has_lost():
                        self._join_again()
                        break
                    refusal = PartitionRevoked(
                        group=self.group, topic=place[0], partition=place[1]
                    )
                    del ahead[place], self._wanted[place]
                else:
                    done = [p for p, at in ahead.items() if self._committed.get(p, -1) >= at]
                    for place in done:
                        del ahead[place]
                    if ahead and self._try(ahead):
                        self._acknowledged(ahead)
                        break
        finally:
            self._wanted = {}
        return refusal

    def _try(self, ahead: Mapping[Place, int]) -> bool:
        """One attempt; whether it is done. Raises what no other attempt would change."""
        if not self._is_calling_back:
            self._supervisor.require()
        try:
            self._send(ahead)
        except KafkaException as error:
            failure = kafka_error(error)
            if failure.code() in FENCED:
                if self._is_calling_back:
                    raise self._fenced() from error
                self._join_again(failure)
            elif failure.code() in AWAY:
                if self._is_calling_back:
                    raise self._named(failure, None, None) from error
                self._supervisor.suspect()
                time.sleep(_PAUSE_S)
            else:
                raise self._named(failure, None, None) from error
            return False
        return True

    def _send(self, ahead: Mapping[Place, int]) -> None:
        offsets = [TopicPartition(*place, at) for place, at in ahead.items()]
        client = self.client
        if self._is_calling_back:
            answer = client.commit(offsets=offsets, asynchronous=False)
        else:
            waiting = self._committer.submit(client.commit, offsets=offsets, asynchronous=False)
            answer = waiting.result()
        for each in answer or ():
            if each.error is not None:
                raise KafkaException(each.error)

    def _acknowledged(self, ahead: Mapping[Place, int]) -> None:
        with self._turn:
            for place, offset in ahead.items():
                self._committed[place] = offset
                if self._positions.get(place, offset) < offset:
                    # It joined anew, and would be given again what it has just acknowledged.
                    self._positions[place] = self._expected[place] = offset
                    kept = [
                        each
                        for each in self._pending
                        if (each.topic, each.partition) != place or each.offset >= offset
                    ]
                    if kept:
                        self._expected[place] = max(
                            [offset, *(e.offset + 1 for e in kept if (e.topic, e.partition) == place)]
                        )
                    self._pending.clear()
                    self._pending.extend(kept)

    def _join_again(self, failure: KafkaError | None = None) -> None:
        """Have librdkafka find out, join, and be assigned; in this thread, if no other polls."""
        before = self._assignments
        is_other = failure is not None and failure.code() != KafkaError.REBALANCE_IN_PROGRESS
        while True:
            if time.monotonic() > self._deadline_s:
                raise self._fenced()
            self._check_usable()
            with self._turn:
                if self._assignments == before:
                    self._serve(1, SLICE_S)
                    self._raise_pending()
            if self._assignments != before or not (is_other or self._has_lost()):
                return
            if not self._supervisor.require(SLICE_S):
                # That no server answers is not the member's fault.
                self._deadline_s = time.monotonic() + self._member.session_timeout_ms / 1000

    def _fenced(self) -> GroupFenced:
        member_id = ""
        with suppress(BrokerError, KafkaException, RuntimeError):
            member_id = self.member_id
        return GroupFenced(group=self.group, member_id=member_id, generation=-1)

    def _handed_out(self, places: Sequence[Place]) -> dict[Place, int]:
        return {place: self.position(*place) for place in places if place in self._positions}

    def _auto_commit(self, places: Sequence[Place]) -> None:
        if self._options.enable_auto_commit:
            self.ack_offsets(self._handed_out(places))

    def _named(self, error: KafkaError, topic: str | None, partition: int | None) -> BrokerError:
        return named(
            error,
            self._asking.facts(
                topic=topic,
                partition=partition,
                group=self.group,
                instance_id=self._member.group_instance_id or "",
            ),
        )

    # -- the rest --------------------------------------------------------------------

    def _end(self) -> None:
        # `on_revoke` is called in here, and may acknowledge.
        client = self._client
        self._unusable, unusable = None, self._unusable
        try:
            if client is not None:
                client.close()
        finally:
            self._unusable = unusable
            self._client = None
            self._committer.shutdown(wait=False)
            self._release(self)
        self._raise_pending()

    def abandon(self) -> None:
        """In a forked child: refuse everything, leave no group."""
        super().abandon()
        self._acknowledging = threading.RLock()


def _shown(places: Sequence[Any]) -> str:
    return ", ".join(f"{topic}/{partition}" for topic, partition in places) or "nothing"
