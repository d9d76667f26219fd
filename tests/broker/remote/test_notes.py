"""When a handler has to wait for a commit, and what a commit says."""

from __future__ import annotations

from typing import Any

from seawall.broker.remote.carried import Carried
from seawall.broker.remote.notes import LEASE_OFFSETS, RemoteNotes


class Consumer:
    """Stores at once, as far as it is able to."""

    def __init__(self, *, is_able: bool = True) -> None:
        self.is_able = is_able
        self.stored: list[Carried] = []
        self.position = 100

    def store_notes(self, notes: RemoteNotes, *, polls: bool) -> None:
        if self.is_able:
            carried, number = notes.to_store(0, self.position)
            self.stored.append(carried)
            notes.stored(carried, number)


def notes_of(consumer: Any, **found: Any) -> RemoteNotes:
    return RemoteNotes(consumer, ("t", 0), Carried(**found))


def deliver(notes: RemoteNotes, offset: int, count: int = 1) -> None:
    notes.note(-1, offset, count)
    notes.store(polls=False)


def test_one_commit_lets_handlers_have_many_records() -> None:
    consumer = Consumer()
    notes = notes_of(consumer)
    for offset in range(100):
        deliver(notes, offset)
        notes.clear(-1, offset)
    assert consumer.stored == [Carried(until=100 + LEASE_OFFSETS, deliveries={0: 1})]
    deliver(notes, 100 + LEASE_OFFSETS - 1)
    assert len(consumer.stored) == 1
    consumer.position = 1_000
    deliver(notes, 100 + LEASE_OFFSETS)
    assert [each.until for each in consumer.stored[1:]] == [1_000 + LEASE_OFFSETS]


def test_what_is_delivered_again_is_stored_each_time() -> None:
    consumer = Consumer()
    notes = notes_of(consumer)
    deliver(notes, 5)
    for count in (2, 3):
        deliver(notes, 5, count)
        assert consumer.stored[-1].deliveries == {5: count}
    assert len(consumer.stored) == 3


def test_what_somebody_may_have_died_over_is_stored_each_time() -> None:
    consumer = Consumer()
    notes = notes_of(consumer, until=10, deliveries={3: 2})
    assert notes.deliveries == {3: 2}
    for offset in range(10):
        deliver(notes, offset, 3 if offset == 3 else 1)
        # The one that is being handled, and the one that was not delivered again so far.
        expected = {offset: 1, 3: 2} if offset < 3 else {offset: 3 if offset == 3 else 1}
        assert consumer.stored[-1].deliveries == expected
        notes.clear(-1, offset)
    assert len(consumer.stored) == 10
    deliver(notes, 10)
    assert len(consumer.stored) == 10


def test_a_lease_is_given_back_unless_it_was_found() -> None:
    consumer = Consumer()
    notes = notes_of(consumer)
    assert not notes.says_something
    deliver(notes, 3)
    assert notes.says_something
    notes.close(is_owner=True)
    assert notes.to_store(2, 100)[0] == Carried(until=0, deliveries={3: 1})
    found = notes_of(consumer, until=50)
    assert found.says_something
    found.close(is_owner=True)
    assert found.to_store(49, 100)[0].until == 50  # not all of it is done
    assert found.to_store(50, 100)[0].until == 0


def test_what_cannot_be_stored_is_once_it_can() -> None:
    consumer = Consumer(is_able=False)
    notes = notes_of(consumer)
    deliver(notes, 0)
    assert notes.has_to_be_stored
    consumer.is_able = True
    deliver(notes, 1)
    assert not notes.has_to_be_stored
    assert consumer.stored[-1].deliveries == {0: 1, 1: 1}


def test_nothing_is_waited_for_once_they_are_closed() -> None:
    consumer = Consumer(is_able=False)
    notes = notes_of(consumer)
    notes.note(-1, 0, 1)
    notes.close(is_owner=False)
    assert not notes.has_to_be_stored
