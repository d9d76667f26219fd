"""Groups of real Kafka clients: who reads what when members and servers come and die."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from brokers import eventually, put
from commands import environment, pipe_of, seawall
from kafka_members import KINDS, Confluent, KafkaMember
from server_processes import server_process
from storage import memory_folder

from seawall.broker import Broker
from seawall.broker.kafka import codes, offset_fetch
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.threaded import ServerThread

pytestmark = [
    pytest.mark.timeout(600),  # each waits for several things, each for `TIMEOUT_S` at the most
    # kafka-python's own: when it is imported, and when it cannot connect
    pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

PARTITIONS = 6
# Less than the sessions of members.
TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Clients say a lot when a server dies, and what they say would keep their sockets."""
    for name in ("kafka", "aiokafka"):
        caplog.set_level(logging.CRITICAL, name)


@pytest.fixture
def broker() -> Iterator[Broker]:
    with memory_folder() as folder, Broker.open(folder) as opened:
        opened.create_topic("t", PARTITIONS)
        yield opened


@pytest.fixture
def server(broker: Broker) -> Iterator[ServerThread]:
    with ServerThread(broker, listen="127.0.0.1:0") as started:
        yield started


def fill(broker: Broker, count: int) -> None:
    for partition in range(PARTITIONS):
        put(broker, *[b"x"] * count, topic="t", partition=partition)


