"""Members of a group in several processes: sharing, dying, being slow, coming back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from brokers import LONG_S, drain, eventually, in_thread, put, values
from storage import Child

from seawall.broker import Broker, Consumer
from seawall.broker.errors import (
    BrokerClosed,
    DirectoryUnusable,
    FencedInstanceId,
    GroupBusy,
    GroupFenced,
    InvalidGroupName,
    PartitionRevoked,
    StorageFull,
    UnknownTopic,
)
from seawall.broker.group_consumer import GroupConsumer


@pytest.fixture
def four(broker: Broker) -> Broker:
    """A broker whose topic "four" has four partitions, with five records in each."""
    broker.create_topic("four", partitions=4)
    for partition in range(4):
        put(broker, *[b"%d" % number for number in range(5)], topic="four", partition=partition)
    return broker


def join(broker: Broker, topics: str | list[str] = "four", **settings: Any) -> GroupConsumer:
    consumer = broker.consumer(topics, group="g", **settings)
    assert isinstance(consumer, GroupConsumer)
    return consumer


def numbers(consumer: Consumer) -> list[int]:
    return [number for _, number in consumer.assignment()]


def until(condition: Callable[[], bool], *consumers: Consumer, timeout_s: float = LONG_S) -> None:
    """Poll until something is so.

    What is read meanwhile is handed out again.
    """
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s
        for consumer in consumers:
            consumer.give_back(consumer.poll(timeout_ms=20))


class LateClock:
    """The clock by which members in this process are taken for dead, and that it can put on.

    No machine stands still for as long as the sessions that it is used with.
    """

    def __init__(self, broker: Broker) -> None:
        self.late_s = 0.0
        broker.engine.lives._clock_ns = lambda: time.monotonic_ns() + int(self.late_s * 1e9)


class Told:
    """What a consumer's callbacks were told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[int]]] = []

    def __call__(self, what: str) -> Callable[[list[tuple[str, int]]], None]:
        return lambda places: self.events.append((what, [number for _, number in places]))

    def settings(self) -> dict[str, Any]:
        return {f"on_{what}": self(what) for what in ("assigned", "revoked", "lost")}


# -- sharing -------------------------------------------------------------------------


def test_partitions_move_to_who_comes_and_back(four: Broker) -> None:
    told = Told()
    first = join(four, **told.settings())
    assert numbers(first) == [0, 1, 2, 3]
    assert told.events == []  # not before it polls
    assert len(drain(first)) == 20
    first.ack()
    second = join(four)
    assert (numbers(second), first.generation, second.generation) == ([], 1, 2)
    until(lambda: numbers(second) == [2, 3], first, second)
    assert told.events == [("assigned", [0, 1, 2, 3]), ("revoked", [2, 3])]
    assert drain(second) == []  # all of it was acknowledged
    put(four, b"new", topic="four", partition=3)
    assert values(drain(second)) == [b"new"]
    second.close()  # without acknowledging
    until(lambda: len(numbers(first)) == 4, first)
    assert told.events[2:] == [("assigned", [2, 3])]
    assert values(drain(first)) == [b"new"]
    first.close()
    assert told.events[3:] == [("revoked", [0, 1, 2, 3])]
    assert four.group("g").state == "Empty"


def test_what_was_not_acknowledged_is_delivered_to_the_next_owner(four: Broker) -> None:
    first = join(four)
    records = drain(first)
    first.ack([record for record in records if record.partition < 2])
    second = join(four)
    until(lambda: numbers(second) == [2, 3], first, second)
    assert len(drain(second)) == 10
    with pytest.raises(PartitionRevoked) as caught:
        first.ack(records)
    assert (caught.value.topic, caught.value.partition) == ("four", 3)
    assert {o.partition: o.committed for o in four.group("g").offsets} == {0: 5, 1: 5, 2: 0, 3: 0}
    for consumer in (first, second):
        consumer.close()


def test_acknowledging_in_on_revoked_is_in_time(four: Broker) -> None:
    first = join(four, on_revoked=lambda places: first.ack())
    drain(first)
    second = join(four)
    until(lambda: numbers(second) == [2, 3], first, second)
    assert drain(second) == []
    put(four, b"new", topic="four", partition=0)
    assert values(drain(first)) == [b"new"]
    first.close()
    second.close()
    assert sorted(o.committed for o in four.group("g").offsets) == [5, 5, 5, 6]


