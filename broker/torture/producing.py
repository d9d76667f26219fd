"""Clients that send, in every way that there is to wait for the outcome."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from functools import partial

from seawall.broker.errors import BrokerClosed, BrokerError, OutcomeUnknown
from seawall.broker.torture.clients import Client, Surroundings, make_value, pause
from seawall.broker.torture.connection import Connection, DeliveryLike, ProducerLike

COMPRESSIONS = ("none", "none", "gzip", "snappy", "lz4", "zstd")
MOST_VALUE_BYTES = 2000
# A record whose outcome takes longer than this has none.
PATIENCE_S = 60.0


class ProducingClient(Client):
    """Sends, in every way that there is to wait for the outcome."""

    _count = 0

    def turn(self, connection: Connection) -> bool:
        """Open a producer, send some records, and close it or leave that to the connection."""
        producer = any_producer(connection, self.random)
        self.send_some(producer)
        if self.random.random() < 0.3:
            # Not two at once: it is one producer's records that keep their order.
            return False
        producer.close()
        return True

    def send_some(self, producer: ProducerLike) -> None:
        """Send some records. Raises what befell one of them."""
        ways = [self._one_by_one, self._in_a_row, self._called_back, self._impatiently]
        for _ in range(self.random.randrange(1, 5)):
            self.random.choice(ways)(producer)
            pause(self.random, 0.01)

    def _one_by_one(self, producer: ProducerLike) -> None:
        for _ in range(self.random.randrange(1, 20)):
            self._settle(*self._send(producer))

    def _in_a_row(self, producer: ProducerLike) -> None:
        sent = [self._send(producer) for _ in range(self.random.randrange(1, 100))]
        if self.random.random() < 0.3:
            self.random.shuffle(sent)
        for number, delivery in sent:
            self._settle(number, delivery)

    def _called_back(self, producer: ProducerLike) -> None:
        for _ in range(self.random.randrange(1, 100)):
            number, delivery = self._send(producer)
            delivery.add_done_callback(partial(self._settle, number))
        if self.random.random() < 0.5:
            producer.flush()

    def _impatiently(self, producer: ProducerLike) -> None:
        """Send again what was not acknowledged at once: both may be there in the end."""
        sent = []
        for _ in range(self.random.randrange(1, 20)):
            topic, partition, named = self._topic(), None, self._value()
            while True:
                sent.append(self._send(producer, topic=topic, partition=partition, named=named))
                try:
                    sent[-1][1].result(timeout=self.random.choice([0, 0.0002, 0.002]))
                    break
                except TimeoutError:
                    if self.random.random() < 0.5:
                        break
                except BrokerError:
                    break
        for number, delivery in sent:
            self._settle(number, delivery)

    def _value(self) -> tuple[str, bytes]:
        self._count += 1
        size = self.random.choice([0, 10, 100, self.random.randrange(MOST_VALUE_BYTES)])
        return make_value(self.process, self._count, size)

    def _send(
        self,
        producer: ProducerLike,
        *,
        topic: str = "",
        partition: int | None = None,
        named: tuple[str, bytes] | None = None,
    ) -> tuple[int, DeliveryLike]:
        topic = topic or self._topic()
        name, value = named or self._value()
        key = None
        chance = self.random.random()
        if chance < 0.7:
            partition = self.random.randrange(self.surroundings.topics[topic])
        elif chance < 0.85:
            key = b"%d" % self.random.randrange(10)
        number = self.recorder.invoke(
            "send",
            partition=f"{topic}/{'' if partition is None else partition}",
            values=(name,),
        )
        try:
            return number, producer.send(topic, value, key=key, partition=partition)
        except BrokerError as error:
            self.recorder.fail(number, "send", error)
            raise

    def _settle(self, number: int, delivery: DeliveryLike) -> None:
        """Wait for an outcome, and write it down."""
        try:
            metadata = delivery.result(timeout=PATIENCE_S)
        except (OutcomeUnknown, TimeoutError) as error:
            self.recorder.info(number, "send", error)
            raise
        except BrokerError as error:
            self.recorder.fail(number, "send", error)
            raise
        self.recorder.ok(
            number,
            "send",
            partition=f"{metadata.topic}/{metadata.partition}",
            offsets=(metadata.offset,),
        )


class SharingClient(Client):
    """Several threads that send by one producer, which may be closed while they do."""

    def __init__(self, surroundings: Surroundings, process: str, seed: int) -> None:
        super().__init__(surroundings, process, seed)
        self._helpers = [
            ProducingClient(surroundings, f"{process}-{letter}", self.random.randrange(2**32))
            for letter in "abc"
        ]

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Each thread has a history; this one itself does nothing worth telling."""
        with contextlib.ExitStack() as stack:
            for helper in self._helpers:
                stack.enter_context(helper.recording())
            yield

    def turn(self, connection: Connection) -> bool:
        """Let all threads send some records."""
        producer = any_producer(connection, self.random)
        failures: list[BaseException] = []

        def send_some(helper: ProducingClient) -> None:
            try:
                helper.send_some(producer)
            except BrokerClosed:
                pass
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)

        threads = [
            threading.Thread(target=send_some, args=(helper,), daemon=True)
            for helper in self._helpers
        ]
        for thread in threads:
            thread.start()
        if self.random.random() < 0.3:
            time.sleep(self.random.random() * 0.02)
            producer.close()
        for thread in threads:
            thread.join()
        producer.close()
        if failures:
            raise failures[0]
        return True


def any_producer(connection: Connection, pick: random.Random) -> ProducerLike:
    """A producer with whatever settings."""
    return connection.producer(
        linger_ms=pick.choice([0, 0, 1, 5, 30]),
        batch_bytes=pick.choice([200, 2_000, 65_536]),
        compression=pick.choice(COMPRESSIONS),
        durability=pick.choice(["fsync", "fsync", "os"]),
        idempotent=pick.choice([False, True]),
    )
