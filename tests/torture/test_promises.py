"""Each promise is seen to be broken when it is: a ledger that asks for what is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seawall.broker.broker import Broker
from seawall.broker.torture import promises
from seawall.broker.torture.marks import Ledger, Mark
from seawall.wal.torture.search import Broken

VALUES = ["1.0", "1.1", "1.2"]


def pair(number: int, op: str, done: dict[str, Any] | None = None, **fields: Any) -> list[Mark]:
    """An operation that was acknowledged."""
    return [
        {"id": number, "is": "began", "op": op, **fields},
        {"id": number, "is": "done", **(done or {})},
    ]


PLACE = {"topic": "orders", "partition": 0}
CREATED = pair(1, "create", topic="orders", partitions=1)
SENT = pair(2, "send", {"offset": 0}, **PLACE, values=VALUES)
ACKED = pair(3, "ack", group="billing", **PLACE, offset=2)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A topic with three records, of which a group has acknowledged two."""
    with Broker.open(tmp_path / "data") as broker:
        broker.create_topic("orders")
        with broker.producer() as producer:
            for value in VALUES:
                producer.send("orders", value.encode())
        with broker.consumer("orders", group="billing") as consumer:
            consumer.ack(consumer.poll(2, timeout_ms=0))
        yield broker


def test_what_is_as_it_was_promised_passes_again_and_again(broker: Broker) -> None:
    ledger = Ledger([*CREATED, *SENT, *ACKED])
    for word in ("once", "twice", "thrice"):
        promises.check(broker, ledger, word=word)
    assert len(promises.read_all(broker, "orders", 0)) == 3 + 3 * 2


def test_an_operation_without_an_end_may_have_happened_or_not(broker: Broker) -> None:
    open_ended = [
        *CREATED,
        *SENT[:1],
        *ACKED[:1],
        {"id": 9, "is": "began", "op": "create", "topic": "carts", "partitions": 2},
        {"id": 10, "is": "began", "op": "send", **PLACE, "values": ["10.0"]},
        {"id": 11, "is": "began", "op": "reset", "group": "billing", **PLACE, "offset": 0},
    ]
    promises.check(broker, Ledger(open_ended))


def test_a_dead_letter_may_be_there_more_than_once(broker: Broker) -> None:
    """Killed before it was acknowledged, a record is given up once more."""
    with broker.producer() as producer:
        producer.send("orders", b"1.1").result()
    again = pair(4, "send", {"offset": 3}, **PLACE, values=["1.1"])
    promises.check(broker, Ledger([*CREATED, *SENT, *ACKED, *again]))
    with pytest.raises(Broken, match=r"offset 3 is b'1\.1', out of order or again"):
        promises.check(broker, Ledger([*CREATED, *SENT, *ACKED]))


def test_what_was_given_up_and_acknowledged_has_its_dead_letter(broker: Broker) -> None:
    relying = {"group": "billing", **PLACE, "offset": 2}
    # From when it begins to be acknowledged.
    missing = pair(3, "ack", **relying, dead=[["orders", "1.9"]])[:1]
    with pytest.raises(Broken, match=r"lacks b'1\.9', a dead letter of what was acknowledged"):
        promises.check(broker, Ledger([*CREATED, *SENT, *missing]))
    there = pair(3, "ack", **relying, dead=[["orders", "1.1"]])
    promises.check(broker, Ledger([*CREATED, *SENT, *there]))


def test_who_joins_while_its_group_is_deleted_begins_anew(broker: Broker) -> None:
    joining, joined = pair(4, "join", group="billing", **PLACE, offset=0)
    forgotten = pair(5, "forget", group="billing")
    broker.delete_group("billing")
    ledger = Ledger([*CREATED, *SENT, *ACKED, joining, *forgotten])
    promises.check(broker, ledger)
    broker.consumer("orders", group="billing").close()
    ledger.take(joined)
    promises.check(broker, ledger, word="joined")


def more(*marks: Mark) -> Callable[[], list[Mark]]:
    return lambda: [*CREATED, *SENT, *ACKED, *marks]


@pytest.mark.parametrize(
    ("marks", "sentence"),
    [
        (more(*pair(4, "send", {"offset": 3}, **PLACE, values=["4.0"])), "was b'4.0' and is None"),
        (more(*pair(4, "create", topic="carts", partitions=1)), "'carts' was created and is not"),
        (more(*pair(4, "delete", topic="orders")), "'orders' was deleted and is there"),
        (more(*pair(4, "ack", group="billing", **PLACE, offset=3)), "has committed 2 in"),
        (more(*pair(4, "reset", group="billing", **PLACE, offset=1)), "has committed 2 in"),
        (more(*pair(4, "forget", group="billing")), "has committed 2 in"),
        (more(*pair(4, "drop", **PLACE, offset=2)), "starts at 0, not between 2 and 2"),
        (lambda: [*CREATED, *ACKED], "b'1.0', which nobody sent"),
        (lambda: [*SENT[:0], *pair(1, "create", topic="other", partitions=1)], "was created and"),
        (
            lambda: [
                *CREATED,
                SENT[0],
                {"id": 2, "is": "failed", "error": "StorageFull"},
                *ACKED,
            ],
            "whose sending failed",
        ),
        (
            lambda: [
                *CREATED,
                *pair(2, "send", {"offset": 1}, **PLACE, values=["1.1"]),
                {"id": 5, "is": "began", "op": "send", **PLACE, "values": ["1.0", "1.2"]},
                *ACKED,
            ],
            "out of order or again",
        ),
        (
            lambda: [*CREATED, *pair(2, "send", {"offset": 1}, **PLACE, values=VALUES), *ACKED],
            "was b'1.0' and is b'1.1'",
        ),
    ],
)
def test_a_broken_promise_is_seen(
    broker: Broker, marks: Callable[[], list[Mark]], sentence: str
) -> None:
    with pytest.raises(Broken, match=sentence.replace("(", r"\(")):
        promises.check(broker, Ledger(marks()))


def test_an_offset_that_means_two_things_is_seen_at_once() -> None:
    first = pair(4, "see", **PLACE, offset=0, values=["a"])
    other = pair(5, "see", **PLACE, offset=0, values=["b"])
    with pytest.raises(Broken, match="offset 0 was b'a' and is now b'b'"):
        Ledger([*CREATED, *first, *other])
