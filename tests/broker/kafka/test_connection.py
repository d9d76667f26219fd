from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from brokers import eventually
from wire import LONG_MS, TIMEOUT_S, Wire, batch, request_bytes

from seawall.broker import Broker
from seawall.broker.kafka import server as server_module
from seawall.broker.kafka.node import Node
from seawall.broker.kafka.threaded import ServerThread

Serve = Callable[..., ServerThread]
Connect = Callable[[], Wire]


def node_of(server: ServerThread) -> Node:
    return server.server.node


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers look more often whose time is up."""
    monkeypatch.setattr(server_module, "SWEEP_INTERVAL_S", 0.02)


def wire_request(number: int) -> bytes:
    data = [{"index": 0, "records": batch(b"a")}]
    topics = [{"name": "orders", "partition_data": data}]
    return request_bytes(0, 9, number, {"acks": -1, "timeout": 1, "topic_data": topics})


def with_a_long_tag(request: bytes) -> bytes:
    """Where the tagged fields of a request are, at its end, one that is not all there."""
    body = request[4:-1] + b"\x01\x63\x05abc"
    return struct.pack(">i", len(body)) + body


GARBAGE = {
    "a TLS hello": bytes.fromhex("160301020001000 1fc0303".replace(" ", "")) + os.urandom(500),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "2 GiB": struct.pack(">i", 2**31 - 1) + b"x" * 100,
    "a negative length": struct.pack(">i", -5) + b"x" * 100,
    "no length": struct.pack(">i", 0),
    "an unknown API": struct.pack(">ihhih", 10, 999, 0, 1, -1),
    "a version that is not answered": struct.pack(">ihhih", 10, 0, 2, 1, -1),
    "a negative version": struct.pack(">ihhih", 10, 18, -1, 1, -1)[:2],
    "half a header": struct.pack(">ihhi", 8, 3, 9, 1),
    "a client id that is too long": struct.pack(">ihhih", 10, 3, 9, 1, 30_000),
    "a tagged field that is longer than what came": with_a_long_tag(wire_request(1)),
    "a body that is cut off": struct.pack(">ihhih", 10, 3, 4, 1, -1),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_costs_its_own_connection_alone(
    wire: Wire, connect: Connect, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = connect()
    bad.socket.sendall(GARBAGE[name])
    if len(GARBAGE[name]) < 4:
        bad.socket.shutdown(socket.SHUT_WR)
    assert bad.is_closed()
    assert wire.ask(18, 0).error_code == 0
    assert not [each for each in caplog.records if each.levelno > logging.WARNING]


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n", struct.pack(">ihhih", 10, 999, 0, 1, -1)]
)
def test_what_came_before_garbage_is_answered(wire: Wire, garbage: bytes) -> None:
    requests = [wire_request(number) for number in range(3)]
    wire.socket.sendall(b"".join(requests) + garbage)
    for number in range(3):
        assert wire.receive_frame()[:4] == struct.pack(">i", number)
    assert wire.is_closed()


def test_an_error_of_the_connection_itself_closes_it_alone(
    wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seawall.broker.kafka import dispatch

    def broken(*_: object) -> object:
        raise ZeroDivisionError

    other = connect()
    assert other.ask(18, 0).error_code == 0
    with monkeypatch.context() as patched:
        patched.setattr(dispatch, "parse", broken)
        wire.send(18, 0)
        assert wire.is_closed()
    assert other.ask(18, 0).error_code == 0


def test_a_frame_may_come_byte_by_byte(wire: Wire) -> None:
    for byte in request_bytes(3, 4, 1, {"topics": None}):
        wire.socket.sendall(bytes([byte]))
    assert wire.receive_frame()[:4] == struct.pack(">i", 1)


def test_a_bug_in_a_handler_is_an_error_of_that_request_alone(
    wire: Wire,
    server: ServerThread,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from dataclasses import replace

    async def buggy(request: Any, context: Any) -> Any:
        raise ZeroDivisionError

    apis = node_of(server).apis
    for key in (0, 1, 2, 3, 22, 23):
        monkeypatch.setitem(apis, key, replace(apis[key], handle=buggy))
    with caplog.at_level(logging.CRITICAL, logger="seawall.kafka"):
        assert wire.produce("orders", batch(b"a")).error_code == -1
        assert wire.fetch("orders", 0).error_code == -1
        assert wire.ask(3, 4, topics=[{"name": "orders"}]).topics[0].error_code == -1
        assert wire.ask(22, 1, transactional_id=None, transaction_timeout=1).error_code == -1
    assert wire.ask(18, 3, client_software_name="a", client_software_version="b").error_code == 0


def test_too_many_connections(serving: Serve) -> None:
    server = serving(max_connections=3)
    wires = [Wire(server.address) for _ in range(3)]
    for wire in wires:
        assert wire.ask(18, 0).error_code == 0
    one_more = Wire(server.address)
    assert one_more.is_closed()
    one_more.close()
    wires.pop().close()
    eventually(lambda: len(node_of(server).connections) == 2)
    again = Wire(server.address)
    assert again.ask(18, 0).error_code == 0
    for wire in [*wires, again]:
        wire.close()


IDLE_MS = 300


def stays_open(address: str, period_s: float) -> bool:
    """Whether a connection stays open that is used. False as well if a pause was a long one."""
    used_s = time.monotonic()
    began_s, wire = used_s, Wire(address)

    def was_idle() -> bool:  # the machine may have stood still
        return time.monotonic() - used_s > IDLE_MS / 1000

    try:
        while time.monotonic() - began_s < period_s:
            before_s = time.monotonic()
            assert wire.ask(18, 0).error_code == 0
            if was_idle():
                return False
            used_s = before_s
            time.sleep(0.02)
    except ConnectionError:
        assert was_idle(), "it was closed although it was busy"
        return False
    finally:
        wire.close()
    return True


@pytest.mark.usefixtures("swept")
def test_an_idle_connection_is_closed_and_a_busy_one_is_not(serving: Serve) -> None:
    server = serving(connections_max_idle_ms=IDLE_MS)
    idle, waiting = Wire(server.address), Wire(server.address)
    waiting.send_fetch("orders", 0, max_wait_ms=3 * IDLE_MS)
    while not stays_open(server.address, 2 * IDLE_MS / 1000):
        pass
    assert idle.is_closed()
    assert waiting.receive().responses[0].partitions[0].error_code == 0
    for wire in (idle, waiting):
        wire.close()


@pytest.mark.usefixtures("swept")
def test_half_a_request_is_not_waited_for_for_ever(serving: Serve) -> None:
    server = serving(receive_timeout_ms=100)
    for part in (b"\0\0", struct.pack(">i", 100) + b"abc"):
        wire = Wire(server.address)
        wire.socket.sendall(part)
        assert wire.is_closed()
        wire.close()


@pytest.mark.usefixtures("swept")
def test_a_client_that_does_not_read_is_cut_off(serving: Serve) -> None:
    server = serving(send_timeout_ms=300, max_in_flight_requests=4)
    wire, other = Wire(server.address), Wire(server.address)
    data = batch(os.urandom(900_000))
    for _ in range(20):
        assert other.produce("orders", data).error_code == 0
    with contextlib.suppress(ConnectionError):  # it may be cut off before it has sent all
        for _ in range(10):
            wire.send_fetch("orders", 0, max_bytes=1 << 30, partition_max_bytes=1 << 30)
    eventually(lambda: len(node_of(server).connections) == 1)
    assert other.ask(18, 0).error_code == 0
    eventually(lambda: node_of(server).response_budget.used_bytes == 0)
    wire.close()
    other.close()


def test_a_slow_client_is_not_cut_off_as_long_as_it_reads(
    serving: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would ask for the same again, and be cut off again, for ever."""
    monkeypatch.setattr(server_module, "SWEEP_INTERVAL_S", 3_600.0)  # the test looks, at times
    node = node_of(server := serving(send_timeout_ms=30_000))
    wire = Wire(server.address)
    try:
        for _ in range(4):
            assert wire.produce("orders", batch(os.urandom(900_000))).error_code == 0
        connection = next(iter(node.connections))
        transport = connection._transport
        assert transport is not None
        for each in wire.socket, transport.get_extra_info("socket"):
            for option in socket.SO_RCVBUF, socket.SO_SNDBUF:
                each.setsockopt(socket.SOL_SOCKET, option, 1 << 16)
        wire.send_fetch("orders", 0, max_bytes=1 << 30, partition_max_bytes=1 << 30)
        eventually(lambda: transport.get_write_buffer_size() > 1 << 20)
        began_s = node.loop.time()

        def is_cut_off(after_s: float) -> bool:
            looked: Future[bool] = Future()

            def look() -> None:
                connection.check_timeouts(began_s + after_s)
                looked.set_result(transport.is_closing())

            node.loop.call_soon_threadsafe(look)
            return looked.result(TIMEOUT_S)

        for after_s in 0, 20, 40, 60:
            assert not is_cut_off(after_s)
            before = transport.get_write_buffer_size()
            while transport.get_write_buffer_size() >= before:
                assert wire.socket.recv(1 << 16)
        assert not is_cut_off(80)
        # From here on it reads nothing; what the kernel still had room for, it may have taken.
        times = itertools.count(111, 31)
        eventually(lambda: is_cut_off(next(times)))
        eventually(lambda: node.response_budget.used_bytes == 0)
    finally:
        wire.close()


