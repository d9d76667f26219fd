from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from brokers import broker_on, eventually, in_thread
from ports import free_port
from storage import FaultyFiles, memory_folder
from wire import LONG_MS, TIMEOUT_S, Wire, batch, request_bytes

from seawall.broker import Broker
from seawall.broker.compactor import Compactor
from seawall.broker.errors import BrokerClosed, BrokerError, ServerRunning
from seawall.broker.kafka import connection as connection_module
from seawall.broker.kafka import lanes
from seawall.broker.kafka import server as server_module
from seawall.broker.kafka.addresses import is_loopback, join_address, split_address
from seawall.broker.kafka.node import Node
from seawall.broker.kafka.server import serve
from seawall.broker.kafka.settings import ServerSettings, SettingError
from seawall.broker.kafka.threaded import ServerThread
from seawall.broker.raw import RawPlace, append_batches
from seawall.broker.raw_batches import DEFAULT_RULES
from seawall.broker.server_lease import ServerLease


def test_a_program_with_a_loop_embeds_it(broker: Broker) -> None:
    async def scenario() -> str:
        async with serve(broker, listen=f"127.0.0.1:{free_port()}") as server:
            wire = await asyncio.to_thread(Wire, server.address)
            answer = await asyncio.to_thread(wire.produce, "orders", batch(b"a"))
            assert answer.error_code == 0
            wire.close()
            return server.address

    host, port = split_address(asyncio.run(scenario()))
    assert host == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        Wire(f"{host}:{port}")


def test_one_server_for_a_directory(server: ServerThread, broker: Broker) -> None:
    with pytest.raises(ServerRunning) as raised, ServerThread(broker, listen="127.0.0.1:0"):
        pass
    assert raised.value.address == server.address
    server.stop()
    with ServerThread(broker, listen="127.0.0.1:0") as second:
        Wire(second.address).close()


def test_an_address_that_is_taken_leaves_no_lease(broker: Broker) -> None:
    with memory_folder() as path, Broker.open(path) as other:
        with (
            ServerThread(broker, listen="127.0.0.1:0") as server,
            pytest.raises(OSError, match="Address already in use"),
            ServerThread(other, listen=server.address),
        ):
            pass
        with ServerThread(other, listen="127.0.0.1:0"):
            pass


