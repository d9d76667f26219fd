"""Reading as a member of a group, which remembers its place and shares its partitions.

A group's *committed* offset in a partition is the position up to which its records were
acknowledged; it is on disk, and is where whoever reads the partition next begins.

What others of the group do is seen to in `poll`, in the caller's thread: there partitions
are given up and taken, and the callbacks are called. A partition that is given up goes to
the next one with what was committed by then; a partition is never read by two members.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from seawall.broker.consumer import Consumer, TopicPartition, first_offsets
from seawall.broker.errors import (
    BrokerError,
    GroupFenced,
    PartitionRevoked,
    UnknownTopic,
)
from seawall.broker.fetch import Fetcher
from seawall.broker.group_running import Callback, GroupOptions, GroupRunning
from seawall.broker.group_state import Joined
from seawall.broker.translation import translated
from seawall.wal.errors import LogGone, WalError
from seawall.wal.records import Record

if TYPE_CHECKING:
    from seawall.broker.engine import Engine
    from seawall.broker.membership import Membership

logger = logging.getLogger("seawall.broker")


class GroupConsumer(GroupRunning):
    """A consumer in a group. Made by `Broker.consumer`.

    `open_fetcher` gives a fetcher of a partition (by id) from an offset, None if the
    partition is gone.
    """

    def __init__(
        self,
        engine: Engine,
        membership: Membership,
        *,
        options: GroupOptions,
        open_fetcher: Callable[[int, int], Fetcher | None],
        release: Callable[[Consumer], None] = lambda consumer: None,
    ) -> None:
        super().__init__(engine, {}, release=release)
        self.membership = membership
        self._options = options
        self._open_fetcher = open_fetcher
        self._acknowledging = threading.RLock()
        self._committed: dict[int, int] = {}
        # Those that `on_assigned` has been told of.
        self._announced: set[TopicPartition] = set()
        self._missing: list[str] = []
        self._is_leaving = False
        self._auto_commit_due_s = time.monotonic() + options.auto_commit_interval_ms / 1000
        self._take(membership.join())
        membership.polled_s = time.monotonic()  # from now on it may take so long to poll

    @property
    def member_id(self) -> str:
        """Which member of the group it is; another one after it was fenced."""
        return self.membership.member_id

    @property
    def generation(self) -> int:
        """The group's generation as this consumer knows it."""
        return self.membership.generation

    @property
    def is_rebalancing(self) -> bool:
        """Whether partitions are on their way to it or from it."""
        return self.membership.needs_attention or self.membership.is_waiting

    # -- the group -------------------------------------------------------------------

    def poll(self, max_records: int = 500, timeout_ms: float | None = 0) -> list[Record]:
        """See `Consumer.poll`. Here partitions are given up and taken as well.

        It has to be called at least every ``max_poll_interval_ms``; iterating does so.
        Raises `FencedInstanceId` as long as another consumer has this one's instance id, and
        what joining raises if this one was taken for dead and cannot join again.
        """
        self.membership.polled_s = math.inf
        try:
            return super().poll(max_records, timeout_ms)
        finally:
            self.membership.polled_s = time.monotonic()

    def hand_out(self, records: Sequence[Record]) -> Iterator[Record]:
        """See `Consumer.hand_out`. Whoever asks for the next one is at work."""
        membership = self.membership
        for record in super().hand_out(records):
            membership.polled_s = time.monotonic()
            yield record

    def _attend(self) -> None:
        super()._attend()
        membership = self.membership
        try:
            self._auto_commit_if_due()
            if membership.needs_attention or self._missing or membership.was_silent():
                self._rebalance()
        except GroupFenced as error:
            self._begin_again(error)
        if self._missing:
            raise UnknownTopic(topic=self._missing[0])
        if self._announced != self._fetchers.keys():
            self._announce()
            self._check_usable()  # the callback may have closed it

    def _rebalance(self) -> None:
        """Give up what others are to have, and take what is to be had."""
        membership = self.membership
        membership.needs_attention = False
        self._missing = [each for each in membership.topics if each not in self._engine.layout()]
        found, is_free = membership.look()
        if found is None:
            membership.reconcile(())  # which says how it came to that
            return
        owned = {each.partition_id for each in self._order}
        gives_up = owned - set(found.target)
        if gives_up:
            self._give_back_rest()
            self._revoke([each for each in self._order if each.partition_id in gives_up])
        elif is_free:
            with self._acknowledging:
                self._take(membership.reconcile(()))

    def _revoke(self, fetchers: Sequence[Fetcher]) -> None:
        places = [(each.topic, each.partition) for each in fetchers]
        told = [each for each in places if each in self._announced]
        try:
            try:
                self._auto_commit(fetchers)
            finally:
                self._call(self._options.on_revoked, told)
        finally:
            # If they cannot be given up now, they are as if they had just been assigned.
            self._announced -= set(places)
            with self._acknowledging:
                joined = self._give_up(fetchers)
                self._drop(places)
                self._take(joined)
            logger.info("group %s: gave up %s", self.group, _named(places))

    def _give_up(self, fetchers: Sequence[Fetcher]) -> Joined:
        try:
            return self.membership.reconcile([each.partition_id for each in fetchers])
        except BaseException:
            for each in fetchers:
                each.rewind(self._committed.get(each.partition_id, each.position))
            self.membership.needs_attention = True  # the next poll tries again
            raise

    def _begin_again(self, error: GroupFenced) -> None:
        """It was taken for dead: join anew, and go on where the group is by now."""
        places = list(self._fetchers)
        told = [each for each in places if each in self._announced]
        self._give_back_rest()
        with self._acknowledging:
            self._drop(places)
        try:
            self._call(self._options.on_lost or self._options.on_revoked, told)
        finally:
            with self._acknowledging:
                self._check_usable()  # it may have been closed meanwhile
                self._take(self.membership.join(again=True))
                logger.warning("%s", error)

    def _take(self, joined: Joined) -> None:
        """Read what this member owns from now on, from where its group is."""
        fetchers = dict(self._fetchers)
        known = {each.partition_id for each in fetchers.values()}
        for partition_id in joined.member.owned:
            if partition_id not in known:
                offset = joined.committed[partition_id]
                fetcher = self._open_fetcher(partition_id, offset)
                if fetcher is not None:
                    fetchers[fetcher.topic, fetcher.partition] = fetcher
                    self._committed[partition_id] = offset
        self._use(fetchers)

    def _drop(self, places: Collection[TopicPartition]) -> None:
        fetchers = {place: each for place, each in self._fetchers.items() if place not in places}
        for place in places:
            self._committed.pop(self._fetchers[place].partition_id, None)
            self._fetchers[place].close()
        self._announced -= set(places)
        self._use(fetchers)

    def _use(self, fetchers: Mapping[TopicPartition, Fetcher]) -> None:
        # Replaced, never changed: other threads may be looking at them.
        self._fetchers = dict(sorted(fetchers.items()))
        self._order = list(self._fetchers.values())

    def _announce(self) -> None:
        new = [each for each in self._fetchers if each not in self._announced]
        self._announced = set(self._fetchers)
        logger.info("group %s: now reading %s", self.group, _named(new))
        self._call(self._options.on_assigned, new)

    def _call(self, callback: Callback | None, places: list[TopicPartition]) -> None:
        if callback is not None and places:
            # That it is in `poll` excuses none that never returns. `run` waits within bounds.
            if not self.is_running:
                self.membership.polled_s = time.monotonic()
            try:
                callback(places)
            finally:
                self.membership.polled_s = math.inf

    # -- acknowledging ---------------------------------------------------------------

    def committed(self, topic: str, partition: int) -> int | None:
        """The offset behind the last acknowledged record."""
        return self._committed.get(self._fetcher(topic, partition).partition_id)

    def _done(self, fetcher: Fetcher) -> int:
        return self._committed.get(fetcher.partition_id, fetcher.position)

    def ack(self, records: Record | Sequence[Record] | None = None) -> None:
        """Acknowledge, durably on return: the group never gets these records again.

        Cumulative: a record stands for all before it in its partition. Without
        `records`, everything that was handed out. One that is acknowledged already is
        a no-op. Threads that acknowledge at the same time share one sync.

        Raises `GroupFenced` if this consumer was taken for dead (the next `poll` joins
        again), `PartitionRevoked` for a partition that was given up, and `UnknownTopic`
        for a topic that was deleted; what can be acknowledged is, before it raises. While
        `run` is at work, which acknowledges by itself, it raises ValueError: a record stands
        for all before it, and some of those may still be handled.
        """
        self._check_usable()
        if self.is_running:
            raise ValueError("run acknowledges what was handled by itself; ack is not for then")
        wanted: dict[TopicPartition, int] = {}
        if records is None:
            wanted = self._handed_out(self._order)
        else:
            for record in (records,) if isinstance(records, Record) else records:
                place = record.topic, record.partition
                wanted[place] = max(wanted.get(place, 0), record.offset + 1)
        self.ack_offsets(wanted)

    def ack_offsets(self, wanted: Mapping[TopicPartition, int]) -> None:
        """Acknowledge all before an offset in each partition; raises like `ack`."""
        self._check_usable()
        refusal: BrokerError | None = None
        with self._acknowledging:
            ahead = {}
            for place, offset in wanted.items():
                try:
                    fetcher = self._owned(place)
                    if offset > self._committed.get(fetcher.partition_id, 0):
                        fetcher.check_end(offset)
                        ahead[fetcher.partition_id] = offset
                except BrokerError as error:
                    refusal = error
                except LogGone as error:
                    refusal = self._named(error, fetcher)
                except (WalError, OSError) as error:
                    raise self._named(error, fetcher) from error
            if ahead:
                with translated():
                    self.membership.commit(ahead)
                self._committed.update(ahead)
        if refusal is not None:
            raise refusal

    def _owned(self, place: TopicPartition) -> Fetcher:
        fetcher = self._fetchers.get(place)
        if fetcher is None:
            topic, partition = place
            partitions = self._engine.layout().get(topic)
            if topic not in self.membership.topics or (
                partitions is not None and not 0 <= partition < len(partitions)
            ):
                return self._fetcher(topic, partition)  # which raises
            if partitions is None:
                raise UnknownTopic(topic=topic)
            raise PartitionRevoked(group=self.group, topic=topic, partition=partition)
        return fetcher

    def _handed_out(self, fetchers: Sequence[Fetcher]) -> dict[TopicPartition, int]:
        """The offset behind what was handed out, in each partition."""
        still_to_come = first_offsets(self._rest.copy())
        found = {}
        for each in fetchers:
            place = each.topic, each.partition
            found[place] = still_to_come.get(place, each.position)
        return found

    def _auto_commit_if_due(self) -> None:
        """With ``enable.auto.commit``: what the polls before this one handed out is done."""
        if self._options.enable_auto_commit:
            now_s = time.monotonic()
            if now_s >= self._auto_commit_due_s:
                self._auto_commit_due_s = now_s + self._options.auto_commit_interval_ms / 1000
                self._auto_commit(self._order)

    def _auto_commit(self, fetchers: Sequence[Fetcher]) -> None:
        if not self._options.enable_auto_commit:
            return
        handed_out = self._handed_out(fetchers)
        offsets = {
            each.partition_id: handed_out[each.topic, each.partition]
            for each in fetchers
            if handed_out[each.topic, each.partition] > self._committed.get(each.partition_id, 0)
        }
        if offsets:
            with self._acknowledging:
                self.membership.commit(offsets)
                self._committed.update(offsets)

    # -- the rest --------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading and leave the group. Safe to call twice, and from any thread.

        Nothing is acknowledged that was not acknowledged before, unless `on_revoked` does
        so, or ``enable_auto_commit``.
        """
        with self._closing:
            if self._unusable is not None or self._is_leaving:
                return
            self._is_leaving = True
        try:
            self.before_closing()
            self._auto_commit(self._order)
            self._call(
                self._options.on_revoked,
                [each for each in self._fetchers if each in self._announced],
            )
        except GroupFenced as error:
            logger.warning("%s", error)
        finally:
            super().close()
            with self._acknowledging:
                self.membership.leave()

    def abandon(self) -> None:
        """In a forked child: refuse everything, leave no group."""
        super().abandon()
        self._acknowledging = threading.RLock()


def _named(places: Sequence[TopicPartition]) -> str:
    return ", ".join(f"{topic}/{partition}" for topic, partition in places) or "nothing"
