"""The checker: hand-written histories with one anomaly each, and clean ones with none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import MUTATIONS, World, mutated

from seawall.broker.torture.anomalies import MOST_OF_EACH, NAMES, Anomaly
from seawall.broker.torture.events import Event, HistoryError
from seawall.broker.torture.history import Checker, check

P = "orders/0"
Q = "orders/1"


class Script:
    """A history that is written down operation by operation."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._numbers: dict[str, int] = {}

    def begin(self, process: str, op: str, **said: object) -> int:
        number = self._numbers[process] = self._numbers.get(process, -1) + 1
        self._add(process, number, "invoke", op, said)
        return number

    def end(self, process: str, number: int, kind: str, op: str, **said: object) -> None:
        self._add(process, number, kind, op, said)

    def _add(
        self, process: str, number: int, kind: str, op: str, said: Mapping[str, object]
    ) -> None:
        self.events.append(Event(process, number, len(self.events), kind, op, **said))  # type: ignore[arg-type]

    def send(self, value: str, offset: int, *, process: str = "p", partition: str = P) -> None:
        number = self.begin(process, "send", partition=partition, values=(value,))
        self.end(process, number, "ok", "send", partition=partition, offsets=(offset,))

    def try_to_send(self, value: str, kind: str, *, process: str = "p") -> None:
        """A send with another outcome; with none if `kind` is empty."""
        number = self.begin(process, "send", partition=P, values=(value,))
        if kind:
            self.end(process, number, kind, "send", error="SomeError")

    def assign(self, process: str = "c", offset: int = 0, **said: object) -> None:
        number = self.begin(process, "assign", **said)
        self.end(process, number, "ok", "assign", places={P: offset})

    def poll(self, *records: tuple[int, str], process: str = "c") -> None:
        number = self.begin(process, "poll")
        self.end(process, number, "ok", "poll", records={P: records} if records else {})

    def do(self, process: str, op: str, **said: object) -> None:
        """Any operation that only has an invocation to say something."""
        self.end(process, self.begin(process, op, **said), "ok", op)

    def look(self, group: str, offset: int, *, process: str = "o") -> None:
        number = self.begin(process, "committed", group=group)
        self.end(process, number, "ok", "committed", places={P: offset})

    def read_all(self, *records: tuple[int, str], end: int, start: int = 0) -> None:
        self.assign("final", start, final=True)
        self.poll(*records, process="final")
        number = self.begin("final", "end")
        self.end("final", number, "ok", "end", starts={P: start}, places={P: end})

    def crash(self, process: str) -> None:
        self.events.append(Event(process, 0, len(self.events), "info", "crash"))

    def anomalies(self) -> list[Anomaly]:
        return check(self.events)


def names(anomalies: Iterable[Anomaly]) -> list[str]:
    return [anomaly.name for anomaly in anomalies]


# -- one history for each anomaly ----------------------------------------------------

Write = Callable[[Script], None]
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


@wrong("lost-write")
def an_acknowledged_record_is_missing(script: Script) -> None:
    script.send("a", 0)
    script.send("b", 1)
    script.send("c", 2)
    script.read_all((0, "a"), (2, "c"), end=3)


@wrong("lost-write")
def the_acknowledged_tail_is_missing(script: Script) -> None:
    script.send("a", 0)
    script.send("b", 1)
    script.read_all((0, "a"), end=1)


@wrong("lost-write")
def what_a_consumer_was_given_is_missing(script: Script) -> None:
    script.send("a", 0)
    script.try_to_send("b", "info")
    script.assign()
    script.poll((0, "a"), (1, "b"))
    script.read_all((0, "a"), end=2)


@wrong("lost-write")
def the_log_start_rose_further_than_anybody_asked_for(script: Script) -> None:
    for offset, value in enumerate("abc"):
        script.send(value, offset)
    script.do("o", "drop", places={P: 1})
    script.read_all((2, "c"), start=2, end=3)


@wrong("lost-write")
def everybody_passed_over_a_record(script: Script) -> None:
    for offset, value in enumerate("abc"):
        script.send(value, offset)
    for process in ("c", "d"):
        script.assign(process)
        script.poll((0, "a"), (2, "c"), process=process)


@wrong("lost-write")
def a_later_reading_no_longer_finds_it(script: Script) -> None:
    script.send("a", 0)
    script.read_all((0, "a"), end=1)
    script.read_all(end=1)


