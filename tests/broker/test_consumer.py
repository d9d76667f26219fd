"""`Consumer`: polling, iterating, acknowledging, seeking, and what it does at trouble."""

from __future__ import annotations

import threading
import time

import pytest
from brokers import LONG_S, drain, eventually, in_thread, put, values
from storage import batch, flip

from seawall.broker import Broker, Record
from seawall.broker.errors import (
    BrokerClosed,
    LogDamaged,
    NoOffset,
    NotInGroup,
    OffsetOutOfRange,
    RecordDecodeError,
    UnknownPartition,
    UnknownTopic,
)
from seawall.wal.records import encode_batch, stamp


def append_batches(broker: Broker, *batches: bytearray, topic: str = "orders") -> None:
    """Store ready-made batches."""
    log = broker.engine.log(broker.topic(topic).partitions[0].id)
    for each in batches:
        log.commit(log.append([each]).next_offset)


def trim(broker: Broker, before_offset: int) -> None:
    """Raise the log start, and drop what lies below it."""
    partition_id = broker.topic("orders").partitions[0].id
    broker.engine.state.set_log_start(partition_id, before_offset)
    broker.engine.log(partition_id).drop_segments(before_offset)


# -- polling -------------------------------------------------------------------------


def test_poll_hands_out_everything_once_and_in_order(broker: Broker) -> None:
    wanted = [b"%d" % number for number in range(1000)]
    put(broker, *wanted)
    for max_records in (1, 7, 500, 5000):
        with broker.consumer("orders") as consumer:
            got = []
            while found := consumer.poll(max_records):
                assert len(found) <= max_records
                got += found
            assert values(got) == wanted
            assert [record.offset for record in got] == list(range(1000))
            assert consumer.position("orders", 0) == 1000


def test_small_fetches(broker: Broker) -> None:
    wanted = [b"%0500d" % number for number in range(100)]
    put(broker, *wanted)
    with broker.consumer("orders", fetch_bytes=100) as consumer:
        assert values(drain(consumer, 3)) == wanted


def test_poll_without_timeout_does_not_wait(broker: Broker) -> None:
    with broker.consumer("orders") as consumer:

        def is_at_once() -> bool:
            started_s = time.monotonic()
            assert consumer.poll() == []
            return time.monotonic() - started_s < 0.1

        eventually(is_at_once)  # but for a machine that is busy for a while


def test_poll_waits_as_long_as_it_is_told(broker: Broker) -> None:
    with broker.consumer("orders") as consumer:
        started = time.monotonic()
        assert consumer.poll(timeout_ms=150) == []
        assert 0.14 < time.monotonic() - started < LONG_S


def test_poll_is_woken_by_a_new_record(broker: Broker) -> None:
    with broker.consumer("orders") as consumer, broker.producer(linger_ms=0) as producer:

        def send_later() -> None:
            time.sleep(0.05)
            producer.send("orders", b"x")

        with in_thread(send_later):
            assert values(consumer.poll(timeout_ms=None)) == [b"x"]


def test_no_wake_up_is_lost(broker: Broker) -> None:
    """Each record is only sent once the one before was received, thousands of times."""
    with broker.consumer("orders") as consumer, broker.producer(linger_ms=0) as producer:
        received = threading.Semaphore(0)

        def send_all() -> None:
            for number in range(500):
                producer.send("orders", b"%d" % number)
                assert received.acquire(timeout=LONG_S)

        with in_thread(send_all):
            for number in range(500):
                assert values(consumer.poll(timeout_ms=1000 * LONG_S)) == [b"%d" % number]
                received.release()


