"""`seawall consume`: what is printed, where it starts and stops, when it acknowledges."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any, cast

import pytest
from brokers import eventually, in_thread, put
from commands import TIMEOUT_S, Cli, pipe_of, running

from seawall.broker import Broker
from seawall.cli.consume import Printer
from seawall.cli.output import Meter
from seawall.cli.signals import Signals
from seawall.wal.records import Record


@pytest.fixture
def filled(orders: str, data: Path) -> str:
    """Ten records, the first at 1,000 ms, one each second."""
    with Broker.open(data) as broker, broker.producer() as producer:
        for n in range(10):
            producer.send(
                orders, b"v%d" % n, key=b"k", headers={"h": b"x"}, timestamp=1000 * (n + 1)
            )
    return orders


def values(*numbers: int) -> bytes:
    return b"".join(b"v%d\n" % n for n in numbers)


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ((), range(10)),
        (("-o", "start"), range(10)),
        (("-o", "end"), ()),
        (("-o", "7"), (7, 8, 9)),
        (("-o", "10"), ()),
        (("-o", "-2"), (8, 9)),
        (("-o", "-100"), range(10)),
        (("-o", "2:4"), (2, 3)),
        (("-o", ":2"), (0, 1)),
        (("-o", "8:"), (8, 9)),
        (("-o", "-3:-1"), (7, 8)),
        (("-o", "5:5"), ()),
        (("-o", "5:2"), ()),
        (("-o", "8:100"), (8, 9)),
        (("-o", "@3000"), range(2, 10)),
        (("-o", "@3001:@5000"), (3,)),
        (("-o", "@1970-01-01T00:00:09Z"), (8, 9)),
        (("-o", "@-1h"), ()),
        (("-n", "3"), (0, 1, 2)),
        (("-n", "3", "-o", "8"), (8, 9)),
        (("-p", "0", "-o", "9"), (9,)),
    ],
)
def test_from_and_to(cli: Cli, filled: str, arguments: tuple[str, ...], numbers: range) -> None:
    ended = cli("consume", filled, "-e", *arguments)
    assert (ended.code, ended.out) == (0, values(*numbers))
    noun = "record" if len(numbers) == 1 else "records"
    assert ended.err == f"seawall: {len(numbers)} {noun} printed\n"


@pytest.mark.parametrize("arguments", [("-n", "3"), ("-o", ":3"), ("-o", "start:-7")])
def test_it_stops_without_e_where_the_stop_is_known(
    cli: Cli, filled: str, arguments: tuple[str, ...]
) -> None:
    assert cli("consume", filled, "-q", *arguments) == (0, values(0, 1, 2), "")


def test_what_arrives_behind_the_end_is_not_printed(cli: Cli, filled: str, data: Path) -> None:
    """The end is that of when the command began, in each partition, however records are fetched."""
    with Broker.open(data) as broker, broker.producer() as producer:
        for _ in range(5000):
            producer.send(filled, b"more")
    assert cli("consume", filled, "-q", "-o", "0:10").out == values(*range(10))


class TwoPartitions:
    """Stands in for a consumer that is ahead of the stops in one partition."""

    is_rebalancing = False

    def __init__(self) -> None:
        self.batches = [
            [record(0, 0), record(0, 1), record(0, 2)],
            [record(1, 0)],
            [record(1, 1), record(0, 3)],
        ]
        self.positions = {0: 0, 1: 0}
        self.acknowledged: dict[int, int] = {}

    def poll(self, max_records: int, timeout_ms: int) -> list[Record]:
        batch = self.batches.pop(0)
        for each in batch:
            self.positions[each.partition] = each.offset + 1
        return batch

    def assignment(self) -> list[tuple[str, int]]:
        return [("t", partition) for partition in self.positions]

    def position(self, topic: str, partition: int) -> int:
        return self.positions[partition]

    def ack(self, records: list[Record]) -> None:
        self.acknowledged.update({r.partition: r.offset + 1 for r in records})


def record(partition: int, offset: int) -> Record:
    return Record("t", partition, offset, 0, None, b"%d/%d" % (partition, offset), ())


def test_what_lies_behind_a_stop_is_neither_printed_nor_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[bytes] = []
    monkeypatch.setattr("seawall.cli.consume.write_bytes", lambda data, _: written.append(data))
    consumer = TwoPartitions()
    printer = Printer(
        cast("Any", consumer),
        "t",
        lambda records: b" ".join([r.value or b"" for r in records]),
        Signals(),
        stops={0: 2, 1: 2},
        acknowledge=True,
        skip_bad=False,
    )
    printer.run(None, Meter("records", enabled=False))
    assert written == [b"0/0 0/1", b"1/0", b"1/1"]
    assert (printer.printed, consumer.acknowledged) == (4, {0: 2, 1: 2})


def test_formats(cli: Cli, filled: str) -> None:
    ended = cli("consume", filled, "-q", "-o", "9:", "-e", "-f", r"%t/%p:%o@%T %k=%s (%h)\n")
    assert ended.out == b"orders/0:9@10000 k=v9 (h=x)\n"
    ended = cli("consume", filled, "-q", "-o", "9:", "-e", "--json")
    assert json.loads(ended.out) == {
        "topic": "orders",
        "partition": 0,
        "offset": 9,
        "timestamp": 10_000,
        "key": "k",
        "value": "v9",
        "headers": [{"name": "h", "value": "x"}],
    }


def test_null_is_shown_on_request(cli: Cli, orders: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\nb\n")
    cli("produce", orders, "-Z", tmp_path / "x")
    assert cli("consume", orders, "-e", "-q").out == b"\nb\n"
    assert cli("consume", orders, "-e", "-q", "-Z").out == b"NULL\nb\n"
    assert cli("consume", orders, "-e", "-q", "-Z", "-f", "%k/%s;").out == b"NULL/NULL;NULL/b;"


def test_partitions(cli: Cli, tmp_path: Path) -> None:
    cli("topic", "create", "wide", "-p", 3)
    for number in range(3):
        (tmp_path / "x").write_bytes(b"%d\n" % number * 2)
        cli("produce", "wide", "-p", number, tmp_path / "x")
    assert sorted(cli("consume", "wide", "-e", "-q").lines) == [b"0", b"0", b"1", b"1", b"2", b"2"]
    assert cli("consume", "wide", "-e", "-q", "-p", 1).lines == [b"1", b"1"]
    two = cli("consume", "wide", "-e", "-q", "-p", 2, "-p", 0, "-p", 2).lines
    assert sorted(two) == [b"0", b"0", b"2", b"2"]
    ended = cli("consume", "wide", "-p", 3)
    assert (ended.code, ended.out) == (1, b"")
    assert "has no partition 3" in ended.err


@pytest.mark.parametrize("offset", ["11", "11:"])
def test_an_offset_out_of_range(cli: Cli, filled: str, offset: str) -> None:
    ended = cli("consume", filled, "-o", offset)
    assert (ended.code, ended.out) == (1, b"")
    assert "offset 11 is out of range: partition 0 of 'orders' holds 0 to 10" in ended.err
    assert ended.err.count("\n") == 1


def test_an_unknown_topic(cli: Cli, orders: str) -> None:
    ended = cli("consume", "nosuch")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err.startswith("seawall: no topic 'nosuch'")


def committed(cli: Cli, group: str = "g") -> int:
    facts = json.loads(cli("group", "describe", group, "--json").out)
    (place,) = facts["offsets"]
    offset = place["committed"]
    assert isinstance(offset, int)
    return offset


def test_a_group_goes_on_where_it_printed(cli: Cli, filled: str) -> None:
    assert cli("consume", filled, "-g", "g", "-n", 3, "-q").out == values(0, 1, 2)
    assert committed(cli) == 3
    assert cli("consume", filled, "-g", "g", "-e", "-q").out == values(*range(3, 10))
    assert committed(cli) == 10
    assert cli("consume", filled, "-g", "g", "-e", "-q").out == b""


def test_where_a_new_group_begins(cli: Cli, filled: str) -> None:
    ended = cli("consume", filled, "-g", "a", "-e", "-q", "--auto-offset-reset", "latest")
    assert ended == (0, b"", "")
    ended = cli("consume", filled, "-g", "b", "-e", "-q", "--auto-offset-reset", "error")
    assert (ended.code, ended.out) == (1, b"")
    assert "group 'b' has no offset" in ended.err


def test_what_could_not_be_written_is_not_acknowledged(
    cli: Cli, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with monkeypatch.context() as patched:
            patched.setattr("seawall.cli.output.STDOUT", full)
            ended = cli("consume", filled, "-g", "g", "-e")
    finally:
        os.close(full)
    assert ended.code == 1
    assert "cannot write to stdout: No space left on device; 0 records printed" in ended.err
    assert committed(cli) == 0


def test_members_of_a_group_share_the_partitions(cli: Cli, data: Path) -> None:
    with Broker.open(data) as broker:
        broker.create_topic("two", partitions=2)
        for partition in range(2):
            put(broker, b"%d" % partition, topic="two", partition=partition)
        revoked: list[object] = []
        with broker.consumer("two", group="g", on_revoked=revoked.extend) as other:

            def until_shared() -> None:
                while not revoked:
                    other.poll(timeout_ms=20)

            with in_thread(until_shared):
                ended = cli("consume", "two", "-g", "g", "-e", "-q")
        assert (ended.code, ended.err) == (0, "")
        assert ended.lines in ([b"0"], [b"1"])


def test_a_member_has_the_settings_it_is_given(filled: str, data: Path, cli: Cli) -> None:
    settings = {
        "client.id": "me",
        "group.instance.id": "one",
        "session.timeout.ms": "40000",
        "heartbeat.interval.ms": "9000",
        "partition.assignment.strategy": "roundrobin,range",
    }
    arguments = [word for pair in settings.items() for word in ("-X", "=".join(pair))]
    with running("consume", filled, "-g", "g", "-b", data, *arguments) as process:
        assert pipe_of(process.stdout).readline() == b"v0\n"
        with Broker.open(data) as broker:
            _, [member] = broker.engine.groups.members("g")
        assert (member.client_id, member.instance_id) == ("me", "one")
        assert member.session_timeout_ms == 40_000
        assert member.assignors == ("roundrobin", "range")
        shown = cli("group", "describe", "g").out.decode()
        assert re.search(r"^g +Stable +1 +roundrobin$", shown, re.MULTILINE)
        assert re.search(r"^me-\w+ +one +me ", shown, re.MULTILINE)


def test_the_one_whose_instance_id_is_taken_ends(filled: str, data: Path) -> None:
    arguments = ("consume", filled, "-g", "g", "-b", data, "-X", "group.instance.id=one")
    with running(*arguments) as process, Broker.open(data) as broker:
        eventually(lambda: "g" in broker.groups() and broker.group("g").offsets[0].lag == 0)
        with broker.consumer(filled, group="g", group_instance_id="one") as consumer:
            assert process.wait(TIMEOUT_S) == 1
            consumer.poll()
            assert consumer.assignment() == [(filled, 0)]
        [line] = pipe_of(process.stderr).read().decode().splitlines()
    assert f"process {os.getpid()} on " in line
    assert "has joined group 'g' as 'one'" in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("-X", "client.id=me"), "only with -g"),
        (("-g", "g", "-X", "client.id"), "'client.id' is not NAME=VALUE"),
        (("-g", "g", "-X", "fetch.min.bytes=1"), "with NAME of client.id, group.instance.id"),
        (("-g", "g", "-X", "session.timeout.ms=soon"), "session.timeout.ms is a number"),
        (("-g", "g", "-X", "session.timeout.ms=1"), "session_timeout_ms is at least 500"),
        (("-g", "g", "-X", "partition.assignment.strategy=any"), "one or several of range"),
    ],
)
def test_bad_settings_of_a_member(
    cli: Cli, filled: str, arguments: tuple[str, ...], complaint: str
) -> None:
    ended = cli("consume", filled, "-e", *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, b"", 1)
    assert complaint in ended.err


def test_one_that_was_taken_for_dead_goes_on(data: Path, filled: str, cli: Cli) -> None:
    with running("consume", filled, "-g", "g", "-b", data) as process:
        out = pipe_of(process.stdout)
        assert [out.readline() for _ in range(10)] == values(*range(10)).splitlines(True)
        eventually(lambda: committed(cli) == 10)
        with Broker.open(data) as broker:
            broker.engine.groups.delete("g", lambda member: True)
            put(broker, b"more")
            lines = [out.readline() for _ in range(11)]
        values_again = values(*range(10)).splitlines(True)
        # What it acknowledged comes again, either because it acknowledges more in vain, or
        # because it was told before it had read that.
        in_vain = lines == [b"more\n", *values_again]
        assert in_vain or lines == [*values_again, b"more\n"]
        process.send_signal(signal.SIGINT)
        said = pipe_of(process.stderr).read()
        assert not in_vain or b"group 'g' was deleted" in said
        assert process.wait(TIMEOUT_S) == 130


def test_following(cli: Cli, filled: str, data: Path, tmp_path: Path) -> None:
    with running("consume", filled, "-o", "9", "-b", data) as process:
        out = pipe_of(process.stdout)
        assert out.readline() == b"v9\n"
        (tmp_path / "x").write_bytes(b"new\n")
        cli("produce", filled, tmp_path / "x")
        assert out.readline() == b"new\n"
        process.send_signal(signal.SIGINT)
        err = pipe_of(process.stderr).read()
        assert process.wait(TIMEOUT_S) == 130
    assert err == b"seawall: interrupted; 2 records printed\n"


def test_sigterm_acknowledges_what_was_printed(cli: Cli, filled: str, data: Path) -> None:
    with running("consume", filled, "-g", "g", "-b", data) as process:
        for n in range(10):
            assert pipe_of(process.stdout).readline() == b"v%d\n" % n
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 143
    assert committed(cli) == 10


def test_a_closed_pipe_is_silent(cli: Cli, filled: str, data: Path) -> None:
    with running("consume", filled, "-b", data, "-q") as process:
        out = pipe_of(process.stdout)
        assert out.readline() == b"v0\n"
        out.close()
        assert process.wait(TIMEOUT_S) == 0
        assert pipe_of(process.stderr).read() == b""


def test_a_slow_reader_can_be_interrupted(cli: Cli, orders: str, data: Path) -> None:
    with Broker.open(data) as broker, broker.producer() as producer:
        for _ in range(3000):
            producer.send(orders, b"x" * 100)
    with running("consume", orders, "-b", data, "-g", "g") as process:
        pipe_of(process.stdout).read(1)  # then it fills the pipe, and waits
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
    assert committed(cli) == 0, "nothing was printed whole"


def test_damage_stops_it_or_is_skipped(cli: Cli, data: Path) -> None:
    cli("topic", "create", "hurt")
    with Broker.open(data) as broker, broker.producer() as producer:
        for n in range(3):
            producer.send("hurt", b"value-%d" % n).result()
    (segment,) = data.glob("logs/*-hurt-0/*.log")
    content = segment.read_bytes()
    with segment.open("r+b") as file:
        file.seek(content.index(b"value-1"))
        file.write(b"VALUE")
    ended = cli("consume", "hurt", "-e")
    assert (ended.code, ended.out) == (1, b"value-0\n")
    assert "damaged at offset 1" in ended.err
    assert ended.err.endswith("; 1 record printed\n")
    assert ended.err.count("\n") == 1
    ended = cli("consume", "hurt", "-e", "--skip-bad")
    assert (ended.code, ended.out) == (0, b"value-0\nvalue-2\n")
    assert ended.err == "seawall: 2 records printed, 1 damaged record skipped\n"
