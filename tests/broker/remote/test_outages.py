"""Servers that die, hang and come back, in real time: nothing acknowledged is lost, nothing
unacknowledged is skipped, and what comes twice was not acknowledged.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from clients.endpoints import free_port
from long_rows import KILLS, long_row
from outages import (
    PATIENCE_S,
    QUICK,
    Server,
    hung_listener,
    location,
    read,
    serving,
    thread_serving,
    until,
)

from seawall.broker import AnyBroker, AnyConsumer, AnyDelivery, Broker, Record, connect
from seawall.broker.errors import (
    BrokerClosed,
    ConnectionLost,
    OutcomeUnknown,
    PartitionRevoked,
    UnknownTopic,
)
from seawall.broker.kafka.threaded import ServerThread
from seawall.broker.remote import troubles
from seawall.broker.remote.supervisor import Link
from seawall.broker.torture.proxy import CHUNK_BYTES, Proxy

AWAY_S = (0.0, 0.3, 1.0)


class Load:
    """A producer and a member of a group, at work in threads, and what they saw.

    At the end the producer sends no more, and the member goes on until it has acknowledged
    all that was accepted.
    """

    def __init__(self, broker: AnyBroker) -> None:
        self._broker = broker
        self._ended = threading.Event()
        self._all_sent = threading.Event()
        self.sent = 0
        self.accepted: dict[tuple[int, int], bytes] = {}
        self.refused: list[BaseException] = []
        self.seen: Counter[tuple[int, int]] = Counter()
        self.values: dict[tuple[int, int], bytes | None] = {}
        self.acknowledged: dict[int, int] = {}
        # Offsets that came although they were acknowledged.
        self.repeated: list[tuple[int, int]] = []
        self.failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(each,))
            for each in (self._produce, self._consume)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be acknowledged."""
        ends: dict[int, int] = {}
        for partition, offset in self.accepted:
            ends[partition] = max(offset + 1, ends.get(partition, 0))
        return self.acknowledged == ends

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.failures.append(error)
            raise

    def _produce(self) -> None:
        try:
            with self._broker.producer(on_delivery=self._delivered) as producer:
                while not self._ended.is_set():
                    producer.send("orders", b"%d" % self.sent)
                    self.sent += 1
                    time.sleep(0.002)
        finally:
            self._all_sent.set()

    def _delivered(self, delivery: AnyDelivery) -> None:
        error = delivery.exception()
        if error is not None:
            self.refused.append(error)
        else:
            _, partition, offset, _ = delivery.result()
            self.accepted[partition, offset] = b""

    def _consume(self) -> None:
        with self._broker.consumer("orders", group="billing") as consumer:
            quiet_since_s = time.monotonic()
            while not (self._all_sent.is_set() and self.is_done):
                assert time.monotonic() < quiet_since_s + PATIENCE_S, "nothing comes any more"
                records = consumer.poll(50, 100)
                for record in records:
                    quiet_since_s = time.monotonic()
                    place = record.partition, record.offset
                    self.seen[place] += 1
                    self.values[place] = record.value
                    if record.offset < self.acknowledged.get(record.partition, 0):
                        self.repeated.append(place)
                if records:
                    self._ack(consumer, records)

    def _ack(self, consumer: AnyConsumer, records: list[Record]) -> None:
        try:
            consumer.ack(records)
        except PartitionRevoked:
            return
        for record in records:
            done = self.acknowledged.get(record.partition, 0)
            self.acknowledged[record.partition] = max(done, record.offset + 1)


@long_row
@pytest.mark.timeout(120 + 20 * KILLS)
def test_kills_under_load(folder: str) -> None:
    retries: list[int] = []
    with (
        serving(folder) as server,
        connect(
            location(server.port), on_reconnect=lambda number, *_: retries.append(number), **QUICK
        ) as broker,
    ):
        broker.create_topic("orders", 2)
        supervisor = broker._supervisor  # type: ignore[attr-defined]
        with Load(broker) as load:
            for outage in range(KILLS):
                seen, away_s = len(load.seen), AWAY_S[outage % len(AWAY_S)]
                until(lambda seen=seen: len(load.seen) > seen + 100)
                until(lambda: supervisor.link is Link.UP)
                told = retries.count(1)
                server.kill()
                time.sleep(away_s)
                if away_s:  # one that is back at once may not be noticed
                    until(lambda told=told: retries.count(1) > told)
                server.start()
            seen = len(load.seen)
            until(lambda: len(load.seen) > seen + 100)
        assert load.failures == []
        assert load.refused == []
        assert len(load.accepted) == load.sent
        ends = {number: broker.ends("orders", number).durable_end for number in (0, 1)}
        everything = {(number, offset) for number in ends for offset in range(ends[number])}
        # Each record is there once, and was handed out.
        assert set(load.accepted) == everything == set(load.seen)
        assert Counter(load.values.values()) == Counter(b"%d" % n for n in range(load.sent))
        assert load.repeated == []
        duplicates = load.seen.total() - len(load.seen)
        print(f"{KILLS} kills, {load.sent} records, {duplicates} twice, none acknowledged")
        assert load.acknowledged == ends
        assert {o.partition: o.committed for o in broker.group("billing").offsets} == ends


