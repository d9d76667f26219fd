"""The coordinator with everything around it: connections, the disk, other processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from brokers import eventually, put
from server_processes import ServerProcess, server_process
from wire import Wire
from wire_groups import WireMember

from seawall.broker import AnyConsumer, Broker
from seawall.broker.errors import GroupBusy, GroupHeldByServer, StorageFull
from seawall.broker.group_wire import WireGroups
from seawall.broker.groups import expire
from seawall.broker.kafka.consumer_protocol import encode_assignment
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.coordinator_group import Group
from seawall.broker.kafka.coordinator_store import SERVER_SESSION_MS, CoordinatorStore
from seawall.broker.kafka.threaded import ServerThread

Connect = Callable[[], Wire]
PLACE = ("orders", 0)
# For embedded consumers that are given what is there already.
WAIT_MS = 60_000


def entered(wire: Wire, session_ms: int) -> WireMember:
    """A member whose session is short: once more if it ended before the member was one."""
    while True:
        member = WireMember(wire, session_ms=session_ms)
        if member.join(3).error_code:
            continue
        if member.sync(shares={member.member_id: [PLACE]}).error_code == 0:
            return member


# -- connections ---------------------------------------------------------------------


def test_a_client_that_is_cut_off_while_its_join_waits(
    connect: Connect, server: ServerThread
) -> None:
    one = WireMember(connect()).enter(PLACE)
    gone = WireMember(connect(), session_ms=500)
    gone.begin_join(3)
    eventually(lambda: one.heartbeat() == 27)
    began_s = time.monotonic()
    gone.wire.close()
    eventually(lambda: len(server.server.node.connections) == 1)
    assert one.join().generation_id == 2, "at once, or when the time for rebalancing is over"
    assert time.monotonic() - began_s > 0.4, "it has a session more"
    assert [each.member_id for each in one.joined.members] == [one.member_id]


def test_a_client_that_says_nothing_any_more(connect: Connect, broker: Broker) -> None:
    put(broker, b"a")
    silent = entered(connect(), session_ms=500)
    eventually(lambda: not broker.group("g").members)
    assert silent.heartbeat() == 25
    assert silent.commit({PLACE: 1}) == {PLACE: 25}
    assert broker.group("g").offsets == ()


def test_what_is_known_of_a_group_that_is_over_is_forgotten(
    wire: Wire, server: ServerThread
) -> None:
    member = WireMember(wire).enter(PLACE)
    coordinator = server.server.node.part(Coordinator)
    assert list(coordinator._slots) == ["g"]
    member.leave()
    WireMember(wire, "h").heartbeat()
    eventually(lambda: coordinator._slots == {})


# -- one kind of members at a time ---------------------------------------------------


def test_embedded_consumers_keep_clients_out(wire: Wire, broker: Broker) -> None:
    with broker.consumer("orders", group="g") as consumer:
        assert WireMember(wire).join().error_code == 23
        alone = {"generation_id_or_member_epoch": -1, "member_id": ""}
        assert WireMember(wire).commit({PLACE: 0}, **alone) == {PLACE: 25}
        consumer.poll()
    assert WireMember(wire).join().error_code == 0


def test_clients_keep_embedded_consumers_out(wire: Wire, broker: Broker) -> None:
    put(broker, b"a", b"b")
    member = WireMember(wire).enter(PLACE)
    member.commit({PLACE: 1})
    with pytest.raises(GroupHeldByServer) as caught:
        broker.consumer("orders", group="g")
    assert caught.value.holder_host.startswith("127.0.0.1:")
    with pytest.raises(GroupBusy):
        broker.reset_group("g", "orders", {0: 0})
    with pytest.raises(GroupBusy):
        broker.delete_group("g")
    member.leave()
    with broker.consumer("orders", group="g") as consumer:
        assert [each.value for each in consumer.poll(timeout_ms=WAIT_MS)] == [b"b"]


def test_members_and_lag_are_described(wire: Wire, broker: Broker) -> None:
    put(broker, b"a", b"b")
    member = WireMember(wire, instance_id="i").enter(PLACE)
    member.commit({PLACE: 1})
    found = broker.group("g")
    assert (found.state, found.generation, found.assignor) == ("Stable", 1, "range")
    [one] = found.members
    assert (one.member_id, one.client_id, one.group_instance_id) == (member.member_id, "wire", "i")
    assert one.host == "{}:{}".format(*wire.socket.getsockname())
    assert one.assignment == (PLACE,)
    [offset] = found.offsets
    assert (offset.committed, offset.lag, offset.member_id) == (1, 1, member.member_id)


def test_what_a_client_has_not_committed_is_not_trimmed(wire: Wire, broker: Broker) -> None:
    broker.create_topic("queue", config={"segment.bytes": 1 << 14, "segment.ms": 1})
    for _ in range(4):
        put(broker, *[b"x" * 1000] * 10, topic="queue")
    member = WireMember(wire, topics=("queue",)).enter(("queue", 0))
    member.commit({("queue", 0): 0})
    assert broker.compact("queue")[0].log_start == 0
    member.commit({("queue", 0): 40})
    assert broker.compact("queue")[0].log_start > 0


def test_a_full_disk_when_a_generation_begins(
    wire: Wire, server: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise StorageFull(path="state.lmdb", reason="No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(CoordinatorStore, "save", full)
        member = WireMember(wire)
        assert member.join().error_code == 15
    assert member.join().generation_id == 1
    assert member.heartbeat() == 0


def test_a_bug_costs_one_request(
    wire: Wire, server: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = WireMember(wire).enter(PLACE)
    with monkeypatch.context() as patched:
        patched.setattr(Group, "heartbeat", lambda *_: 1 // 0)
        assert member.heartbeat() == -1
    with monkeypatch.context() as patched:
        patched.setattr(Group, "saved", lambda *_: 1 // 0)
        member.begin_join()
        assert member.end_join().error_code == 25
    member.member_id = ""
    assert member.join().error_code == 0


# -- the end of a server -------------------------------------------------------------


def test_stopping_sends_everybody_away(
    serving: Callable[..., ServerThread], broker: Broker
) -> None:
    server = serving()
    wires = [Wire(server.address) for _ in range(3)]
    first = WireMember(wires[0]).enter(PLACE)
    waits = WireMember(wires[1])
    waits.begin_join(3)
    eventually(lambda: first.heartbeat() == 27)
    syncs = WireMember(wires[2], "h")
    syncs.join()
    server.stop()
    assert waits.end_join().error_code == 16
    for each in wires:
        each.close()
    assert broker.group("g").members == ()
    assert broker.group("h").members == ()
    with broker.consumer("orders", group="g"):
        pass  # at once


def test_members_go_on_after_a_clean_restart(
    serving: Callable[..., ServerThread], broker: Broker
) -> None:
    put(broker, b"a", b"b")
    server = serving()
    wire = Wire(server.address)
    member = WireMember(wire, instance_id="i").enter(PLACE)
    assert member.commit({PLACE: 1}) == {PLACE: 0}
    wire.close()
    server.stop()
    assert broker.group("g").members == ()
    member.wire = wire = Wire(serving().address)
    assert member.commit({PLACE: 2}) == {PLACE: 0}
    assert member.heartbeat() == 0
    assert member.sync().assignment == encode_assignment([PLACE])
    [shown] = broker.group("g").members
    assert (shown.member_id, shown.assignment) == (member.member_id, (PLACE,))
    # One that is started again itself has the same, and its older self is none.
    again = WireMember(wire, instance_id="i")
    assert (again.join().error_code, again.generation) == (0, member.generation)
    assert again.sync().assignment == encode_assignment([PLACE])
    assert member.heartbeat() == 82
    assert again.commit({PLACE: 1}) == {PLACE: 0}
    wire.close()


def test_a_group_that_is_loaded_is_not_deleted(
    serving: Callable[..., ServerThread], broker: Broker
) -> None:
    server = serving()
    wire = Wire(server.address)
    member = WireMember(wire).enter(PLACE)
    wire.close()
    server.stop()
    wire = Wire(serving().address)  # and the first that it asks:
    [deleted] = wire.ask(42, 2, groups_names=("g",)).results
    assert deleted.error_code == 68
    [described] = wire.ask(15, 5, groups=("g",), include_authorized_operations=False).groups
    assert (described.group_state, len(described.members)) == ("Stable", 1)
    [listed] = wire.ask(16, 4, states_filter=()).groups
    assert listed.group_state == "Stable"
    with pytest.raises(GroupHeldByServer):
        broker.consumer("orders", group="g")
    member.wire = wire
    assert member.heartbeat() == 0
    wire.close()


def test_groups_that_cannot_be_loaded_keep_no_server_from_starting(
    serving: Callable[..., ServerThread],
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever asks for a group tries again."""
    server = serving()
    wire = Wire(server.address)
    member = WireMember(wire).enter(PLACE)
    wire.close()
    server.stop()

    def fails(*_: object) -> None:
        raise StorageFull(path="state.lmdb", reason="No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(WireGroups, "take_over", fails)
        member.wire = wire = Wire(serving().address)
        eventually(lambda: "could not be loaded" in caplog.text)
        assert member.heartbeat() == 15, "at others consumers give up"
        assert member.join().error_code == member.sync().error_code == 15
        assert member.commit({PLACE: 0}) == {PLACE: 15}
        assert broker.group("g").members == (), "nobody holds them meanwhile"
        [deleted] = wire.ask(42, 2, groups_names=("g",)).results
        assert deleted.error_code != 0
    assert member.heartbeat() == 0
    assert len(broker.group("g").members) == 1
    wire.close()


def test_a_loaded_member_that_does_not_come_back(
    serving: Callable[..., ServerThread], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored: list[Group] = []
    restore = Group.restore

    def noting(group: Group, *rest: Any) -> None:
        restore(group, *rest)
        restored.append(group)

    monkeypatch.setattr(Group, "restore", noting)
    while not restored:  # its session may have ended before its server does
        server = serving()
        wire = Wire(server.address)
        member = entered(wire, session_ms=500)
        wire.close()
        server.stop()
        server = serving()  # nobody asks it anything
        node = server.server.node
        loading = node.part(Coordinator).loaded()
        asyncio.run_coroutine_threadsafe(loading, node.loop).result(WAIT_MS / 1000)
        if not restored:
            server.stop()
    assert [each.name for each in restored] == ["g"]
    eventually(lambda: len(broker.group("g").members) == 0)
    wire = Wire(server.address)
    assert WireMember(wire).heartbeat(member_id=member.member_id) == 25
    wire.close()


def test_a_group_that_was_used_while_no_server_was_there(
    serving: Callable[..., ServerThread], broker: Broker
) -> None:
    put(broker, b"a", b"b")
    server = serving()
    wire = Wire(server.address)
    member = WireMember(wire).enter(PLACE)
    other = WireMember(wire, "h").enter(PLACE)
    deleted = WireMember(wire, "d").enter(PLACE)
    for each in (member, other, deleted):
        each.commit({PLACE: 1})
    wire.close()
    server.stop()
    with broker.consumer("orders", group="g") as consumer:
        assert [each.value for each in consumer.poll(timeout_ms=WAIT_MS)] == [b"b"]
    broker.reset_group("h", "orders", {0: 0})
    broker.delete_group("d")
    wire = Wire(serving().address)
    for each in (member, other, deleted):
        each.wire = wire
        assert each.commit({PLACE: 2}) == {PLACE: 25}
        assert each.heartbeat() == 25
        assert each.sync().error_code == 25
        assert each.join().error_code == 25
        old, each.member_id = each.generation, ""
        assert each.join().generation_id > old
    assert broker.group("h").offsets[0].committed == 0
    wire.close()


def test_a_race_for_a_group_while_the_server_starts_has_one_winner(
    serving: Callable[..., ServerThread], broker: Broker
) -> None:
    """Either its clients are members still, or an embedded consumer is; never both."""
    put(broker, b"a", b"b")
    server = serving()
    member = WireMember(Wire(server.address)).enter(PLACE)
    for number in range(20):
        member.wire.close()
        server.stop()
        joined: list[AnyConsumer] = []

        def join(number: int = number, joined: list[AnyConsumer] = joined) -> None:
            time.sleep(number % 7 * 0.002)
            with contextlib.suppress(GroupHeldByServer):
                joined.append(broker.consumer("orders", group="g"))

        thread = threading.Thread(target=join)
        thread.start()
        server = serving()
        member.wire = Wire(server.address)
        thread.join()
        expected = 25 if joined else 0
        assert (member.heartbeat(), member.commit({PLACE: 1})) == (expected, {PLACE: expected})
        for each in joined:
            each.close()
            member.member_id = ""
            member.enter(PLACE)
    member.wire.close()


def test_members_go_on_after_the_server_was_killed(broker: Broker) -> None:
    put(broker, b"a", b"b", b"c")
    with server_process(broker.path) as server:
        wire = Wire(server.address)
        member = WireMember(wire).enter(PLACE)
        assert member.commit({PLACE: 1}) == {PLACE: 0}
        server.kill()
        wire.close()
        with server_process(broker.path) as again:
            member.wire = Wire(again.address)
            assert member.commit({PLACE: 3}) == {PLACE: 0}
            assert member.heartbeat() == 0
            assert broker.group("g").members[0].pid == again.process.pid
            member.wire.close()
    assert broker.group("g").offsets[0].committed == 3


def test_killing_the_server_frees_its_groups_at_once(broker: Broker) -> None:
    put(broker, b"a", b"b", b"c")
    with server_process(broker.path) as server:
        wire = Wire(server.address)
        member = WireMember(wire, instance_id="i").enter(PLACE)
        assert member.commit({PLACE: 1}) == {PLACE: 0}
        assert broker.group("g").members[0].pid == server.process.pid
        with pytest.raises(GroupHeldByServer):
            broker.consumer("orders", group="g")
        server.kill()
        wire.close()
        assert broker.group("g").members == ()
        with broker.consumer("orders", group="g") as consumer:
            assert [each.value for each in consumer.poll(1, timeout_ms=WAIT_MS)] == [b"b"]
            consumer.ack()
        with server_process(broker.path) as again:
            member.wire = Wire(again.address)
            assert member.commit({PLACE: 3}) == {PLACE: 25}
            assert member.heartbeat() == 25
            member.member_id = ""
            old = member.generation
            assert member.join().generation_id > old
            assert member.sync().error_code == 0
            assert member.commit({PLACE: 3}) == {PLACE: 0}
            member.wire.close()
    assert broker.group("g").offsets[0].committed == 3


@contextlib.contextmanager
def late(broker: Broker, server: ServerProcess) -> Iterator[None]:
    """The server is stopped, and to everybody else it seems that its session is over."""
    server.signal(signal.SIGSTOP)
    with pytest.MonkeyPatch.context() as patched:
        later_ns = 2 * SERVER_SESSION_MS * 1_000_000
        patched.setattr(broker.engine.lives, "_clock_ns", lambda: time.monotonic_ns() + later_ns)
        yield
    server.signal(signal.SIGCONT)


def test_a_server_that_was_stopped_for_long_finds_its_groups_gone(broker: Broker) -> None:
    put(broker, b"a", b"b")
    with server_process(broker.path, late_ms=0, beat_s=0.1) as server:
        wire = Wire(server.address)
        lost = WireMember(wire).enter(PLACE)
        kept = WireMember(wire, "kept").enter(PLACE)
        with late(broker, server):
            consumer = broker.consumer("orders", group="g")
        with consumer:
            assert lost.commit({PLACE: 2}) == {PLACE: 25}
            assert lost.heartbeat() == 25
            lost.member_id = ""
            assert lost.join().error_code == 23
            assert len(consumer.poll(timeout_ms=WAIT_MS)) == 2
        assert kept.heartbeat() == 0
        assert kept.commit({PLACE: 2}) == {PLACE: 0}
        wire.close()


def test_a_stopped_server_s_sign_of_life_stays(broker: Broker) -> None:
    """Whoever takes its clients for dead leaves the file that all of them have in common.

    Looking after old groups takes nobody away; an operator does.
    """
    with server_process(broker.path, late_ms=0, beat_s=0.1) as server:
        wire = Wire(server.address)
        member = WireMember(wire).enter(PLACE)
        with late(broker, server):
            assert expire(broker.engine, 1 << 40) == []
            assert broker.group("g").members == ()
            broker.reset_group("g", "orders", {0: 0})
        eventually(lambda: member.heartbeat() == 25)
        member.member_id = ""
        member.enter(PLACE)
        assert len(broker.group("g").members) == 1
        with pytest.raises(GroupHeldByServer):
            broker.consumer("orders", group="g")
        wire.close()


def test_it_finds_out_by_itself(broker: Broker) -> None:
    with server_process(broker.path, late_ms=0, beat_s=0.1) as server:
        wire = Wire(server.address)
        lost = WireMember(wire).enter(PLACE)
        with late(broker, server):
            consumer = broker.consumer("orders", group="g")
        with consumer:
            eventually(lambda: lost.heartbeat() == 25)
        wire.close()


def test_a_server_knows_that_it_was_silent(broker: Broker) -> None:
    store = CoordinatorStore(broker.engine)
    try:
        assert store.beat()
        store._life.beaten_ns -= int(SERVER_SESSION_MS / 2) * 1_000_000
        assert not store.beat()
        assert store.beat(), "it was heard of meanwhile"
    finally:
        store.close()
