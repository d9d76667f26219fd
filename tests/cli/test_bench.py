"""`seawall bench`: what it measures, prints and leaves behind. Not how fast anything is."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import put, read_all, values
from commands import TIMEOUT_S, Cli, Ended, eventually, pipe_of, running
from outages import nobody, serving
from storage import memory_folder

from seawall.broker import Broker, connect
from seawall.broker.kafka.threaded import ServerThread

QUANTILES = ["p50", "p95", "p99", "p999", "max"]


@pytest.fixture
def location(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A directory in memory with the topic ``orders`` of one record."""
    with memory_folder() as path:
        monkeypatch.setenv("SEAWALL_BROKER", path)
        with Broker.open(path) as broker:
            broker.create_topic("orders", 2)
            put(broker, b"mine")
            yield path


def topics(location: str) -> list[str]:
    with Broker.open(location) as broker:
        return [topic.name for topic in broker.topics()]


def facts_of(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    facts: dict[str, Any] = json.loads(ended.out)
    return facts


def check_phase(phase: dict[str, Any], records: int, record_bytes: int = 100) -> None:
    assert (phase["records"], phase["bytes"]) == (records, records * record_bytes)
    assert phase["records_per_s"] == pytest.approx(records / phase["seconds"])
    assert phase["bytes_per_s"] == pytest.approx(records * record_bytes / phase["seconds"])
    assert list(phase["latency_ms"]) == QUANTILES
    found = list(phase["latency_ms"].values())
    assert found == sorted(found)
    assert phase["error"] is None


def test_produce_then_consume_on_a_scratch_topic(cli: Cli, location: str) -> None:
    ended = cli("bench", "--records", 5000, "--producers", 2, "-p", 2, "--consumers", 2, "--json")
    facts = facts_of(ended)
    check_phase(facts["produce"], 5000)
    check_phase(facts["consume"], 5000)
    assert (facts["produce"]["latency_of"], facts["consume"]["latency_of"]) == ("latency", "poll")
    assert sum(count for _, count in facts["produce"]["histogram_us"]) == 5000
    assert (facts["mode"], facts["scratch"], facts["interrupted"]) == ("both", True, False)
    assert facts["topic"] in ended.err
    assert "it is deleted afterwards" in ended.err
    assert topics(location) == ["orders"]
    with Broker.open(location) as broker:
        assert values(read_all(broker)) == [b"mine"]


def test_end_to_end_at_a_rate_for_people(cli: Cli, location: str) -> None:
    ended = cli(
        *("bench", "end-to-end", "--throughput", 500, "--duration", "1s", "--warmup", "0.2s"),
        *("--record-bytes", 40, "-z", "lz4", "--linger-ms", 0, "--batch-bytes", 1000),
        *("--durability", "os", "--idempotent"),
    )
    assert ended.code == 0, ended.err
    text = ended.out.decode()
    for phase in ("produce", "end-to-end"):
        assert f"{phase}: " in text
    assert text.count("latency (ms): p50 ") == 2
    assert "p99.9 " in text
    assert "  <= " in text
    assert "#" in text
    assert "\x1b" not in ended.err, "progress is for terminals"
    assert topics(location) == ["orders"]


def test_consuming_alone_fills_its_scratch_topic_first(cli: Cli, location: str) -> None:
    facts = facts_of(cli("bench", "consume", "-n", 3000, "--json"))
    check_phase(facts["consume"], 3000)
    assert "produce" not in facts
    assert topics(location) == ["orders"]


def test_a_topic_that_is_named_is_used_and_kept(cli: Cli, location: str) -> None:
    ended = cli("bench", "-n", 100, "-t", "orders", "--json")
    facts = facts_of(ended)
    check_phase(facts["produce"], 100)
    check_phase(facts["consume"], 100)  # without what was there
    assert (facts["scratch"], ended.err) == (False, "")
    facts = facts_of(cli("bench", "consume", "-t", "orders", "--json"))
    assert (facts["consume"]["records"], facts["consume"]["bytes"]) == (101, 100 * 100 + 4)
    with Broker.open(location) as broker:
        assert len(read_all(broker)) == 101
    ended = cli("bench", "produce", "-n", 10, "-t", "fresh", "-p", 3)
    assert (ended.code, ended.err) == (0, "seawall: made topic 'fresh'\n")
    with Broker.open(location) as broker:
        assert len(broker.topic("fresh").partitions) == 3
        assert len(read_all(broker, "fresh")) == 10


def test_a_directory_that_is_not_there_is_made(cli: Cli, data: Path) -> None:
    ended = cli("bench", "produce", "-n", 10)
    assert ended.code == 0
    assert ended.err.startswith(f"seawall: made '{data}'; it was not there\n")
    assert topics(str(data)) == []


def test_servers_are_measured_by_the_same_command(cli: Cli, location: str) -> None:
    pytest.importorskip("confluent_kafka")
    with Broker.open(location) as broker, ServerThread(broker, listen="127.0.0.1:0") as server:
        kafka = f"kafka://{server.address}?client.id=bench"
        facts = facts_of(cli("bench", "-b", kafka, "-n", 500, "--json"))
        check_phase(facts["produce"], 500)
        check_phase(facts["consume"], 500)
        facts = facts_of(cli("bench", "end-to-end", "-b", kafka, "-n", 50, "--json"))
        check_phase(facts["end_to_end"], 50)
        assert facts["location"] == kafka
        assert topics(location) == ["orders"]


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_it_with_what_was_measured(
    location: str, number: signal.Signals, code: int, word: str
) -> None:
    arguments = ("bench", "end-to-end", "--duration", "10m", "--throughput", "2000", "--json")
    with running(*arguments, "-b", location) as process:
        eventually(lambda: len(topics(location)) == 2)
        [scratch] = set(topics(location)) - {"orders"}
        with Broker.open(location) as broker:
            eventually(lambda: broker.ends(scratch, 0).durable_end > 1000)
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code
    assert err.decode().endswith(f"seawall: {word}; that is what was measured so far\n")
    facts = json.loads(out)
    assert facts["interrupted"]
    assert facts["produce"]["records"] > 0
    assert facts["end_to_end"]["records"] > 0
    assert topics(location) == ["orders"]


def test_ctrl_c_before_it_has_begun(location: str) -> None:
    """The terminal sends it to the whole group; the processes of the measurement are none of it."""
    with running("bench", "-b", location, process_group=0) as process:
        assert b"made topic" in pipe_of(process.stderr).readline()
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert topics(location) == ["orders"]


def test_ctrl_c_while_servers_are_away(location: str) -> None:
    pytest.importorskip("confluent_kafka")
    with nobody() as port, running("bench", "-b", f"kafka://127.0.0.1:{port}") as process:
        said = pipe_of(process.stderr).readline()
        assert said.startswith(b"seawall: connection lost; retry 1 in ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (130, b"")
    assert err.endswith(b"seawall: interrupted; nothing was done\n")


def test_ctrl_c_after_servers_went_away(location: str) -> None:
    """Its topic cannot be deleted then, and is named; what was measured is printed."""
    with memory_folder() as folder, serving(folder) as server:
        arguments = ("bench", "produce", "--duration", "10m", "--throughput", "100", "--json")
        with running(*arguments, "-b", f"kafka://127.0.0.1:{server.port}") as process:
            errors = pipe_of(process.stderr)
            made = errors.readline().decode()
            scratch = made.split("'")[1]
            with connect(f"kafka://127.0.0.1:{server.port}") as broker:
                eventually(lambda: broker.ends(scratch, 0).durable_end > 10)
            server.kill()
            said = errors.readline().decode()
            assert said.startswith("seawall: connection lost; retry 1 in ")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 130
        last = err.decode().splitlines()[-2:]
        assert last == [
            f"seawall: nobody was there to delete it: seawall topic delete {scratch}",
            "seawall: interrupted; that is what was measured so far",
        ]
        assert json.loads(out)["produce"]["records"] > 0


def test_a_process_that_dies_is_told_of(location: str) -> None:
    with running("bench", "produce", "--duration", "10m", "-b", location) as process:
        eventually(lambda: bool(children_of(process.pid)))
        os.kill(children_of(process.pid)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err.splitlines()[-1]) == (
        1,
        b"seawall: a process of the measurement ended with -9",
    )
    assert topics(location) == ["orders"]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_record_that_is_too_large_is_told_of(cli: Cli, location: str) -> None:
    ended = cli("bench", "produce", "--record-bytes", 2 << 20)
    assert ended.code == 1
    assert "produce: " in ended.err.splitlines()[-1]
    assert "max.message.bytes" in ended.err
    assert topics(location) == ["orders"]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("end-to-end", "--record-bytes", "15"), 2, "at least 16 end to end"),
        (("--consumers", "2"), 2, "give --partitions 2"),
        (("--duration", "soon"), 2, "--duration: 'soon' is not a time"),
        (("--warmup", "0s"), 2, "--warmup: '0s' is not a time"),
        (("sideways",), 2, "'sideways' is not one of both, produce"),
        (("-z", "bz2"), 2, "'bz2' is not one of none, gzip"),
        (("--throughput", "0"), 2, "0 is less than 1"),
        (("consume", "-t", "nowhere"), 1, "'nowhere'"),
        (("produce", "-t", "a/b"), 1, "a/b"),
    ],
)
def test_wrong_usage(
    cli: Cli, location: str, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    ended = cli("bench", *arguments)
    assert (ended.code, ended.out) == (code, b"")
    assert complaint in ended.err.splitlines()[-1]
    assert topics(location) == ["orders"]


def test_it_says_so_if_it_cannot_keep_up(cli: Cli, location: str) -> None:
    ended = cli("bench", "produce", "--throughput", 50_000_000, "--duration", "0.3s")
    assert ended.code == 0
    assert b"It could not keep up with 50,000,000 records/s." in ended.out
    found = re.search(r"produce: ([\d,]+) records in ", ended.out.decode())
    assert found
    assert int(found[1].replace(",", "")) < 15_000_000, "it went on until it had made up for it"