def test_several_topics_and_partitions_take_turns(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    for topic, partition in (("orders", 0), ("two", 0), ("two", 1)):
        put(broker, *[b"x"] * 100, topic=topic, partition=partition)
    with broker.consumer(["orders", "two", "orders"]) as consumer:
        assert consumer.assignment() == [("orders", 0), ("two", 0), ("two", 1)]
        records = drain(consumer, 50)
        places = [(record.topic, record.partition) for record in records]
        assert {place: places.count(place) for place in places} == {
            ("orders", 0): 100,
            ("two", 0): 100,
            ("two", 1): 100,
        }
        # The last one does not wait until the others are read to their ends.
        assert {places.index(place) < 200 for place in consumer.assignment()} == {True}


def test_some_partitions_only(broker: Broker) -> None:
    broker.create_topic("three", partitions=3)
    with broker.consumer("three", partitions=[2, 0, 2]) as consumer:
        assert consumer.assignment() == [("three", 2), ("three", 0)]
        with pytest.raises(UnknownPartition):
            consumer.position("three", 1)
    with pytest.raises(UnknownPartition) as caught:
        broker.consumer("three", partitions=[3])
    assert (caught.value.partition, caught.value.partitions) == (3, 3)


@pytest.mark.parametrize("bad", [0, -1])
def test_a_poll_for_nothing(broker: Broker, bad: int) -> None:
    with broker.consumer("orders") as consumer, pytest.raises(ValueError):
        consumer.poll(bad)


# -- iterating -----------------------------------------------------------------------


def test_iteration_goes_on_where_it_was_left(broker: Broker) -> None:
    put(broker, *[b"%d" % number for number in range(10)])
    with broker.consumer("orders") as consumer:
        for record in consumer:
            if record.offset == 3:
                break
        assert consumer.position("orders", 0) == 4
        assert consumer.poll()[0].offset == 4


def test_an_iterator_that_is_kept_does_not_repeat_or_skip(broker: Broker) -> None:
    put(broker, *[b"%d" % number for number in range(10)])
    with broker.consumer("orders") as consumer:
        iterator = iter(consumer)
        offsets = [next(iterator).offset, next(iterator).offset]
        assert consumer.position("orders", 0) == 2
        offsets += [record.offset for record in consumer.poll(3)]
        offsets += [next(iterator).offset]
        offsets += [next(iter(consumer)).offset]
        del iterator
        offsets += [record.offset for record in consumer.poll()]
        assert offsets == list(range(10))


def test_ack_in_a_loop_acknowledges_only_what_was_handed_out(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    for partition in range(2):
        put(broker, *[b"x"] * 10, topic="two", partition=partition)
    with broker.consumer("two", group="g") as consumer:
        seen = {0: 0, 1: 0}
        for number, record in enumerate(consumer):
            seen[record.partition] = record.offset + 1
            consumer.ack()
            for partition, offset in seen.items():
                assert consumer.committed("two", partition) == offset
            if number == 12:
                break
    with broker.consumer("two", group="g") as consumer:
        assert len(drain(consumer)) == 7


def test_a_seek_in_a_loop(broker: Broker) -> None:
    put(broker, *[b"%d" % number for number in range(10)])
    with broker.consumer("orders") as consumer:
        iterator = iter(consumer)
        assert next(iterator).offset == 0
        consumer.seek("orders", 0, 7)
        assert [next(iterator).offset for _ in range(3)] == [7, 8, 9]


def test_lag_in_a_loop(broker: Broker) -> None:
    put(broker, *[b"x"] * 10)
    with broker.consumer("orders") as consumer:
        for number, _ in enumerate(consumer, 1):
            assert consumer.lag() == {("orders", 0): 10 - number}
            if number == 10:
                break


def test_closing_from_another_thread_ends_iteration(broker: Broker) -> None:
    consumer = broker.consumer("orders", group="g")

    def close_later() -> None:
        time.sleep(0.05)
        consumer.close()

    with in_thread(close_later):
        assert list(consumer) == []


def test_closing_from_another_thread_wakes_poll(broker: Broker) -> None:
    consumer = broker.consumer("orders")

    def close_later() -> None:
        time.sleep(0.05)
        consumer.close()

    with in_thread(close_later), pytest.raises(BrokerClosed) as caught:
        consumer.poll(timeout_ms=None)
    assert caught.value.what == "consumer"


# -- where it begins -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "first"), [("start", 0), ("end", None), (4, 4), ("-3", 7), ("@5", 5), (-2, 8)]
)
def test_start(broker: Broker, start: int | str, first: int | None) -> None:
    append_batches(broker, *[batch(b"x", timestamp=number) for number in range(10)])
    for group in (None, "g"):
        with broker.consumer("orders", start=start, group=group) as consumer:
            got = consumer.poll()
            assert (got[0].offset if got else None) == first


def test_a_start_that_is_not_there(broker: Broker) -> None:
    put(broker, b"x")
    for group in (None, "g"):
        with pytest.raises(OffsetOutOfRange) as caught:
            broker.consumer("orders", start=2, group=group)
        error = caught.value
        assert (error.topic, error.partition) == ("orders", 0)
        assert (error.offset, error.log_start, error.durable_end) == (2, 0, 1)
    with broker.consumer("orders", group="g") as consumer:  # the group was not left held
        assert len(consumer.poll()) == 1


def test_auto_offset_reset_of_a_new_group(broker: Broker) -> None:
    put(broker, b"old")
    with broker.consumer("orders", group="a", auto_offset_reset="earliest") as consumer:
        assert consumer.committed("orders", 0) == 0
    with broker.consumer("orders", group="b", auto_offset_reset="latest") as consumer:
        assert consumer.committed("orders", 0) == 1
        assert consumer.poll() == []
    with pytest.raises(NoOffset) as caught:
        broker.consumer("orders", group="c", auto_offset_reset="error")
    assert (caught.value.group, caught.value.topic, caught.value.partition) == ("c", "orders", 0)
    with broker.consumer("orders", group="c", start="start", auto_offset_reset="error") as consumer:
        assert values(consumer.poll()) == [b"old"]
    with pytest.raises(ValueError):
        broker.consumer("orders", auto_offset_reset="sometimes")


def test_the_start_of_a_group_is_stored_before_the_first_poll(broker: Broker) -> None:
    with broker.consumer("orders", group="g", auto_offset_reset="latest"):
        pass
    put(broker, b"came in between")
    with broker.consumer("orders", group="g", auto_offset_reset="latest") as consumer:
        assert values(consumer.poll()) == [b"came in between"]


@pytest.mark.parametrize(("reset", "first"), [("earliest", 20), ("latest", 30)])
def test_a_position_that_was_trimmed(
    broker: Broker, caplog: pytest.LogCaptureFixture, reset: str, first: int
) -> None:
    append_batches(broker, *[batch(b"x") for _ in range(20)])
    with broker.consumer(
        "orders", start="start", auto_offset_reset=reset, fetch_bytes=1
    ) as consumer:
        assert consumer.poll(1)[0].offset == 0
        broker.engine.log(broker.topic("orders").partitions[0].id).roll()
        append_batches(broker, *[batch(b"x") for _ in range(10)])
        trim(broker, 20)
        got = drain(consumer)
        assert [record.offset for record in got] == list(range(first, 30))
        assert consumer.position("orders", 0) == 30
    assert f"going on at {first}" in caplog.text


def test_a_position_that_was_trimmed_with_reset_error(broker: Broker) -> None:
    append_batches(broker, *[batch(b"x") for _ in range(20)])
    with broker.consumer("orders", group="g"):
        pass
    broker.engine.log(broker.topic("orders").partitions[0].id).roll()
    append_batches(broker, batch(b"x"))
    trim(broker, 20)
    with broker.consumer("orders", group="g", auto_offset_reset="error") as consumer:
        for _ in range(2):
            with pytest.raises(OffsetOutOfRange) as caught:
                consumer.poll()
            assert (caught.value.offset, caught.value.log_start) == (0, 20)
        consumer.seek("orders", 0, 20)
        assert len(consumer.poll()) == 1


# -- seek ----------------------------------------------------------------------------


def test_seek(broker: Broker) -> None:
    put(broker, *[b"%d" % number for number in range(10)])
    with broker.consumer("orders", group="g") as consumer:
        drain(consumer)
        consumer.ack()
        for offset in (3, 0, 9, 10, 5):
            consumer.seek("orders", 0, offset)
            assert consumer.position("orders", 0) == offset
            assert [each.offset for each in consumer.poll()] == list(range(offset, 10))
        assert consumer.committed("orders", 0) == 10
        for bad in (-1, 11):
            with pytest.raises(OffsetOutOfRange) as caught:
                consumer.seek("orders", 0, bad)
            assert caught.value.offset == bad
        with pytest.raises(UnknownPartition):
            consumer.seek("orders", 1, 0)
        assert consumer.position("orders", 0) == 10


# -- acknowledging -------------------------------------------------------------------


def test_a_group_goes_on_behind_what_it_acknowledged(broker: Broker) -> None:
    put(broker, *[b"%d" % number for number in range(10)])
    with broker.consumer("orders", group="g") as consumer:
        records = consumer.poll()
        consumer.ack(records[3])
        assert consumer.committed("orders", 0) == 4
        consumer.ack(records[1])  # lower: nothing
        assert consumer.committed("orders", 0) == 4
        consumer.ack(records[2:6])
        assert consumer.committed("orders", 0) == 6
        assert consumer.lag() == {("orders", 0): 4}
    with broker.consumer("orders", group="g") as consumer:
        assert [record.offset for record in consumer.poll()] == [6, 7, 8, 9]
        consumer.ack()
        consumer.ack()
        assert consumer.lag() == {("orders", 0): 0}
    with broker.consumer("orders", group="g") as consumer:
        assert consumer.poll() == []
    with broker.consumer("orders", group="another") as consumer:
        assert len(consumer.poll()) == 10


def test_ack_without_a_group(broker: Broker) -> None:
    put(broker, b"x")
    with broker.consumer("orders") as consumer:
        assert consumer.committed("orders", 0) is None
        record = consumer.poll()[0]
        with pytest.raises(NotInGroup):
            consumer.ack(record)
        assert consumer.lag() == {("orders", 0): 0}


def test_ack_of_what_is_not_there(broker: Broker) -> None:
    put(broker, b"x")
    with broker.consumer("orders", group="g") as consumer:
        [record] = consumer.poll()
        with pytest.raises(OffsetOutOfRange):
            consumer.ack(record._replace(offset=5))
        with pytest.raises(UnknownPartition):
            consumer.ack(record._replace(partition=5))
        with pytest.raises(UnknownPartition):
            consumer.ack(record._replace(topic="other"))
        assert consumer.committed("orders", 0) == 0


def test_ack_from_many_threads(broker: Broker) -> None:
    put(broker, *[b"x"] * 200)
    with broker.consumer("orders", group="g") as consumer:
        records = consumer.poll(1000)
        workers = [
            threading.Thread(target=lambda part=records[n::4]: [consumer.ack(r) for r in part])
            for n in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert consumer.committed("orders", 0) == 200
    assert broker.group("g").offsets[0].committed == 200


# -- trouble -------------------------------------------------------------------------


def test_records_that_do_not_parse_can_be_passed(broker: Broker) -> None:
    bad = batch(b"abc", b"def")
    bad[57:61] = (7).to_bytes(4, "big")  # more records than there are …
    bad[23:27] = (6).to_bytes(4, "big")  # … and offsets for them
    seal(bad)
    append_batches(broker, batch(b"one"), bad, batch(b"two"))
    with broker.consumer("orders") as consumer:
        assert values(consumer.poll()) == [b"one"]
        for _ in range(2):
            with pytest.raises(RecordDecodeError) as caught:
                consumer.poll()
            error = caught.value
            assert (error.topic, error.partition, error.offset) == ("orders", 0, 1)
        consumer.seek("orders", 0, error.next_offset)
        assert [(r.offset, r.value) for r in consumer.poll()] == [(8, b"two")]


def seal(data: bytearray) -> None:
    """Give a batch the checksum that its bytes have."""
    import google_crc32c

    data[17:21] = google_crc32c.value(bytes(data[21:])).to_bytes(4, "big")


def test_control_batches_are_skipped(broker: Broker) -> None:
    control = encode_batch([(1, b"\0\0\0\1", b"\0\0\0\0\0\0", ())], is_control=True)
    append_batches(broker, control, batch(b"one"), control, control, batch(b"two"), control)
    with broker.consumer("orders", group="g") as consumer:
        assert [(r.offset, r.value) for r in drain(consumer)] == [(1, b"one"), (4, b"two")]
        assert consumer.position("orders", 0) == 6
        consumer.ack()
        assert consumer.lag() == {("orders", 0): 0}


def test_transactional_and_producer_fields_are_kept_as_they_came(broker: Broker) -> None:
    given = encode_batch(
        [(1, None, b"x", ())],
        is_transactional=True,
        producer_id=7,
        producer_epoch=2,
        base_sequence=40,
    )
    append_batches(broker, batch(b"first"), given)
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    chunk = log.reader(1).read(1 << 20)
    stored = chunk.data[chunk.batches[0].position :]
    stamp(given, 1)
    assert stored == bytes(given)
    assert chunk.batches[0].header.is_transactional
    with broker.consumer("orders", start=1) as consumer:
        assert values(consumer.poll()) == [b"x"]


def test_damage_names_its_place_and_can_be_passed(broker: Broker) -> None:
    append_batches(broker, *[batch(b"%03d" % number * 10) for number in range(10)])
    partition_id = broker.topic("orders").partitions[0].id
    context = broker.engine.log(partition_id).context
    size = len(batch(b"000" * 10))
    flip(context.segment_path(0), 4 * size + 70)
    with broker.consumer("orders", fetch_bytes=10 * size) as consumer:
        assert [record.offset for record in consumer.poll(4)] == [0, 1, 2, 3]
        for _ in range(2):
            with pytest.raises(LogDamaged) as caught:
                consumer.poll()
            error = caught.value
            assert (error.topic, error.partition, error.offset) == ("orders", 0, 4)
            assert (error.path, error.position) == (context.segment_path(0), 4 * size)
        [finding] = broker.verify()
        assert (finding.path, finding.position, finding.offset) == (error.path, 4 * size, 4)
        assert finding.next_offset == 5
        consumer.seek("orders", 0, 5)
        assert [record.offset for record in drain(consumer)] == [5, 6, 7, 8, 9]


def test_damage_in_one_partition_leaves_the_others(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    put(broker, b"a", topic="two", partition=0)
    put(broker, b"b", topic="two", partition=1)
    log = broker.engine.log(broker.topic("two").partitions[0].id)
    flip(log.context.segment_path(0), 65)
    with broker.consumer("two", partitions=[1, 0]) as consumer:
        assert values(consumer.poll()) == [b"b"]
        with pytest.raises(LogDamaged):
            consumer.poll()


def test_whatever_interrupts_a_poll_nothing_is_skipped(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.create_topic("two", partitions=2)
    for partition in range(2):
        put(broker, b"x", b"y", topic="two", partition=partition)
    with broker.consumer("two", group="g") as consumer:
        second = consumer._order[1]
        take = second.take

        def interrupted(most: int) -> list[Record]:
            monkeypatch.setattr(second, "take", take)
            raise KeyboardInterrupt

        monkeypatch.setattr(second, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            consumer.poll()
        consumer.ack()
        assert consumer.committed("two", 0) == 0
        assert len(drain(consumer)) == 4


def test_a_topic_that_is_deleted_and_created_again(broker: Broker) -> None:
    put(broker, b"old", b"old")
    with broker.consumer("orders", group="g") as consumer:
        drain(consumer)
        consumer.ack()
        broker.delete_topic("orders")
        for call in (consumer.poll, consumer.lag, lambda: consumer.seek("orders", 0, 0)):
            with pytest.raises(UnknownTopic) as caught:
                call()
            assert caught.value.topic == "orders"
        broker.create_topic("orders")
        put(broker, b"new")
        with pytest.raises(UnknownTopic):
            consumer.poll()
    with broker.consumer("orders", group="g") as consumer:
        assert values(consumer.poll()) == [b"new"]


def test_an_ack_for_a_deleted_topic_stores_nothing(broker: Broker) -> None:
    put(broker, b"x")
    partition_id = broker.topic("orders").partitions[0].id
    with broker.consumer("orders", group="g") as consumer:
        [record] = consumer.poll()
        broker.delete_topic("orders")
        for given in (None, record):
            with pytest.raises(UnknownTopic):
                consumer.ack(given)
    assert partition_id not in broker.engine.state.partition_ids()


def test_a_waiting_poll_notices_that_its_topic_is_deleted(broker: Broker) -> None:
    with broker.consumer("orders") as consumer:

        def delete_later() -> None:
            time.sleep(0.05)
            broker.delete_topic("orders")

        with in_thread(delete_later), pytest.raises(UnknownTopic):
            consumer.poll(timeout_ms=1000 * LONG_S)


# -- the end -------------------------------------------------------------------------


def test_close(broker: Broker) -> None:
    consumer = broker.consumer("orders", group="g")
    consumer.close()
    consumer.close()
    calls = (
        consumer.poll,
        consumer.ack,
        consumer.lag,
        lambda: consumer.seek("orders", 0, 0),
    )
    for call in calls:
        with pytest.raises(BrokerClosed) as caught:
            call()
        assert caught.value.what == "consumer"
    assert consumer.position("orders", 0) == 0


def test_close_acknowledges_nothing(broker: Broker) -> None:
    put(broker, b"x")
    with broker.consumer("orders", group="g") as consumer:
        consumer.poll()
    assert broker.group("g").offsets[0].committed == 0