@wrong("unseen")
def nobody_read_the_last_record(script: Script) -> None:
    script.send("a", 0)
    script.send("b", 1)
    script.assign()
    script.poll((0, "a"))


@wrong("duplicate")
def a_record_is_there_twice(script: Script) -> None:
    script.send("a", 0)
    script.read_all((0, "a"), (1, "a"), end=2)


@wrong("duplicate")
def a_record_is_in_two_partitions(script: Script) -> None:
    number = script.begin("p", "send", partition="orders/", values=("a",))
    script.end("p", number, "ok", "send", partition=P, offsets=(0,))
    number = script.begin("c", "poll")
    script.end("c", number, "ok", "poll", records={P: ((0, "a"),), Q: ((7, "a"),)})


@wrong("duplicate")
def a_failed_attempt_and_a_good_one_are_both_there(script: Script) -> None:
    script.try_to_send("a", "fail")
    script.send("a", 0)
    script.read_all((0, "a"), (1, "a"), end=2)


@wrong("inconsistent-offsets")
def an_offset_has_two_values(script: Script) -> None:
    script.send("a", 0)
    script.try_to_send("b", "info")
    script.assign("c")
    script.poll((0, "a"), process="c")
    script.assign("d")
    script.poll((0, "b"), process="d")
    script.read_all((0, "a"), end=1)


@wrong("inconsistent-offsets")
def an_offset_is_acknowledged_twice(script: Script) -> None:
    script.send("a", 0)
    script.send("b", 0, process="q")
    script.read_all((0, "b"), end=1)


@wrong("aborted-read")
def what_failed_is_there(script: Script) -> None:
    script.try_to_send("a", "fail")
    script.read_all((0, "a"), end=1)


@wrong("unexpected")
def nobody_sent_it(script: Script) -> None:
    script.read_all((0, "a"), end=1)


@wrong("unexpected")
def it_was_sent_to_another_partition(script: Script) -> None:
    script.send("a", 0, partition=Q)
    number = script.begin("c", "poll")
    script.end("c", number, "ok", "poll", records={P: ((5, "a"),), Q: ((0, "a"),)})


@wrong("nonmonotonic-send")
def a_later_send_stands_earlier(script: Script) -> None:
    script.send("a", 1)
    script.send("b", 0)
    script.read_all((0, "b"), (1, "a"), end=2)


@wrong("nonmonotonic-send")
def completions_may_cross_but_offsets_may_not(script: Script) -> None:
    first = script.begin("p", "send", partition=P, values=("a",))
    second = script.begin("p", "send", partition=P, values=("b",))
    script.end("p", second, "ok", "send", offsets=(0,))
    script.end("p", first, "ok", "send", offsets=(1,))
    script.read_all((0, "b"), (1, "a"), end=2)


@wrong("int-nonmonotonic-send")
def within_one_send_the_order_is_wrong(script: Script) -> None:
    number = script.begin("p", "send", partition=P, values=("a", "b"))
    script.end("p", number, "ok", "send", offsets=(1, 0))
    script.read_all((0, "b"), (1, "a"), end=2)


@wrong("nonmonotonic-poll")
def a_consumer_goes_back(script: Script) -> None:
    script.send("a", 0)
    script.send("b", 1)
    script.assign()
    script.poll((0, "a"), (1, "b"))
    script.poll((1, "b"))
    script.read_all((0, "a"), (1, "b"), end=2)


@wrong("nonmonotonic-poll")
def a_consumer_begins_before_its_place(script: Script) -> None:
    script.send("a", 0)
    script.assign(offset=1)
    script.poll((0, "a"))
    script.read_all((0, "a"), end=1)


@wrong("int-nonmonotonic-poll")
def within_one_poll_it_goes_back(script: Script) -> None:
    script.send("a", 0)
    script.send("b", 1)
    script.assign()
    script.poll((0, "a"), (1, "b"), (1, "b"))
    script.read_all((0, "a"), (1, "b"), end=2)


def three(script: Script) -> None:
    for offset, value in enumerate("abc"):
        script.send(value, offset)