@pytest.mark.parametrize("ending", ["idle", "garbage", "half closed"])
def test_a_connection_that_ends_is_not_flushed_for_ever(serving: Serve, ending: str) -> None:
    """What its client does not read is too little to pass for a write that is held up."""
    node = node_of(server := serving(send_timeout_ms=200))
    wire = Wire(server.address)
    try:
        eventually(lambda: len(node.connections) == 1)
        connection = next(iter(node.connections))
        transport = connection._transport
        assert transport is not None

        def fill() -> None:
            while not transport.get_write_buffer_size():
                transport.write(bytes(1 << 14))

        node.loop.call_soon_threadsafe(fill)
        eventually(lambda: transport.get_write_buffer_size() > 0)
        if ending == "garbage":
            wire.socket.sendall(GARBAGE["HTTP"])
        elif ending == "half closed":
            wire.socket.shutdown(socket.SHUT_WR)
        else:
            connection._last_request_s = -float("inf")
        eventually(lambda: not node.connections)
    finally:
        wire.close()


def test_in_flight_requests_are_bounded(serving: Serve) -> None:
    """Also of a client that sends hundreds at once: then they come in one piece."""
    server = serving(max_in_flight_requests=3)
    wire = Wire(server.address)
    fetch = request_bytes(
        1,
        12,
        0,
        {
            "max_wait": LONG_MS,
            "min_bytes": 1,
            "topics": [
                {
                    "topic": "orders",
                    "partitions": [
                        {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1000}
                    ],
                }
            ],
            "forgotten_topics_data": (),
        },
    )
    others = [request_bytes(3, 4, number, {"topics": None}) for number in range(1, 200)]
    wire.socket.sendall(fetch + b"".join(others))
    eventually(lambda: len(node_of(server).connections) == 1)
    [connection] = node_of(server).connections
    eventually(lambda: connection.in_flight >= 1)
    for _ in range(20):
        assert connection.in_flight <= 3
        assert not wire_has_answer(wire)
    other = Wire(server.address)
    assert other.produce("orders", batch(b"a")).error_code == 0, "and the fetch is answered"
    for number in range(200):
        assert connection.in_flight <= 3
        assert wire.receive_frame()[:4] == struct.pack(">i", number)
    eventually(lambda: connection.is_idle)
    eventually(lambda: node_of(server).request_budget.used_bytes == 0)
    eventually(lambda: node_of(server).parsed_budget.used_bytes == 0)
    wire.close()
    other.close()


