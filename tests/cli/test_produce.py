"""`seawall produce`: what becomes of lines, and what it says when it stops."""

from __future__ import annotations

import fcntl
import functools
import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from brokers import in_thread
from commands import SEAWALL, TIMEOUT_S, Cli, eventually, pipe_of, running, seawall
from storage import Child

from seawall.broker import Broker


def records_of(cli: Cli, topic: str = "orders") -> list[dict[str, Any]]:
    """Every record of a topic."""
    return [json.loads(line) for line in cli("consume", topic, "-e", "-q", "--json").lines]


def fields(records: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(record[name] for name in names) for record in records]


def test_lines_are_records(cli: Cli, orders: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"a\n\n\xff\r\nb")
    (tmp_path / "two").write_bytes(b"c\n")
    ended = cli("produce", orders, tmp_path / "one", tmp_path / "two")
    assert (ended.code, ended.out, ended.err) == (0, b"", "seawall: 5 lines acknowledged\n")
    assert cli("consume", orders, "-e", "-q").out == b"a\n\n\xff\r\nb\nc\n"
    assert all(record["key"] is None for record in records_of(cli))


def test_stdin(cli: Cli, orders: str, data: Path) -> None:
    ended = seawall("produce", orders, "-b", data, stdin=b"a\nb")
    assert (ended.code, ended.err) == (0, "seawall: 2 lines acknowledged\n")
    ended = seawall("produce", orders, "-q", "-", "-b", data, stdin=b"c")
    assert (ended.code, ended.err) == (0, "")
    assert cli("consume", orders, "-e", "-q").out == b"a\nb\nc\n"


def test_nothing_is_no_record(cli: Cli, orders: str) -> None:
    ended = cli("produce", orders, os.devnull)
    assert (ended.code, ended.err) == (0, "seawall: 0 lines acknowledged\n")
    assert records_of(cli) == []