@wrong("poll-skip")
def between_two_polls_one_is_left_out(script: Script) -> None:
    three(script)
    script.assign()
    script.poll((0, "a"))
    script.poll((2, "c"))
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@wrong("poll-skip")
def the_first_is_left_out(script: Script) -> None:
    three(script)
    script.assign()
    script.poll((1, "b"), (2, "c"))
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@wrong("poll-skip")
def it_is_left_out_behind_a_seek(script: Script) -> None:
    three(script)
    script.assign()
    script.poll((0, "a"))
    script.do("c", "seek", places={P: 1})
    script.poll((2, "c"))
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@wrong("int-poll-skip")
def within_one_poll_one_is_left_out(script: Script) -> None:
    three(script)
    script.assign()
    script.poll((0, "a"), (2, "c"))
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@wrong("committed-beyond-end")
def a_group_has_acknowledged_what_is_not_there(script: Script) -> None:
    script.send("a", 0)
    script.assign(group="g")
    script.poll((0, "a"))
    script.do("c", "ack", group="g", places={P: 2})
    script.read_all((0, "a"), end=1)


# -- clean ones ----------------------------------------------------------------------


@clean
def nothing_at_all(script: Script) -> None:
    pass


@clean
def everything_in_order(script: Script) -> None:
    three(script)
    script.assign()
    script.poll((0, "a"))
    script.poll()
    script.poll((1, "b"), (2, "c"))
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@clean
def holes_that_nobody_ever_saw(script: Script) -> None:
    script.send("a", 0)
    script.send("b", 7)
    script.assign()
    script.poll((0, "a"))
    script.poll((7, "b"))
    script.read_all((0, "a"), (7, "b"), end=9)


@clean
def records_again_after_a_restart(script: Script) -> None:
    three(script)
    for process in ("c", "d"):
        script.assign(process)
        script.poll((0, "a"), (1, "b"), process=process)
    script.assign("c", 1)
    script.poll((1, "b"), process="c")
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@clean
def records_again_after_a_seek_or_not_at_all(script: Script) -> None:
    three(script)
    script.assign()
    script.poll((0, "a"), (1, "b"))
    script.do("c", "seek", places={P: 0})
    script.poll((0, "a"))
    script.do("c", "seek", places={P: 2})
    script.poll((2, "c"))
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@clean
def a_seek_or_a_poll_whose_outcome_is_unknown(script: Script) -> None:
    three(script)
    script.assign()
    script.end("c", script.begin("c", "seek", places={P: 2}), "info", "seek")
    script.poll((0, "a"))
    script.end("c", script.begin("c", "poll"), "info", "poll")
    script.poll((2, "c"))
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@clean
def a_seek_that_failed(script: Script) -> None:
    three(script)
    script.assign()
    script.end("c", script.begin("c", "seek", places={P: 9}), "fail", "seek")
    script.poll((0, "a"))
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@clean
def unknown_sends_that_appear_or_do_not(script: Script) -> None:
    script.try_to_send("a", "info")
    script.try_to_send("b", "info")
    script.try_to_send("c", "")
    script.try_to_send("d", "", process="q")
    script.crash("p")
    script.read_all((0, "b"), (1, "c"), end=2)


@clean
def a_failed_send_that_does_not_appear(script: Script) -> None:
    script.try_to_send("a", "fail")
    script.send("b", 0)
    script.read_all((0, "b"), end=1)


@clean
def a_value_as_often_as_it_was_sent(script: Script) -> None:
    script.try_to_send("a", "info")
    script.send("a", 0)
    script.try_to_send("a", "fail")
    script.read_all((0, "a"), (1, "a"), end=2)


@clean
def a_log_start_that_somebody_moved(script: Script) -> None:
    three(script)
    script.assign("c")
    script.poll((0, "a"))
    script.end("o", script.begin("o", "drop", places={P: 2}), "info", "drop")
    script.poll((2, "c"))
    script.read_all((2, "c"), start=2, end=3)


@clean
def a_log_start_that_somebody_wanted_to_move(script: Script) -> None:
    three(script)
    script.begin("o", "drop", places={P: 2})
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@clean
def sends_of_two_producers_and_to_two_partitions(script: Script) -> None:
    script.send("a", 5)
    script.send("b", 4, process="q")
    script.send("c", 0, partition=Q)
    script.send("d", 6)
    number = script.begin("c", "poll")
    records = {P: ((4, "b"), (5, "a"), (6, "d")), Q: ((0, "c"),)}
    script.end("c", number, "ok", "poll", records=records)