def wire_has_answer(wire: Wire) -> bool:
    return bool(select.select([wire.socket], (), (), 0.01)[0])


def test_memory_for_requests_is_shared(serving: Serve) -> None:
    """Twenty clients send more at once than there is room for; all are served in turn."""
    server = serving(queued_max_request_bytes=1 << 20)
    wires = [Wire(server.address) for _ in range(20)]
    data = batch(os.urandom(300_000))
    for _ in range(3):
        for wire in wires:
            wire.send_produce("orders", data)
        for wire in wires:
            assert wire.receive().responses[0].partition_responses[0].error_code == 0
    eventually(lambda: node_of(server).request_budget.used_bytes == 0)
    for wire in wires:
        wire.close()


def test_memory_for_responses_is_shared(serving: Serve) -> None:
    server = serving(queued_max_response_bytes=1 << 20)
    wires = [Wire(server.address) for _ in range(10)]
    for _ in range(4):
        assert wires[0].produce("orders", batch(os.urandom(300_000))).error_code == 0
    for wire in wires:
        wire.send_fetch("orders", 0, partition_max_bytes=700_000)
    for wire in wires:
        assert len(wire.receive().responses[0].partitions[0].records) > 600_000
    eventually(lambda: node_of(server).response_budget.used_bytes == 0)
    for wire in wires:
        wire.close()


