"""Acknowledging for `run`: commits that are never waited for without a bound.

A handler's thread and the loop that polls must be able to end, and to go on with what they
have, while no server answers. So there is one commit under way at a time, in a thread of its
own; who has no patience left leaves it there (`Away`), and the next commit waits for it
first, so that none overtakes another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from seawall.broker.errors import BrokerClosed, BrokerError, ConnectionLost
from seawall.broker.remote.acknowledging import LOOK_S, Acknowledging
from seawall.broker.remote.carried import Carried, pack
from seawall.broker.remote.consumer import Place
from seawall.broker.remote.errors import AWAY, FENCED, kafka_error
from seawall.broker.remote.notes import RemoteNotes
from seawall.broker.remote.supervisor import Link

logger = logging.getLogger("seawall.broker")

PATIENCE_S = 1.0
# The last chance: partitions are about to go.
LAST_PATIENCE_S = 5.0
_PAUSE_S = 0.05


class Away(ConnectionLost):
    """For the moment nothing can be committed: that passes, or the supervisor gives up."""


class _UnderWay(NamedTuple):
    future: Future[Any]
    thread: threading.Thread
    offsets: Mapping[Place, int]
    # What is stored of the notes with it, and which notes these are.
    notes: Mapping[Place, tuple[RemoteNotes, Carried, int]]


class Storing(Acknowledging):
    """The part of a member that commits for `run`: offsets, and the notes beside them."""

    _notes: dict[Place, RemoteNotes]
    _under_way: _UnderWay | None = None
    # Some cluster takes less metadata, or none.
    _takes_notes = True
    _has_told = False

    def store_notes(self, notes: RemoteNotes) -> None:
        """Have notes stored before a handler goes on. If no server answers they go uncounted
        beyond this process, and the handler goes on all the same."""
        if self._supervisor.link is not Link.UP:
            self._tell(notes.place, "no server answers")
            return
        with self._acknowledging:
            if not notes.has_to_be_stored:
                return  # somebody else's commit had them
            needy = [each for each in self._notes.values() if each.has_to_be_stored]
            try:
                self._store(self._where(each.place for each in needy), PATIENCE_S)
            except BrokerError as error:
                self._tell(notes.place, str(error))

    def commit_beside(self, place: Place, offset: int, text: str) -> None:
        """Commit an offset with a text beside it, the same or a higher one. Waits while no
        server answers; raises `GroupFenced`."""
        wanted = TopicPartition(*place, offset, text)
        with self._acknowledging:
            while True:
                self._check_usable()
                self._supervisor.require()
                commit = partial(self.client.commit, offsets=[wanted], asynchronous=False)
                try:
                    answer = self._apart(commit)
                    refused = [each.error for each in answer or () if each.error is not None]
                    if refused:
                        raise KafkaException(refused[0])
                except KafkaException as error:
                    failure = kafka_error(error)
                    if failure.code() not in AWAY:
                        raise self._named(failure, *place) from error
                    self._supervisor.suspect()
                    time.sleep(_PAUSE_S)
                else:
                    self._committed[place] = offset
                    return

    def _tell(self, place: Place, why: str) -> None:
        if not self._has_told:
            self._has_told = True
            logger.warning(
                "group %s: deliveries of %s/%d are not counted beyond this process for now: %s",
                self.group,
                *place,
                why,
            )

    def _where(self, places: Iterable[Place]) -> dict[Place, int]:
        """What is committed in these partitions, as far as they are still this member's."""
        found = {place: self._committed.get(place) for place in places}
        return {place: at for place, at in found.items() if at is not None}

    def _store(self, offsets: Mapping[Place, int], patience_s: float) -> None:
        """Commit, with the notes of these partitions. `_acknowledging` is held.

        Raises `Away` if that did not succeed within `patience_s`, and may yet.
        """
        deadline_s = time.monotonic() + patience_s
        self._see_through(deadline_s)
        offsets = {
            place: max(at, self._committed[place])
            for place, at in offsets.items()
            if place in self._committed
        }
        if not offsets:
            return
        carried: dict[Place, tuple[RemoteNotes, Carried, int]] = {}
        for place, at in offsets.items():
            notes = self._notes.get(place)
            if notes is not None:
                carried[place] = (notes, *notes.to_store(at, self._positions.get(place, at)))
        wanted = [
            TopicPartition(*place, at, pack(at, carried[place][1]))
            if self._takes_notes and place in carried
            else TopicPartition(*place, at)
            for place, at in offsets.items()
        ]
        client = self.client
        future: Future[Any] = Future()

        def commit() -> None:
            try:
                future.set_result(client.commit(offsets=wanted, asynchronous=False))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                future.set_exception(error)

        if not self._supervisor.require(max(0.0, deadline_s - time.monotonic())):
            raise self._away("no server answers")
        thread = threading.Thread(target=commit, name="seawall-remote-commit", daemon=True)
        thread.start()
        self._under_way = _UnderWay(future, thread, offsets, carried)
        self._see_through(deadline_s)

    def _see_through(self, deadline_s: float) -> None:
        """Wait for the commit that is under way, if there is one."""
        under_way = self._under_way
        if under_way is None:
            return
        while not self._is_done(under_way.future, deadline_s - time.monotonic()):
            self._supervisor.suspect()
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not self._supervisor.require(left_s):
                raise self._away("a commit is not answered")
        self._under_way = None
        under_way.thread.join()
        try:
            answer = under_way.future.result()
        except KafkaException as error:
            raise self._why(kafka_error(error)) from error
        except RuntimeError as error:  # the client was closed meanwhile
            raise BrokerClosed(what="consumer") from error
        refused = [each.error for each in answer or () if each.error is not None]
        if refused:
            raise self._why(refused[0])
        self._has_told = False
        for place, at in under_way.offsets.items():
            if place in self._positions:
                self._committed[place] = max(at, self._committed.get(place, 0))
        for notes, carried, number in under_way.notes.values():
            notes.stored(carried, number)

    def _is_done(self, future: Future[Any], left_s: float) -> bool:
        return bool(wait((future,), max(0.0, min(LOOK_S, left_s))).done)

    def _why(self, error: KafkaError) -> BrokerError:
        """What a refused commit is for `run`. Who is no member learns that from `poll`."""
        code = error.code()
        if code in AWAY:
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
        return Away(location=self._asking.location, attempts=0, reason=reason)