def test_a_callback_that_fails_keeps_nothing_back(four: Broker) -> None:
    def fail(places: object) -> None:
        raise RuntimeError("callback")

    first = join(four, on_revoked=fail)
    first.poll()
    second = join(four)
    with pytest.raises(RuntimeError, match="callback"):
        first.poll()
    until(lambda: numbers(second) == [2, 3], second)
    assert numbers(first) == [0, 1]
    with pytest.raises(RuntimeError, match="callback"):
        first.close()
    until(lambda: len(numbers(second)) == 4, second)
    second.close()


@pytest.mark.parametrize("other_stays", [True, False])
def test_partitions_that_cannot_be_given_up_are_assigned_anew(
    four: Broker, other_stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    first = join(four, **told.settings())
    assert len(drain(first)) == 20
    other = join(four)
    with monkeypatch.context() as patch:

        def full(*arguments: object) -> None:
            raise StorageFull(path="state.lmdb", reason="full")

        patch.setattr(four.engine.groups, "reconcile", full)
        for _ in range(2):
            with pytest.raises(StorageFull):
                first.poll()
    [gone] = [places for what, places in told.events if what == "revoked"]  # told once
    if not other_stays:
        other.close()
    again = drain(first)
    if other_stays:
        until(lambda: len(numbers(other)) == 2, first, other)
        assert (again, len(numbers(first))) == ([], 2)
    else:
        assert told.events[-1] == ("assigned", gone)
        assert sorted({record.partition for record in again}) == gone
        assert len(again) == 10
    first.close()
    other.close()


def test_a_callback_that_closes_its_consumer_is_handed_nothing(four: Broker) -> None:
    consumer: GroupConsumer
    consumer = join(four, on_assigned=lambda places: consumer.close())
    for _ in range(2):
        with pytest.raises(BrokerClosed):
            consumer.poll()
    assert four.group("g").members == ()


def test_groups_do_not_know_of_each_other(four: Broker) -> None:
    for name in ("one", "two"):
        with four.consumer("four", group=name) as consumer:
            assert len(drain(consumer)) == 20


def test_members_may_want_different_topics(four: Broker) -> None:
    with join(four, ["four", "orders"]) as first, join(four, "orders") as second:
        until(lambda: second.assignment() == [("orders", 0)], first, second)
        assert numbers(first) == [0, 1, 2, 3]
        with join(four, "four") as third:
            until(lambda: len(numbers(third)) == 2, first, second, third)


@pytest.mark.parametrize("assignor", ["range", "roundrobin", "cooperative-sticky"])
def test_each_assignor(four: Broker, assignor: str) -> None:
    consumers = [join(four, partition_assignment_strategy=assignor) for _ in range(3)]
    until(lambda: sorted(len(numbers(each)) for each in consumers) == [1, 1, 2], *consumers)
    assert sorted(n for each in consumers for n in numbers(each)) == [0, 1, 2, 3]
    assert four.group("g").assignor == assignor
    for each in consumers:
        each.close()


def test_partitions_by_number(four: Broker) -> None:
    with join(four, partitions=[1]) as naming, join(four) as sharing:
        assert (numbers(naming), numbers(sharing)) == ([1], [0, 2, 3])
        with pytest.raises(GroupBusy) as caught:
            join(four, partitions=[0, 1])
        assert caught.value.holder_pid == os.getpid()


def test_more_partitions_than_before_and_fewer_topics(four: Broker) -> None:
    with join(four, ["four", "orders"]) as consumer:
        four.delete_topic("orders")
        put(four, b"x", topic="four", partition=0)
        with pytest.raises(UnknownTopic) as caught:
            until(lambda: False, consumer)
        assert caught.value.topic == "orders"
        four.create_topic("orders", partitions=2)
        until(lambda: len(consumer.assignment()) == 6, consumer)
        put(four, b"in the new one", topic="orders", partition=1)
        assert b"in the new one" in values(drain(consumer))


def test_a_broker_that_closes_takes_its_members_along(folder: str) -> None:
    with Broker.open(folder) as outer:
        outer.create_topic("orders")
        with Broker.open(folder) as inner:
            inner.consumer("orders", group="g")
            assert outer.group("g").state == "Stable"
        assert outer.group("g").state == "Empty"


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "\udc80", "é" * 128])
def test_bad_group_names(broker: Broker, name: str) -> None:
    for call in (
        lambda: broker.consumer("orders", group=name),
        lambda: broker.group(name),
        lambda: broker.delete_group(name),
        lambda: broker.reset_group(name, "orders", {0: 0}),
    ):
        with pytest.raises(InvalidGroupName) as caught:
            call()  # type: ignore[no-untyped-call]
        assert caught.value.group == name


