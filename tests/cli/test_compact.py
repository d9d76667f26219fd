"""`seawall compact`, `config`, `topic alter` and `topic delete-records`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Cli

from seawall.broker import Broker


@pytest.fixture
def filled(cli: Cli, data: Path, tmp_path: Path) -> str:
    """A topic of several segments in its first partition."""
    cli("topic", "create", "orders", "-q", "-p", 2, "-c", "segment.bytes=4096")
    with Broker.open(data) as broker, broker.producer(linger_ms=0) as producer:
        for number in range(6):
            producer.send("orders", b"%d" % number * 3000, partition=0).result()
    return "orders"


def test_compact_says_what_goes_and_what_stays(cli: Cli, filled: str) -> None:
    assert cli("compact").out.decode() == (
        "TOPIC   PARTITION  POLICY        REMOVED  BY  START  SEGMENTS  BYTES  HELD BY\n"
        "orders          0  acknowledged        0  -       0         6  18420  no group\n"
        "orders          1  acknowledged        0  -       0         0      0  -\n"
    )
    cli("group", "reset", "billing", "-t", filled, "-o", "2", "-p", 0)
    cli("group", "reset", "audit", "-t", filled, "-o", "start")
    lines = cli("compact", filled, "--json").lines
    held = json.loads(lines[0])
    assert held["removed"] == []
    assert held["held_by"] == [{"rule": "group", "group": "audit", "offset": 0}]
    cli("group", "delete", "audit")
    wanted = cli("compact", "--dry-run")
    assert wanted.out.decode().splitlines()[1].split()[3:6] == ["2", "acknowledged", "2"]
    assert wanted.out.decode().splitlines()[1].endswith("group billing at 2")
    assert cli("compact") == wanted
    done = json.loads(cli("compact", "--json").lines[0])
    assert (done["log_start"], done["kept_segments"], done["removed"]) == (2, 4, [])
    assert cli("compact", "nobody").code == 1


def test_delete_records(cli: Cli, filled: str) -> None:
    wanted = cli("topic", "delete-records", filled, "-o", "-2", "-p", 0, "--dry-run", "--json")
    assert [json.loads(line) for line in wanted.lines] == [
        {"topic": "orders", "partition": 0, "from": 0, "to": 4}
    ]
    assert cli("topic", "delete-records", filled, "-o", "-2", "-p", 0, "--json") == wanted
    assert cli("topic", "delete-records", filled, "-o", "end").out.decode() == (
        "TOPIC   PARTITION  START  NEW START\n"
        "orders          0      4          6\n"
        "orders          1      0          0\n"
    )
    facts = json.loads(cli("topic", "describe", filled, "--json").out)
    assert [each["records"] for each in facts["partitions"]] == [0, 0]
    for wrong in (("-o", "99", "-p", 0), ("-o", "0", "-p", 7)):
        ended = cli("topic", "delete-records", filled, *wrong)
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert cli("topic", "delete-records", filled, "-o", "sometime").code == 2


def test_a_group_behind_the_log_start_is_told(cli: Cli, filled: str) -> None:
    """On stderr, and goes on where --help says."""
    cli("group", "reset", "billing", "-t", filled, "-o", "start")
    cli("topic", "delete-records", filled, "-o", "4", "-p", 0)
    ended = cli("consume", filled, "-e", "-g", "billing", "-f", "%o\n")
    assert ended.lines == [b"4", b"5"]
    assert "seawall: orders/0: offset 0 is gone (the log holds 4 to 6); going on at 4" in ended.err
    assert cli("consume", filled, "-e", "-g", "billing").out == b""


def test_alter(cli: Cli, filled: str) -> None:
    ended = cli("topic", "alter", filled, "-p", 3, "-c", "retention.ms=-1", "-c", "segment.bytes=")
    assert ended == (0, b"", "seawall: topic 'orders' has 3 partitions; retention.ms=-1\n")
    assert cli("topic", "alter", filled, "-q", "--config", "retention.ms=").err == ""
    facts = json.loads(cli("topic", "describe", filled, "--json").out)
    assert (facts["config"], len(facts["partitions"])) == ({}, 3)
    assert cli("topic", "alter", filled).code == 2
    assert cli("topic", "alter", filled, "-c", "retention.ms").code == 2
    for wrong in (("-p", 2), ("-c", "colour=red"), ("-c", "retention.ms=-2")):
        ended = cli("topic", "alter", filled, *wrong)
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert cli("topic", "alter", "nobody", "-p", 2).code == 1


def test_config(cli: Cli, orders: str) -> None:
    assert cli("config").out.decode() == (
        "NAME                                 VALUE\n"
        "log.cleaner.io.max.bytes.per.second  33554432\n"
        "log.retention.check.interval.ms      300000\n"
        "offsets.retention.minutes            10080\n"
        "producer.id.expiration.ms            86400000\n"
    )
    assert cli("config", "offsets.retention.minutes=5") == (0, b"", "")
    found = json.loads(cli("config", "log.retention.check.interval.ms=1000", "--json").out)
    assert found["offsets.retention.minutes"] == "5"
    assert found["log.retention.check.interval.ms"] == "1000"
    found = json.loads(cli("config", "offsets.retention.minutes=", "--json").out)
    assert found["offsets.retention.minutes"] == "10080"
    assert cli("config", "offsets.retention.minutes").code == 2
    ended = cli("config", "offset.retention.minutes=1")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "did you mean 'offsets.retention.minutes'" in ended.err
