"""Dead letters: what they say, sending them back, removing them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from brokers import broker_on, put, read_all, values
from hypothesis import given
from hypothesis import strategies as st
from storage import Child, FaultyFiles

from seawall.broker import Broker, DeadLetterChoice, DeliveredRecord, Record, Reject
from seawall.broker import dead_letters as dead_letters_module
from seawall.broker.dead_letter_format import headers_of, original_headers, parse
from seawall.broker.dead_letters import DeadLetters
from seawall.broker.errors import (
    BrokerError,
    GroupBusy,
    NoDeadLetters,
    UnknownOrigin,
    UnknownPartition,
    UnknownTopic,
)
from seawall.broker.groups import expire
from seawall.broker.handling import Failure
from seawall.broker.names import REDRIVE_GROUP
from seawall.broker.redrive import Redriving


def fail(broker: Broker, count: int, topic: str = "orders", group: str = "g") -> None:
    """Have the next records of a topic become dead letters, for a ValueError or a KeyError."""

    def handler(record: DeliveredRecord) -> None:
        if int(record.value or b"") % 2:
            raise KeyError("odd")
        raise Reject("even")

    with broker.consumer(topic, group=group) as consumer:
        consumer.run(handler, max_records=count, max_deliveries=1, retry_backoff_ms=0)


def reject(record: DeliveredRecord) -> None:
    raise Reject("no")


@pytest.fixture
def six(broker: Broker) -> Broker:
    """Six dead letters of "orders", with the values 0 to 5 and the keys k0 to k5."""
    with broker.producer() as producer:
        for n in range(6):
            producer.send("orders", b"%d" % n, key=b"k%d" % n, headers={"h": b"%d" % n})
    fail(broker, 6)
    return broker


def offsets(letters: DeadLetters, choice: DeadLetterChoice | None = None, **more: Any) -> list[int]:
    return [each.record.offset for each in letters.records(choice, **more)]


NAMES = st.text(max_size=20)


@given(
    topic=st.from_regex(r"[a-z]{1,20}", fullmatch=True),
    numbers=st.tuples(*[st.integers(0, 2**31) for _ in range(3)]),
    group=NAMES.filter(bool),
    failure=st.builds(
        lambda name, message, trace: Failure(error_class=name, message=message, trace=trace),
        NAMES,
        NAMES,
        NAMES.filter(bool),
    ),
    headers=st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=9)), max_size=5),
)
def test_what_is_written_is_read(
    topic: str,
    numbers: tuple[int, int, int],
    group: str,
    failure: Failure,
    headers: list[tuple[str, bytes | None]],
) -> None:
    partition, offset, attempts = numbers
    headers = [each for each in headers if not each[0].startswith("seawall.")]
    record = Record(topic, partition, offset, 17, b"k", b"v", headers)
    written = headers_of(record, failure, group=group, attempts=attempts, failed_at_ms=18, detail=0)
    assert original_headers(written) == headers
    found = parse(record._replace(headers=written))
    assert (found.topic, found.partition, found.offset) == (topic, partition, offset)
    assert (found.group, found.attempts, found.failed_at_ms) == (group, attempts, 18)
    assert found.error_class == failure.error_class
    assert found.error_message == failure.message
    assert found.error_trace == failure.trace
    # One that fails again says so once.
    again = headers_of(found.record, failure, group="x", attempts=1, failed_at_ms=19, detail=0)
    assert [name for name, _ in again].count("seawall.dlq.group") == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["seawall.dlq.partition", "seawall.dlq.topic", "seawall.redrive.count", "x"]
            ),
            st.none() | st.binary(max_size=25),
        )
    )
)
def test_nothing_that_anybody_writes_there_breaks_reading(
    headers: list[tuple[str, bytes | None]],
) -> None:
    found = parse(Record("t.dlq", 0, 0, 0, None, None, headers))
    assert found.partition is None or found.partition >= 0
    assert found.redrives >= 0


def test_says_what_there_is(six: Broker) -> None:
    letters = six.dead_letters("orders")
    assert letters.topic == "orders.dlq"
    assert six.dead_letters("orders.dlq").topic == "orders.dlq"
    info = letters.info()
    assert (info.records, info.redriven, info.groups, info.origins) == (6, 0, ("g",), ("orders",))
    first = next(letters.records())
    assert info.oldest_ms == first.failed_at_ms
    assert (first.topic, first.partition, first.offset, first.attempts) == ("orders", 0, 0, 1)
    assert (first.group, first.error_message) == ("g", "even")
    assert six.dead_letter_topics() == [info]


def test_a_topic_of_another_name_is_found_by_what_it_holds(broker: Broker) -> None:
    put(broker, b"1")

    def handler(record: DeliveredRecord) -> None:
        raise Reject("no")

    with broker.consumer("orders", group="g") as consumer:
        consumer.run(handler, max_records=1, dead_letter_topic="failures")
    assert [each.name for each in broker.dead_letter_topics()] == ["failures"]
    assert broker.dead_letters("failures").redrive()[0].target == "orders"
    assert values(read_all(broker)) == [b"1", b"1"]


def test_topics_that_are_deleted_while_it_is_looked_for_dead_letters_are_left_out(
    six: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("z", "z.dlq"):
        six.create_topic(name)
    real = dead_letters_module._first_records

    def deleting(broker: Broker, topics: Sequence[str]) -> list[Record]:
        if topics == ["orders"]:
            for name in ("z", "z.dlq"):
                broker.delete_topic(name)
            monkeypatch.setattr(dead_letters_module, "_first_records", real)
        return real(broker, topics)

    monkeypatch.setattr(dead_letters_module, "_first_records", deleting)
    assert [each.name for each in six.dead_letter_topics()] == ["orders.dlq"]
    assert [each.name for each in six.topics()] == ["orders", "orders.dlq"]


def test_good_records_are_not_taken_for_dead_letters(broker: Broker) -> None:
    put(broker, b"good")
    with pytest.raises(NoDeadLetters, match="'orders' has no dead letters"):
        broker.dead_letters("orders")
    with pytest.raises(UnknownTopic):
        broker.dead_letters("nothing")
    assert broker.dead_letter_topics() == []


def test_chooses_by_offsets_group_and_error(six: Broker) -> None:
    put(six, b"6")
    fail(six, 7, group="other")
    letters = six.dead_letters("orders")

    def chosen(**choice: Any) -> list[int]:
        return offsets(letters, DeadLetterChoice(**choice))

    assert chosen(group="g") == [0, 1, 2, 3, 4, 5]
    assert chosen(group="g", error_class="KeyError") == [1, 3, 5]
    assert chosen(error_class="Reject", ranges={0: (3, 8)}) == [4, 6]
    assert chosen(error_class="seawall.broker.handling.Reject", ranges={0: (0, 2)}) == [0]
    assert chosen(ranges={1: (0, 9)}) == []


def test_sends_back_what_it_was_and_only_once(six: Broker) -> None:
    letters = six.dead_letters("orders")
    planned = letters.redrive(dry_run=True)
    assert values(read_all(six)) == [b"%d" % n for n in range(6)]
    assert [(each.target, each.records, each.last_offset) for each in planned] == [("orders", 6, 5)]
    assert letters.redrive() == planned
    before, after = read_all(six)[:6], read_all(six)[6:]
    for old, new in zip(before, after, strict=True):
        assert (new.key, new.value, new.timestamp) == (old.key, old.value, old.timestamp)
        added = [("seawall.redrive.count", b"1"), ("seawall.redrive.group", b"g")]
        assert list(new.headers) == [*old.headers, *added]
    assert letters.redrive() == []
    assert offsets(letters) == []
    assert offsets(letters, with_redriven=True) == [0, 1, 2, 3, 4, 5]
    assert (letters.info().records, letters.info().redriven) == (0, 6)
    # What fails again says how often that was.
    fail(six, 6)
    [redrives] = {each.redrives for each in letters.records()}
    assert redrives == 1
    letters.redrive()
    assert dict(read_all(six)[-1].headers)["seawall.redrive.count"] == b"2"


def test_what_was_not_chosen_stays(six: Broker) -> None:
    letters = six.dead_letters("orders")
    letters.redrive(DeadLetterChoice(error_class="KeyError"))
    assert values(read_all(six)[6:]) == [b"1", b"3", b"5"]
    assert offsets(letters) == [0, 2, 4]
    assert letters.redrive(DeadLetterChoice(error_class="KeyError")) == []
    letters.redrive(DeadLetterChoice(ranges={0: (0, 3)}))
    assert offsets(letters) == [4]
    letters.redrive()
    assert values(read_all(six)[6:]) == [b"1", b"3", b"5", b"0", b"2", b"4"]


def test_sends_elsewhere(six: Broker) -> None:
    six.create_topic("other", partitions=3)
    letters = six.dead_letters("orders")
    assert letters.redrive(to="other")[0].target == "other"
    with six.producer() as producer:
        expected = producer.send("other", b"", key=b"k3").result().partition
    by_key = {record.key: record.partition for record in read_all(six, "other")}
    assert by_key[b"k3"] == expected
    with pytest.raises(ValueError, match="is where the dead letters are"):
        letters.redrive(to="orders.dlq")


def test_keeps_the_partition_while_there_is_one(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    put(broker, b"1", topic="two", partition=1)
    fail(broker, 1, "two")
    broker.dead_letters("two").redrive()
    assert [record.partition for record in read_all(broker, "two")] == [1, 1]


def test_refuses_before_anything_is_sent(six: Broker) -> None:
    letters = six.dead_letters("orders")
    with pytest.raises(UnknownTopic):
        letters.redrive(to="nothing")
    put(six, b"foreign", topic="orders.dlq")
    with pytest.raises(UnknownOrigin) as caught:
        letters.redrive()
    assert (caught.value.partition, caught.value.offset) == (0, 6)
    assert len(read_all(six)) == 6
    with six.consumer("orders.dlq", group=REDRIVE_GROUP, partitions=[0]), pytest.raises(GroupBusy):
        letters.redrive(DeadLetterChoice(ranges={0: (0, 6)}))
    assert len(letters.redrive(DeadLetterChoice(ranges={0: (0, 6)}))) == 1


def test_what_its_topic_refuses_stays_and_holds_up_nothing(broker: Broker) -> None:
    with broker.producer() as producer:
        for n in range(6):
            producer.send("orders", b"%d" % n + b"x" * 500 * (n == 4), key=b"k" if n % 3 else None)
    with broker.consumer("orders", group="g") as consumer:
        consumer.run(reject, max_records=6, ordering="partition")
    broker.alter_topic("orders", {"cleanup.policy": "compact", "max.message.bytes": 500})
    letters = broker.dead_letters("orders")
    [planned] = letters.redrive(dry_run=True)
    assert (planned.records, planned.refused, planned.refused_offset) == (4, 2, 0)
    for sent in (3, 0):  # as often as you like
        [done] = letters.redrive()
        assert (done.records, done.refused, done.refused_offset) == (sent, 3, 0)
        assert "it has none" in (done.reason or "")
        assert offsets(letters) == [0, 3, 4]
    assert values(read_all(broker)[6:]) == [b"1", b"2", b"5"]
    broker.alter_topic("orders", {"cleanup.policy": None, "max.message.bytes": None})
    [done] = letters.redrive()
    assert (done.records, done.refused, done.reason) == (3, 0, None)
    assert offsets(letters) == []


def test_too_many_pieces_to_remember_are_refused_before_they_are_sent(broker: Broker) -> None:
    broker.create_topic("orders.dlq")
    failures = [Failure(error_class=name, message="no") for name in ("Reject", "KeyError")]
    with broker.producer() as producer:
        for n in range(3_000):
            record = Record("orders", 0, n, 0, None, b"%d" % n, ())
            headers = headers_of(
                record, failures[n % 2], group="g", attempts=1, failed_at_ms=0, detail=0
            )
            producer.send("orders", record.value)
            producer.send("orders.dlq", record.value, headers=headers)
    letters = broker.dead_letters("orders")
    with pytest.raises(ValueError, match="too many pieces") as caught:
        letters.redrive(DeadLetterChoice(error_class="KeyError"))
    sent = len(read_all(broker)) - 3_000
    assert 500 < sent < 1_500
    assert len(offsets(letters)) == 3_000 - sent  # and what was sent is remembered
    assert "before offset" in str(caught.value)
    letters.redrive()
    assert len(read_all(broker)) == 6_000


def test_killed_in_between_it_goes_on_and_loses_none(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        with broker.producer() as producer:
            for n in range(1_200):
                producer.send("orders", b"%d" % n, key=b"%d" % n)
        fail(broker, 1_200)

    def live(say: Callable[[str], None]) -> None:
        remember = Redriving._remember
        batches: Iterator[int] = iter(range(10))

        def dying(*arguments: Any) -> None:
            if next(batches) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            remember(*arguments)

        Redriving._remember = dying  # type: ignore[method-assign]
        with Broker.open(folder) as broker:
            broker.dead_letters("orders").redrive()

    Child(live).wait()
    with Broker.open(folder) as broker:
        [rest] = broker.dead_letters("orders").redrive()
        assert rest.records == 700
        sent = values(read_all(broker)[1_200:])
        assert set(sent) == {b"%d" % n for n in range(1_200)}
        assert len(sent) == 1_700  # the batch whose end it did not write down


def test_a_disk_that_is_full_leaves_the_rest_to_the_next_redrive(folder: str) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        put(broker, *[b"%d" % n for n in range(5)])
        fail(broker, 5)
        files.fail("pwritev", where="-orders-0", times=1_000, error=28)
        letters = broker.dead_letters("orders")
        with pytest.raises(BrokerError, match="no room"):
            letters.redrive()
        assert len(offsets(letters)) == 5
        files.heal()
        letters.redrive()
        assert sorted(filter(None, values(read_all(broker)[5:]))) == [b"%d" % n for n in range(5)]


def test_purges_all_or_below_an_offset(six: Broker) -> None:
    letters = six.dead_letters("orders")
    assert letters.purge({0: 2}, dry_run=True) == {0: (0, 2)}
    assert len(offsets(letters)) == 6
    assert letters.purge({0: 2}) == {0: (0, 2)}
    assert offsets(letters) == [2, 3, 4, 5]
    assert letters.info().records == 4
    letters.redrive(DeadLetterChoice(ranges={0: (0, 4)}))
    assert values(read_all(six)[6:]) == [b"2", b"3"]
    assert letters.purge() == {0: (2, 6)}
    assert letters.redrive() == []
    assert (letters.info().records, letters.info().redriven) == (0, 0)
    with pytest.raises(UnknownPartition):
        letters.purge({7: 1})


def test_what_was_redriven_is_never_forgotten(six: Broker) -> None:
    letters = six.dead_letters("orders")
    letters.redrive()
    assert expire(six.engine, -1_000) == ["g"]
    assert letters.redrive() == []
    six.delete_group(REDRIVE_GROUP)  # but by whoever says so
    assert letters.redrive()[0].records == 6


def test_damage_in_another_topic_hides_no_dead_letters(six: Broker) -> None:
    six.create_topic("damaged")
    put(six, b"x" * 100, topic="damaged")
    [partition] = six.topic("damaged").partitions
    folder = os.path.join(six.path, "logs", f"{partition.id}-damaged-0")
    with open(os.path.join(folder, f"{0:020}.log"), "r+b") as file:
        file.seek(30)
        file.write(b"\xff\xff")
    assert [each.name for each in six.dead_letter_topics()] == ["orders.dlq"]