@pytest.mark.parametrize("name", ["../../escape", "a/b", "ü", "x" * 255, " "])
def test_any_other_name_is_kept(broker: Broker, folder: str, name: str) -> None:
    with broker.consumer("orders", group=name, client_id="../" + "c" * 97):
        assert len(broker.group(name).members) == 1
        assert len(list((Path(folder) / "run" / "members").iterdir())) == 1
    assert broker.groups() == [name]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"session_timeout_ms": 499}, "at least 500"),
        ({"heartbeat_interval_ms": 45_000}, "below session_timeout_ms"),
        ({"heartbeat_interval_ms": 0}, "above 0"),
        ({"max_poll_interval_ms": 0}, "max_poll_interval_ms"),
        ({"partition_assignment_strategy": "sticky"}, "range, roundrobin, cooperative-sticky"),
        ({"partition_assignment_strategy": []}, "at least one"),
        ({"client_id": ""}, "client_id"),
        ({"client_id": "x" * 101}, "client_id"),
        ({"group_instance_id": ""}, "group_instance_id"),
    ],
)
def test_bad_settings(broker: Broker, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        broker.consumer("orders", group="g", **settings)
    assert broker.groups() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"enable_auto_commit": True},
        {"group_instance_id": "me"},
        {"on_assigned": print},
        {"on_revoked": print, "on_lost": print},
    ],
)
def test_what_only_a_member_does_is_refused_without_a_group(
    four: Broker, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=", ".join(settings) + ": without effect"):
        four.consumer("four", **settings)


def test_a_failed_opening_leaves_nobody_in_the_group(broker: Broker, folder: str) -> None:
    with pytest.raises(ValueError):
        broker.consumer("orders", group="g", start="nonsense")
    assert broker.groups() == []
    assert not (Path(folder) / "run" / "members").exists()


# -- acknowledging by itself ---------------------------------------------------------


def test_auto_commit_takes_what_earlier_polls_handed_out(four: Broker) -> None:
    settings = {"enable_auto_commit": True, "auto_commit_interval_ms": 0}
    with join(four, partitions=[0], **settings) as consumer:
        first = consumer.poll(2)
        assert consumer.committed("four", 0) == 0
        consumer.poll(1)
        assert consumer.committed("four", 0) == len(first)
        for record in consumer:  # what is in hand counts as not done
            if record.offset == 4:
                break
            assert four.group("g").offsets[0].committed <= record.offset
    assert four.group("g").offsets[0].committed == 5


def test_auto_commit_before_partitions_go(four: Broker) -> None:
    first = join(four, enable_auto_commit=True)
    drain(first)
    second = join(four)
    until(lambda: numbers(second) == [2, 3], first, second)
    assert drain(second) == []
    second.close()
    first.close()


def test_without_it_nothing_is_acknowledged(four: Broker) -> None:
    with join(four) as consumer:
        drain(consumer)
    assert {o.committed for o in four.group("g").offsets} == {0}


# -- being taken for dead ------------------------------------------------------------