def test_keys_headers_and_nulls(cli: Cli, orders: str, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes(b"k:v:w\n:v\nk:\nnone\n")
    assert cli("produce", orders, "-q", "-K", ":", lines).code == 0
    assert cli("produce", orders, "-q", "-K", ":", "-Z", lines).code == 0
    headers = ("-H", "a=1=2", "-H", "b", "-H", "a=")
    assert cli("produce", orders, "-q", "-k", "fixed", *headers, lines).code == 0
    found = records_of(cli)
    plain = [("k", "v:w"), ("", "v"), ("k", ""), (None, "none")]
    assert fields(found[:4], "key", "value") == plain
    nulls = [("k", "v:w"), (None, "v"), ("k", None), (None, "none")]
    assert fields(found[4:8], "key", "value") == nulls
    assert {record["key"] for record in found[8:]} == {"fixed"}
    assert found[8]["headers"] == [
        {"name": "a", "value": "1=2"},
        {"name": "b", "value": None},
        {"name": "a", "value": ""},
    ]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_compression(cli: Cli, orders: str, tmp_path: Path, codec: str) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes(b"the same again\n" * 1000)
    assert cli("produce", orders, "-z", codec, lines).code == 0
    assert cli("consume", orders, "-e", "-q").out == lines.read_bytes()
    info = json.loads(cli("info", "--json").out)
    assert (info["log_bytes"] < 10_000) == (codec != "none")


def test_idempotent(cli: Cli, orders: str, data: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes(b"a\nb\n")
    assert cli("produce", orders, "-q", lines).code == 0
    ended = cli("produce", orders, "--idempotent", lines)
    assert (ended.code, ended.err) == (0, "seawall: 2 lines acknowledged\n")
    with Broker.open(data) as broker:
        (producer,) = broker.producers(orders, 0)
    assert producer.last_sequence == 1
    assert cli("consume", orders, "-e", "-q").out == b"a\nb\na\nb\n"


def test_partition(cli: Cli, tmp_path: Path) -> None:
    cli("topic", "create", "wide", "-p", 3)
    (tmp_path / "x").write_bytes(b"a\nb\n")
    assert cli("produce", "wide", "-p", 2, tmp_path / "x").code == 0
    assert fields(records_of(cli, "wide"), "partition", "offset") == [(2, 0), (2, 1)]
    ended = cli("produce", "wide", "-p", 3, tmp_path / "x")
    assert ended.code == 1
    assert "'wide' has no partition 3" in ended.err
    assert ended.err.count("\n") == 1


def test_json_copies_a_topic(cli: Cli, orders: str, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.write_bytes(b"k\xff:v\n:\n\xc3\xbc\n")
    cli("produce", orders, "-q", "-K", ":", "-Z", "-H", "h", "-H", "h=\udcff", one)
    copy = tmp_path / "copy"
    copy.write_bytes(cli("consume", orders, "-e", "-q", "--json").out)
    cli("topic", "create", "copy")
    ended = cli("produce", "copy", "--json", copy)
    assert (ended.code, ended.err) == (0, "seawall: 3 lines acknowledged\n")
    copied = cli("consume", "copy", "-e", "-q", "--json").out
    assert copied == copy.read_bytes().replace(b'"topic":"orders"', b'"topic":"copy"')


def test_json_keeps_the_partition_if_asked(cli: Cli, tmp_path: Path) -> None:
    cli("topic", "create", "wide", "-p", 3)
    lines = tmp_path / "lines"
    lines.write_bytes(b'{"value": "x", "partition": 2}\n' * 3)
    assert cli("produce", "wide", "--json", "--keep-partition", lines).code == 0
    assert {record["partition"] for record in records_of(cli, "wide")} == {2}
    assert cli("produce", "wide", "--json", "-p", 1, lines).code == 0
    assert {record["partition"] for record in records_of(cli, "wide")} == {1, 2}


def test_a_malformed_line_stops(cli: Cli, orders: str, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes(b'{"value": "a"}\n{"value": "b"}\n{"value": }\n{"value": "c"}\n')
    ended = cli("produce", orders, "--json", lines)
    assert ended.code == 1
    assert ended.err == (
        f"seawall: {lines}: line 3: not JSON: Expecting value at column 11; "
        f"2 lines acknowledged, resume with: tail -n +3 {lines}\n"
    )
    assert fields(records_of(cli), "value") == [("a",), ("b",)]


def test_malformed_lines_are_skipped_and_counted(cli: Cli, orders: str, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes(b'{"value": "a"}\n{"value": }\n\n{"value": "c"}\n{')
    ended = cli("produce", orders, "--json", "--skip-bad", lines)
    assert ended.code == 0
    assert ended.err == "seawall: 5 lines acknowledged or skipped (3 skipped)\n"
    assert fields(records_of(cli), "value") == [("a",), ("c",)]


def test_lines_that_no_topic_takes(cli: Cli, orders: str, tmp_path: Path) -> None:
    many = json.dumps([{"name": "h", "value": None}] * 10_001)
    lines = tmp_path / "lines"
    lines.write_text(f'{{"value": "x", "headers": {many}}}\n{{"value": "x", "partition": 7}}\n')
    ended = cli("produce", orders, "--json", lines)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "line 1: " in ended.err
    ended = cli("produce", orders, "--json", "--keep-partition", "--skip-bad", lines)
    assert (ended.code, ended.err) == (0, "seawall: 2 lines acknowledged or skipped (2 skipped)\n")


@pytest.mark.parametrize("timestamp", [-1, 0, 10**15])
def test_any_timestamp_survives(cli: Cli, orders: str, tmp_path: Path, timestamp: int) -> None:
    lines = tmp_path / "lines"
    lines.write_text(
        "".join(f'{{"value": "", "timestamp": {n}}}\n' for n in (timestamp, 1000, timestamp))
    )
    ended = cli("produce", orders, "--json", lines)
    assert (ended.code, ended.err) == (0, "seawall: 3 lines acknowledged\n")
    assert fields(records_of(cli), "timestamp") == [(timestamp,), (1000,), (timestamp,)]


def test_a_record_too_large(cli: Cli, tmp_path: Path) -> None:
    cli("topic", "create", "small", "-c", "max.message.bytes=1000")
    lines = tmp_path / "lines"
    lines.write_bytes(b"a\n" + b"x" * 2000 + b"\nb\n")
    ended = cli("produce", "small", lines)
    assert ended.code == 1
    assert "line 2: a record of" in ended.err
    assert f"1 line acknowledged, resume with: tail -n +2 {lines}" in ended.err
    assert ended.err.count("\n") == 1
    ended = cli("produce", "small", "--skip-bad", lines)
    assert (ended.code, "(1 skipped)" in ended.err) == (0, True)
    assert cli("consume", "small", "-e", "-q").out == b"a\na\nb\n"


def test_an_unknown_topic(cli: Cli, orders: str, tmp_path: Path) -> None:
    ended = cli("produce", "nosuch", tmp_path / "not even looked at")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err.startswith("seawall: no topic 'nosuch'")
    assert ended.err.count("\n") == 1


def test_a_missing_file_says_how_far_it_came(cli: Cli, orders: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"a\nb\n")
    missing = tmp_path / "missing"
    ended = cli("produce", orders, tmp_path / "one", missing)
    assert ended.code == 1
    assert ended.err == (
        f"seawall: cannot read '{missing}': No such file or directory; "
        f"2 lines acknowledged, resume with: tail -n +1 {missing}\n"
    )


def test_a_piped_line_is_there_at_once(cli: Cli, orders: str, data: Path) -> None:
    with running("produce", orders, "-b", data) as process:
        stdin = pipe_of(process.stdin)
        stdin.write(b"first\nsecond\nthi")
        stdin.flush()
        eventually(lambda: cli("consume", orders, "-e", "-q").out == b"first\nsecond\n")
        out, err = process.communicate(b"rd\n")
    assert (process.returncode, out) == (0, b"")
    assert err == b"seawall: 3 lines acknowledged\n"


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_signal_ends_it_cleanly(
    cli: Cli, orders: str, data: Path, number: signal.Signals, word: str
) -> None:
    with running("produce", orders, "-b", data) as process:
        stdin = pipe_of(process.stdin)
        stdin.write(b"a\nb\nc")
        stdin.flush()
        eventually(lambda: len(records_of(cli)) == 2)
        process.send_signal(number)
        err = pipe_of(process.stderr).read().decode()
        assert process.wait(TIMEOUT_S) == 128 + number
    assert err == f"seawall: {word}; 2 lines acknowledged, resume with: tail -n +3\n"


def test_a_full_disk_says_how_far_it_came(
    cli: Cli, orders: str, data: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 2 MB; with that lifted, the hint's lines complete the topic.

    What it says is acknowledged is there, in order. A few of the lines behind may be too:
    those come twice.
    """
    lines = tmp_path / "lines"
    lines.write_bytes(b"".join(b"%d\n" % n for n in range(400_000)))
    script = f"ulimit -f 2000; exec {SEAWALL} produce {orders} {lines} -b {data}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
    err = done.stderr.decode()
    assert (done.returncode, err.count("\n")) == (1, 1)
    assert "no room to write" in err
    rest = tmp_path / "rest"
    rest.write_bytes(subprocess.check_output(err.split("resume with: ")[1].split()))
    assert rest.stat().st_size < lines.stat().st_size, "nothing was acknowledged"
    assert cli("produce", orders, rest).code == 0
    found = cli("consume", orders, "-e", "-q").out
    acknowledged = lines.read_bytes().removesuffix(rest.read_bytes())
    assert found.startswith(acknowledged)
    assert found.endswith(rest.read_bytes())
    again = found.removeprefix(acknowledged).removesuffix(rest.read_bytes())
    assert set(again.split()) <= set(rest.read_bytes().split())


def test_the_rate_is_live_on_a_terminal(cli: Cli, orders: str, data: Path) -> None:
    main, other = pty.openpty()
    try:
        with running("produce", orders, "-b", data, stderr=other) as process:
            stdin = pipe_of(process.stdin)
            shown = b""
            while b" lines, " not in shown:
                stdin.write(b"a\n")
                stdin.flush()
                if select.select([main], [], [], 0.1)[0]:
                    shown += os.read(main, 1000)
            process.communicate()
        while not shown.endswith(b" acknowledged\r\n"):
            shown += os.read(main, 1000)
    finally:
        os.close(main)
        os.close(other)
    assert re.search(rb"\r\x1b\[K[\d,]+ lines, [\d,]+/s", shown)
    assert re.search(rb"\r\x1b\[Kseawall: \d+ lines acknowledged\r\n$", shown)


def test_it_says_the_truth_in_mid_stream(cli: Cli, orders: str, data: Path, tmp_path: Path) -> None:
    """Stopped while a large file flows: what it says is acknowledged is exactly what is there."""
    lines = tmp_path / "lines"
    os.mkfifo(lines)

    def flow() -> None:
        """Without end, so that the process is stopped in the middle, however fast it is."""
        numbers = itertools.count()
        try:
            with lines.open("wb") as file:
                while True:
                    file.write(b"".join(b"%d\n" % n for n in itertools.islice(numbers, 10_000)))
        except BrokenPipeError:
            pass

    with running("produce", orders, lines, "-b", data) as process, in_thread(flow):
        try:
            eventually(lambda: cli("consume", orders, "-e", "-q", "-n", 1).out != b"")
            process.send_signal(signal.SIGTERM)
            err = pipe_of(process.stderr).read().decode()
            process.wait(TIMEOUT_S)
        finally:
            process.kill()  # so that nothing is read any more
    count = int(err.split(" lines acknowledged")[0].rsplit(" ", 1)[1])
    assert count > 0
    found = cli("consume", orders, "-e", "-q").lines
    assert found == [b"%d" % n for n in range(count)]
    assert err.endswith(f"resume with: tail -n +{count + 1} {lines}\n")


@pytest.mark.parametrize("what", ["append", "topics"])
def test_a_stopped_process_that_holds_a_lock_is_named(
    cli: Cli, orders: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with Broker.open(data) as broker:
        lock = broker.engine.topics_lock.path
        if what == "append":
            lock = broker.engine.log(broker.topic(orders).partitions[0].id).context.lock_path

    def hold(say: Callable[[str], None]) -> None:
        descriptor = os.open(lock, os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        say("holding")
        time.sleep(60)

    monkeypatch.setattr(Broker, "open", functools.partial(Broker.open, lock_timeout_ms=200))
    (tmp_path / "line").write_bytes(b"x\n")
    arguments = ["produce", orders, tmp_path / "line"]
    if what == "topics":
        arguments = ["topic", "create", "another"]
    child = Child(hold)
    try:
        assert child.line() == "holding"
        child.kill(signal.SIGSTOP)
        ended = cli(*arguments)
    finally:
        child.kill(signal.SIGKILL)
        child.wait()
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert re.search(rf"\b(process|pid) {child.pid}\b", ended.err), ended.err
    assert cli(*arguments, "-q").code == 0
