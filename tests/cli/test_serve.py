from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import TIMEOUT_S, Cli, environment, eventually, is_asleep, pipe_of, running, seawall
from wire import Wire, batch


@contextmanager
def serving(path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`seawall serve` on a free port, and its address."""
    with running("serve", "-b", path, "--listen", "127.0.0.1:0", *options) as process:
        yield process, address_in(process)


def address_in(process: subprocess.Popen[bytes]) -> str:
    line = pipe_of(process.stderr).readline().decode()
    found = re.search(r"listening on (\S+), serving ", line)
    assert found, line
    return found[1]


def accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), TIMEOUT_S).close()
    except ConnectionRefusedError:
        return False
    return True


def ended(process: subprocess.Popen[bytes]) -> int:
    return process.wait(TIMEOUT_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as (process, address):
        wire = Wire(address)
        assert wire.ask(3, 4, topics=[{"name": "new"}]).topics[0].error_code == 0
        wire.send_fetch("new", 0, max_wait_ms=20_000)
        assert wire.produce_elsewhere(address, "new", batch(b"a")) == 0
        wire.receive()
        wire.send_fetch("new", 1, max_wait_ms=20_000)
        eventually(lambda: is_asleep(process.pid))  # it has got that request, and waits
        process.send_signal(number)
        assert wire.receive().responses[0].partitions[0].error_code == 0, "answered, not cut off"
        assert ended(process) == 0
        assert wire.is_closed()
        wire.close()


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    acknowledged: dict[int, bytes] = {}
    for round_number in range(3):
        with serving(tmp_path) as (process, address):
            wire = Wire(address)
            wire.ask(3, 4, topics=[{"name": "new"}])
            for number in range(200):
                wire.send_produce("new", batch(b"%d-%d" % (round_number, number)))
            for number in range(100):
                answer = wire.receive().responses[0].partition_responses[0]
                assert answer.error_code == 0
                acknowledged[answer.base_offset] = b"%d-%d" % (round_number, number)
            process.kill()
            assert ended(process) == -signal.SIGKILL
            wire.close()
    done = seawall("consume", "new", "-e", "-f", "%o %s\\n", "-b", tmp_path)
    assert done.code == 0
    found = dict(line.split(b" ") for line in done.lines)
    assert {
        b"%d" % offset: value for offset, value in acknowledged.items()
    }.items() <= found.items()
    assert len(acknowledged) == 300


def test_a_second_server_is_refused_and_may_follow_a_dead_one(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, address):
        second = seawall("serve", "-b", tmp_path, "--listen", "127.0.0.1:0")
        assert second.code == 1
        assert f"process {process.pid} at {address}" in second.err
        assert len(second.err.splitlines()) == 1
        process.kill()
        ended(process)
        with serving(tmp_path) as (_, second_address):
            Wire(second_address).close()


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = seawall("serve", "-b", tmp_path, "--listen", f"127.0.0.1:{port}")
    assert done.code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "nonsense"], "host:port"),
        (["--listen", "127.0.0.1:70000"], "host:port"),
        (["--listen", "0.0.0.0:0"], "--allow-remote"),
        (["--listen", "127.0.0.1:" + "9" * 5_000], "host:port"),
        (["--listen", "a..b:9092", "--allow-remote"], "listen: 'a..b:9092' is not host:port"),
        (["--listen", "a b:9092", "--allow-remote"], "host:port"),
        (["--listen", "0.0.0.0:0", "--allow-remote"], "--advertise HOST:PORT"),
        (["--listen", "[::]:0", "--allow-remote"], "--advertise HOST:PORT"),
        (["--advertise", "0.0.0.0:9092"], "--advertise HOST:PORT"),
        (["--advertise", "here"], "advertise: 'here' is not host:port"),
        (["--log-format", "xml"], "text or json"),
        (["--config", "missing.toml"], "No such file"),
        (["--grace", "-1"], "--grace is a number of seconds, 0 or more, not -1"),
        (["--grace", "1e300"], "--grace is a number of seconds"),
        (["--grace", "nan"], "--grace is a number of seconds"),
        (["--grace", "inf"], "--grace is a number of seconds"),
    ],
)
def test_wrong_usage(cli: Cli, options: list[str], said: str) -> None:
    done = cli("serve", *options)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_where_settings_come_from(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*options: object) -> dict[str, object]:
        done = cli("serve", "--print-config", *options)
        assert (done.code, done.err) == (0, "")
        return tomllib.loads(done.out.decode())

    default = shown()
    assert default["listen"] == "127.0.0.1:9092"
    file = tmp_path / "serve.toml"
    file.write_text('listen = "127.0.0.1:1"\nnum.partitions = 3\n"node.id" = 7\n')
    monkeypatch.setenv("SEAWALL_NODE_ID", "8")
    monkeypatch.setenv("SEAWALL_VALIDATE_RECORDS", "true")
    found = shown("--config", file, "--listen", "127.0.0.1:2", "--grace", "1.5")
    changed = {key: value for key, value in found.items() if value != default[key]}
    assert changed == {
        "listen": "127.0.0.1:2",
        "node.id": 8,
        "num.partitions": 3,
        "validate.records": True,
        "grace.ms": 1500,
    }
    shown_again = tmp_path / "again.toml"
    shown_again.write_bytes(cli("serve", "--print-config", "--config", file).out)
    assert shown("--config", shown_again)["num.partitions"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "not TOML"),
        ("no.such.setting = 1", "no setting 'no.such.setting'"),
        ("num.partitons = 1", "is it 'num.partitions'?"),
        ("num_partitions = 1", "is it 'num.partitions'?"),
        ('num.partitions = 3\n"num.partitions" = 4', "num.partitions is set twice"),
        ('listen = "a\\u0000b:1"\nallow.remote = true', "host:port"),
        ("num.partitions = " + "9" * 6_000, "not TOML"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("num.partitions = 0", "num.partitions is a whole number from 1"),
        ('num.partitions = "3"', "num.partitions is a whole number"),
        ("listen = 9092", "listen is text"),
        ("validate.records = 1", "validate.records is true or false"),
    ],
)
def test_a_bad_file(cli: Cli, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(text)
    done = cli("serve", "--config", file)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize("value", ["one", "-1", "9" * 5_000])
def test_a_bad_variable(cli: Cli, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SEAWALL_NODE_ID", value)
    done = cli("serve")
    assert (done.code, "SEAWALL_NODE_ID is a whole number" in done.err) == (2, True)


def test_logs_are_one_line_each(tmp_path: Path) -> None:
    for log_format in ("text", "json"):
        with serving(tmp_path, "--log-format", log_format) as (process, address):
            wire = Wire(address)
            wire.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert wire.is_closed()
            wire.close()
            line = pipe_of(process.stderr).readline().decode()
            if log_format == "json":
                assert "HTTP request" in json.loads(line)["message"]
            else:
                assert re.match(r"time=\S+Z level=warning logger=seawall.kafka message=\"", line)
            process.terminate()
            assert ended(process) == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, "--grace", "60") as (process, address):
        wire = Wire(address)
        wire.ask(3, 4, topics=[{"name": "new"}])
        # A response that is not read keeps the server waiting.
        for _ in range(40):
            wire.produce("new", batch(os.urandom(900_000)))
        for _ in range(3):
            wire.send_fetch("new", 0, max_bytes=50_000_000, partition_max_bytes=50_000_000)
        eventually(lambda: is_asleep(process.pid))
        process.terminate()
        eventually(lambda: not accepts(address))  # it has heard of it
        assert process.poll() is None, "it waits for its client"
        # One that comes less than half a second after the first was seen counts as the same.
        while process.poll() is None:
            process.terminate()
            time.sleep(0.1)
        assert ended(process) == 128 + signal.SIGTERM
        wire.close()


def test_help_needs_nothing_of_it() -> None:
    code = (
        "import sys\nfrom seawall.cli.main import main\nmain(['--help'])\n"
        "bad = [m for m in sys.modules if m.startswith(('kio', 'seawall.broker', 'uvloop'))]\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