def test_a_member_goes_on_after_a_restart_as_if_nothing_had_been(folder: str) -> None:
    lost: list[object] = []
    assigned: list[object] = []
    with (
        serving(folder) as server,
        connect(location(server.port), **QUICK) as broker,
    ):
        broker.create_topic("orders")
        with broker.producer() as producer:
            for number in range(10):
                producer.send("orders", b"%d" % number)
            calls = {"on_lost": lost.append, "on_assigned": assigned.append}
            with broker.consumer("orders", group="billing", **calls) as consumer:
                records = read(consumer, 10)
                consumer.ack(records[2])
                generation = broker.group("billing").generation
                server.kill()
                server.start()
                consumer.ack(records[5])
                assert consumer.committed("orders", 0) == 6
                assert consumer.poll(timeout_ms=300) == [], "it had them already"
                producer.send("orders", b"more").result(PATIENCE_S)
                assert [each.offset for each in read(consumer, 1)] == [10]
                consumer.ack()
                assert consumer.lag() == {("orders", 0): 0}
                assert broker.group("billing").generation == generation
        assert (lost, assigned) == ([], [[("orders", 0)]])


def test_a_member_comes_back_and_gets_what_it_had_not_acknowledged_once(folder: str) -> None:
    """Others had the group while the server was away, so it is no member any more."""
    lost = []
    with (
        serving(folder) as server,
        connect(location(server.port), **QUICK) as broker,
    ):
        broker.create_topic("orders")
        with broker.producer() as producer:
            for number in range(10):
                producer.send("orders", b"%d" % number)
        with broker.consumer("orders", group="billing", on_lost=lost.append) as consumer:
            records = read(consumer, 10)
            consumer.ack(records[2])
            server.kill()
            with (
                Broker.open(folder) as embedded,
                embedded.consumer("orders", group="billing") as other,
            ):
                assert [each.offset for each in read(other, 1)] == [3]
            server.start()
            consumer.ack(records[5])  # it joins anew for that
            assert consumer.committed("orders", 0) == 6
            assert [each.offset for each in read(consumer, 4)] == [6, 7, 8, 9]
            assert consumer.poll(timeout_ms=300) == []
            consumer.ack()
            assert consumer.lag() == {("orders", 0): 0}
        assert lost == [[("orders", 0)]]


def test_a_reader_without_a_group_goes_on_at_its_position(folder: str) -> None:
    with (
        serving(folder) as server,
        connect(location(server.port), **QUICK) as broker,
        broker.producer() as producer,
    ):
        broker.create_topic("orders")
        producer.send("orders", b"0").result(PATIENCE_S)
        with broker.consumer("orders", start="start") as consumer:
            assert len(read(consumer, 1)) == 1
            server.kill()
            waiting = producer.send("orders", b"1")
            assert consumer.poll(timeout_ms=300) == []
            assert not waiting.done()
            server.start()
            assert waiting.result(PATIENCE_S).offset == 1
            assert [each.value for each in read(consumer, 1)] == [b"1"]


def test_a_server_that_is_not_there_yet_is_waited_for(folder: str) -> None:
    server = Server(folder)
    told: list[tuple[int, float, Exception]] = []
    connected: list[float] = []
    with connect(
        location(server.port),
        on_reconnect=lambda *facts: told.append(facts),
        on_connected=connected.append,
        **QUICK,
    ) as broker:
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(broker.topics()))
        thread.start()
        try:
            until(lambda: len(told) >= 3)
            assert found == []
            server.start()
            before = len(told)
            until(lambda: connected)
            thread.join(PATIENCE_S)
            assert found == [[]]
        finally:
            broker.close()
            server.kill()
            thread.join()
        # An attempt that was under way is the only one that may fail with the server there.
        assert before <= len(told) <= before + 1
        assert [attempt for attempt, _, _ in told] == list(range(1, len(told) + 1))
        assert all(0 <= delay_s <= 0.3 for _, delay_s, _ in told)


