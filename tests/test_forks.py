"""What a forked child may do with its parent's broker: nothing, and it can open its own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from brokers import eventually, put, read_all, values
from storage import Child

from seawall.broker import AsyncConsumer, AsyncProducer, Broker
from seawall.broker.errors import BrokerError, ForkedBroker


@pytest.fixture
def broker(folder: str) -> Iterator[Broker]:
    with Broker.open(folder) as opened:
        opened.create_topic("orders")
        yield opened


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except BrokerError as error:
        return f"{type(error).__name__} {getattr(error, 'opened_by_pid', '')}"
    return "no error"


async def open_async(broker: Broker) -> None:
    await (await AsyncConsumer.open(broker, "orders")).close()


def test_every_handle_refuses_in_a_child(broker: Broker) -> None:
    put(broker, b"before")
    producer = broker.producer(linger_ms=60_000)
    consumer = broker.consumer("orders", group="g")
    waiting = producer.send("orders", b"waiting")

    def use(say: Callable[[str], None]) -> None:
        calls: list[Callable[[], object]] = [
            lambda: broker.topics(),
            lambda: broker.create_topic("x"),
            lambda: broker.delete_topic("orders"),
            lambda: broker.ends("orders", 0),
            lambda: broker.producer(),
            lambda: broker.consumer("orders"),
            lambda: broker.groups(),
            lambda: broker.info(),
            lambda: list(broker.verify()),
            lambda: producer.send("orders", b"x"),
            lambda: producer.flush(),
            lambda: waiting.result(timeout=5),
            lambda: waiting.exception(timeout=5),
            lambda: consumer.poll(timeout_ms=None),
            lambda: consumer.ack(),
            lambda: consumer.lag(),
            lambda: next(iter(consumer)),
            lambda: AsyncProducer(broker),
            lambda: asyncio.run(open_async(broker)),
        ]
        for call in calls:
            say(outcome(call))
        producer.close()
        consumer.close()
        broker.close()
        broker.close()
        say("closed")

    said = Child(use).wait()
    assert said[-1] == "closed"
    assert set(said[:-1]) == {f"ForkedBroker {os.getpid()}"}
    # The parent goes on as if nothing had been.
    assert waiting.result().offset == 1
    assert values(consumer.poll()) == [b"before", b"waiting"]
    consumer.ack()
    assert broker.group("g").state == "Stable"


def test_a_child_opens_its_own_broker(broker: Broker, folder: str) -> None:
    producer = broker.producer()

    def own(say: Callable[[str], None]) -> None:
        with Broker.open(folder) as mine:
            assert mine.engine is not broker.engine
            put(mine, b"from the child")
            say(str(len(mine.group("g").members)))
            with mine.consumer("orders", group="g") as consumer:
                say(str(consumer.assignment()))

    with broker.consumer("orders", group="g"):
        assert Child(own).wait() == ["1", "[]"]
    assert Child(own).wait() == ["0", "[('orders', 0)]"]
    producer.send("orders", b"from the parent").result()
    assert sorted(values(read_all(broker))) == [  # type: ignore[type-var]
        b"from the child",
        b"from the child",
        b"from the parent",
    ]


def test_a_child_keeps_nothing_of_its_parents_alive(folder: str) -> None:
    """Neither the group's lock nor the directory's, though the child lives on."""

    def parent(say: Callable[[str], None]) -> None:
        broker = Broker.open(folder)
        broker.create_topic("orders")
        consumer = broker.consumer("orders", group="g", session_timeout_ms=600_000)
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
        say(str(child))
        consumer.poll(timeout_ms=600_000)

    process = Child(parent)
    grandchild = int(process.line())
    try:
        with (
            Broker.open(folder) as broker,
            broker.consumer("orders", group="g") as consumer,
        ):
            assert consumer.assignment() == []
            process.kill(signal.SIGKILL)
            # At once: its session would last for ten minutes.
            eventually(lambda: consumer.poll() == [] and consumer.assignment() == [("orders", 0)])
    finally:
        os.kill(grandchild, signal.SIGKILL)
        process.wait()


def test_forking_while_other_threads_are_at_work(broker: Broker, folder: str) -> None:
    """Whatever lock a thread holds at that moment, the child does not wait for it."""
    stop = threading.Event()

    def produce() -> None:
        with broker.producer(linger_ms=0) as producer:
            while not stop.is_set():
                producer.send("orders", b"x").result()

    def open_and_close() -> None:
        while not stop.is_set():
            with Broker.open(folder) as other, other.consumer("orders") as consumer:
                other.topics()
                consumer.poll(10)

    def own(say: Callable[[str], None]) -> None:
        say(outcome(broker.topics))
        broker.close()
        with Broker.open(folder) as mine:
            put(mine, b"child")
        say("done")

    threads = [threading.Thread(target=work) for work in (produce, produce, open_and_close)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            child = Child(own)
            timer = threading.Timer(60, os.kill, [child.pid, signal.SIGKILL])
            timer.start()
            said = child.wait()
            timer.cancel()
            timer.join()
            assert said == [f"ForkedBroker {os.getpid()}", "done"]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    with broker.consumer("orders") as consumer:
        children = 0
        while records := consumer.poll(5000):
            children += sum(record.value == b"child" for record in records)
    assert children == 15


def test_a_fork_server_that_opened_first(broker: Broker, folder: str) -> None:
    """As a web server that loads the application and then forks its workers."""
    put(broker, b"before")

    def work(say: Callable[[str], None]) -> None:
        with pytest.raises(ForkedBroker, match="start-up hook"):
            broker.topics()
        with Broker.open(folder) as mine, mine.producer() as producer:
            for _ in range(50):
                producer.send("orders", b"x").result()

    workers = [Child(work) for _ in range(3)]
    for worker in workers:
        assert worker.wait() == []
    assert broker.ends("orders", 0).durable_end == 151