def test_who_does_not_poll_is_taken_for_dead_and_comes_back(four: Broker) -> None:
    told = Told()
    slow = join(four, max_poll_interval_ms=600_000, **told.settings())
    old = slow.member_id
    records = drain(slow)
    with join(four) as other:
        slow.membership.polled_s -= 601  # and not since
        until(lambda: len(numbers(other)) == 4, other)
        with pytest.raises(GroupFenced) as caught:
            slow.ack(records)
        assert (caught.value.group, caught.value.member_id) == ("g", old)
        assert {o.committed for o in four.group("g").offsets} == {0}
        slow.poll()
        assert slow.member_id != old
        assert told.events == [("assigned", [0, 1, 2, 3]), ("lost", [0, 1, 2, 3])]
        until(lambda: len(numbers(slow)) == 2, slow, other)
        slow.ack()
    slow.close()


def test_who_never_polls_does_not_keep_what_it_was_given(four: Broker) -> None:
    idle = join(four, max_poll_interval_ms=300)
    with join(four) as other:
        until(lambda: len(numbers(other)) == 4, other)
    idle.close()


def test_a_callback_that_never_returns_is_no_polling(four: Broker) -> None:
    go_on = threading.Event()
    stuck = join(four, max_poll_interval_ms=300, on_revoked=lambda places: go_on.wait())

    def poll() -> None:
        while not go_on.is_set():
            stuck.poll(timeout_ms=20)

    with in_thread(poll):
        try:
            with join(four) as other:
                until(lambda: len(numbers(other)) == 4, other)
        finally:
            go_on.set()
    until(lambda: len(numbers(stuck)) == 4, stuck)
    stuck.close()