def test_giving_up_is_told_to_all_who_wait(folder: str) -> None:
    with (
        serving(folder) as server,
        connect(location(server.port), reconnect_attempts=2, **QUICK) as broker,
    ):
        broker.create_topic("orders")
        producer = broker.producer()
        producer.send("orders", b"0").result(PATIENCE_S)
        with broker.consumer("orders", group="billing") as consumer:
            [record] = read(consumer, 1)
            server.kill()
            delivery = producer.send("orders", b"1")
            with pytest.raises(ConnectionLost) as caught:
                consumer.poll(timeout_ms=PATIENCE_S * 1000)
            assert caught.value.attempts == 2
            assert isinstance(delivery.exception(PATIENCE_S), (ConnectionLost, OutcomeUnknown))
            with pytest.raises(ConnectionLost):
                broker.topics()
            with pytest.raises(ConnectionLost):
                consumer.ack(record)
            # What is sent after that is tried for as often again.
            late = producer.send("orders", b"late")
            assert isinstance(late.exception(PATIENCE_S), ConnectionLost)
            # And all of it goes on once there is a server again.
            server.start()
            assert [topic.name for topic in broker.topics()] == ["orders"]
            consumer.ack(record)
            assert producer.send("orders", b"2").result(PATIENCE_S).offset in (1, 2)
        producer.close()


def stop(server: Server, may_go_on: Callable[[], None]) -> None:
    with server.stopped():
        may_go_on()


def replace(server: Server, may_go_on: Callable[[], None]) -> None:
    server.kill()
    try:
        with hung_listener(server.port) as accepted:
            may_go_on()
            assert accepted
    finally:
        server.start()


def test_a_loss_that_is_over_is_no_news(folder: str) -> None:
    """For who did not poll meanwhile. Who polls before it is over, hears of it as it was."""
    may_go_on = threading.Event()
    told: list[int] = []

    def report(number: int, *_: object) -> None:
        told.append(number)
        if len(told) > 2:
            may_go_on.wait()  # the attempts of whoever wants something next are under way

    with (
        serving(folder) as server,
        connect(
            location(server.port), reconnect_attempts=2, on_reconnect=report, **QUICK
        ) as broker,
    ):
        broker.create_topic("orders")
        with (
            broker.consumer("orders", start="start") as early,
            broker.consumer("orders", start="start") as late,
        ):
            supervisor = broker._supervisor  # type: ignore[attr-defined]
            server.kill()
            try:
                supervisor.suspect()
                until(lambda: supervisor.failures == 1)
                supervisor.suspect()
                until(lambda: told == [1, 2, 1])
                with pytest.raises(ConnectionLost) as caught:
                    early.poll(timeout_ms=PATIENCE_S * 1000)
                assert caught.value.attempts == 2
                server.start()
            finally:
                may_go_on.set()
            assert [topic.name for topic in broker.topics()] == ["orders"]
            assert early.poll(timeout_ms=200) == late.poll(timeout_ms=200) == []
            with broker.producer() as producer:
                producer.send("orders", b"0")
            assert len(read(early, 1)) == len(read(late, 1)) == 1


@pytest.mark.parametrize("hang", [stop, replace])
def test_what_accepts_and_does_not_answer_is_waited_for(
    folder: str, hang: Callable[[Server, Callable[[], None]], None]
) -> None:
    """By a producer, a member, its acknowledgement, a reader, a question and a change."""
    told: list[tuple[int, Exception]] = []
    with (
        serving(folder) as server,
        connect(
            location(server.port, "socket.timeout.ms=500"),
            on_reconnect=lambda number, _, error: told.append((number, error)),
            **QUICK,
        ) as broker,
        broker.producer() as producer,
        ThreadPoolExecutor(4) as threads,
    ):
        broker.create_topic("orders")
        for number in range(3):
            producer.send("orders", b"%d" % number)
        producer.flush(PATIENCE_S * 1000)
        with (
            broker.consumer("orders", group="billing") as consumer,
            broker.consumer("orders", start="start") as reader,
        ):
            records = read(consumer, 3)
            assert len(read(reader, 3)) == 3
            waiting: list[Future[object]] = []

            def may_go_on() -> None:
                delivery = producer.send("orders", b"3")
                waiting.extend(
                    threads.submit(each)
                    for each in (
                        lambda: delivery.result(PATIENCE_S).offset,
                        lambda: consumer.ack(records[1]),
                        lambda: broker.ends("orders", 0).durable_end in (3, 4),
                        lambda: broker.create_topic("payments").name,
                    )
                )
                before = len(told)
                until(lambda: len(told) >= before + 3)
                assert [each.done() for each in waiting] == [False] * 4

            hang(server, may_go_on)
            assert [each.result(PATIENCE_S) for each in waiting] == [3, None, True, "payments"]
            assert [each.offset for each in read(reader, 1)] == [3]
            # A member that was taken for dead gets again what it had not acknowledged.
            seen: list[int] = []
            until(lambda: seen.extend(r.offset for r in consumer.poll(10, 100)) or 3 in seen)
            assert seen in ([3], [2, 3])
            assert consumer.poll(timeout_ms=300) == reader.poll(timeout_ms=300) == []
            consumer.ack()
            assert broker.group("billing").offsets[0].committed == 4
    assert any("did not answer within 0.5 s" in str(error) for _, error in told)


