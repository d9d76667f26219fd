"""`seawall dlq`: list, show, redrive, purge."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import Cli, Ended

from seawall.broker import Broker, DeliveredRecord, Reject


@pytest.fixture
def failed(orders: str, data: Path) -> str:
    """A topic of four records, of which two became dead letters for one reason or another."""
    with Broker.open(data) as broker:
        with broker.producer() as producer:
            for n in range(4):
                producer.send(orders, b"%d" % n, key=b"k%d" % n)

        def handler(record: DeliveredRecord) -> None:
            if record.offset == 1:
                raise Reject("never\nmind")
            if record.offset == 2:
                raise ValueError("x" * 100)

        with broker.consumer(orders, group="billing") as consumer:
            consumer.run(handler, max_records=4, max_deliveries=2, retry_backoff_ms=0)
    return orders


def timeless(text: bytes) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "0000-00-00T00:00:00Z", text.decode())


def test_list(cli: Cli, failed: str) -> None:
    ended = cli("dlq", "list")
    assert (ended.code, ended.err) == (0, "")
    assert timeless(ended.out) == (
        "TOPIC       RECORDS  REDRIVEN  OLDEST                GROUPS   ORIGINS\n"
        "orders.dlq        2         0  0000-00-00T00:00:00Z  billing  orders\n"
    )
    [facts] = [json.loads(line) for line in cli("dlq", "list", "--json").lines]
    assert facts.pop("oldest_ms") > 1_600_000_000_000
    assert facts == {
        "topic": "orders.dlq",
        "records": 2,
        "redriven": 0,
        "groups": ["billing"],
        "origins": ["orders"],
    }


def test_list_of_nothing(cli: Cli, orders: str) -> None:
    assert cli("dlq", "list").out == b"TOPIC  RECORDS  REDRIVEN  OLDEST  GROUPS  ORIGINS\n"
    assert cli("dlq", "list", "--json") == Ended(0, b"", "")


def test_show(cli: Cli, failed: str) -> None:
    shown = timeless(cli("dlq", "show", failed).out).splitlines()
    assert [re.split(r"  +", line.strip()) for line in shown] == [
        [
            *("PARTITION", "OFFSET", "FAILED", "ORIGIN", "GROUP", "ATTEMPTS", "REDRIVES"),
            *("ERROR", "KEY"),
        ],
        [
            *("0", "0", "0000-00-00T00:00:00Z", "orders/0 1", "billing", "1", "0"),
            *("seawall.broker.handling.Reject: never mind", "k1"),
        ],
        [
            *("0", "1", "0000-00-00T00:00:00Z", "orders/0 2", "billing", "2", "0"),
            *(f"ValueError: {'x' * 47}…", "k2"),
        ],
    ]
    assert len(cli("dlq", "show", failed, "-n", 1).lines) == 2
    assert b"k2" not in cli("dlq", "show", failed, "--error", "Reject").out
    assert b"k1" not in cli("dlq", "show", "orders.dlq", "-o", "1:", "-g", "billing").out
    assert len(cli("dlq", "show", failed, "-g", "other").lines) == 1


def test_show_json_is_whole(cli: Cli, failed: str) -> None:
    first, second = (json.loads(line) for line in cli("dlq", "show", failed, "--json").lines)
    assert (first["key"], first["value"], first["topic"]) == ("k1", "1", "orders.dlq")
    letter = second["dead_letter"]
    assert letter["error_message"] == "x" * 100
    assert 'raise ValueError("x" * 100)' in letter["error_trace"]
    assert (letter["topic"], letter["offset"], letter["attempts"]) == ("orders", 2, 2)
    assert (letter["redriven"], letter["redrives"]) == (False, 0)
    assert len(cli("dlq", "show", failed, "--json", "-n", 1).lines) == 1


def test_show_says_when_there_are_more(cli: Cli, orders: str, data: Path) -> None:
    def handler(record: DeliveredRecord) -> None:
        raise Reject("no")

    with Broker.open(data) as broker:
        with broker.producer() as producer:
            for n in range(101):
                producer.send(orders, b"%d" % n)
        with broker.consumer(orders, group="g") as consumer:
            consumer.run(handler, max_records=101, ordering="unordered", concurrency=16)
    ended = cli("dlq", "show", orders)
    assert len(ended.lines) == 101
    assert "these are the first 100" in ended.err
    assert len(cli("dlq", "show", orders, "--json").lines) == 101


def test_redrive(cli: Cli, failed: str) -> None:
    table = "TOPIC       PARTITION  TO      RECORDS  FIRST  LAST\n"
    planned = cli("dlq", "redrive", failed, "--dry-run")
    assert planned.out.decode() == f"{table}orders.dlq          0  orders        2      0     1\n"
    assert planned.err == "seawall: 2 records would be sent\n"
    assert len(cli("consume", failed, "-e").lines) == 4
    ended = cli("dlq", "redrive", failed, "--error", "ValueError", "--json", "-q")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == {
        "topic": "orders.dlq",
        "partition": 0,
        "target": "orders",
        "records": 1,
        "first_offset": 1,
        "last_offset": 1,
        "refused": 0,
        "refused_offset": None,
        "reason": None,
    }
    assert len(cli("dlq", "show", failed).lines) == 2
    assert len(cli("dlq", "show", failed, "--all").lines) == 3
    assert cli("dlq", "redrive", failed).err == "seawall: 1 record sent\n"
    assert cli("dlq", "redrive", failed).err == "seawall: 0 records sent\n"
    assert cli("consume", failed, "-e").lines == [b"0", b"1", b"2", b"3", b"2", b"1"]


def test_redrive_of_what_its_topic_does_not_take(cli: Cli, failed: str, data: Path) -> None:
    cli("topic", "create", "other", "-q")
    cli("topic", "create", "table", "-q", "-c", "cleanup.policy=compact")
    line = data / "line"
    line.write_bytes(b"no key\n")
    cli("produce", "orders.dlq", line, "-q")
    line.unlink()
    planned = cli("dlq", "redrive", failed, "--to", "table", "--dry-run")
    assert (planned.code, len(planned.lines)) == (1, 2)
    assert planned.err.startswith("seawall: 2 records would be sent\nseawall: 1 record would stay")
    ended = cli("dlq", "redrive", failed, "--to", "table")
    assert ended.code == 1
    assert ended.err.startswith("seawall: 2 records sent\nseawall: 1 record stayed, because")
    assert "orders.dlq/0 offset 2: its topic keeps the last value of each key" in ended.err
    assert cli("dlq", "redrive", failed, "--to", "table", "-q").err.count("\n") == 1
    assert cli("dlq", "redrive", failed, "--to", "other").err == "seawall: 1 record sent\n"
    assert cli("consume", "table", "-e").lines == [b"1", b"2"]


def test_redrive_elsewhere(cli: Cli, failed: str) -> None:
    ended = cli("dlq", "redrive", failed, "--to", "nothing")
    assert ended.code == 1
    assert ended.err.startswith("seawall: no topic 'nothing'")
    assert cli("dlq", "redrive", failed, "--to", "orders.dlq").code == 1
    cli("topic", "create", "other", "-q")
    assert cli("dlq", "redrive", failed, "--to", "other", "-q").code == 0
    assert cli("consume", "other", "-e").lines == [b"1", b"2"]


def test_purge(cli: Cli, failed: str) -> None:
    header = b"TOPIC       PARTITION  START  NEW START\n"
    planned = cli("dlq", "purge", failed, "--dry-run")
    assert planned.out == header + b"orders.dlq          0      0          2\n"
    assert len(cli("dlq", "show", failed).lines) == 3
    ended = cli("dlq", "purge", failed, "--before", 1, "-p", 0, "--json")
    assert json.loads(ended.out) == {"topic": "orders.dlq", "partition": 0, "from": 0, "to": 1}
    assert len(cli("dlq", "show", failed).lines) == 2
    assert cli("dlq", "purge", failed).code == 0
    assert len(cli("dlq", "show", failed).lines) == 1


@pytest.mark.parametrize("verb", ["show", "redrive", "purge"])
def test_wrong_topics_and_partitions(cli: Cli, failed: str, verb: str) -> None:
    assert cli("dlq", verb, "nothing").err.startswith("seawall: no topic 'nothing'")
    cli("topic", "create", "plain", "-q")
    ended = cli("dlq", verb, "plain")
    assert ended.code == 1
    assert ended.err.startswith("seawall: topic 'plain' has no dead letters")
    ended = cli("dlq", verb, failed, "-p", 7)
    assert (ended.code, ended.err) == (1, "seawall: topic 'orders.dlq' has no partition 7\n")
    ended = cli("dlq", verb, failed, "-o", "nonsense")
    assert ended.code == 2
    assert ended.err.startswith("seawall: -o: 'nonsense' is not an offset")