def test_who_does_not_poll_goes_later_if_it_cannot_go_at_once(
    four: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lively = join(four)
    slow = join(four, max_poll_interval_ms=300)
    until(lambda: len(numbers(slow)) == 2, lively, slow)
    leave, fails = four.engine.groups.leave, [StorageFull(path="state.lmdb", reason="full")] * 2

    def failing(*arguments: Any) -> None:
        if fails:
            raise fails.pop()
        leave(*arguments)

    monkeypatch.setattr(four.engine.groups, "leave", failing)
    until(lambda: len(numbers(lively)) == 4, lively)
    assert not fails
    slow.close()
    lively.close()


def test_whatever_befalls_the_keeper_it_goes_on(
    four: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked: list[int] = []

    def fail(*arguments: object) -> None:
        looked.append(1)
        raise ArithmeticError("odd")

    monkeypatch.setattr(four.engine.keeper, "_look_after", fail)
    with join(four) as consumer:
        until(lambda: len(looked) > 1, consumer)
        monkeypatch.undo()
        with join(four) as other:
            until(lambda: len(numbers(other)) == 2, consumer, other)
    assert caplog.text.count("looking after groups: odd") == 1


def test_iterating_slowly_is_polling(broker: Broker) -> None:
    put(broker, *[b"x"] * 5)
    with broker.consumer("orders", group="g", max_poll_interval_ms=600_000) as consumer:
        assert isinstance(consumer, GroupConsumer)
        for record in consumer:
            assert time.monotonic() - consumer.membership.polled_s < 300
            consumer.membership.polled_s -= 400  # as if handling took that long
            consumer.ack(record)
            if record.offset == 4:
                break
    assert broker.group("g").offsets[0].committed == 5


def test_on_revoked_stands_in_for_on_lost(broker: Broker) -> None:
    told = Told()
    put(broker, b"x")
    with broker.consumer("orders", group="g", on_revoked=told("revoked")) as consumer:
        records = drain(consumer)
        assert broker.engine.groups.delete("g", lambda member: True)
        with pytest.raises(GroupFenced) as caught:
            consumer.ack(records)
        assert caught.value.generation == 0
        until(lambda: told.events == [("revoked", [0])], consumer)
        assert broker.groups() == ["g"]
        assert values(drain(consumer)) == [b"x"]


def test_whoever_lost_its_sign_of_life_can_acknowledge_nothing(four: Broker, folder: str) -> None:
    late = join(four)
    late.poll()
    shutil.rmtree(Path(folder) / "run" / "members")  # somebody tidied up
    with join(four) as other:
        assert len(numbers(other)) == 4
        with pytest.raises(GroupFenced):
            late.ack()
        until(lambda: len(numbers(late)) == 2, late, other)
    late.close()


# -- other processes -----------------------------------------------------------------


class Member(Child):
    """A member in a process of its own; it says what it has been given, and reads."""

    def __init__(self, folder: str, **settings: Any) -> None:
        def work(say: Callable[[str], None]) -> None:
            with Broker.open(folder) as broker:
                consumer = join(
                    broker,
                    on_assigned=lambda places: say("+" + " ".join(str(p) for _, p in places)),
                    on_lost=lambda places: say("lost " + " ".join(str(p) for _, p in places)),
                    **settings,
                )
                while True:
                    records = consumer.poll(timeout_ms=1_000)
                    try:
                        if records:
                            consumer.ack(records)
                    except GroupFenced:
                        say("fenced")

        super().__init__(work)


@pytest.fixture
def ended() -> Any:
    """Ends processes after the test, whatever state they are in."""
    children: list[Child] = []
    yield children.append
    for child in children:
        child.kill(signal.SIGKILL)
        child.wait()


def test_a_killed_members_partitions_move_long_before_its_session_ends(
    folder: str, four: Broker, ended: Callable[[Child], None]
) -> None:
    child = Member(folder, session_timeout_ms=600_000)
    ended(child)
    assert child.line() == "+0 1 2 3"
    with join(four) as consumer:
        until(lambda: numbers(consumer) == [2, 3], consumer)
        assert {each.pid for each in four.group("g").members} == {os.getpid(), child.pid}
        child.kill(signal.SIGKILL)
        until(lambda: len(numbers(consumer)) == 4, consumer)
        assert {each.pid for each in four.group("g").members} == {os.getpid()}
    # Nor does it keep anybody out whom nobody has noticed to be gone.
    assert four.group("g").state == "Empty"


def test_a_stuck_members_partitions_move_when_its_session_ends(
    folder: str, four: Broker, ended: Callable[[Child], None]
) -> None:
    clock = LateClock(four)
    child = Member(folder, session_timeout_ms=600_000, heartbeat_interval_ms=200)
    ended(child)
    assert child.line() == "+0 1 2 3"
    with join(four) as consumer:
        until(lambda: numbers(consumer) == [2, 3], consumer)
        child.kill(signal.SIGSTOP)
        clock.late_s = 601
        until(lambda: len(numbers(consumer)) == 4, consumer)
        clock.late_s = 0
        put(four, b"x", topic="four", partition=0)
        child.kill(signal.SIGCONT)
        # It hears that it was taken for dead, and comes back.
        until(lambda: len(numbers(consumer)) == 2, consumer)
        said = [child.line(), child.line()]
        assert next(line for line in said if line != "fenced") == "lost 0 1"


def test_a_static_member_keeps_what_it_has_while_it_is_away(
    folder: str, four: Broker, ended: Callable[[Child], None]
) -> None:
    settings = {"session_timeout_ms": 60_000, "group_instance_id": "child"}
    child = Member(folder, **settings)
    ended(child)
    assert child.line() == "+0 1 2 3"
    with join(four) as consumer:
        until(lambda: numbers(consumer) == [2, 3], consumer)
        child.kill(signal.SIGKILL)
        time.sleep(0.6)  # twice the time in which another one's death is noticed
        consumer.poll()
        assert numbers(consumer) == [2, 3]
        again = Member(folder, **settings)
        ended(again)
        assert again.line() == "+0 1"
        assert {each.group_instance_id for each in four.group("g").members} == {None, "child"}
        assert numbers(consumer) == [2, 3]


def test_nothing_is_left_of_members_that_others_took_the_place_of(four: Broker) -> None:
    def files() -> int:
        return len(os.listdir(os.path.join(four.path, "run", "members")))

    for _ in range(3):
        join(four, group_instance_id="me", session_timeout_ms=600_000).close()
        assert files() == 1
    for _ in range(3):
        killed = join(four)
        killed.membership.vanish()
        assert files() == 2
    join(four).close()
    assert files() == 1


def test_a_static_member_that_stays_away_is_taken_for_dead(four: Broker) -> None:
    clock = LateClock(four)
    away = join(four, session_timeout_ms=600_000, group_instance_id="away")
    with join(four) as consumer:
        until(lambda: numbers(consumer) == [2, 3], away, consumer)
        away.close()
        consumer.poll()
        assert numbers(consumer) == [2, 3]
        clock.late_s = 601
        until(lambda: len(numbers(consumer)) == 4, consumer)


def test_of_two_with_one_instance_id_the_later_one_stays(four: Broker) -> None:
    told = Told()
    clock = LateClock(four)
    settings = {"group_instance_id": "twin", "session_timeout_ms": 600_000}
    first = join(four, **settings, **told.settings())
    records = drain(first)
    second = join(four, **settings)
    assert len(numbers(second)) == 4
    with pytest.raises(GroupFenced):
        first.ack(records)
    for _ in range(2):  # every time, and it does not take the place back
        with pytest.raises(FencedInstanceId) as caught:
            until(lambda: False, first)
        assert (caught.value.instance_id, caught.value.holder_pid) == ("twin", os.getpid())
    assert told.events == [("assigned", [0, 1, 2, 3]), ("lost", [0, 1, 2, 3])]
    assert len(drain(second)) == 20
    second.ack()
    second.close()
    clock.late_s = 601  # until the other one's session is over
    until(lambda: len(numbers(first)) == 4, first)
    assert drain(first) == []
    first.close()


def test_who_was_silent_for_long_looks_before_it_reads_on(
    four: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody of its own process has told it: that was stopped as well."""
    clock = LateClock(four)
    late = join(four, session_timeout_ms=600_000)
    four.engine.keeper.remove(late.membership)
    late.poll(1)
    clock.late_s = 601
    with join(four) as other:
        assert len(numbers(other)) == 4
        late.membership.needs_attention = False
        assert late.poll() == []
        assert numbers(late) == []
    late.close()


def test_no_partition_is_read_by_two_at_once(
    folder: str, four: Broker, ended: Callable[[Child], None]
) -> None:
    """Members that come and go in several processes; what one has, nobody else has."""

    def come_and_go(say: Callable[[str], None]) -> None:
        claims = Path(folder).parent / f"{Path(folder).name}-claims"

        def claim(places: list[tuple[str, int]]) -> None:
            for _, number in places:
                os.close(os.open(claims / str(number), os.O_CREAT | os.O_EXCL))

        def free(places: list[tuple[str, int]]) -> None:
            for _, number in places:
                (claims / str(number)).unlink()

        with Broker.open(folder) as broker:
            for _ in range(10):
                with join(broker, on_assigned=claim, on_revoked=free) as consumer:
                    for _ in range(5):
                        consumer.poll(timeout_ms=30)

    claims = Path(folder).parent / f"{Path(folder).name}-claims"
    claims.mkdir()
    try:
        children = [Child(come_and_go) for _ in range(3)]
        for child in children:
            ended(child)
        for child in children:
            assert child.line() == ""  # it says nothing, and ends
        assert list(claims.iterdir()) == []
    finally:
        shutil.rmtree(claims)


def test_threads_that_acknowledge_share_their_syncs(
    four: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    store = four.engine.acknowledger._store

    def counted(commits: Any) -> Any:
        sizes.append(len(commits))
        if len(sizes) == 1:  # a disk so slow that all of the others come meanwhile
            eventually(lambda: len(four.engine.acknowledger._gathered) == 7)
        return store(commits)

    monkeypatch.setattr(four.engine.acknowledger, "_store", counted)
    consumers = [four.consumer("four", group=f"g{number}") for number in range(8)]

    def read(consumer: Consumer) -> None:
        consumer.ack(drain(consumer)[2])

    with contextlib.ExitStack() as threads:
        for consumer in consumers:
            threads.enter_context(in_thread(lambda consumer=consumer: read(consumer)))
    assert sizes == [1, 7]
    for consumer in consumers:
        consumer.close()


def test_a_run_folder_that_was_removed_is_named_by_who_joins_again(broker: Broker) -> None:
    engine = broker.engine
    with broker.consumer("orders", group="g") as consumer:
        consumer.poll()
        member = consumer.membership
        engine.groups.leave("g", member.member_id, engine.layout(), engine.lives.is_dead)
        shutil.rmtree(Path(engine.path, "run"))
        with pytest.raises(DirectoryUnusable):
            eventually(consumer.poll)
