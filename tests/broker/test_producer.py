"""`Producer`: sending, batching, order, its buffer, its errors, its end."""

from __future__ import annotations

import threading
import time

import pytest
from brokers import LONG_S, broker_on, drain, eventually, in_thread, put, read_all, values
from storage import FaultyFiles

from seawall.broker import Broker, Delivery, RecordMetadata
from seawall.broker.errors import (
    BrokerClosed,
    BrokerError,
    BufferFull,
    RecordTooLarge,
    UnknownPartition,
    UnknownTopic,
)
from seawall.broker.partitioner import partition_for_key
from seawall.wal.segment import list_segments


def test_what_was_sent_is_what_is_read(broker: Broker) -> None:
    with broker.producer() as producer:
        first = producer.send(
            "orders", b"value", key=b"key", headers={"a": b"1", "b": None}, timestamp=1234
        )
        producer.send("orders", None, headers=[("x", b"1"), ("x", b"2")])
        assert first.result() == RecordMetadata("orders", 0, 0, 1234)
    one, two = read_all(broker)
    assert (one.key, one.value, one.timestamp) == (b"key", b"value", 1234)
    assert list(one.headers) == [("a", b"1"), ("b", None)]
    assert (two.key, two.value, list(two.headers)) == (None, None, [("x", b"1"), ("x", b"2")])


def test_a_record_without_a_timestamp_gets_the_present_time(broker: Broker) -> None:
    before = time.time_ns() // 1_000_000
    with broker.producer() as producer:
        got = producer.send("orders", b"x").result().timestamp
    assert before <= got <= time.time_ns() // 1_000_000
    assert read_all(broker)[0].timestamp == got


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_compression(broker: Broker, compression: str) -> None:
    wanted = [b"the same again %d" % (number % 10) for number in range(500)]
    with broker.producer(compression=compression) as producer:
        for value in wanted:
            producer.send("orders", value)
    assert values(read_all(broker)) == wanted


def test_log_append_time(broker: Broker) -> None:
    broker.create_topic("stamped", config={"message.timestamp.type": "LogAppendTime"})
    before = time.time_ns() // 1_000_000
    with broker.producer() as producer:
        got = producer.send("stamped", b"x", timestamp=5).result().timestamp
    assert got >= before
    assert [record.timestamp for record in read_all(broker, "stamped")] == [got]


def test_bytes_like_values_are_taken_as_bytes(broker: Broker) -> None:
    with broker.producer() as producer:
        producer.send("orders", memoryview(b"abc"), key=bytearray(b"k"))  # type: ignore[arg-type]
    assert read_all(broker)[0][4:6] == (b"k", b"abc")


# -- which partition -----------------------------------------------------------------


def test_a_key_decides_the_partition_as_kafka_does(broker: Broker) -> None:
    broker.create_topic("keyed", partitions=7)
    with broker.producer() as producer:
        for number in range(50):
            key = b"key-%d" % number
            assert producer.send("keyed", b"", key=key).result().partition == partition_for_key(
                key, 7
            )


def test_records_without_a_key_spread_over_the_partitions(broker: Broker) -> None:
    broker.create_topic("spread", partitions=4)
    with broker.producer(batch_bytes=1000) as producer:
        for _ in range(2000):
            producer.send("spread", b"x" * 50)
    counts = [broker.ends("spread", number).durable_end for number in range(4)]
    assert sum(counts) == 2000
    assert min(counts) > 400