@pytest.mark.parametrize("step", ["take the lease", "tell the address", "start the compactor"])
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_start_that_does_not_succeed_leaves_nothing(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, step: str, is_cancelled: bool
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    place: Any = ServerLease if step != "start the compactor" else Compactor
    name = {"take the lease": "take", "tell the address": "tell"}.get(step, "start")
    real = getattr(place, name)

    def held(*args: Any) -> None:
        if args[1:] == ("",):  # the lease's own
            return
        entered.set()
        assert go_on.wait(60)
        if not is_cancelled:
            raise OSError(errno.ENOSPC, "full")
        real(*args)

    async def scenario() -> None:
        server = serve(broker, listen="127.0.0.1:0")
        starting = asyncio.create_task(server.start())
        await asyncio.to_thread(entered.wait, 60)
        if is_cancelled:
            starting.cancel()
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait([starting])
        assert starting.cancelled() == is_cancelled
        if not is_cancelled:
            assert isinstance(starting.exception(), OSError | BrokerError)
        if server.address:
            with pytest.raises(ConnectionRefusedError):
                Wire(server.address)

    with monkeypatch.context() as patched:
        patched.setattr(place, name, held)
        asyncio.run(scenario())
    with ServerThread(broker, listen="127.0.0.1:0"):
        pass


def test_a_stop_that_is_cancelled_leaves_nothing(broker: Broker) -> None:
    async def scenario() -> None:
        server = serve(broker, listen="127.0.0.1:0", grace_ms=600_000)
        await server.start()
        wire = await asyncio.to_thread(Wire, server.address)
        entered, go_on = asyncio.Event(), threading.Event()

        def wait() -> None:
            server.node.loop.call_soon_threadsafe(entered.set)
            go_on.wait(60)

        async def handle(request: Any, context: Any) -> Any:
            await context.run(wait)

        server.node.apis[18] = replace(server.node.apis[18], handle=handle)
        try:
            wire.send(18, 0)
            await entered.wait()
            stopping = asyncio.create_task(server.stop())
            while not server.node.stopping.is_set():
                await asyncio.sleep(0)
            stopping.cancel()
            await asyncio.wait([stopping])
            assert stopping.cancelled()
            assert not server.node.connections
            assert await asyncio.to_thread(wire.is_closed)
            async with serve(broker, listen="127.0.0.1:0"):
                pass
        finally:
            go_on.set()
            wire.close()

    asyncio.run(scenario())


def test_stopping_answers_what_was_accepted(serving: Callable[..., ServerThread]) -> None:
    server = serving(grace_ms=LONG_MS)
    wires = [Wire(server.address) for _ in range(5)]
    for wire in wires:
        wire.send_fetch("orders", 0, max_wait_ms=LONG_MS)
    connections = server.server.node.connections
    eventually(lambda: [each.is_idle for each in tuple(connections)] == [False] * len(wires))
    with in_thread(server.stop):
        pass  # long before its grace is over
    for wire in wires:
        assert wire.receive().responses[0].partitions[0].error_code == 0
        assert wire.is_closed()
        wire.close()


def test_stopping_ends_although_a_client_goes_on(serving: Callable[..., ServerThread]) -> None:
    server = serving(grace_ms=LONG_MS)
    wire = Wire(server.address)
    answered = 0

    def go_on() -> None:
        nonlocal answered
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                wire.send_produce("orders", batch(b"a"))
            while True:
                assert wire.receive().responses[0].partition_responses[0].error_code == 0
                answered += 1
                wire.send_produce("orders", batch(b"a"))

    client = threading.Thread(target=go_on)
    client.start()
    eventually(lambda: answered > 50)
    with in_thread(server.stop):
        pass  # long before its grace is over
    client.join()
    assert server.broker.ends("orders", 0).durable_end >= answered
    wire.close()


class Flood:
    """A client that sends one request after the other, whether or not it is answered."""

    def __init__(self, address: str) -> None:
        self.answered = 0
        self._wire = Wire(address)
        data = [{"index": 0, "records": batch(b"x" * 100)}]
        topics = [{"name": "orders", "partition_data": data}]
        fields = {"acks": -1, "timeout": 1000, "transactional_id": None, "topic_data": topics}
        self._request = request_bytes(0, 9, 1, fields)
        self._sender = threading.Thread(target=self._send)
        self._receiver = threading.Thread(target=self._receive)
        self._sender.start()
        self._receiver.start()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._wire.socket.sendall(self._request * 20)

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._wire.receive_frame()
                self.answered += 1
        # It has heard the last answer, and hangs up.
        with contextlib.suppress(OSError):  # it may be closed already
            self._wire.socket.shutdown(socket.SHUT_RDWR)
        self._sender.join()
        self._wire.close()

    def join(self) -> None:
        self._receiver.join()


def test_stopping_under_load_answers_whatever_is_stored(
    broker: Broker,
    serving: Callable[..., ServerThread],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It accepts nothing more, and its answers are not lost with what it has not read."""
    # No client here is given up before it has read them, however slow the machine is.
    for module in (connection_module, server_module):
        monkeypatch.setattr(module, "LINGER_S", TIMEOUT_S)
    monkeypatch.setattr(connection_module, "QUIET_S", TIMEOUT_S)
    server = serving(grace_ms=LONG_MS)
    floods = [Flood(server.address) for _ in range(3)]
    while not all(flood.answered for flood in floods):
        time.sleep(0.01)
    server.stop()
    for flood in floods:
        flood.join()
    assert sum(flood.answered for flood in floods) == broker.ends("orders", 0).durable_end
    assert caplog.messages == []


def test_stopping_waits_for_the_disk_but_not_for_ever() -> None:
    """A sync takes long: within the grace its request is answered, beyond it is not."""
    entered, go_on = threading.Event(), threading.Event()

    class Slow(FaultyFiles):
        is_slow = False

        def sync(self, descriptor: int) -> None:
            if self.is_slow:
                entered.set()
                go_on.wait(TIMEOUT_S)
            super().sync(descriptor)

    for grace_ms, is_answered in ((LONG_MS, True), (100, False)):
        entered.clear()
        go_on.clear()
        files = Slow()
        with memory_folder() as path, broker_on(files, path) as broker:
            broker.create_topic("orders")
            server = ServerThread(broker, listen="127.0.0.1:0", grace_ms=grace_ms)
            server.start()
            wire = Wire(server.address)
            assert wire.produce("orders", batch(b"first")).error_code == 0
            files.is_slow = True
            wire.send_produce("orders", batch(b"slow"))
            assert entered.wait(TIMEOUT_S)
            with in_thread(server.stop) as stopping:
                try:
                    if is_answered:
                        time.sleep(0.1)
                        assert stopping.is_alive()
                    else:
                        assert wire.is_closed()
                finally:
                    go_on.set()
                if is_answered:
                    assert wire.receive().responses[0].partition_responses[0].base_offset == 1
            wire.close()


def test_what_has_not_begun_when_the_grace_is_over_is_not_begun(
    serving: Callable[..., ServerThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much waits for a slow disk: its clients are gone."""
    entered, go_on, begun = threading.Event(), threading.Event(), []

    def held(*args: Any, **kwargs: Any) -> Any:
        begun.append(args)
        entered.set()
        assert go_on.wait(TIMEOUT_S)
        return append_batches(*args, **kwargs)

    monkeypatch.setattr(lanes, "append_batches", held)
    monkeypatch.setattr(lanes, "ROUND_BYTES", 1)
    server = serving(grace_ms=100)
    wire = Wire(server.address)
    try:
        for _ in range(3):
            wire.send_produce("orders", batch(b"a"))
        assert entered.wait(TIMEOUT_S)
        waiting = server.server.node.part(lanes.Lanes)._lanes
        eventually(lambda: sum(map(len, waiting.values())) == 2)
        with in_thread(server.stop):
            try:
                assert wire.is_closed()
                eventually(lambda: not any(waiting.values()))
            finally:
                go_on.set()
    finally:
        go_on.set()
        wire.close()
    assert len(begun) == 1
    assert server.broker.ends("orders", 0).durable_end == 1


def test_a_round_that_has_hardly_begun_when_the_grace_is_over(broker: Broker) -> None:
    topic = broker.topic("orders")
    place = RawPlace(
        topic=topic, config=topic.settings, partition=0, partition_id=topic.partitions[0].id
    )

    async def scenario() -> None:
        async with serve(broker, listen="127.0.0.1:0") as server:
            part = server.node.part(lanes.Lanes)
            outcome = part.append(place, batch(b"a"), DEFAULT_RULES)
            part._give_up()
            (begun,) = part._rounds
            await begun
            assert isinstance(await outcome, BrokerClosed)
            assert not part._lanes

    asyncio.run(scenario())


def test_parts_are_made_once_and_closed(server: ServerThread) -> None:
    closed: list[str] = []

    class Coordinator:
        def __init__(self, node: Node) -> None:
            self.node = node

        async def close(self) -> None:
            closed.append("coordinator")
            raise RuntimeError("it costs nobody else anything")

    node = server.server.node
    part = node.part(Coordinator)
    assert node.part(Coordinator) is part
    server.stop()
    assert closed == ["coordinator"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("127.0.0.1:9092", ("127.0.0.1", 9092)), ("[::1]:0", ("::1", 0)), ("host:1", ("host", 1))],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert split_address(text) == found
    assert join_address(*found) == text


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "::1:9", "h:70000", "h:-1", "h:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(text)


def test_who_can_be_reached() -> None:
    assert [is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(h) for h in ("0.0.0.0", "::", "10.0.0.1", "example.org")] == [False] * 4
    with pytest.raises(SettingError, match="authenticated"):
        ServerSettings(listen="0.0.0.0:9092")
    with pytest.raises(SettingError, match="no client can connect to"):
        ServerSettings(listen="0.0.0.0:9092", allow_remote=True)
    assert ServerSettings(listen="0.0.0.0:9092", allow_remote=True, advertise="here:1").allow_remote


def test_what_clients_are_told(serving: Callable[..., ServerThread]) -> None:
    server = serving(advertise="broker.example:1234")
    wire = Wire(server.address)
    [node] = wire.ask(3, 1, topics=()).brokers
    assert (node.host, node.port) == ("broker.example", 1234)
    wire.close()


def test_the_fixture_for_other_peoples_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from confluent_kafka import Producer

        def test_a_service(seawall_server):
            producer = Producer({"bootstrap.servers": seawall_server.address, "log_level": 0})
            producer.produce("events", b"hello")
            assert producer.flush(60) == 0
            assert seawall_server.broker.ends("events", 0).durable_end == 1
        """
    )
    others = ("cacheprovider", "randomly", "hypothesispytest", "xdist")
    without = [each for name in others for each in ("-p", f"no:{name}")]
    ended = pytester.runpytest_subprocess(*without)
    ended.assert_outcomes(passed=1)