def read_until(
    members: Sequence[KafkaMember], is_done: Callable[[], bool], found: list[Any]
) -> None:
    """Poll the members in turn until something is so; what they read is added to `found`."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_done():
        assert time.monotonic() < deadline_s, (sorted(found), [m.assignment() for m in members])
        for each in members:
            found += each.poll()


def shares(members: Sequence[KafkaMember]) -> list[int]:
    return sorted(len(each.assignment()) for each in members)


def are_committed(broker: Broker, members: Sequence[KafkaMember], offset: int) -> bool:
    """Whether the group has committed so far everywhere, after another try of its members."""
    for each in members:
        each.commit()
    return [each.committed for each in broker.group("g").offsets] == [offset] * PARTITIONS


@pytest.fixture
def members() -> Iterator[list[KafkaMember]]:
    """Members of a test; those that are in the list still are closed at the end."""
    found: list[KafkaMember] = []
    yield found
    close_all(found)


def close_all(members: list[KafkaMember]) -> None:
    while members:
        members.pop().close()


@contextmanager
def other_process(kind: str, address: str, group: str) -> Iterator[subprocess.Popen[bytes]]:
    """A member of another process, which is killed."""
    script = Path(__file__).with_name("kafka_members.py")
    command = [sys.executable, str(script), kind, address, "t", group]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())
    try:
        yield process
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
        pipe_of(process.stdout).close()


@pytest.mark.parametrize("kind", KINDS)
def test_members_join_leave_and_are_killed_and_so_is_the_server(
    broker: Broker, kind: str, members: list[KafkaMember]
) -> None:
    fill(broker, 5)
    read: list[tuple[int, int]] = []

    def are_shared(*wanted: int) -> bool:
        if shares(members) != list(wanted[: len(members)]):
            return False
        given = [len(each.assignment) for each in broker.group("g").members]
        return sorted(given) == list(wanted)

    with (
        server_process(broker.path) as server,
        other_process(kind, server.address, "g") as killed,
    ):
        for _ in range(2):
            members.append(KINDS[kind](server.address, "t", "g"))
        read_until(members, lambda: are_shared(2, 2, 2), read)
        assert len(pipe_of(killed.stdout).readline().split()) > 0

        killed.kill()
        read_until(members, lambda: are_shared(3, 3), read)

        # What moved without being committed is read again, so it may take several rounds.
        read_until(members, lambda: are_committed(broker, members, 5), read)
        for each in members:
            read += each.poll()  # what came just before it was committed
        assert len(set(read)) == 5 * PARTITIONS

        server.kill()
        read.clear()
        fill(broker, 2)
        with server_process(broker.path, port=server.port):
            expected = {(partition, offset) for partition in range(PARTITIONS) for offset in (5, 6)}
            read_until(members, lambda: set(read) >= expected, read)
            assert set(read) == expected, "nothing that was committed before the server died"
            read_until(members, lambda: are_shared(3, 3), read)
            # Who has not found its coordinator again yet goes without a word.
            read_until(members, lambda: are_committed(broker, members, 7), read)
            members.pop().close()
            # It has said that it goes: nobody waits for its session to end.
            read_until(members, lambda: are_shared(PARTITIONS), read)
            members.pop().close()
            eventually(lambda: broker.group("g").state == "Empty")


@pytest.mark.parametrize("ends", ["killed", "stopped"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stable_group_does_not_notice_a_restart_of_the_server(
    broker: Broker, kind: str, ends: str
) -> None:
    """Three members go on from where they are: no callback, no generation, nothing twice."""
    fill(broker, 5)
    members: list[KafkaMember] = []
    read: list[tuple[int, int]] = []

    def are_committed(offset: int) -> bool:
        for each in members:
            each.commit()
        return [each.committed for each in broker.group("g").offsets] == [offset] * PARTITIONS

    with server_process(broker.path) as server:
        try:
            for _ in range(3):
                members.append(KINDS[kind](server.address, "t", "g", session_timeout_ms=20_000))
            read_until(members, lambda: shares(members) == [2, 2, 2], read)
            read_until(members, lambda: len(set(read)) == 5 * PARTITIONS, read)
            read_until(members, lambda: are_committed(5), read)
            for each in members:
                each.poll()  # what came just before it was committed
            before = broker.group("g")
            shares_before = [each.assignment() for each in members]
            calls_before = [each.calls for each in members]

            # Read before the end, and not acknowledged; then nothing is there for a while.
            read.clear()
            fill(broker, 1)
            read_until(members, lambda: len(read) >= PARTITIONS, read)
            assert sorted(read) == [(each, 5) for each in range(PARTITIONS)]
            server.kill() if ends == "killed" else server.stop()
            fill(broker, 2)
            assert broker.group("g").state == "Empty"
            with server_process(broker.path, port=server.port) as again:
                everything = [(each, offset) for each in range(PARTITIONS) for offset in (5, 6, 7)]
                read_until(members, lambda: len(read) >= len(everything), read)
                read_until(members, lambda: are_committed(8), read)
                assert sorted(read) == everything, "each once"
                after = broker.group("g")
                assert after.generation == before.generation
                assert [replace(each, pid=0) for each in after.members] == [
                    replace(each, pid=0) for each in before.members
                ]
                assert {each.pid for each in after.members} == {again.process.pid}
                assert [each.assignment() for each in members] == shares_before
                assert [each.calls for each in members] == calls_before
                while members:
                    members.pop().close()
        finally:
            for each in members:
                each.close()


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_ask_where_they_are_while_the_server_stops(
    broker: Broker,
    server: ServerThread,
    members: list[KafkaMember],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They ask again, and read: nobody divides the group anew because of it."""
    wanted, refused = offset_fetch._wanted, threading.Event()

    def stopping(topics: Any) -> Any:
        if not refused.is_set():
            refused.set()
            raise KafkaError(codes.NOT_COORDINATOR, "the server is stopping")
        return wanted(topics)

    fill(broker, 5)
    monkeypatch.setattr(offset_fetch, "_wanted", stopping)
    members.append(KINDS[kind](server.address, "t", "g"))
    read: list[tuple[int, int]] = []
    read_until(members, lambda: len(set(read)) == 5 * PARTITIONS, read)
    assert refused.is_set()
    close_all(members)