def test_a_listener_that_accepts_and_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with (
            connect(location(port, "socket.timeout.ms=200"), reconnect_attempts=1, **QUICK) as hung,
            pytest.raises(ConnectionLost) as caught,
        ):
            hung.topics()
    assert "did not answer within 0.2 s" in caught.value.reason


def test_closing_does_not_wait_for_a_server_that_is_away(folder: str) -> None:
    with (
        serving(folder) as server,
        connect(location(server.port), **QUICK) as broker,
    ):
        broker.create_topic("orders")
        with broker.producer() as producer:
            producer.send("orders", b"0").result(PATIENCE_S)
        consumer = broker.consumer(
            "orders", group="billing", session_timeout_ms=2_000, heartbeat_interval_ms=500
        )
        alone = broker.consumer("orders")
        [record] = read(consumer, 1)
        server.kill()
        refused: list[BaseException] = []

        def ack() -> None:
            try:
                consumer.ack(record)
            except BrokerClosed as error:
                refused.append(error)

        acking = threading.Thread(target=ack)
        acking.start()
        until(lambda: not broker_is_up(broker))
        consumer.close()
        alone.close()
        broker.close()
        acking.join(PATIENCE_S)
        assert len(refused) == 1


@pytest.mark.parametrize("hang", [stop, replace, None])
def test_closing_during_an_outage_leaves_no_thread_behind(
    folder: str, hang: Callable[[Server, Callable[[], None]], None] | None
) -> None:
    """Of ours nor of librdkafka's, whether the server refuses or hangs."""
    told: list[int] = []
    with (
        serving(folder) as server,
        connect(
            location(server.port, "socket.timeout.ms=2000"),
            on_reconnect=lambda number, *_: told.append(number),
        ) as broker,
    ):
        broker.create_topic("orders")
        producer = broker.producer()
        producer.send("orders", b"0").result(PATIENCE_S)
        consumer = broker.consumer("orders", group="billing")
        reader = broker.consumer("orders")
        read(consumer, 1)
        refused: list[BaseException] = []

        def ask() -> None:
            try:
                broker.topics()
            except BrokerClosed as error:
                refused.append(error)

        asking = threading.Thread(target=ask)

        def close_all() -> None:
            delivery = producer.send("orders", b"1")
            broker._supervisor.suspect()  # type: ignore[attr-defined]
            if hang is None:
                until(lambda: told)
            asking.start()
            with pytest.raises(TimeoutError, match="1 record was not acknowledged"):
                producer.close(100)
            assert isinstance(delivery.exception(0), (BrokerClosed, OutcomeUnknown))
            consumer.close()
            reader.close()
            broker.close()
            asking.join(PATIENCE_S)
            assert len(refused) == 1
            until(lambda: not any(e.name.startswith("seawall") for e in threading.enumerate()))
            attempts.append(len(told))

        attempts: list[int] = []
        if hang is not None:
            hang(server, close_all)
        else:
            server.kill()
            close_all()
    assert attempts == [len(told)], "it went on trying"


def test_only_the_thread_that_is_called_back_cannot_wait(folder: str) -> None:
    """Another one that acknowledges meanwhile waits for a server as always."""
    found: list[bool] = []

    def revoked(places: object) -> None:
        found.append(consumer._is_calling_back)  # type: ignore[union-attr]
        with ThreadPoolExecutor(1) as threads:
            found.append(
                threads.submit(lambda: consumer._is_calling_back).result()  # type: ignore[union-attr]
            )

    with thread_serving(folder) as server, connect(f"kafka://{server.address}") as broker:
        broker.create_topic("orders")
        with broker.producer() as producer:
            producer.send("orders", b"0")
        with broker.consumer("orders", group="billing", on_revoked=revoked) as consumer:
            assert len(read(consumer, 1)) == 1
            found.append(consumer._is_calling_back)  # type: ignore[union-attr]
    assert found == [False, True, False]