@clean
def completions_in_another_order_than_invocations(script: Script) -> None:
    first = script.begin("p", "send", partition=P, values=("a",))
    second = script.begin("p", "send", partition="orders/", values=("b", "c"))
    script.end("p", second, "ok", "send", partition=P, offsets=(1, 2))
    script.end("p", first, "ok", "send", offsets=(0,))
    script.read_all((0, "a"), (1, "b"), (2, "c"), end=3)


@clean
def a_consumer_that_is_behind(script: Script) -> None:
    script.send("a", 0)
    script.assign()
    script.poll((0, "a"))
    script.try_to_send("b", "")


@clean
def records_that_come_after_everything_was_read(script: Script) -> None:
    script.send("a", 0)
    script.read_all((0, "a"), end=1)
    script.send("b", 1)
    script.assign()
    script.poll((0, "a"), (1, "b"))


@clean
def a_read_before_its_acknowledgement(script: Script) -> None:
    number = script.begin("p", "send", partition=P, values=("a",))
    script.assign()
    script.poll((0, "a"))
    script.end("p", number, "ok", "send", offsets=(0,))
    script.read_all((0, "a"), end=1)


@pytest.mark.parametrize("title", WRONG)
def test_a_history_with_one_anomaly(title: str) -> None:
    name, write = WRONG[title]
    script = Script()
    write(script)
    found = script.anomalies()
    assert names(found) == [name]
    known = {(event.process, event.number) for event in script.events}
    assert found[0].operations
    assert set(found[0].operations) <= known
    for process, number in found[0].operations:
        assert f"{process}#{number}" in str(found[0])
    assert found[0].partition in (P, Q)


@pytest.mark.parametrize("title", CLEAN)
def test_a_clean_history(title: str) -> None:
    script = Script()
    CLEAN[title](script)
    assert script.anomalies() == []


def test_every_anomaly_has_a_history() -> None:
    # test_commits.py has the other two
    assert {name for name, _ in WRONG.values()} == set(NAMES) - {
        "committed-backwards",
        "committed-ahead",
    }


# -- what is no history --------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [Event("p", 0, 0, "ok", "poll")],
        [Event("p", 0, 0, "invoke", "poll"), Event("p", 0, 1, "ok", "seek")],
        [Event("p", 0, 0, "invoke", "poll"), Event("p", 0, 1, "invoke", "poll")],
        [Event("p", 1, 0, "invoke", "poll"), Event("p", 0, 1, "invoke", "poll")],
        [
            Event("p", 0, 0, "invoke", "poll"),
            Event("p", 0, 1, "ok", "poll"),
            Event("p", 0, 2, "ok", "poll"),
        ],
        [
            Event("p", 0, 0, "invoke", "send", partition=P, values=("a", "b")),
            Event("p", 0, 1, "ok", "send", offsets=(1,)),
        ],
        [Event("p", 0, 0, "invoke", "end"), Event("p", 0, 1, "ok", "end", places={P: 0})],
    ],
)
def test_what_is_no_history(events: list[Event]) -> None:
    with pytest.raises(HistoryError):
        check(events)


def test_many_anomalies_are_counted_but_not_all_kept() -> None:
    checker = Checker()
    script = Script()
    count = MOST_OF_EACH + 50
    for offset in range(count):
        script.send(f"v{offset}", offset)
    script.read_all(end=0)
    for event in script.events:
        checker.feed(event)
    found = checker.finish()
    assert len(found) == MOST_OF_EACH
    assert checker.report.counts == {"lost-write": count}
    assert checker.events == len(script.events)


# -- correct logs, and what is wrong with them ---------------------------------------


@given(st.integers(0, 2**32))
def test_a_correct_log_has_no_anomaly(seed: int) -> None:
    world = World.of(seed)
    world.run()
    assert check(world.history) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_in_a_correct_history_is_found(name: str) -> None:
    """Not each random history has a place for the fault, but one of some has."""

    @settings(max_examples=10)
    @given(st.integers(0, 2**32))
    def run(first: int) -> None:
        for seed in range(first, first + 100):
            world = World.of(seed)
            world.run()
            history = mutated(name, world)
            if history is not None:
                assert name in names(check(history))
                return
        raise AssertionError("none has a place for it")

    run()


def test_every_anomaly_has_a_fault() -> None:
    assert set(MUTATIONS) == set(NAMES)
