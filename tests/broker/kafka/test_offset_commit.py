from __future__ import annotations

from collections.abc import Callable

import pytest
from brokers import broker_on, put
from storage import FaultyFiles, memory_folder
from wire import Wire
from wire_groups import WireMember

from seawall.broker import Broker
from seawall.broker.kafka.threaded import ServerThread

PLACE = ("orders", 0)


@pytest.mark.parametrize("version", range(2, 10))
def test_committing_in_every_version(wire: Wire, broker: Broker, version: int) -> None:
    put(broker, b"a", b"b")
    member = WireMember(wire).enter(PLACE)
    assert member.commit({PLACE: 2}, version, "note") == {PLACE: 0}
    [found] = broker.group("g").offsets
    assert (found.committed, found.lag, found.member_id) == (2, 0, member.member_id)
    assert member.commit({PLACE: 1}, version, None) == {PLACE: 0}
    assert broker.group("g").offsets[0].committed == 1, "backwards, as with Kafka"


def test_who_may_not(wire: Wire, broker: Broker) -> None:
    put(broker, b"a")
    member = WireMember(wire).enter(PLACE)
    names = {"generation_id_or_member_epoch": 0}
    assert member.commit({PLACE: 1}, **names) == {PLACE: 22}
    assert member.commit({PLACE: 1}, member_id="nobody") == {PLACE: 25}
    assert member.commit({PLACE: 1}, group_id="") == {PLACE: 24}
    assert member.commit({PLACE: 1}, group_id="other") == {PLACE: 25}
    alone = {"generation_id_or_member_epoch": -1, "member_id": ""}
    assert member.commit({PLACE: 1}, **alone) == {PLACE: 25}, "it has members"
    assert broker.group("g").offsets == ()
    assert member.commit({PLACE: 1}, group_id="other", **alone) == {PLACE: 0}
    assert broker.groups() == ["g", "other"]


def test_partitions_and_offsets_that_are_not_there(wire: Wire, broker: Broker) -> None:
    """An offset beyond what is durable would be taken for proof that the log reached it."""
    put(broker, b"a")
    member = WireMember(wire).enter(PLACE)
    offsets = {PLACE: 1, ("orders", 1): 0, ("orders", -1): 0, ("nothing", 0): 0}
    assert member.commit(offsets) == {
        PLACE: 0,
        ("orders", 1): 3,
        ("orders", -1): 3,
        ("nothing", 0): 3,
    }
    for offset in (2, -1, 2**63 - 1, -(2**63)):
        assert member.commit({PLACE: offset}) == {PLACE: 1}
    assert broker.group("g").offsets[0].committed == 1


def test_metadata(wire: Wire, broker: Broker) -> None:
    member = WireMember(wire).enter(PLACE)
    assert member.commit({PLACE: 0}, metadata="x" * 4096) == {PLACE: 0}
    assert member.commit({PLACE: 0}, metadata="x" * 4097) == {PLACE: 12}
    assert member.commit({PLACE: 0}, metadata="\N{SNOWMAN}" * 1366) == {PLACE: 12}
    [committed] = broker.engine.state.committed("g").values()
    assert committed.metadata == "x" * 4096


def test_while_a_generation_begins(connect: Callable[[], Wire]) -> None:
    member = WireMember(connect())
    member.join()
    assert member.commit({PLACE: 0}) == {PLACE: 27}
    member.sync()
    other = WireMember(connect())
    other.begin_join()
    assert other.end_join().error_code == 79
    other.begin_join()
    while member.heartbeat() == 0:
        pass
    assert member.heartbeat() == 27
    assert member.commit({PLACE: 0}) == {PLACE: 0}, "the time to commit before giving up"
    member.begin_join()
    assert member.end_join().generation_id == 2
    old = {"generation_id_or_member_epoch": 1}
    assert member.commit({PLACE: 0}, **old) == {PLACE: 22}
    other.end_join()


def test_a_full_disk_refuses_and_later_works(caplog: pytest.LogCaptureFixture) -> None:
    """With a code at which consumers try again: at KAFKA_STORAGE_ERROR they give up."""
    files = FaultyFiles()
    with memory_folder() as folder, broker_on(files, folder) as broker:
        broker.create_topic("orders")
        with ServerThread(broker, listen="127.0.0.1:0") as server:
            wire = Wire(server.address)
            member = WireMember(wire).enter(PLACE)
            engine = broker.engine
            original = engine.state.put_committed

            def full(*_: object) -> None:
                raise OSError(28, "No space left on device")

            engine.state.put_committed = full  # type: ignore[method-assign]
            for _ in range(2):
                assert member.commit({PLACE: 0}) == {PLACE: 15}
            assert caplog.text.count("could not be stored: no room") == 1
            engine.state.put_committed = original  # type: ignore[method-assign]
            assert member.commit({PLACE: 0}) == {PLACE: 0}
            wire.close()