def test_a_client_that_goes_away_leaves_nothing(serving: Serve, broker: Broker) -> None:
    server = serving()
    for _ in range(20):
        wire = Wire(server.address)
        wire.send_fetch("orders", 0, max_wait_ms=LONG_MS)
        wire.send_produce("orders", batch(b"a"))
        wire.close()
    eventually(lambda: not node_of(server).connections)
    eventually(lambda: node_of(server).request_budget.used_bytes == 0)
    eventually(lambda: node_of(server).response_budget.used_bytes == 0)


def tiny_items(count: int) -> bytes:
    """A produce request with so many topics of three bytes each."""
    header = request_bytes(0, 9, 1, {"acks": -1, "timeout": 1, "topic_data": ()})[4:-2]
    number = bytes([count + 1 & 0x7F | 0x80, count + 1 >> 7 & 0x7F | 0x80, count + 1 >> 14])
    body = header + number + b"\x01\x01\x00" * count + b"\x00"
    return struct.pack(">i", len(body)) + body


def test_a_request_of_too_many_items_is_refused_unparsed(
    serving: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serving(request_max_items=20_000)
    wire = Wire(server.address)
    wire.socket.sendall(tiny_items(20_000))
    assert wire.receive_frame()[:4] == struct.pack(">i", 1)
    wire.socket.sendall(tiny_items(20_001))
    assert wire.is_closed()
    assert "Produce with more items than request.max.items allows: 20000" in caplog.text
    wire.close()


def test_memory_for_parsed_requests_is_shared(serving: Serve) -> None:
    """Ten clients at once, each with a request that needs more than the half of it."""
    server = serving(queued_max_request_bytes=1 << 20)
    node = node_of(server)
    wires = [Wire(server.address) for _ in range(10)]
    most = 0
    for wire in wires:
        for _ in range(3):
            wire.socket.sendall(tiny_items(700))
    for wire in wires:
        for _ in range(3):
            most = max(most, node.parsed_budget.used_bytes)
            assert wire.receive_frame()[:4] == struct.pack(">i", 1)
    assert most <= 1 << 20
    eventually(lambda: node.parsed_budget.used_bytes == 0)
    for wire in wires:
        wire.close()


def test_a_small_request_does_not_wait_for_those_that_take_all(serving: Serve) -> None:
    server = serving(queued_max_request_bytes=1 << 20)
    node, wire = node_of(server), Wire(server.address)
    node.loop.call_soon_threadsafe(node.parsed_budget.reserve, 1 << 20, bool)
    assert wire.ask(18, 0).error_code == 0
    wire.socket.sendall(tiny_items(700))
    other = Wire(server.address)
    assert other.ask(18, 0).error_code == 0
    assert not wire_has_answer(wire)
    node.loop.call_soon_threadsafe(node.parsed_budget.release, 1 << 20)
    assert wire.receive_frame()[:4] == struct.pack(">i", 1)
    wire.close()
    other.close()


def test_who_goes_away_while_waiting_for_memory_holds_none(serving: Serve) -> None:
    server = serving(queued_max_request_bytes=1 << 20)
    node = node_of(server)
    node.loop.call_soon_threadsafe(node.parsed_budget.reserve, 1 << 20, bool)
    for _ in range(3):
        wire = Wire(server.address)
        wire.socket.sendall(tiny_items(700))
        time.sleep(0.05)
        wire.close()
    eventually(lambda: not node.connections)
    node.loop.call_soon_threadsafe(node.parsed_budget.release, 1 << 20)
    eventually(lambda: node.parsed_budget.used_bytes == 0)


def test_who_only_claims_to_send_much_keeps_nobody_waiting(serving: Serve) -> None:
    server = serving()
    claims = [Wire(server.address) for _ in range(20)]
    for wire in claims:
        wire.socket.sendall(struct.pack(">i", 100 << 20) + wire_request(1)[4:])
    eventually(lambda: node_of(server).request_budget.used_bytes >= len(claims))
    other = Wire(server.address)
    assert other.produce("orders", batch(os.urandom(200_000))).error_code == 0
    for wire in [*claims, other]:
        wire.close()
    eventually(lambda: node_of(server).request_budget.used_bytes == 0)


def test_those_who_have_sent_a_half_do_not_wait_for_each_other(
    serving: Serve, broker: Broker
) -> None:
    """Six requests of which one and a half find room, and each is half there."""
    broker.create_topic("large", config={"max.message.bytes": str(8 << 20)})
    server = serving(queued_max_request_bytes=6 << 20)
    wires = [Wire(server.address) for _ in range(6)]
    data = [{"index": 0, "records": batch(os.urandom(4 << 20))}]
    topics = [{"name": "large", "partition_data": data}]
    frame = request_bytes(0, 9, 1, {"acks": -1, "timeout": 1, "topic_data": topics})

    def send(wire: Wire) -> None:
        wire.socket.sendall(frame[: 2 << 20])
        time.sleep(0.3)  # everybody is in the middle of it
        wire.socket.sendall(frame[2 << 20 :])

    senders = [threading.Thread(target=send, args=(wire,)) for wire in wires]
    for sender in senders:
        sender.start()
    for wire in wires:
        assert wire.receive_frame()[:4] == struct.pack(">i", 1)
    for sender in senders:
        sender.join()
    for wire in wires:
        wire.close()
    assert broker.ends("large", 0).durable_end == 6
    eventually(lambda: node_of(server).request_budget.used_bytes == 0)


def test_a_long_request_does_not_wait_for_those_that_pass_in_any_case(
    serving: Serve, broker: Broker
) -> None:
    """It takes all the memory there is, and a fetch that waits has some, too."""
    broker.create_topic("large", config={"max.message.bytes": str(4 << 20)})
    server = serving(queued_max_request_bytes=1 << 20)
    waiting, wire = Wire(server.address), Wire(server.address)
    waiting.send_fetch("orders", 0, max_wait_ms=LONG_MS)
    assert wire.produce("large", batch(os.urandom(3 << 20))).error_code == 0
    for each in (waiting, wire):
        each.close()
