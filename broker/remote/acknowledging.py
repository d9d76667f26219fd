"""Acknowledging as a member of a cluster's group: durable on return, never backwards.

While no server answers it waits. A member that is none any more, because the server was away for
too long or others had the group, joins anew, and the acknowledgement is made in the new
membership if the partition is this member's again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from seawall.broker.errors import (
    BrokerClosed,
    BrokerError,
    GroupFenced,
    OffsetOutOfRange,
    PartitionRevoked,
    UnknownPartition,
    UnknownTopic,
)
from seawall.broker.remote.consumer import SLICE_S, RemoteConsumer
from seawall.broker.remote.errors import AWAY, FENCED, kafka_error, named
from seawall.broker.remote.fetching import Place
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.group_running import GroupOptions
    from seawall.broker.membership import MemberSettings

_PAUSE_S = 0.05
# How long a commit may take before the connection is looked at.
LOOK_S = 0.5


class Acknowledging(RemoteConsumer):
    """The part of a `RemoteGroupConsumer` that acknowledges."""

    group: str
    _names: tuple[str, ...]
    _member: MemberSettings
    _options: GroupOptions
    _committed: dict[Place, int]
    # How often partitions were assigned: another number, another membership.
    _assignments: int
    # The thread in which librdkafka calls back just now.
    _calling_back: int | None = None
    # What each thread is acknowledging; who joins anew meanwhile begins behind it.
    _wanted: dict[int, dict[Place, int]]
    _acknowledging: threading.RLock
    _deadline_s: float

    @property
    def member_id(self) -> str:
        """Which member of the group it is; empty before it has joined."""
        return self.client.memberid() or ""

    @property
    def _is_calling_back(self) -> bool:
        """Whether it is this thread: what waits for the poll it is in would wait for ever."""
        return self._calling_back == threading.get_ident()

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
        with suppress(UnknownTopic):  # those of other topics can be acknowledged
            self._check_same()
        with self._alone():
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

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While inside, no other thread acknowledges but the one whose turn it is. That one
        does not wait here: others may wait for its turn to end."""
        if self._turn.is_mine or self._is_calling_back:
            yield
        else:
            with self._acknowledging:
                yield

    def _is_ahead(self, place: Place, offset: int) -> bool:
        topic, partition = place
        if topic == self._replaced:
            raise UnknownTopic(topic=topic, is_another=True)
        position = self._positions.get(place)
        if position is None and self._assignments and not self._has_lost():
            if topic not in self._names:
                raise UnknownPartition(
                    topic=topic, partition=partition, partitions=0, is_read=False
                )
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
        self._be_patient()
        refusal: BrokerError | None = None
        thread = threading.get_ident()
        before = self._wanted.get(thread)
        self._wanted[thread] = ahead
        try:
            while ahead:
                self._check_usable()
                if not self._is_calling_back and not self._supervisor.require(0):
                    self._supervisor.require()
                    self._be_patient()
                with suppress(UnknownTopic):  # an outage may have been long
                    self._check_same()
                failure = None
                with self._my_turn():
                    for place in [each for each in ahead if each[0] == self._replaced]:
                        refusal = UnknownTopic(topic=self._replaced, is_another=True)
                        del ahead[place]
                    gone = [place for place in ahead if place not in self._positions]
                    is_out = bool(gone) and (self._assignments == 0 or self._has_lost())
                    if not is_out:
                        for topic, partition in gone:
                            refusal = PartitionRevoked(
                                group=self.group, topic=topic, partition=partition
                            )
                            del ahead[topic, partition]
                        for place in [p for p, at in ahead.items() if self._has_acked(p, at)]:
                            del ahead[place]
                        offsets = [TopicPartition(*place, at) for place, at in ahead.items()]
                        failure = self._send(offsets) if ahead else None
                        if failure is None:
                            self._acknowledged(ahead)
                            break
                if failure is None:
                    self._join_again()
                else:
                    self._after(failure)
        finally:
            if before is None:
                del self._wanted[thread]
            else:
                self._wanted[thread] = before
        return refusal

    def _my_turn(self) -> AbstractContextManager[None]:
        """What is called back is part of a turn; when it closes, of another thread's."""
        return nullcontext() if self._is_calling_back else self._turn.hurried()

    def _has_acked(self, place: Place, offset: int) -> bool:
        return self._committed.get(place, -1) >= offset

    def _after(self, failure: KafkaError) -> None:
        """Do what the next attempt needs. Raises what no other attempt would change."""
        if failure.code() in FENCED:
            if self._is_calling_back:
                raise self._fenced()
            self._join_again(failure)
        else:
            self._pause(failure)

    def _pause(self, failure: KafkaError) -> None:
        """If no server was reached: wait a moment. Raises all else."""
        if failure.code() not in AWAY or self._is_calling_back:
            self._check_usable()
            raise self._named(failure, None, None)
        self._supervisor.suspect()
        time.sleep(_PAUSE_S)
        self._be_patient()

    def _send(self, offsets: list[TopicPartition]) -> KafkaError | None:
        """One attempt, in this thread's turn. Gives what it failed with."""
        try:
            commit = partial(self.client.commit, offsets=offsets, asynchronous=False)
            answer = commit() if self._is_calling_back else self._apart(commit)
        except KafkaException as error:
            return kafka_error(error)
        except RuntimeError as error:  # the client was closed meanwhile
            self._check_usable()
            raise BrokerClosed(what="consumer") from error
        return next((each.error for each in answer or () if each.error is not None), None)

    def _acknowledged(self, ahead: Mapping[Place, int]) -> None:
        for place, offset in ahead.items():
            self._committed[place] = offset
            if self._positions.get(place, offset) < offset:
                # It joined anew, and would be given again what it has just acknowledged.
                self._positions[place] = self._expected[place] = offset
                pending = list(self._pending)
                self._pending.clear()
                for each in pending:
                    if (each.topic, each.partition) != place:
                        self._pending.append(each)
                    elif each.offset >= offset:
                        self._pending.append(each)
                        self._expected[place] = each.offset + 1

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
                self._be_patient()

    def _be_patient(self) -> None:
        """Give it a session's time to be a member: that no server answered is not its fault."""
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

    def _apart(self, call: Callable[[], Any]) -> Any:
        """Have a thread of its own make a call that nothing interrupts, and wait for that:
        until the consumer is closed, or the connection given up."""
        waiting: Future[Any] = Future()

        def run() -> None:
            try:
                waiting.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                waiting.set_exception(error)

        thread = threading.Thread(target=run, name="seawall-remote-commit", daemon=True)
        thread.start()
        failures = self._supervisor.failures
        try:
            while True:
                try:
                    return waiting.result(LOOK_S)
                except TimeoutError:
                    self._check_usable()
                    lost = self._supervisor.given_up(failures)
                    if lost is not None:
                        raise lost from None
                    # Nobody may be polling, so that nobody else hears of a loss.
                    self._supervisor.suspect()
        finally:
            if waiting.done():
                thread.join()