def test_an_ack_whose_client_is_closed_meanwhile(folder: str) -> None:
    with thread_serving(folder) as server, connect(f"kafka://{server.address}") as broker:
        broker.create_topic("orders")
        with broker.producer() as producer:
            producer.send("orders", b"0")
        with broker.consumer("orders", group="billing") as consumer:
            [record] = read(consumer, 1)
            consumer.client.close()  # type: ignore[union-attr]
            with pytest.raises(BrokerClosed):
                consumer.ack(record)


def broker_is_up(broker: AnyBroker) -> bool:
    return bool(broker._supervisor.require(0))  # type: ignore[attr-defined]


class Cutter(Proxy):
    """Cuts each connection in the middle of an answer, `left` bytes from now."""

    left: int | None = None
    cuts = 0

    async def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        flowing: asyncio.Event,
        *,
        are_answers: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(source, CHUNK_BYTES):
                left = self.left if are_answers else None
                if left is not None and len(data) >= left:
                    self.left, self.cuts = None, self.cuts + 1
                    await loop.sock_sendall(sink, data[:left])
                    return
                if left is not None:
                    self.left = left - len(data)
                await loop.sock_sendall(sink, data)
        except OSError:
            pass


def test_a_topic_that_is_made_anew_while_an_acknowledgement_waits(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of the old one is not acknowledged in the new one."""
    monkeypatch.setattr(troubles, "SAME_INTERVAL_S", 0.0)
    port = free_port()
    given = {"listen": f"127.0.0.1:{port}", "group_initial_rebalance_delay_ms": 0}
    with (
        ThreadPoolExecutor(1) as other,
        Broker.open(folder) as local,
        connect(location(port), **QUICK) as broker,
    ):

        def fill() -> None:
            with local.producer() as producer:
                for number in range(10):
                    producer.send("payments", b"%d" % number)

        local.create_topic("payments")
        fill()
        with ServerThread(local, **given):
            consumer = broker.consumer("payments", group="billing")
            read(consumer, 10)
        broker._supervisor.suspect()  # type: ignore[attr-defined]
        until(lambda: broker._supervisor.link is Link.DOWN)  # type: ignore[attr-defined]
        acknowledging = other.submit(consumer.ack)
        until(lambda: consumer._wanted)  # type: ignore[union-attr]
        local.delete_topic("payments")
        local.create_topic("payments")
        fill()
        with ServerThread(local, **given):
            with pytest.raises(UnknownTopic) as caught:
                acknowledging.result(PATIENCE_S)
            assert caught.value.is_another
            assert not local.group_offsets("billing")
            consumer.close()


def test_answers_that_are_cut_in_the_middle(folder: str) -> None:
    port = free_port()
    with (
        Cutter(port) as proxy,
        thread_serving(folder, listen=f"127.0.0.1:{port}", advertise=f"127.0.0.1:{proxy.port}"),
        connect(location(proxy.port), **QUICK) as broker,
        broker.producer() as producer,
    ):
        broker.create_topic("orders")
        cuts = (3, 50, 5_000, 20_000)
        found: list[int] = []
        sent: list[AnyDelivery] = []
        with broker.consumer("orders", group="billing") as consumer:
            for number, left in enumerate(cuts, 1):
                proxy.left = left
                sent += [producer.send("orders", b"x" * 1000) for _ in range(30)]
                for record in read(consumer, 30):
                    found.append(record.offset)
                    consumer.ack(record)
                until(lambda number=number: proxy.cuts == number)
        assert [each.result(PATIENCE_S).offset for each in sent] == list(range(len(sent)))
        assert found == list(range(len(sent)))


def test_a_connection_that_is_cut_is_only_an_interruption(folder: str) -> None:
    port = free_port()
    with (
        Proxy(port) as proxy,
        thread_serving(folder, listen=f"127.0.0.1:{port}", advertise=f"127.0.0.1:{proxy.port}"),
        connect(location(proxy.port), **QUICK) as broker,
        broker.producer() as producer,
    ):
        broker.create_topic("orders")
        with broker.consumer("orders", group="billing") as consumer:
            for number in range(3):
                producer.send("orders", b"%d" % number)
                [record] = read(consumer, 1)
                assert record.value == b"%d" % number
                proxy.cut()
                consumer.ack(record)
        assert broker.group("billing").offsets[0].committed == 3
