"""`consumer.run` over real directories: failing, dying, being slow, losing partitions."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from brokers import (
    LONG_S,
    broker_on,
    closing_of_handlers,
    eventually,
    in_thread,
    put,
    read_all,
    values,
)
from storage import Child, FaultyFiles

from seawall.broker import (
    Broker,
    DeliveredRecord,
    Failure,
    Handled,
    Lag,
    Record,
    RecordMetadata,
    Reject,
    RetryLater,
)
from seawall.broker.dead_letter_writer import DeadLetterWriter
from seawall.broker.errors import (
    BrokerClosed,
    GroupFenced,
    HandlerFailed,
    InvalidTopicName,
    LogDamaged,
    NotInGroup,
    UnknownTopic,
)
from seawall.broker.group_consumer import GroupConsumer
from seawall.broker.handling_core import Handling

FAST: dict[str, Any] = {"retry_backoff_ms": 1, "retry_backoff_max_ms": 5, "ack_interval_ms": 20}


def run(
    broker: Broker,
    handler: Callable[[DeliveredRecord], object],
    *,
    topic: str = "orders",
    group: str = "g",
    consumer: dict[str, Any] | None = None,
    **settings: Any,
) -> Handled:
    with broker.consumer(topic, group=group, **(consumer or {})) as opened:
        return opened.run(handler, **{**FAST, **settings})


def committed(broker: Broker, partition: int = 0, topic: str = "orders") -> int:
    offsets = broker.group("g").offsets
    return next(o.committed for o in offsets if (o.topic, o.partition) == (topic, partition))


def headers(record: Record) -> dict[str, str]:
    return {name: (value or b"").decode() for name, value in record.headers}


def test_hands_over_every_record_and_acknowledges_it(broker: Broker) -> None:
    put(broker, *[b"%d" % n for n in range(1_000)])
    seen: list[DeliveredRecord] = []
    done = run(broker, seen.append, max_records=1_000)
    assert done == Handled(handled=1_000)
    assert [int(record.value or b"") for record in seen] == list(range(1_000))
    assert {record.delivery_count for record in seen} == {1}
    assert seen[:1] == read_all(broker)[:1]  # equal to the record that poll gives
    assert committed(broker) == 1_000
    assert "orders.dlq" not in [topic.name for topic in broker.topics()]


def test_max_records_takes_no_more_and_loses_none(broker: Broker) -> None:
    put(broker, *[b"%d" % n for n in range(10)])
    seen: list[Record] = []
    with broker.consumer("orders", group="g") as consumer:
        for _ in range(2):
            assert consumer.run(seen.append, max_records=3).handled == 3
        assert [record.offset for record in consumer.poll()] == [6, 7, 8, 9]
    assert [record.offset for record in seen] == [0, 1, 2, 3, 4, 5]
    assert committed(broker) == 6


def test_a_failure_is_tried_again_and_counted_on_the_record(broker: Broker) -> None:
    put(broker, b"a", b"b")
    seen: list[tuple[bytes | None, int]] = []
    told: list[tuple[int, str, float]] = []

    def handler(record: DeliveredRecord) -> None:
        seen.append((record.value, record.delivery_count))
        if record.value == b"a" and record.delivery_count < 3:
            raise ValueError(f"no {record.delivery_count}")

    done = run(
        broker,
        handler,
        max_records=2,
        retry_jitter=False,
        on_retry=lambda record, error, ms: told.append((record.offset, str(error), ms)),
    )
    assert done == Handled(handled=2, retries=2)
    assert seen == [(b"a", 1), (b"a", 2), (b"a", 3), (b"b", 1)]  # no key: in order
    assert told == [(0, "no 1", 1), (0, "no 2", 2)]
    assert committed(broker) == 2


def test_the_poison_record_becomes_a_dead_letter_and_the_others_go_on(broker: Broker) -> None:
    broker.create_topic("pay", partitions=3)
    with broker.producer() as producer:
        producer.send("pay", b"bad", key=b"k", headers=[("a", b"1"), ("a", None)], partition=1)
        producer.send("pay", b"good", key=b"k", partition=1).result()
    told: list[tuple[int, str, int]] = []

    def handler(record: DeliveredRecord) -> None:
        if record.value == b"bad":
            raise KeyError("wörld")

    def buried(record: Record, failure: Failure, metadata: RecordMetadata) -> None:
        told.append((record.offset, failure.error_class, metadata.offset))

    done = run(broker, handler, topic="pay", max_records=2, max_deliveries=3, on_dead_letter=buried)
    assert done == Handled(handled=1, retries=2, dead_lettered=1)
    assert told == [(0, "KeyError", 0)]
    assert committed(broker, 1, "pay") == 2
    original = read_all(broker, "pay")[0]
    [letter] = read_all(broker, "pay.dlq")
    assert (letter.partition, letter.key, letter.value) == (1, b"k", b"bad")
    assert letter.timestamp == original.timestamp
    assert list(letter.headers[:2]) == [("a", b"1"), ("a", None)]
    found = headers(letter)
    assert abs(int(found.pop("seawall.dlq.failed.at")) - time.time() * 1000) < 60_000
    assert 'raise KeyError("wörld")' in found.pop("seawall.dlq.error.trace")
    del found["a"]
    assert found == {
        "seawall.dlq.topic": "pay",
        "seawall.dlq.partition": "1",
        "seawall.dlq.offset": "0",
        "seawall.dlq.timestamp": str(original.timestamp),
        "seawall.dlq.group": "g",
        "seawall.dlq.attempts": "3",
        "seawall.dlq.error.class": "KeyError",
        "seawall.dlq.error.message": "'wörld'",
    }
    topic = broker.topic("pay.dlq")
    assert len(topic.partitions) == 3
    assert topic.config["cleanup.policy"] == "acknowledged"


def test_reject_needs_one_delivery_and_retry_later_says_when(broker: Broker) -> None:
    put(broker, b"reject", b"later")
    seen: list[tuple[bytes | None, int, float]] = []

    def handler(record: DeliveredRecord) -> None:
        seen.append((record.value, record.delivery_count, time.monotonic()))
        if record.value == b"reject":
            raise Reject("never")
        if record.delivery_count == 1:
            raise RetryLater(60)

    assert run(broker, handler, max_records=2) == Handled(handled=1, retries=1, dead_lettered=1)
    assert [each[:2] for each in seen] == [(b"reject", 1), (b"later", 1), (b"later", 2)]
    assert seen[2][2] - seen[1][2] >= 0.059
    assert headers(read_all(broker, "orders.dlq")[0])["seawall.dlq.attempts"] == "1"


@pytest.mark.parametrize(
    ("settings", "done"),
    [
        ({"not_retryable": ValueError}, Handled(dead_lettered=1)),
        ({"retryable": (OSError, KeyError)}, Handled(dead_lettered=1)),
        ({"retryable": [ValueError], "max_deliveries": 2}, Handled(retries=1, dead_lettered=1)),
        ({"on_error": lambda record, error: "skip"}, Handled(skipped=1)),
        ({"on_error": lambda record, error: "dead_letter"}, Handled(dead_lettered=1)),
        (
            {"on_error": lambda record, error: None, "not_retryable": ValueError},
            Handled(dead_lettered=1),
        ),
        (
            {"on_error": lambda record, error: "retry", "not_retryable": ValueError}
            | {"max_deliveries": 2},
            Handled(retries=1, dead_lettered=1),
        ),
        # A hook that fails decides nothing.
        (
            {"on_error": lambda record, error: 1 / 0, "max_deliveries": 2},
            Handled(retries=1, dead_lettered=1),
        ),
    ],
)
def test_which_errors_are_tried_again(
    broker: Broker, settings: dict[str, Any], done: Handled
) -> None:
    put(broker, b"x")

    def handler(record: DeliveredRecord) -> None:
        raise ValueError("no")

    assert run(broker, handler, max_records=1, **settings) == done
    assert committed(broker) == 1


@pytest.mark.parametrize("settings", [{"dead_letter_topic": None}, {"on_error": lambda *_: "stop"}])
def test_without_a_dead_letter_topic_run_stops(broker: Broker, settings: dict[str, Any]) -> None:
    put(broker, b"good", b"bad", b"after")
    seen: list[int] = []

    def handler(record: DeliveredRecord) -> None:
        seen.append(record.delivery_count)
        if record.value == b"bad":
            raise ValueError("no")

    for _ in range(2):  # whoever goes on has all the deliveries again
        with pytest.raises(HandlerFailed, match="ValueError: no") as caught:
            run(broker, handler, max_deliveries=2, **settings)
        error = caught.value
        assert (error.topic, error.partition, error.offset) == ("orders", 0, 1)
        assert isinstance(error.__cause__, ValueError)
        assert committed(broker) == 1
    again = [1, 2] if settings == {"dead_letter_topic": None} else [1]
    assert seen == [1, *again, *again]


def test_a_dead_letter_topic_has_none_of_its_own(broker: Broker) -> None:
    broker.create_topic("orders.dlq")
    put(broker, b"x", topic="orders.dlq")

    def handler(record: DeliveredRecord) -> None:
        raise ValueError("no")

    with pytest.raises(HandlerFailed):
        run(broker, handler, topic="orders.dlq", max_deliveries=1)
    assert [topic.name for topic in broker.topics()] == ["orders", "orders.dlq"]
    done = run(
        broker,
        handler,
        topic="orders.dlq",
        max_deliveries=1,
        max_records=1,
        dead_letter_topic="beyond",
    )
    assert done.dead_lettered == 1
    assert values(read_all(broker, "beyond")) == [b"x"]


def test_refuses_what_makes_no_sense(broker: Broker) -> None:
    with broker.consumer("orders") as consumer, pytest.raises(NotInGroup):
        consumer.run(print)
    with pytest.raises(ValueError, match="enable_auto_commit"):
        run(broker, print, consumer={"enable_auto_commit": True})
    with pytest.raises(ValueError, match="is read here"):
        run(broker, print, dead_letter_topic="orders")
    with pytest.raises(InvalidTopicName):
        run(broker, print, dead_letter_topic="a/b")
    for settings in (
        {"max_deliveries": 0},
        {"concurrency": 0},
        {"ordering": "keys"},
        {"concurrency": 8, "max_pending": 7},
        {"retryable": "ValueError"},
        {"retry_backoff_ms": 10, "retry_backoff_max_ms": 5},
        {"max_records": 0},
        {"shutdown_timeout_ms": -1},
        {"stop": True},
    ):
        with pytest.raises(ValueError, match=next(iter(settings)).split("_m")[0]):
            run(broker, print, **settings)
    with broker.consumer("orders", group="g") as consumer:
        consumer.run(print, timeout_ms=0)  # it can be run again after any of these

        def handler(record: DeliveredRecord) -> None:
            with pytest.raises(ValueError, match="already"):
                consumer.run(print)
            for records in (None, record):  # it would stand for what others still handle
                with pytest.raises(ValueError, match="by itself"):
                    consumer.ack(records)

        put(broker, b"x")
        assert consumer.run(handler, max_records=1, max_deliveries=1).handled == 1


async def coroutine(record: DeliveredRecord) -> None:
    """A handler that has to be awaited."""


@pytest.mark.parametrize("handler", [coroutine, lambda record: coroutine(record)])
def test_what_would_have_to_be_awaited_acknowledges_nothing(
    broker: Broker, handler: Callable[[DeliveredRecord], object]
) -> None:
    put(broker, b"a")
    with pytest.raises(TypeError, match=r"use AsyncConsumer\.run"):
        run(broker, handler, max_records=1)
    assert committed(broker) == 0


def test_what_is_no_handler_buries_nothing(broker: Broker) -> None:
    put(broker, b"a")
    with pytest.raises(TypeError, match="is a function that takes a record, not None"):
        run(broker, None, max_records=1)  # type: ignore[arg-type]
    assert committed(broker) == 0
    assert run(broker, lambda record: None, max_records=1).handled == 1


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize("on_error", [None, "skip", "stop"])
def test_an_error_that_cannot_be_printed_is_one_like_any_other(
    broker: Broker, on_error: Any
) -> None:
    put(broker, b"a")

    def handler(record: DeliveredRecord) -> None:
        raise Unspeakable

    settings: dict[str, Any] = {"max_records": 1, "max_deliveries": 2}
    if on_error == "stop":
        with pytest.raises(HandlerFailed, match=r"Unspeakable: .*could not be had"):
            run(broker, handler, on_error=lambda record, error: "stop", **settings)
        return
    done = run(broker, handler, on_error=lambda record, error: on_error, **settings)
    assert (done.dead_lettered, done.skipped) == ((0, 1) if on_error else (1, 0))


def test_a_dead_letter_that_run_does_not_wait_for_leaves_no_producer(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(broker, b"bad")
    stop, ended = threading.Event(), threading.Event()
    see_to_topic = DeadLetterWriter._see_to_topic

    def wait(writer: DeadLetterWriter, record: Record, topic: str) -> None:
        stop.set()
        assert ended.wait(LONG_S)
        see_to_topic(writer, record, topic)

    def reject(record: DeliveredRecord) -> None:
        raise Reject("no")

    monkeypatch.setattr(DeadLetterWriter, "_see_to_topic", wait)
    before = set(threading.enumerate())
    try:
        with broker.consumer("orders", group="g") as consumer:
            consumer.run(reject, stop=stop, shutdown_timeout_ms=0, **FAST)
            workers = [each for each in threading.enumerate() if "handler" in each.name]
    finally:
        ended.set()
    for each in workers:
        each.join(LONG_S)
    left = set(threading.enumerate()) - before
    assert [each.name for each in left if "producer" in each.name] == []
    assert committed(broker) == 0


def test_what_nobody_expected_ends_run_at_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(broker, b"a")
    writer = "seawall.broker.dead_letter_writer.DeadLetterWriter.write"

    def no_threads(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    def reject(record: DeliveredRecord) -> None:
        raise Reject("no")

    monkeypatch.setattr(writer, no_threads)
    waited: list[int] = []
    wait = Handling.wait_for_running
    monkeypatch.setattr(
        Handling, "wait_for_running", lambda self: waited.append(wait(self)) or waited[0]
    )
    with pytest.raises(RuntimeError, match="new thread"):
        run(broker, reject, shutdown_timeout_ms=500)
    assert waited == [0]  # it did not wait in vain
    monkeypatch.undo()
    assert run(broker, reject, max_records=1).dead_lettered == 1


def test_keys_run_side_by_side_and_each_in_order(broker: Broker) -> None:
    with broker.producer() as producer:
        for n in range(200):
            producer.send("orders", b"%d" % n, key=b"k%d" % (n % 10))
    lock = threading.Lock()
    together = threading.Event()
    at_work: Counter[bytes] = Counter()
    most = 0
    order: dict[bytes, list[int]] = {}

    def handler(record: DeliveredRecord) -> None:
        nonlocal most
        key = record.key or b""
        with lock:
            at_work[key] += 1
            assert at_work[key] == 1
            most = max(most, sum(at_work.values()))
            if most == 4:
                together.set()
        assert together.wait(LONG_S)
        time.sleep(0.001)
        with lock:
            at_work[key] -= 1
            if record.offset % 37 == 5 and record.delivery_count == 1:
                raise ValueError("once")
            order.setdefault(key, []).append(record.offset)

    done = run(broker, handler, max_records=200, concurrency=4)
    assert done == Handled(handled=200, retries=6)
    assert all(offsets == sorted(offsets) for offsets in order.values())
    assert most == 4
    assert committed(broker) == 200


def test_a_key_that_waits_holds_up_no_other(broker: Broker) -> None:
    with broker.producer() as producer:
        for n in range(20):
            producer.send("orders", b"%d" % n, key=b"bad" if n in (0, 5) else b"k%d" % n)
    seen: list[int] = []
    release = threading.Event()

    def handler(record: DeliveredRecord) -> None:
        if record.offset == 0 and not release.is_set():
            raise RetryLater(20)
        seen.append(record.offset)

    with broker.consumer("orders", group="g") as consumer:

        def work() -> None:
            consumer.run(handler, **{**FAST, "max_records": 20, "max_deliveries": 10_000})

        with in_thread(work):
            eventually(lambda: len(seen) == 18)
            assert 0 not in seen
            assert 5 not in seen  # the same key
            time.sleep(0.1)
            assert committed(broker) == 0  # nothing is acknowledged over the gap
            release.set()
    assert seen[18:] == [0, 5]
    assert committed(broker) == 20


def test_progress_is_acknowledged_while_it_runs(broker: Broker) -> None:
    put(broker, *[b"%d" % n for n in range(5)])
    stop = threading.Event()
    with (
        broker.consumer("orders", group="g") as consumer,
        in_thread(lambda: consumer.run(lambda record: None, stop=stop, **FAST)),
    ):
        eventually(lambda: committed(broker) == 5)
        put(broker, b"5")
        eventually(lambda: committed(broker) == 6)
        stop.set()


def test_close_from_another_thread_lets_finish_what_runs(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(broker, b"a", b"b")
    closing = closing_of_handlers(monkeypatch)
    began = threading.Event()
    done: list[Handled] = []

    def handler(record: DeliveredRecord) -> None:
        began.set()
        assert closing.wait(LONG_S)

    consumer = broker.consumer("orders", group="g")
    with in_thread(lambda: done.append(consumer.run(handler, **FAST))):
        assert began.wait(LONG_S)
        consumer.close()
    assert done == [Handled(handled=1)]
    assert committed(broker) == 1
    assert broker.group("g").members == ()


def test_a_handler_may_close_its_own_consumer(broker: Broker) -> None:
    put(broker, b"a", b"b")
    consumer = broker.consumer("orders", group="g")
    settings = {**FAST, "shutdown_timeout_ms": 3_600_000}
    with in_thread(lambda: consumer.run(lambda record: consumer.close(), **settings)):
        pass  # it does not wait for itself
    assert consumer.is_closed
    with pytest.raises(BrokerClosed):
        consumer.run(print)


def test_closing_the_broker_ends_it(folder: str) -> None:
    with Broker.open(folder) as opened:
        opened.create_topic("orders")
        put(opened, b"a")
        handled = threading.Event()
        consumer = opened.consumer("orders", group="g")
        with in_thread(lambda: consumer.run(lambda record: handled.set(), **FAST)):
            assert handled.wait(LONG_S)
            opened.close()
    with Broker.open(folder) as opened:
        assert committed(opened) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_run(broker: Broker, kind: type[BaseException]) -> None:
    put(broker, b"a", b"stop", b"c")

    def handler(record: DeliveredRecord) -> None:
        if record.value == b"stop":
            raise kind

    with broker.consumer("orders", group="g") as consumer:
        with pytest.raises(kind):
            consumer.run(handler, **FAST)
        assert committed(broker) == 1
        counts = {record.offset: record.value for record in consumer.poll()}
        assert counts == {1: b"stop", 2: b"c"}  # nothing is lost


def test_ctrl_c_while_it_waits(broker: Broker) -> None:
    put(broker, b"a")
    handled = threading.Event()

    def interrupt() -> None:
        handled.wait(LONG_S)
        # Not in the middle of its first wait, for which it opens a pipe.
        while committed(broker) < 1:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    with in_thread(interrupt), pytest.raises(KeyboardInterrupt):
        run(broker, lambda record: handled.set(), timeout_ms=2_000 * LONG_S)
    assert committed(broker) == 1


def test_a_handler_that_never_ends_holds_up_the_end_for_so_long(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    put(broker, b"stuck")
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def handler(record: DeliveredRecord) -> None:
        began.set()
        go_on.wait(600)
        ended.set()

    try:
        run(broker, handler, stop=began, shutdown_timeout_ms=50)
        assert not ended.is_set()
        assert "1 handlers did not finish within 50 ms" in caplog.text
        assert committed(broker) == 0
    finally:
        go_on.set()  # its thread ends: the watch for leaks looks


# -- groups --------------------------------------------------------------------------


def test_partitions_that_move_are_handled_by_one_or_the_other(broker: Broker) -> None:
    broker.create_topic("four", partitions=4)
    with broker.producer() as producer:
        for n in range(400):
            producer.send("four", b"%d" % n, partition=n % 4)
    lock = threading.Lock()
    handled: Counter[tuple[int, int]] = Counter()
    by: list[Counter[int]] = [Counter(), Counter()]
    stop = threading.Event()

    def handler(which: int) -> Callable[[DeliveredRecord], None]:
        def handle(record: DeliveredRecord) -> None:
            # The first one waits for the other when half of it is done.
            is_early = which == 0 and len(handled) > 200 and not by[1]
            time.sleep(0.2 if is_early else 0.002)
            with lock:
                handled[record.partition, record.offset] += 1
                by[which][record.partition] += 1

        return handle

    def work(which: int) -> None:
        run(broker, handler(which), topic="four", stop=stop, concurrency=2, max_pending=40)

    with in_thread(lambda: work(0)):
        eventually(lambda: len(handled) > 20)
        with in_thread(lambda: work(1)):
            eventually(lambda: len(handled) == 400)
            stop.set()
    # Revoked ones finish and are acknowledged first, so each was handled just once.
    assert set(handled.values()) == {1}
    assert set(by[1]) != set()
    assert [committed(broker, p, "four") for p in range(4)] == [100] * 4


def test_a_slow_handler_stays_a_member(broker: Broker) -> None:
    """A full pool, and a handler beyond max.poll.interval.ms: run polls all the same."""
    put(broker, *[b"%d" % n for n in range(6)])
    lost: list[object] = []
    seen: list[int] = []

    def handler(record: DeliveredRecord) -> None:
        seen.append(record.offset)
        if record.offset == 0:
            polled_s = {consumer.membership.polled_s}

            def goes_on() -> bool:
                polled_s.add(consumer.membership.polled_s)
                return len(polled_s - {math.inf}) > 4

            eventually(goes_on)

    settings = {"max_poll_interval_ms": 9_000, "on_lost": lost.append}
    with broker.consumer("orders", group="g", **settings) as consumer:  # type: ignore[arg-type]
        assert isinstance(consumer, GroupConsumer)
        done = consumer.run(handler, **{**FAST, "max_records": 6, "max_pending": 2})
    assert done == Handled(handled=6)
    assert (seen, lost) == ([0, 1, 2, 3, 4, 5], [])


def test_a_full_pool_warns_and_slows_nobody_else(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    put(broker, *[b"%d" % n for n in range(200)])
    lags: list[Lag] = []
    go_on, stop = threading.Event(), threading.Event()

    def stuck(record: DeliveredRecord) -> None:
        go_on.wait(LONG_S)

    def work() -> None:
        run(broker, stuck, max_pending=10, lag_warning_ms=50, on_lag=lags.append, stop=stop)

    with in_thread(work):
        try:
            eventually(lambda: bool(lags))
            others: list[Record] = []
            done = run(broker, others.append, group="other", max_records=200)
            assert done.handled == 200
            assert broker.group("g").offsets[0].lag == 200
        finally:
            stop.set()
            go_on.set()
    [lag] = lags  # once a minute at the most
    assert lag.full_ms[("orders", 0)] >= 50
    assert lag.lag == {("orders", 0): 200}
    assert lag.pending <= 10
    assert lag.running == 1
    assert caplog.text.count("the handlers are slow") == 1


def test_lag_above_a_number_of_records_warns(broker: Broker) -> None:
    put(broker, *[b"%d" % n for n in range(50)])
    lags: list[Lag] = []
    run(
        broker,
        lambda record: time.sleep(0.01),
        max_records=50,
        lag_warning_records=10,
        lag_warning_ms=20,
        on_lag=lags.append,
    )
    assert len(lags) == 1


def test_one_partition_that_waits_slows_no_other(broker: Broker) -> None:
    broker.create_topic("two", partitions=2)
    put(broker, *[b"bad"] * 30, topic="two", partition=0)
    put(broker, *[b"good"] * 300, topic="two", partition=1)
    seen: list[int] = []

    def handler(record: DeliveredRecord) -> None:
        if record.partition == 0:
            raise RetryLater(60_000)
        seen.append(record.offset)

    stop = threading.Event()
    settings = {"ordering": "partition", "max_pending": 20, "stop": stop}
    with in_thread(lambda: run(broker, handler, topic="two", **settings)):
        eventually(lambda: len(seen) == 300)
        stop.set()
    assert seen == list(range(300))


def test_fenced_in_the_middle_it_joins_anew_and_goes_on(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    put(broker, *[b"%d" % n for n in range(5)])
    seen: list[int] = []
    lost: list[object] = []
    with broker.consumer("orders", group="g", on_lost=lost.append) as consumer:
        assert isinstance(consumer, GroupConsumer)
        engine, membership = broker.engine, consumer.membership

        def handler(record: DeliveredRecord) -> None:
            seen.append(record.offset)
            if len(seen) == 3:
                # As another process does that takes it for dead.
                engine.groups.leave("g", membership.member_id, engine.layout(), lambda _: False)

        stop = threading.Event()
        with in_thread(lambda: consumer.run(handler, stop=stop, **FAST)):
            eventually(lambda: committed(broker) == 5)
            stop.set()
    assert lost == [[("orders", 0)]]
    assert set(seen) == {0, 1, 2, 3, 4}
    assert issubclass(GroupFenced, Exception)
    assert "was taken for dead" in caplog.text


# -- processes that die --------------------------------------------------------------


def dying(folder: str, deaths: Callable[[], None], value: bytes = b"poison") -> Child:
    """A process that handles records, and dies over one of them."""

    def live(say: Callable[[str], None]) -> None:
        def handler(record: DeliveredRecord) -> None:
            say(f"{(record.value or b'').decode()} {record.delivery_count}")
            if record.value == value:
                deaths()

        with Broker.open(folder) as broker:
            run(broker, handler, max_records=3, max_deliveries=3)

    return Child(live)


@pytest.mark.parametrize(
    "deaths", [lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL)]
)
def test_a_handler_that_kills_its_process_comes_to_its_limit(
    folder: str, deaths: Callable[[], None]
) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        put(broker, b"before", b"poison", b"after")
    said = [dying(folder, deaths).wait() for _ in range(4)]
    assert [lines[-1] for lines in said] == ["poison 1", "poison 2", "poison 3", "after 1"]
    with Broker.open(folder) as broker:
        assert committed(broker) == 3
        [letter] = read_all(broker, "orders.dlq")
        assert letter.value == b"poison"
        assert headers(letter)["seawall.dlq.error.class"] == "ProcessDied"
        assert headers(letter)["seawall.dlq.attempts"] == "3"
        notes = os.path.join(folder, "run", "deliveries")
        assert os.listdir(notes) == []


def fail_once(broker: Broker, handler: Callable[[DeliveredRecord], object]) -> None:
    stop = threading.Event()
    run(broker, handler, stop=stop, on_retry=lambda *_: stop.set())


def test_killed_from_outside_others_take_over_and_count_what_was_in_flight(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        with broker.producer() as producer:
            for n in range(4):
                producer.send("orders", b"%d" % n, key=b"%d" % n)

        def live(say: Callable[[str], None]) -> None:
            def handler(record: DeliveredRecord) -> None:
                if record.offset in (1, 2):
                    say(f"{record.offset}")
                    time.sleep(600)

            with Broker.open(folder) as opened:
                run(opened, handler, concurrency=2)

        child = Child(live)
        assert {child.line(), child.line()} == {"1", "2"}
        eventually(lambda: committed(broker) == 1)
        child.kill(signal.SIGKILL)
        child.wait()
        seen: dict[int, int] = {}

        def handler(record: DeliveredRecord) -> None:
            seen[record.offset] = record.delivery_count

        assert run(broker, handler, max_records=3).handled == 3
        assert seen == {1: 2, 2: 2, 3: 1}
        assert committed(broker) == 4


def test_killed_between_dead_letter_and_acknowledgement(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        put(broker, b"bad", b"good")

    def reject(record: DeliveredRecord) -> None:
        if record.value == b"bad":
            raise Reject("no")

    def live(say: Callable[[str], None]) -> None:
        def die(*arguments: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        with Broker.open(folder) as opened:
            run(opened, reject, ack_interval_ms=60_000, on_dead_letter=die)

    Child(live).wait()
    with Broker.open(folder) as broker:
        done = run(broker, reject, max_records=2)
        assert done == Handled(handled=1, dead_lettered=1)
        assert values(read_all(broker, "orders.dlq")) == [b"bad", b"bad"]  # twice, but not lost
        assert committed(broker) == 2


def test_deliveries_are_counted_across_clean_ends(broker: Broker) -> None:
    put(broker, b"x")
    seen: list[int] = []

    def handler(record: DeliveredRecord) -> None:
        seen.append(record.delivery_count)
        raise RetryLater(60_000)

    for _ in range(2):
        fail_once(broker, handler)
    done = run(broker, handler, max_records=1, max_deliveries=3)
    assert (seen, done) == ([1, 2, 3], Handled(dead_lettered=1))


def test_a_reset_begins_to_count_anew(broker: Broker) -> None:
    put(broker, b"x")
    seen: list[int] = []

    def handler(record: DeliveredRecord) -> None:
        seen.append(record.delivery_count)
        raise RetryLater(60_000)

    for _ in range(2):
        fail_once(broker, handler)
        broker.reset_group("g", "orders", {0: 0})
    assert seen == [1, 1]


# -- disks that fail -----------------------------------------------------------------


def test_a_dead_letter_that_cannot_be_written_is_tried_again_and_not_acknowledged(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        broker.create_topic("orders.dlq")
        put(broker, b"bad", b"good")
        files.fail("pwritev", where="orders.dlq", times=3, error=errno.ENOSPC)
        letters: list[int] = []
        acked: list[int] = []

        def handler(record: DeliveredRecord) -> None:
            if record.value == b"bad":
                raise Reject("no")
            letters.append(broker.ends("orders.dlq", 0).durable_end)

        def look(said: logging.LogRecord) -> bool:
            if "cannot become a dead letter" in said.getMessage():
                acked.append(committed(broker))
            return True

        caplog.handler.addFilter(look)
        with caplog.at_level(logging.WARNING):
            done = run(broker, handler, max_records=2)
        caplog.handler.removeFilter(look)
        assert done == Handled(handled=1, dead_lettered=1)
        assert files.hits == 3
        assert letters == [1]  # "good" shares the key: it waited for the dead letter
        assert acked == [0]
        assert values(read_all(broker, "orders.dlq")) == [b"bad"]
        assert committed(broker) == 2


def test_an_acknowledgement_without_room_is_tried_again(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    from seawall.broker.errors import StorageFull

    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        put(broker, b"a")
        with broker.consumer("orders", group="g") as consumer:
            assert isinstance(consumer, GroupConsumer)
            commit = consumer.membership.commit
            fails = [StorageFull(path="state.lmdb", reason="full")] * 2

            def failing(*arguments: Any) -> None:
                if fails:
                    raise fails.pop()
                commit(*arguments)

            consumer.membership.commit = failing  # type: ignore[method-assign]
            stop = threading.Event()
            attend, turns = consumer._attend, []

            def counted() -> None:
                turns.append(1)
                attend()

            consumer._attend = counted  # type: ignore[method-assign]
            with in_thread(lambda: consumer.run(lambda record: None, stop=stop, **FAST)):
                eventually(lambda: committed(broker) == 1)
                stop.set()
    assert len(turns) < 100  # it sleeps meanwhile
    assert "cannot acknowledge: no room to write" in caplog.text
    assert "retry 2 in" in caplog.text


def test_notes_that_cannot_be_written_stop_nothing(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = FaultyFiles()
    with broker_on(files, folder) as broker:
        broker.create_topic("orders")
        put(broker, b"a", b"b")
        files.fail("", where="deliveries", times=1_000_000)
        assert run(broker, lambda record: None, max_records=2).handled == 2
        assert caplog.text.count("deliveries are not counted") == 1
        files.heal()


def test_a_record_that_is_as_large_as_may_be_becomes_a_dead_letter(broker: Broker) -> None:
    broker.create_topic("big", config={"max.message.bytes": 1_000_000})
    broker.create_topic("big.dlq", config={"max.message.bytes": 1_000_000})
    put(broker, b"x" * 999_900, topic="big")

    def handler(record: DeliveredRecord) -> None:
        raise Reject("y" * 100_000)

    assert run(broker, handler, topic="big", max_records=1).dead_lettered == 1
    [letter] = read_all(broker, "big.dlq")
    assert len(letter.value or b"") == 999_900
    assert headers(letter)["seawall.dlq.offset"] == "0"


def test_more_headers_than_fit_are_dropped_from_the_end(broker: Broker) -> None:
    with broker.producer() as producer:
        producer.send("orders", b"x", headers=[("h", b"%d" % n) for n in range(9_999)])

    def handler(record: DeliveredRecord) -> None:
        raise Reject("no")

    assert run(broker, handler, max_records=1).dead_lettered == 1
    [letter] = read_all(broker, "orders.dlq")
    assert len(letter.headers) == 10_000
    assert letter.headers[0] == ("h", b"0")
    assert headers(letter)["seawall.dlq.topic"] == "orders"
    assert headers(letter)["seawall.dlq.error.message"] == "no"


def test_an_interrupt_between_poll_and_handling_loses_nothing(broker: Broker) -> None:
    put(broker, b"a", b"b", b"c")
    with broker.consumer("orders", group="g") as consumer:
        assert isinstance(consumer, GroupConsumer)
        poll = consumer.poll

        def interrupted(*arguments: Any) -> list[Record]:
            if poll(*arguments):
                raise KeyboardInterrupt
            return []

        consumer.poll = interrupted  # type: ignore[method-assign,assignment]
        with pytest.raises(KeyboardInterrupt):
            consumer.run(print, **FAST)
        consumer.poll = poll  # type: ignore[method-assign]
        seen: list[Record] = []
        consumer.run(seen.append, max_records=3)
    assert values(seen) == [b"a", b"b", b"c"]


def test_damage_ends_run_after_what_was_read_is_acknowledged(broker: Broker) -> None:
    put(broker, b"a", b"b")
    began = threading.Event()

    def handler(record: DeliveredRecord) -> None:
        began.set()
        time.sleep(0.05)

    with broker.consumer("orders", group="g") as consumer:
        poll = consumer.poll

        def damaged(*arguments: Any) -> list[Record]:
            if began.is_set():
                raise LogDamaged(
                    path="x",
                    position=0,
                    offset=2,
                    next_offset=3,
                    reason="a test",
                    topic="orders",
                    partition=0,
                )
            return poll(*arguments)

        consumer.poll = damaged  # type: ignore[method-assign,assignment]
        with pytest.raises(LogDamaged):
            consumer.run(handler, **FAST)
        assert committed(broker) >= 1
        consumer.poll = poll  # type: ignore[method-assign]
        assert [record.offset for record in consumer.poll()] == [1, 2][: 2 - committed(broker)]


def test_the_same_consumer_loses_and_regains_its_partition(broker: Broker) -> None:
    """What a handler of before does late changes nothing, and is acknowledged by nobody."""
    put(broker, b"a", b"b")
    calls: list[int] = []
    go_on = threading.Event()
    with broker.consumer("orders", group="g") as consumer:
        assert isinstance(consumer, GroupConsumer)
        engine, membership = broker.engine, consumer.membership

        def handler(record: DeliveredRecord) -> None:
            calls.append(record.offset)
            if len(calls) == 1:
                engine.groups.leave("g", membership.member_id, engine.layout(), lambda _: False)
                go_on.wait(LONG_S)

        stop = threading.Event()
        settings = {**FAST, "concurrency": 2, "stop": stop}
        with in_thread(lambda: consumer.run(handler, **settings)):
            try:
                eventually(lambda: len(calls) == 3)  # 0, and again 0 and 1
                eventually(lambda: committed(broker) == 2)
                go_on.set()
                time.sleep(0.05)
            finally:
                go_on.set()
                stop.set()
    assert calls == [0, 0, 1]
    assert committed(broker) == 2


def test_a_topic_that_is_deleted_ends_it(broker: Broker) -> None:
    put(broker, b"a")
    with broker.consumer("orders", group="g") as consumer, pytest.raises(UnknownTopic):
        consumer.run(lambda record: broker.delete_topic("orders"), **FAST)


def test_partitions_that_are_added_are_handled(broker: Broker) -> None:
    put(broker, b"a")
    seen: list[tuple[int, bytes | None]] = []

    def handler(record: DeliveredRecord) -> None:
        seen.append((record.partition, record.value))
        if record.value == b"a":
            broker.add_partitions("orders", 3)
            put(broker, b"b", partition=2)
        elif record.value == b"b":
            raise Reject("no")

    assert run(broker, handler, max_records=2) == Handled(handled=1, dead_lettered=1)
    assert seen == [(0, b"a"), (2, b"b")]
    assert [record.partition for record in read_all(broker, "orders.dlq")] == [2]


def test_a_dead_letter_topic_with_fewer_partitions_grows(broker: Broker) -> None:
    broker.create_topic("orders.dlq")
    broker.add_partitions("orders", 2)
    put(broker, b"b", partition=1)

    def handler(record: DeliveredRecord) -> None:
        raise Reject("no")

    assert run(broker, handler, max_records=1).dead_lettered == 1
    assert len(broker.topic("orders.dlq").partitions) == 2


def test_it_sleeps_while_a_handler_is_at_work(broker: Broker) -> None:
    put(broker, b"a")
    with broker.consumer("orders", group="g") as consumer:
        assert isinstance(consumer, GroupConsumer)
        attend, turns = consumer._attend, []

        def counted() -> None:
            turns.append(1)
            attend()

        consumer._attend = counted  # type: ignore[method-assign]
        consumer.run(lambda record: time.sleep(0.3), max_records=1, ack_interval_ms=0)
        consumer.run(print, timeout_ms=300)
    assert len(turns) < 100