def test_clients_that_are_started_again_with_the_server_do_not_wait_for_themselves(
    broker: Broker, members: list[KafkaMember]
) -> None:
    """Nor for the sessions of those that died with it."""
    fill(broker, 5)
    with server_process(broker.path) as server:
        members.append(Confluent(server.address, "t", "g"))
        read: list[tuple[int, int]] = []
        read_until(members, lambda: len(set(read)) == 5 * PARTITIONS, read)
        read_until(members, lambda: are_committed(broker, members, 5), read)
        server.kill()
        close_all(members)
        fill(broker, 1)
        with server_process(broker.path, port=server.port, unheard_wait_ms=500):
            members.append(Confluent(server.address, "t", "g"))
            read = []
            read_until(members, lambda: len(read) >= PARTITIONS, read)
            assert sorted(read) == [(each, 5) for each in range(PARTITIONS)]
            assert len(broker.group("g").members) == 1
            close_all(members)


def test_a_static_member_that_restarts_while_the_server_does(
    broker: Broker, members: list[KafkaMember]
) -> None:
    """It gets its partitions, and what came since its last commit, once."""

    def static(address: str, name: str) -> Confluent:
        member = Confluent(address, "t", "g", **{"group.instance.id": name})
        members.append(member)
        return member

    def committed() -> dict[int, int]:
        return {each.partition: each.committed for each in broker.group("g").offsets}

    def has_committed(member: KafkaMember, offset: int) -> bool:
        member.commit()
        return {committed()[each] for each in member.assignment()} == {offset}

    fill(broker, 5)
    with server_process(broker.path) as server:
        one, two = static(server.address, "one"), static(server.address, "two")
        read: list[tuple[int, int]] = []
        read_until([one, two], lambda: shares([one, two]) == [3, 3], read)
        read_until([one, two], lambda: len(set(read)) == 5 * PARTITIONS, read)
        read_until([one, two], lambda: are_committed(broker, [one, two], 5), read)
        share, calls, generation = two.assignment(), one.calls, broker.group("g").generation
        fill(broker, 1)
        read_until([one, two], lambda: len(set(read)) == 6 * PARTITIONS, read)
        read_until([one], lambda: has_committed(one, 6), read)
        server.kill()
        members.remove(two)
        two.close()  # without having committed what it read last
        fill(broker, 1)
        with server_process(broker.path, port=server.port):
            two = static(server.address, "two")
            mine: list[tuple[int, int]] = []
            theirs: list[tuple[int, int]] = []
            read_until([two], lambda: len(mine) >= 2 * len(share), mine)
            read_until([one], lambda: len(theirs) >= len(one.assignment()), theirs)
            assert two.assignment() == share
            read_until([two], lambda: has_committed(two, 7), mine)
            for each in (one, two):
                mine += each.poll()
            assert sorted(mine) == [(each, offset) for each in sorted(share) for offset in (5, 6)]
            assert sorted(theirs) == [(each, 6) for each in sorted(one.assignment())]
            assert (one.calls, broker.group("g").generation) == (calls, generation)
            close_all(members)


def test_cooperative_members_keep_what_does_not_move(
    broker: Broker, server: ServerThread, members: list[KafkaMember]
) -> None:
    cooperative = {"partition.assignment.strategy": "cooperative-sticky"}
    one = Confluent(server.address, "t", "g", **cooperative)
    members.append(one)
    read_until(members, lambda: shares(members) == [PARTITIONS], [])
    before = one.assignment()
    two = Confluent(server.address, "t", "g", **cooperative)
    members.append(two)
    read_until(members, lambda: shares(members) == [3, 3], [])
    assert one.assignment() < before
    assert one.revoked == [two.assignment()], "only what moves is given up"
    assert broker.group("g").assignor == "cooperative-sticky"


