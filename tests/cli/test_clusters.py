"""The commands with ``-b kafka://…``: the same as for a directory, and what waiting looks like."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import nullcontext
from typing import IO

import locations
import pytest
from clients.endpoints import free_port
from commands import TIMEOUT_S, Cli, eventually, is_asleep, pipe_of, running
from outages import nobody, serving
from server_processes import ServerProcess
from storage import memory_folder

from seawall.broker import DeliveredRecord, Reject, connect


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with locations.server() as location:
        yield location


def test_topics_records_and_groups(cli: Cli, cluster: str, tmp_path: object) -> None:
    at = ("-b", cluster)
    assert cli("topic", "create", "orders", "-p", "2", "-q", *at).code == 0
    again = cli("topic", "create", "orders", *at)
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "topic 'orders' exists already" in again.err
    lines = f"{tmp_path}/lines"
    with open(lines, "w") as file:
        file.write("".join(f"k{n}:v{n}\n" for n in range(20)))
    produced = cli("produce", "orders", lines, "-K", ":", *at)
    assert (produced.code, produced.err) == (0, "seawall: 20 lines acknowledged\n")
    consumed = cli("consume", "orders", "-e", "-q", "-f", "%k %s\\n", *at)
    assert sorted(consumed.lines) == sorted(f"k{n} v{n}".encode() for n in range(20))
    first = cli("consume", "orders", "-g", "billing", "-n", "5", "-q", *at)
    rest = cli("consume", "orders", "-g", "billing", "-e", "-q", *at)
    assert (first.code, rest.code, first.err, rest.err) == (0, 0, "", "")
    assert sorted(first.lines + rest.lines) == sorted(f"v{n}".encode() for n in range(20))
    described = json.loads(cli("group", "describe", "billing", "--json", *at).out)
    assert sum(each["committed"] for each in described["offsets"]) == 20
    assert sum(each["lag"] for each in described["offsets"]) == 0
    assert cli("group", "list", "-q", *at).out == b"billing\n"
    assert cli("group", "reset", "billing", "-t", "orders", "-o", "start", *at).code == 0
    wrong = cli("topic", "alter", "orders", "-c", "retention.ms=soon", *at)
    assert (wrong.code, wrong.err.count("\n"), wrong.err.count("'soon'")) == (1, 1, 1)
    altered = cli("topic", "alter", "orders", "-p", "3", "-c", "retention.ms=5000000", *at)
    assert altered.err == "seawall: topic 'orders' has 3 partitions; retention.ms=5000000\n"
    facts = json.loads(cli("topic", "describe", "orders", "--json", *at).out)
    assert [each["partition"] for each in facts["partitions"]] == [0, 1, 2]
    assert sum(each["records"] for each in facts["partitions"]) == 20
    assert cli("topic", "delete-records", "orders", "-o", "end", *at).code == 0
    assert cli("consume", "orders", "-e", "-q", *at).out == b""
    assert cli("group", "delete", "billing", *at).code == 0
    assert cli("topic", "delete", "orders", *at).code == 0
    assert cli("topic", "list", "-q", *at).out == b""
    assert b"log.retention" in cli("config", *at).out


def test_dead_letters(cli: Cli, cluster: str) -> None:
    at = ("-b", cluster)
    with connect(cluster) as broker:
        broker.create_topic("pay", 2)
        with broker.producer() as producer:
            for number in range(6):
                producer.send("pay", b"%d" % number, key=b"k%d" % number, partition=number % 2)

        def handler(record: DeliveredRecord) -> None:
            if record.offset == 1:
                raise Reject("never\nmind")
            raise ValueError("x")

        with broker.consumer("pay", group="billing") as consumer:
            consumer.run(handler, max_records=6, max_deliveries=2, retry_backoff_ms=0)
    [listed] = [json.loads(line) for line in cli("dlq", "list", "--json", *at).lines]
    assert (listed["topic"], listed["records"], listed["redriven"]) == ("pay.dlq", 6, 0)
    assert (listed["groups"], listed["origins"]) == (["billing"], ["pay"])
    assert len(cli("dlq", "show", "pay", *at).lines) == 7
    shown = cli("dlq", "show", "pay", "--json", "--error", "Reject", *at)
    letters = [json.loads(line) for line in shown.lines]
    assert [each["dead_letter"]["error_message"] for each in letters] == ["never\nmind"] * 2
    assert len(cli("dlq", "show", "pay.dlq", "-p", "1", "-o", "1:", "--json", *at).lines) == 2
    planned = cli("dlq", "redrive", "pay", "--error", "ValueError", "--dry-run", *at)
    assert (planned.code, planned.err) == (0, "seawall: 4 records would be sent\n")
    done = cli("dlq", "redrive", "pay", "--error", "ValueError", *at)
    assert (done.out, done.err) == (planned.out, "seawall: 4 records sent\n")
    assert cli("dlq", "redrive", "pay", *at).err == "seawall: 2 records sent\n"
    assert cli("dlq", "redrive", "pay", *at).err == "seawall: 0 records sent\n"
    assert len(cli("consume", "pay", "-e", "-q", *at).lines) == 12
    assert cli("dlq", "show", "pay", "--json", *at).out == b""
    purged = cli("dlq", "purge", "pay", "--json", *at)
    assert [json.loads(line)["to"] for line in purged.lines] == [3, 3]
    assert cli("dlq", "show", "pay", "--all", "--json", *at).out == b""
    missing = cli("dlq", "show", "nothing", *at)
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert "nothing" in missing.err
    for each in (("topic", "pay"), ("topic", "pay.dlq"), ("group", "seawall.dlq.redrive")):
        assert cli(each[0], "delete", each[1], *at).code == 0
    assert cli("group", "delete", "billing", *at).code == 0


@pytest.mark.parametrize(
    "command",
    [
        ("verify",),
        ("repair",),
        ("compact",),
        ("info",),
        ("serve",),
    ],
    ids=" ".join,
)
def test_what_only_a_directory_can_do(cli: Cli, cluster: str, command: tuple[str, ...]) -> None:
    ended = cli(*command, "-b", cluster)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert ended.err.startswith(f"seawall: {cluster} cannot do this: ")


@pytest.mark.parametrize("location", ["kafka://", "kafka://h:x", "kafka://h?no.such=1", "http://h"])
def test_what_is_no_location(cli: Cli, location: str) -> None:
    ended = cli("topic", "list", "-b", location)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert "is not a location" in ended.err


@pytest.mark.parametrize(
    "command", [("consume", "orders"), ("produce", "orders"), ("topic", "list")], ids=" ".join
)
def test_a_server_that_is_away_is_waited_for_until_ctrl_c(command: tuple[str, ...]) -> None:
    with nobody() as port, running(*command, "-b", f"kafka://127.0.0.1:{port}") as process:
        errors = pipe_of(process.stderr)
        for attempt in (1, 2, 3):
            line = errors.readline().decode()
            assert line.startswith(f"seawall: connection lost; retry {attempt} in ")
        process.send_signal(signal.SIGINT)
        rest = errors.read().decode()
        assert process.wait(TIMEOUT_S) == 130
    if command[0] != "topic":
        assert rest.splitlines()[-1] == "seawall: interrupted; nothing was done"


def test_produce_and_consume_go_through_an_outage() -> None:
    port = free_port()
    with memory_folder() as folder:
        server = ServerProcess(folder, port=port, group_initial_rebalance_delay_ms=0)
        try:
            at = ("-b", f"kafka://127.0.0.1:{port}")
            with running("topic", "create", "orders", *at) as creating:
                assert creating.wait(TIMEOUT_S) == 0
            with (
                running("produce", "orders", *at) as producing,
                running("consume", "orders", "-g", "g", *at) as consuming,
            ):
                lines, records = pipe_of(producing.stdin), pipe_of(consuming.stdout)
                lines.write(b"before\n")
                lines.flush()
                assert records.readline() == b"before\n"
                server.kill()
                lines.write(b"meanwhile\n")
                lines.flush()
                said = [pipe_of(producing.stderr).readline().decode()]
                assert said[0].startswith("seawall: connection lost; retry 1 in ")
                server = ServerProcess(folder, port=port, group_initial_rebalance_delay_ms=0)
                assert records.readline() == b"meanwhile\n"
                while not said[-1].startswith("seawall: connected again after "):
                    said.append(pipe_of(producing.stderr).readline().decode())
                    assert said[-1], said
                lines.close()
                assert producing.wait(TIMEOUT_S) == 0
                rest = pipe_of(producing.stderr).read().decode().splitlines()
                assert rest[-1] == "seawall: 2 lines acknowledged"
                os.kill(consuming.pid, signal.SIGTERM)
                assert consuming.wait(TIMEOUT_S) == 143
                assert b"terminated; 2 records printed" in pipe_of(consuming.stderr).read()
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("hangs", "group"), [(False, ()), (False, ("-g", "g")), (True, ("-g", "g"))]
)
def test_ctrl_c_ends_a_consume_whose_server_is_away(hangs: bool, group: tuple[str, ...]) -> None:
    with memory_folder() as folder, serving(folder) as server:
        at = ("-b", f"kafka://127.0.0.1:{server.port}")
        with running("topic", "create", "orders", *at) as creating:
            assert creating.wait(TIMEOUT_S) == 0
        with running("produce", "orders", *at) as producing:
            pipe_of(producing.stdin).write(b"1\n2\n")
            pipe_of(producing.stdin).close()
            assert producing.wait(TIMEOUT_S) == 0
        with running("consume", "orders", *group, *at) as consuming:
            records, errors = pipe_of(consuming.stdout), pipe_of(consuming.stderr)
            assert [records.readline() for _ in range(2)] == [b"1\n", b"2\n"]
            eventually(lambda: is_asleep(server.pid, consuming.pid))
            with server.stopped() if hangs else nullcontext():
                if not hangs:
                    server.kill()
                assert b"connection lost; retry 1 in " in errors.readline()
                consuming.send_signal(signal.SIGINT)
                assert consuming.wait(TIMEOUT_S) == 130
                last = errors.read().decode().splitlines()[-1]
                assert last == "seawall: interrupted; 2 records printed"


def is_read(pipe: IO[bytes]) -> bool:
    """Whether nothing is left in a pipe."""
    count = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder) == 0


def test_a_signal_ends_a_produce_whose_server_is_away() -> None:
    port = free_port()
    with memory_folder() as folder:
        server = ServerProcess(folder, port=port)
        try:
            at = ("-b", f"kafka://127.0.0.1:{port}")
            with running("topic", "create", "orders", *at) as creating:
                assert creating.wait(TIMEOUT_S) == 0
            with running("produce", "orders", "-q", *at) as producing:
                lines, errors = pipe_of(producing.stdin), pipe_of(producing.stderr)
                lines.write(b"1\n2\n")
                lines.flush()
                with connect(at[1]) as broker:
                    eventually(lambda: broker.ends("orders", 0).durable_end == 2)
                # What is on disk is acknowledged.
                eventually(lambda: is_asleep(server.process.pid, producing.pid))
                server.kill()
                lines.write(b"3\n")
                lines.flush()
                assert b"connection lost" in errors.readline()
                # What was read is sent.
                eventually(lambda: is_read(lines) and is_asleep(producing.pid))
                producing.send_signal(signal.SIGTERM)
                assert producing.wait(TIMEOUT_S) == 143
                last = errors.read().decode().splitlines()[-1]
            assert last.startswith("seawall: terminated; ")
            assert "2 lines acknowledged, 1 not yet, resume with: tail -n +3" in last
        finally:
            if server.process.poll() is None:
                server.kill()