def test_an_explicit_partition(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    with broker.producer() as producer:
        assert producer.send("two", b"", key=b"k", partition=1).result().partition == 1
        for bad in (-1, 2):
            with pytest.raises(UnknownPartition) as caught:
                producer.send("two", b"", partition=bad)
            assert (caught.value.partition, caught.value.partitions) == (bad, 2)


def test_a_partitioner_of_ones_own(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    asked = []

    def partitioner(topic: str, key: bytes | None, partitions: int) -> int:
        asked.append((topic, key, partitions))
        return 1

    with broker.producer(partitioner=partitioner) as producer:
        assert producer.send("two", b"", key=b"k").result().partition == 1
        assert producer.send("two", b"").result().partition == 1
    assert asked == [("two", b"k", 2), ("two", None, 2)]


# -- what is refused -----------------------------------------------------------------


def test_an_unknown_topic(broker: Broker) -> None:
    with broker.producer() as producer:
        with pytest.raises(UnknownTopic) as caught:
            producer.send("nowhere", b"x")
        assert caught.value.topic == "nowhere"
        broker.create_topic("nowhere")
        producer.send("nowhere", b"x").result()


def test_a_record_above_max_message_bytes(broker: Broker) -> None:
    broker.create_topic("small", config={"max.message.bytes": 1000})
    with broker.producer() as producer:
        with pytest.raises(RecordTooLarge) as caught:
            producer.send("small", b"x" * 1000)
        assert caught.value.topic == "small"
        assert caught.value.size_bytes > caught.value.max_bytes == 1000 - 61
        producer.send("small", b"x" * 800).result()
        for _ in range(10):
            producer.send("small", b"y" * 300)
    assert len(read_all(broker, "small")) == 11


@pytest.mark.parametrize(
    "bad",
    [
        {"value": "text"},
        {"key": "text"},
        {"headers": {"a": "text"}},
        {"headers": {b"a": b"1"}},
        {"timestamp": 1.5},
        {"timestamp": "now"},
        {"timestamp": True},
    ],
)
def test_wrong_types_are_refused_at_once(broker: Broker, bad: dict[str, object]) -> None:
    with broker.producer() as producer:
        kept = producer.send("orders", b"innocent")
        with pytest.raises(TypeError):
            producer.send("orders", **{"value": b"", **bad})  # type: ignore[arg-type]
        assert kept.result().offset == 0
    assert values(read_all(broker)) == [b"innocent"]


@pytest.mark.parametrize(
    "bad", [{"timestamp": 1 << 62}, {"timestamp": -(1 << 63)}, {"headers": {"\ud800": b""}}]
)
def test_what_cannot_be_encoded_is_refused_at_once(broker: Broker, bad: dict[str, object]) -> None:
    with broker.producer() as producer:
        kept = producer.send("orders", b"innocent")
        with pytest.raises(ValueError):
            producer.send("orders", b"", **bad)  # type: ignore[arg-type]
        assert kept.result().offset == 0
    assert values(read_all(broker)) == [b"innocent"]


def test_extreme_timestamps_share_a_batch(broker: Broker) -> None:
    stamps = [0, -1, (1 << 61) - 1, -(1 << 61) + 1, 5]
    with broker.producer() as producer:
        sent = [producer.send("orders", b"", timestamp=stamp) for stamp in stamps]
        for delivery, stamp in zip(sent, stamps, strict=True):
            assert delivery.result().timestamp == stamp
    assert [record.timestamp for record in read_all(broker)] == stamps


@pytest.mark.parametrize(
    "bad",
    [
        {"linger_ms": -1},
        {"batch_bytes": 0},
        {"buffer_bytes": 0},
        {"max_block_ms": -1},
        {"compression": "brotli"},
        {"durability": "hope"},
    ],
)
def test_bad_settings(broker: Broker, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        broker.producer(**bad)  # type: ignore[arg-type]


# -- when ----------------------------------------------------------------------------


def test_linger_brings_a_record_out_by_itself(broker: Broker) -> None:
    with broker.producer(linger_ms=20) as producer, broker.consumer("orders") as consumer:
        started = time.monotonic()
        producer.send("orders", b"x")
        assert values(consumer.poll(timeout_ms=1000 * LONG_S)) == [b"x"]
        assert 0.015 < time.monotonic() - started < LONG_S
        eventually(lambda: producer._sender._parked)  # its thread sleeps without a timer
        producer.send("orders", b"y")
        assert values(consumer.poll(timeout_ms=1000 * LONG_S)) == [b"y"]


def test_without_linger_a_record_goes_out_at_once(broker: Broker) -> None:
    with broker.producer(linger_ms=0) as producer, broker.consumer("orders") as consumer:
        for number in range(20):
            producer.send("orders", b"%d" % number)
            assert values(consumer.poll(timeout_ms=1000 * LONG_S)) == [b"%d" % number]


def test_a_full_batch_does_not_wait_for_linger(broker: Broker) -> None:
    with (
        broker.producer(linger_ms=60_000, batch_bytes=500) as producer,
        broker.consumer("orders") as consumer,
    ):
        for _ in range(5):
            producer.send("orders", b"x" * 200)
        assert len(consumer.poll(timeout_ms=1000 * LONG_S)) >= 2


def test_asking_for_a_result_does_not_wait_for_linger(broker: Broker) -> None:
    with broker.producer(linger_ms=60_000) as producer:
        assert producer.send("orders", b"x").result(timeout=LONG_S).offset == 0


def test_flush_does_not_wait_for_linger(broker: Broker) -> None:
    with broker.producer(linger_ms=60_000) as producer:
        sent = producer.send("orders", b"x")
        producer.flush(timeout_ms=1000 * LONG_S)
        assert sent.done()


def test_flush_ends_though_others_go_on_sending(broker: Broker) -> None:
    stop = threading.Event()
    with broker.producer(linger_ms=0, max_block_ms=60_000) as producer:

        def send_on() -> None:
            while not stop.is_set():
                producer.send("orders", b"x" * 100)

        with in_thread(send_on), in_thread(send_on):
            try:
                for _ in range(5):
                    sent = producer.send("orders", b"mine")
                    producer.flush(timeout_ms=1000 * LONG_S)
                    assert sent.done()
            finally:
                stop.set()


def test_os_durability_syncs_a_moment_later(broker: Broker) -> None:
    with (
        broker.producer(durability="os", linger_ms=0) as producer,
        broker.consumer("orders") as consumer,
    ):
        producer.send("orders", b"x").result()
        assert values(consumer.poll(timeout_ms=1000 * LONG_S)) == [b"x"]


# -- order ---------------------------------------------------------------------------


def test_each_threads_records_keep_their_order(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    threads, count = 6, 300

    def work(name: int) -> None:
        for number in range(count):
            sent = producer.send("two", b"%d %d" % (name, number), partition=number % 2)
            if number % 50 == name:
                sent.result()
            if number % 97 == name:
                producer.flush()

    with broker.producer(linger_ms=1, batch_bytes=2000) as producer:
        workers = [threading.Thread(target=work, args=(name,)) for name in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    records = read_all(broker, "two")
    assert len(records) == threads * count
    for partition in range(2):
        mine = [record for record in records if record.partition == partition]
        assert [record.offset for record in mine] == list(range(len(mine)))
        for name in range(threads):
            numbers = [
                int(record.value.split()[1])
                for record in mine
                if record.value is not None and int(record.value.split()[0]) == name
            ]
            assert numbers == list(range(partition, count, 2))


def test_many_threads_wait_for_their_results(broker: Broker) -> None:
    offsets: list[int] = []

    def work() -> None:
        for _ in range(50):
            offsets.append(producer.send("orders", b"x").result(timeout=LONG_S).offset)

    with broker.producer() as producer:
        workers = [threading.Thread(target=work) for _ in range(16)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert sorted(offsets) == list(range(800))


# -- the buffer ----------------------------------------------------------------------


def test_buffer_full_after_max_block_ms(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder, lock_timeout_ms=600_000) as broker:
        broker.create_topic("orders")
        log = broker.engine.log(broker.topic("orders").partitions[0].id)
        with broker.producer(buffer_bytes=2000, max_block_ms=100, linger_ms=0) as producer:
            other = broker_lock(files, log.context.lock_path)
            try:
                sent = [producer.send("orders", b"x" * 900)]
                started = time.monotonic()
                with pytest.raises(BufferFull) as caught:
                    for _ in range(3):
                        sent.append(producer.send("orders", b"x" * 900))
                assert 0.09 < time.monotonic() - started < LONG_S
                assert (caught.value.buffer_bytes, caught.value.max_block_ms) == (2000, 100)
            finally:
                files.close(other)
            for delivery in sent:  # those that were taken have an outcome all the same
                delivery.exception(timeout=LONG_S)
            assert producer.send("orders", b"again").result().offset >= 0


def broker_lock(files: FaultyFiles, path: str) -> int:
    """Take a partition's append lock, as another process would."""
    descriptor = files.open(path, 2)
    assert files.try_lock(descriptor)
    return descriptor


def test_a_send_that_waits_for_room_goes_on_when_there_is_some(broker: Broker) -> None:
    with broker.producer(buffer_bytes=3000, linger_ms=60_000) as producer:
        for _ in range(200):  # far more than fits, and nobody asks for anything
            producer.send("orders", b"x" * 500)
    assert len(read_all(broker)) == 200


def test_a_record_larger_than_the_whole_buffer_goes_through_alone(broker: Broker) -> None:
    with broker.producer(buffer_bytes=10, linger_ms=0, max_block_ms=10_000) as producer:
        for _ in range(3):
            producer.send("orders", b"x" * 1000)
    assert len(read_all(broker)) == 3


# -- errors --------------------------------------------------------------------------


def test_flush_raises_the_first_error_that_nobody_asked_for(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        with broker.producer(linger_ms=60_000) as producer:
            files.fail("pwritev")
            lost = producer.send("orders", b"lost")
            with pytest.raises(BrokerError) as caught:
                producer.flush()
            assert caught.value is lost.exception()
            producer.flush()  # once is enough
            assert producer.send("orders", b"kept").result().offset == 0


def test_flush_is_silent_about_errors_that_were_asked_for(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        with broker.producer(linger_ms=60_000) as producer:
            files.fail("pwritev")
            with pytest.raises(BrokerError):
                producer.send("orders", b"lost").result()
            producer.flush()


def test_flush_raises_a_second_error_though_the_first_was_asked_for(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders", partitions=2)
        with broker.producer(linger_ms=60_000) as producer:
            files.fail("pwritev", times=2)
            first = producer.send("orders", b"lost", partition=0)
            second = producer.send("orders", b"lost too", partition=1)
            assert first.exception() is not None
            with pytest.raises(BrokerError) as caught:
                producer.flush()
            assert caught.value is second.exception()


def test_asking_for_one_record_does_not_hide_its_neighbours_error(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        with broker.producer(linger_ms=60_000) as producer:
            files.fail("pwritev")
            first = producer.send("orders", b"lost")
            producer.send("orders", b"lost in the same batch")
            assert first.exception() is not None
            with pytest.raises(BrokerError):
                producer.flush()


def test_on_delivery_gets_to_know_every_outcome(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        told: list[Delivery] = []
        with broker.producer(on_delivery=told.append) as producer:
            producer.send("orders", b"one")
            producer.send("orders", b"two")
            producer.flush()
            files.fail("pwritev")
            producer.send("orders", b"lost")
            producer.flush()  # does not raise: the callback knows
        assert [delivery.exception() is None for delivery in told] == [True, True, False]
        assert [delivery.result().offset for delivery in told[:2]] == [0, 1]


def test_an_on_delivery_that_raises_harms_nobody(broker: Broker) -> None:
    def fail(delivery: Delivery) -> None:
        raise RuntimeError("mine")

    with broker.producer(on_delivery=fail, linger_ms=0) as producer:
        for _ in range(200):
            producer.send("orders", b"x")
        assert producer.send("orders", b"x").result().offset == 200


def test_a_callback_may_send_again(broker: Broker) -> None:
    def send_again(delivery: Delivery) -> None:
        if delivery.result().offset < 5:
            producer.send("orders", b"again", partition=0)

    with broker.producer(on_delivery=send_again) as producer:
        producer.send("orders", b"x", partition=0)
        eventually(lambda: broker.ends("orders", 0).durable_end == 6)


# -- topics that go away -------------------------------------------------------------


def test_a_producer_outlives_its_topic(broker: Broker) -> None:
    with broker.producer(linger_ms=60_000) as producer:
        producer.send("orders", b"old").result()
        broker.delete_topic("orders")
        with pytest.raises(UnknownTopic) as caught:
            producer.send("orders", b"nowhere").result()
        assert caught.value.topic == "orders"
        broker.create_topic("orders", partitions=2)
        for _ in range(10):
            producer.send("orders", b"new").result()
        assert values(read_all(broker)) == [b"new"] * 10


def test_a_topic_that_is_there_again_with_fewer_partitions(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    with broker.producer(linger_ms=60_000) as producer:
        producer.send("two", b"old", partition=1).result()
        broker.delete_topic("two")
        broker.create_topic("two", partitions=1)
        with pytest.raises(UnknownPartition):
            producer.send("two", b"new", partition=1).result()
        assert producer.send("two", b"new", partition=0).result().offset == 0


def test_deleting_and_creating_while_others_produce(broker: Broker) -> None:
    stop = threading.Event()
    outcomes: list[str] = []

    def produce() -> None:
        with broker.producer(linger_ms=0) as producer:
            while not stop.is_set():
                try:
                    producer.send("churn", b"x").result(timeout=LONG_S)
                except BrokerError as error:
                    outcomes.append(type(error).__name__)
                    time.sleep(0.001)

    with in_thread(produce), in_thread(produce):
        try:
            for _ in range(15):
                broker.create_topic("churn")
                time.sleep(0.02)
                broker.delete_topic("churn")
        finally:
            stop.set()
    assert set(outcomes) <= {"UnknownTopic"}


# -- the end -------------------------------------------------------------------------


def test_close_writes_what_waits_and_refuses_the_rest(broker: Broker) -> None:
    producer = broker.producer(linger_ms=60_000)
    sent = producer.send("orders", b"x")
    producer.close()
    producer.close()
    assert sent.done()
    assert sent.result().offset == 0
    for call in (lambda: producer.send("orders", b"y"), producer.flush):
        with pytest.raises(BrokerClosed) as caught:
            call()
        assert caught.value.what == "producer"


def test_close_of_an_unused_producer(broker: Broker) -> None:
    broker.producer().close()


def test_closing_while_others_send_leaves_nobody_waiting(broker: Broker) -> None:
    results: list[int] = []
    for _ in range(10):
        producer = broker.producer(linger_ms=1)

        def work(producer=producer) -> None:  # type: ignore[no-untyped-def]
            try:
                while True:
                    results.append(producer.send("orders", b"x").result(timeout=LONG_S).offset)
            except BrokerClosed:
                pass

        with in_thread(work), in_thread(work), in_thread(work):
            time.sleep(0.02)
            producer.close()
    stored = [record.offset for record in read_all(broker)]
    assert set(results) <= set(stored)


def test_settings_that_roll_segments(broker: Broker) -> None:
    topic = broker.create_topic("rolling", config={"segment.bytes": 4096})
    with broker.producer(batch_bytes=1000) as producer:
        for number in range(200):
            producer.send("rolling", b"%0100d" % number)
    log = broker.engine.log(topic.partitions[0].id)
    assert len(list_segments(log.context.files, log.context.folder)) > 3
    assert values(read_all(broker, "rolling")) == [b"%0100d" % number for number in range(200)]


def test_put_and_drain(broker: Broker) -> None:
    put(broker, b"a", b"b")
    with broker.consumer("orders") as consumer:
        assert values(drain(consumer)) == [b"a", b"b"]