def test_a_static_member_that_comes_back_causes_no_rebalance(
    broker: Broker, server: ServerThread, members: list[KafkaMember]
) -> None:
    for name in ("one", "two"):
        members.append(Confluent(server.address, "t", "g", **{"group.instance.id": name}))
    read_until(members, lambda: shares(members) == [3, 3], [])
    two = members.pop()
    generation, had = broker.group("g").generation, two.assignment()
    two.close()
    two = Confluent(server.address, "t", "g", **{"group.instance.id": "two"})
    members.append(two)
    read_until(members, lambda: two.assignment() == had, [])
    assert broker.group("g").generation == generation
    names = [each.group_instance_id or "" for each in broker.group("g").members]
    assert sorted(names) == ["one", "two"]


def test_what_administrators_see_and_do(
    broker: Broker, server: ServerThread, members: list[KafkaMember]
) -> None:
    from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, TopicPartition
    from confluent_kafka.admin import AdminClient

    fill(broker, 5)
    read: list[tuple[int, int]] = []
    members.append(Confluent(server.address, "t", "g", **{"client.id": "reader"}))
    read_until(members, lambda: len(set(read)) == 5 * PARTITIONS, read)
    read_until(members, lambda: are_committed(broker, members, 5), read)
    fill(broker, 1)
    admin = AdminClient({"bootstrap.servers": server.address, "log_level": 0})
    [listed] = admin.list_consumer_groups().result(TIMEOUT_S).valid
    assert (listed.group_id, listed.state) == ("g", ConsumerGroupState.STABLE)
    described = admin.describe_consumer_groups(["g"])["g"].result(TIMEOUT_S)
    assert described.partition_assignor == "range"
    [one] = described.members
    assert (one.client_id, len(one.assignment.topic_partitions)) == ("reader", PARTITIONS)
    asked = ConsumerGroupTopicPartitions("g")
    offsets = admin.list_consumer_group_offsets([asked])["g"].result(TIMEOUT_S).topic_partitions
    assert [(each.partition, each.offset) for each in offsets] == [(n, 5) for n in range(6)]

    table = seawall("group", "describe", "g", "-b", broker.path)
    assert table.code == 0
    assert "reader" in table.out.decode()
    assert "127.0.0.1:" in table.out.decode()
    assert [each.lag for each in broker.group("g").offsets] == [1] * PARTITIONS
    refused = seawall("consume", "t", "-g", "g", "-b", broker.path, "-n", "1")
    assert refused.code == 1
    assert "is in use by a client of the server" in refused.err
    assert len(refused.err.splitlines()) == 1

    refusal = admin.delete_consumer_groups(["g"])["g"].exception(TIMEOUT_S)
    assert refusal.args[0].name() == "NON_EMPTY_GROUP"
    close_all(members)
    eventually(lambda: broker.group("g").members == ())
    back = ConsumerGroupTopicPartitions("g", [TopicPartition("t", 0, 2)])
    admin.alter_consumer_group_offsets([back])["g"].result(TIMEOUT_S)
    assert broker.group("g").offsets[0].committed == 2
    admin.delete_consumer_groups(["g"])["g"].result(TIMEOUT_S)
    assert broker.groups() == []


def test_a_consumer_that_assigns_itself(broker: Broker, server: ServerThread) -> None:
    from kafka import KafkaConsumer
    from kafka.structs import OffsetAndMetadata, TopicPartition

    fill(broker, 3)
    consumer = KafkaConsumer(
        bootstrap_servers=server.address, group_id="alone", enable_auto_commit=False
    )
    place = TopicPartition("t", 1)
    try:
        consumer.assign([place])
        consumer.commit({place: OffsetAndMetadata(2, "note", -1)})
        assert consumer.committed(place) == 2
    finally:
        consumer.close(autocommit=False)
    [offset] = broker.group("alone").offsets
    assert (offset.partition, offset.committed, offset.lag) == (1, 2, 1)
    with broker.consumer("t", group="alone", partitions=[1]) as embedded:
        assert [each.offset for each in embedded.poll(timeout_ms=60_000)] == [2]
