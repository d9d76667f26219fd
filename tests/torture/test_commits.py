"""What the checker says of groups: floors, ceilings, and resets that may come at any time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seawall.broker.torture.events import Event
from seawall.broker.torture.history import check

P, Q = "orders/0", "orders/1"


class Group:
    """A history of one group; each operation is a process of its own."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._count = 0

    def begin(self, op: str, *, at: dict[str, int] | None = None, group: str = "g") -> str:
        self._count += 1
        process = f"c{self._count}"
        self._add(process, "invoke", op, at or {}, group)
        return process

    def end(
        self, process: str, op: str, kind: str = "ok", at: dict[str, int] | None = None
    ) -> None:
        self._add(process, kind, op, at or {}, "")

    def _add(self, process: str, kind: str, op: str, at: dict[str, int], group: str) -> None:
        time_ns = len(self.events)
        self.events.append(Event(process, 0, time_ns, kind, op, places=at, group=group))

    def look(self, offset: int, name: str = P, *, op: str = "committed") -> None:
        self.end(self.begin(op), op, at={name: offset})

    def ack(self, offset: int, kind: str = "ok") -> None:
        process = self.begin("ack", at={P: offset})
        if kind:
            self.end(process, "ack", kind)

    def reset(self, offset: int, kind: str = "ok", name: str = P) -> str:
        process = self.begin("reset", at={name: offset})
        if kind:
            self.end(process, "reset", kind)
        return process

    def forget(self, kind: str = "ok") -> None:
        self.end(self.begin("forget"), "forget", kind)

    def crash(self, process: str) -> None:
        self._add(process, "info", "crash", {}, "")


Write = Callable[[Group], None]
WRONG: dict[str, tuple[str, Write]] = {}
CLEAN: dict[str, Write] = {}


def wrong(name: str) -> Callable[[Write], Write]:
    def note(write: Write) -> Write:
        WRONG[write.__name__] = name, write
        return write

    return note


def clean(write: Write) -> Write:
    CLEAN[write.__name__] = write
    return write


@wrong("committed-backwards")
def below_what_was_acknowledged(group: Group) -> None:
    group.look(0)
    group.ack(5)
    group.look(4)


@wrong("committed-backwards")
def a_consumer_begins_below_it(group: Group) -> None:
    group.look(0, op="assign")
    group.ack(5)
    group.look(0, op="assign")


@wrong("committed-backwards")
def below_what_somebody_saw(group: Group) -> None:
    group.look(0)
    group.ack(5, "info")
    group.look(5)
    group.look(0)


@wrong("committed-backwards")
def below_the_target_of_a_reset(group: Group) -> None:
    group.look(0)
    group.ack(5)
    group.reset(3)
    group.look(2)


@wrong("committed-backwards")
def after_a_reset_that_failed(group: Group) -> None:
    group.look(0)
    group.ack(5)
    group.reset(3, "fail")
    group.look(3)


@wrong("committed-backwards")
def after_a_reset_of_another_partition(group: Group) -> None:
    group.look(0)
    group.ack(5)
    group.reset(3, name=Q)
    group.look(3)


@wrong("committed-backwards")
def after_an_acknowledgement_that_followed_the_reset(group: Group) -> None:
    group.look(0)
    group.ack(5)
    group.reset(3)
    group.ack(6)
    group.look(3)


@wrong("committed-backwards")
def below_the_target_of_a_reset_whose_process_died(group: Group) -> None:
    group.look(0)
    group.ack(5)
    group.crash(group.reset(3, ""))
    group.ack(6)
    group.look(3)


@wrong("committed-ahead")
def further_than_anybody_acknowledged(group: Group) -> None:
    group.look(2)
    group.ack(5)
    group.look(6)


@wrong("committed-ahead")
def further_than_where_it_began(group: Group) -> None:
    group.look(2, op="assign")
    group.look(3)


@clean
def where_it_acknowledged(group: Group) -> None:
    group.look(0)
    group.ack(5)
    group.look(5)
    group.ack(3)  # nothing: it is behind already
    group.look(5)


@clean
def an_acknowledgement_with_an_unknown_outcome(group: Group) -> None:
    for kind in ("info", "", "fail"):
        group.look(0, Q)
        group.ack(5, kind)
        group.look(0)
    group.look(5)


@clean
def where_it_was_reset(group: Group) -> None:
    group.look(0)
    group.ack(5)
    group.reset(3)
    group.look(3)
    group.ack(5)
    group.reset(9)
    group.look(9)


@clean
def a_reset_with_an_unknown_outcome(group: Group) -> None:
    group.look(0)
    group.ack(5)
    process = group.reset(3, "info")
    group.look(5)
    group.look(3)
    group.crash(process)
    group.look(3)


@clean
def a_reset_while_somebody_looks(group: Group) -> None:
    group.look(0)
    group.ack(5)
    before, after = group.begin("committed"), group.begin("committed")
    group.reset(3)
    group.end(before, "committed", at={P: 5})
    group.end(after, "committed", at={P: 3})
    group.look(3)


@clean
def a_reset_that_comes_into_force_late(group: Group) -> None:
    group.look(0)
    process = group.begin("reset", at={P: 3})
    group.ack(5)
    group.look(5)
    group.end(process, "reset")
    group.look(3)


@clean
def an_acknowledgement_that_is_told_late(group: Group) -> None:
    group.look(0)
    process = group.begin("ack", at={P: 5})
    group.reset(3)
    group.end(process, "ack")
    group.look(3)


@clean
def an_acknowledgement_whose_process_died(group: Group) -> None:
    group.look(0)
    group.crash(group.begin("ack", at={P: 5}))
    group.crash(group.begin("committed"))
    group.look(5)


@clean
def a_group_that_was_forgotten(group: Group) -> None:
    group.look(0)
    group.ack(5)
    group.forget()
    group.look(0)
    group.forget("fail")
    group.forget("info")
    group.look(9, op="assign")


@clean
def another_group(group: Group) -> None:
    group.look(0)
    group.ack(5)
    group.end(group.begin("committed", group="other"), "committed", at={P: 1})


@clean
def looks_that_fail(group: Group) -> None:
    group.look(0)
    for op in ("assign", "committed"):
        for kind in ("fail", "info"):
            group.end(group.begin(op), op, kind)
    group.look(0)


@pytest.mark.parametrize("title", WRONG)
def test_a_group_with_one_anomaly(title: str) -> None:
    name, write = WRONG[title]
    group = Group()
    write(group)
    found = check(group.events)
    assert [anomaly.name for anomaly in found] == [name]
    assert found[0].partition == P
    assert "group 'g'" in found[0].sentence
    assert set(found[0].operations) <= {(event.process, 0) for event in group.events}


@pytest.mark.parametrize("title", CLEAN)
def test_a_clean_group(title: str) -> None:
    group = Group()
    CLEAN[title](group)
    assert check(group.events) == []
