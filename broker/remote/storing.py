"""Acknowledging for `run`: commits that nobody waits for without a bound.

A handler's thread and the loop that polls must be able to end, and to go on with what they
have, while no server answers. confluent-kafka lets one thread at a time into a consumer, so a
call that waits for a server would keep all others out. Therefore commits are asynchronous:
one is under way at a time, what is wanted meanwhile gathers for the next one, and the outcome
comes to whoever polls. Who has no patience left leaves his commit there (`Away`).

Only where partitions are about to go is it waited for, in librdkafka's own call back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from seawall.broker.errors import Away, BrokerClosed, BrokerError, UnknownTopic
from seawall.broker.remote.acknowledging import LOOK_S, Acknowledging
from seawall.broker.remote.carried import Carried, pack
from seawall.broker.remote.errors import AWAY, FENCED, kafka_error
from seawall.broker.remote.fetching import Place
from seawall.broker.remote.notes import RemoteNotes
from seawall.broker.remote.supervisor import Link

logger = logging.getLogger("seawall.broker")

PATIENCE_S = 1.0
# A server that answers probes has answered a commit by then, or never will.
OLD_S = 60.0
# How soon it is looked for the outcome of a commit, and for records, while handlers are at work.
TURN_S = 0.005


class _Commit:
    """What one commit has, once it has begun, and what became of it."""

    def __init__(self) -> None:
        self.offsets: dict[Place, int] = {}
        # Notes, what a commit has of them, and their number.
        self.notes: list[tuple[RemoteNotes, Carried, int]] = []
        self.is_done = False
        self.error: KafkaError | None = None
        self.begun_s = 0.0


class Storing(Acknowledging):
    """The part of a member that commits for `run`: offsets, and the notes beside them."""

    _notes: dict[Place, RemoteNotes]
    # Who holds it may call librdkafka. Taken before `_storing`.
    _handle: threading.RLock
    _storing: threading.Condition
    _under_way: _Commit | None = None
    _next: _Commit | None = None
    # Some cluster takes less metadata, or none.
    _takes_notes = True
    _has_told = False

    # -- notes -----------------------------------------------------------------------

    def store_notes(self, notes: RemoteNotes, *, polls: bool) -> None:
        """Have notes stored before a handler goes on. If no server answers, or partitions are
        just going, they go uncounted beyond this process, and the handler goes on."""
        if self._supervisor.link is not Link.UP or self._calling_back is not None:
            return
        with self._storing:
            needy = [each.place for each in self._notes.values() if each.has_to_be_stored]
            offsets = {place: self._committed.get(place) for place in needy}
        wanted = {place: at for place, at in offsets.items() if at is not None}
        try:
            self._store(wanted, PATIENCE_S, may_serve=polls)
        except BrokerError as error:
            if not self._has_told:
                self._has_told = True
                logger.warning(
                    "group %s: deliveries of %s/%d are not counted beyond this process for now: %s",
                    self.group,
                    *notes.place,
                    str(error),
                )

    def commit_beside(self, place: Place, offset: int, text: str) -> None:
        """Commit an offset with a text beside it, the same or a higher one. Waits while no
        server answers; raises `GroupFenced`."""
        wanted = [TopicPartition(*place, offset, text)]
        with self._alone():
            while True:
                self._check_usable()
                self._supervisor.require()
                self._check_same()
                with self._turn.hurried():
                    failure = self._send(wanted)
                if failure is None:
                    self._committed[place] = offset
                    return
                self._pause(failure)

    def _raise_refusal(self, answer: Sequence[TopicPartition] | None) -> None:
        for each in answer or ():
            if each.error is not None:
                raise KafkaException(each.error)

    # -- commits ---------------------------------------------------------------------

    def _store(self, offsets: Mapping[Place, int], patience_s: float, *, may_serve: bool) -> None:
        """Commit, with the notes of these partitions. `may_serve`: it is for this thread to
        poll. Raises `Away` if that did not succeed within `patience_s`, and may yet."""
        deadline_s = time.monotonic() + patience_s
        if not self._is_calling_back and not self._supervisor.require(patience_s):
            raise self._away("no server answers")
        with suppress(UnknownTopic):  # `_compose` leaves out what went
            self._check_same()
        if self._is_calling_back:
            self._store_now(offsets)
            return
        looked_s = time.monotonic()
        with self._storing:
            mine = self._next = self._next or _Commit()
            for place, at in offsets.items():
                mine.offsets[place] = max(at, mine.offsets.get(place, 0))
        while True:
            self._begin_next(deadline_s)
            with self._storing:
                if not mine.is_done and not may_serve:
                    self._storing.wait(TURN_S)
                if mine.is_done:
                    break
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise self._away("a commit is not answered")
            if now_s > looked_s + LOOK_S:
                looked_s = now_s
                self._supervisor.suspect()
            if may_serve and self._turn.acquire(TURN_S):
                try:
                    self._serve(1, TURN_S)
                finally:
                    self._turn.release()
        if mine.error is not None:
            raise self._why(mine.error)

    def _begin_next(self, deadline_s: float) -> None:
        """Have what gathered committed, unless something is under way."""
        if not self._handle.acquire(timeout=max(0.0, min(TURN_S, deadline_s - time.monotonic()))):
            return
        try:
            with self._storing:
                self._give_up_old()
                begun = self._next if self._under_way is None else None
                if begun is None:
                    return
                begun.begun_s = time.monotonic()
                wanted = self._compose(begun)
                self._next = None
                if wanted:
                    self._under_way = begun
                else:  # all of it went
                    self._settle(begun, None)
            if wanted:
                self._send_off(begun, wanted)
        finally:
            self._handle.release()

    def _give_up_old(self) -> None:
        """With the lock: a commit that no server will answer any more must not stop others."""
        old = self._under_way
        if (
            old is not None
            and time.monotonic() > old.begun_s + OLD_S
            and self._supervisor.link is Link.UP
        ):
            self._under_way = None
            self._settle(old, KafkaError(KafkaError._TIMED_OUT))

    def _send_off(self, begun: _Commit, wanted: list[TopicPartition]) -> None:
        try:
            self.client.commit(offsets=wanted, asynchronous=True)
        except KafkaException as error:
            with self._storing:
                self._under_way = None
                self._settle(begun, kafka_error(error))
        except (BrokerError, RuntimeError) as error:  # the client was closed meanwhile
            with self._storing:
                self._under_way = None
                self._settle(begun, KafkaError(KafkaError._DESTROY))
            raise BrokerClosed(what="consumer") from error

    def _compose(self, begun: _Commit) -> list[TopicPartition]:
        """What a commit is to have now: never less than was committed before."""
        wanted = []
        offsets: dict[Place, int] = {}
        for place, at in begun.offsets.items():
            known = self._committed.get(place)
            if known is None or place[0] == self._replaced:
                continue  # it went
            at = offsets[place] = max(at, known)
            notes = self._notes.get(place)
            if notes is None or not self._takes_notes:
                wanted.append(TopicPartition(*place, at))
                continue
            carried, number = notes.to_store(at, self._positions.get(place, at))
            begun.notes.append((notes, carried, number))
            wanted.append(TopicPartition(*place, at, pack(at, carried)))
        begun.offsets = offsets
        return wanted

    def _recover(self) -> None:
        """The report on a commit may have been thrown away; a repetition does no harm."""
        super()._recover()
        with self._storing:
            if self._under_way is not None:
                old, self._under_way = self._under_way, None
                self._settle(old, KafkaError(KafkaError._TIMED_OUT))

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """librdkafka's report on a commit, in the thread that polls."""
        found = {(each.topic, each.partition): each.offset for each in partitions}
        refused = [each.error for each in partitions if each.error is not None]
        with self._storing:
            begun = self._under_way
            if begun is not None and begun.offsets == found:
                self._under_way = None
                self._settle(begun, error or next(iter(refused), None))

    def _settle(self, begun: _Commit, error: KafkaError | None) -> None:
        """With the lock: the outcome of a commit."""
        begun.is_done, begun.error = True, error
        if error is None:
            self._has_told = False
            for place, at in begun.offsets.items():
                if place in self._positions:
                    self._committed[place] = max(at, self._committed.get(place, 0))
            for notes, carried, number in begun.notes:
                notes.stored(carried, number)
        self._storing.notify_all()

    def _store_now(self, offsets: Mapping[Place, int]) -> None:
        """In librdkafka's call back, where no report can come: the last chance."""
        if self._supervisor.link is not Link.UP:
            raise self._away("no server answers")
        with self._storing:
            mine = self._next or _Commit()
            # What is under way is behind this one on the same connection.
            before = self._under_way
            self._next = self._under_way = None
            for more in (before.offsets if before is not None else {}, offsets):
                for place, at in more.items():
                    mine.offsets[place] = max(at, mine.offsets.get(place, 0))
            wanted = self._compose(mine)
        failure: KafkaError | None = None
        try:
            if wanted:
                self._raise_refusal(self.client.commit(offsets=wanted, asynchronous=False))
        except KafkaException as error:
            failure = kafka_error(error)
        with self._storing:
            self._settle(mine, failure)
            if before is not None:
                before.notes = []
                self._settle(before, failure)
        if failure is not None:
            raise self._why(failure)

    def _why(self, error: KafkaError) -> BrokerError:
        """What a refused commit is for `run`. Who is no member learns that from `poll`."""
        code = error.code()
        if code in AWAY or code == KafkaError._DESTROY:
            self._supervisor.suspect()
            return self._away(error.str())
        if code in FENCED:
            return self._away(f"the group comes together anew: {error.str()}")
        if code == KafkaError.OFFSET_METADATA_TOO_LARGE and self._takes_notes:
            self._takes_notes = False
            logger.warning(
                "group %s: this cluster keeps too little beside an offset (offset.metadata.max."
                "bytes); deliveries are counted within this process only",
                self.group,
            )
            return self._away(error.str())
        return self._named(error, None, None)

    def _away(self, reason: str) -> Away:
        return Away(location=self._asking.location, reason=reason)
