"""`seawall mirror`: what it says, and how it ends."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import pytest
from commands import TIMEOUT_S, Cli, eventually, pipe_of, running, seawall
from outages import nobody

from seawall.broker import Broker


@pytest.fixture
def source(data: Path, cli: Cli) -> str:
    cli("topic", "create", "orders", "-p", "2", "-q")
    cli("topic", "create", "returns", "-q")
    put(data, "orders", 5)
    return str(data)


def put(path: Path | str, topic: str, count: int) -> None:
    with Broker.open(path) as broker, broker.producer() as producer:
        for number in range(count):
            producer.send(topic, b"%d" % number, partition=0)


def test_it_copies_and_compares(cli: Cli, source: str, tmp_path: Path) -> None:
    target = str(tmp_path / "copy")
    looked = cli("mirror", source, target, "--dry-run", "-t", "ord*")
    assert (looked.code, looked.err) == (0, "")
    assert looked.lines[1].split() == [b"orders", b"2", b"0", b"5"]
    assert not Path(target).exists()
    done = cli("mirror", source, target, "--groups", "--verify")
    assert done == (
        0,
        b"",
        "seawall: 5 records copied, 2 topics, 3 partitions, 0 positions set\n"
        "seawall: both sides are the same: 5 records in 3 partitions\n",
    )
    assert cli("mirror", source, target, "-q") == (0, b"", "")
    facts = json.loads(cli("mirror", source, target, "--json", "-x", "returns").out)
    assert (facts["records"], [each["name"] for each in facts["topics"]]) == (0, ["orders"])


def test_differences_end_it(cli: Cli, source: str, tmp_path: Path) -> None:
    target = str(tmp_path / "copy")
    cli("mirror", source, target)
    put(target, "orders", 1)
    foreign = cli("mirror", source, target)
    assert (foreign.code, foreign.out) == (1, b"")
    assert foreign.err.startswith(
        "seawall: partition 0 of topic 'orders' holds a foreign record at offset 5 of the target"
    )
    compared = cli("mirror", source, target, "--dry-run", "--verify")
    assert compared == (1, b"", "seawall: orders/0 offset -/5: the source has no such record\n")


def test_a_busy_group_fails_it(cli: Cli, source: str, tmp_path: Path) -> None:
    target = str(tmp_path / "copy")
    cli("mirror", source, target)
    with Broker.open(source) as broker:
        broker.reset_group("g", "orders", {0: 3})
    with Broker.open(target) as broker, broker.consumer("orders", group="g") as member:
        member.poll(1, 1_000)
        ended = cli("mirror", source, target, "--groups")
    assert ended.code == 1
    assert "group 'g' has members at the target" in ended.err


@pytest.mark.parametrize("arguments", [("nowhere", "copy"), ("http://x", "copy"), ("", "copy")])
def test_wrong_locations(cli: Cli, tmp_path: Path, arguments: tuple[str, str]) -> None:
    where, to = arguments
    ended = cli("mirror", str(tmp_path / where) if where == "nowhere" else where, tmp_path / to)
    assert ended.code in (1, 2)
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / to).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_following_ends_well(cli: Cli, source: str, tmp_path: Path, number: signal.Signals) -> None:
    target = tmp_path / "copy"
    with running("mirror", source, target, "--follow") as process:
        eventually(lambda: _end(target) == 5)
        put(source, "orders", 2)
        eventually(lambda: _end(target) == 7)
        process.send_signal(number)
        said = pipe_of(process.stderr).read().decode()
        assert process.wait(TIMEOUT_S) == 0
    assert said == "seawall: 7 records copied, 2 topics, 3 partitions\n"
    assert seawall("mirror", source, target, "--verify", "-q").code == 0


def _end(path: Path) -> int:
    if not (path / "FORMAT").exists():
        return 0
    with Broker.open(path) as broker:
        if "orders" not in [each.name for each in broker.topics()]:
            return 0
        return broker.ends("orders", 0).durable_end


@pytest.mark.parametrize("is_source", [True, False], ids=["source", "target"])
@pytest.mark.parametrize("follow", [(), ("--follow",)], ids=["once", "follow"])
def test_ctrl_c_ends_one_that_waits_for_a_server(
    source: str, is_source: bool, follow: tuple[str, ...], tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        away = f"kafka://127.0.0.1:{stack.enter_context(nobody())}"
        ends = (away, tmp_path / "copy") if is_source else (source, away)
        process = stack.enter_context(running("mirror", *ends, *follow))
        errors = pipe_of(process.stderr)
        assert errors.readline().startswith(b"seawall: connection lost; retry 1 in ")
        process.send_signal(signal.SIGINT)
        last = errors.read().decode().splitlines()[-1]
        assert process.wait(TIMEOUT_S) == 130
    assert last == "seawall: interrupted before all was done; run it again to go on"
