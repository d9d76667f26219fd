"""A service that is asked to end under full load loses nothing, and does nothing twice.

Three times each here, and fifty times by `make torture`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from brokers import read_all
from commands import TIMEOUT_S, environment, eventually, pipe_of
from long_rows import SHUTDOWNS, long_row
from storage import memory_folder

from seawall.broker import Broker

APPS = Path(__file__).with_name("apps")
# Far below the grace that a server has: it must not need it because of load. And as often as
# long as it takes to start, which says how busy the machine is.
LONGEST_STOP_S = 5.0
LONGEST_STOP_STARTS = 10
PARTITIONS = 2
FEW_REPORTS = 100

Entry = list[Any]


@pytest.fixture
def folder() -> Iterator[str]:
    with memory_folder() as path, Broker.open(path) as broker:
        broker.create_topic("orders", PARTITIONS)
        broker.create_topic("payments", PARTITIONS)
        yield path


@contextmanager
def running_app(name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, str(APPS / name), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        process.wait(TIMEOUT_S)


def read_journal(path: Path) -> dict[str, list[Entry]]:
    """Its entries by their first word, in order."""
    found = defaultdict(list)
    for line in path.read_text().splitlines():
        kind, *rest = json.loads(line)
        found[kind].append(rest)
    return found


class Stopped(NamedTuple):
    address: str
    journal: dict[str, list[Entry]]


def run_and_stop(
    folder: str, address: str, path: Path, load_s: float, is_busy: Callable[[], bool]
) -> Stopped:
    """One life of the service, to its SIGTERM in the middle of its work.

    That comes some time after it has become busy.
    """
    begun_s = time.monotonic()
    with running_app("service.py", folder, address, str(path)) as service:
        address = pipe_of(service.stdout).readline().decode().strip()
        assert address, pipe_of(service.stderr).read().decode()
        start_s = time.monotonic() - begun_s
        eventually(is_busy)
        time.sleep(load_s)
        assert service.poll() is None
        service.send_signal(signal.SIGTERM)
        started_s = time.monotonic()
        _, errors = service.communicate(timeout=TIMEOUT_S)
        took_s = time.monotonic() - started_s
    assert (service.returncode, errors.decode()) == (0, "")
    assert took_s < max(LONGEST_STOP_S, LONGEST_STOP_STARTS * start_s)
    return Stopped(address, read_journal(path))


def check_reports(journal: dict[str, list[Entry]], stored: dict[tuple[int, int], str]) -> None:
    """Each record has one report, a good one, and stands where that says; nothing else does."""
    assert journal["refused"] == []
    ((sent,),) = journal["sent"]
    accepted = {(partition, offset): value for value, partition, offset in journal["accepted"]}
    assert len(accepted) == len(journal["accepted"]) == sent > 0
    assert stored == accepted


def stored_in(broker: Broker, topic: str) -> dict[tuple[int, int], str]:
    return {(r.partition, r.offset): (r.value or b"").decode() for r in read_all(broker, topic)}


@long_row
@pytest.mark.timeout(300 + 10 * SHUTDOWNS)
def test_a_service_that_is_told_to_end(folder: str, tmp_path: Path) -> None:
    """Its reports are all there and true, and what was handled is handled once."""
    handled: dict[int, list[int]] = defaultdict(list)
    seen: dict[tuple[int, int], str] = {}
    for number in range(SHUTDOWNS):
        path = tmp_path / f"{number}.jsonl"
        load_s = 0.05 + number % 7 * 0.05
        _, journal = run_and_stop(
            folder, "127.0.0.1:0", path, load_s, lambda path=path: handles_in(path)
        )
        with Broker.open(folder) as broker:
            stored = stored_in(broker, "orders")
            places = {each.partition: each.committed for each in broker.group("billing").offsets}
        new = {place: value for place, value in stored.items() if place not in seen}
        check_reports(journal, new)
        seen = stored
        for partition, offset in journal["handled"]:
            handled[partition].append(offset)
        for partition, offsets in handled.items():
            assert offsets == list(range(len(offsets))), "delivered again, or passed over"
            assert places[partition] == len(offsets)
    assert handled
    with Broker.open(folder) as broker:
        assert list(broker.verify()) == []


@long_row
@pytest.mark.timeout(300 + 10 * SHUTDOWNS)
def test_clients_of_a_service_that_ends_and_comes_back(folder: str, tmp_path: Path) -> None:
    """Kafka clients get all their reports, nothing is stored twice, no commit is undone."""
    address = "127.0.0.1:0"
    with running_app("service.py", folder, address, str(tmp_path / "first")) as first:
        address = pipe_of(first.stdout).readline().decode().strip()
        first.send_signal(signal.SIGTERM)
        assert first.wait(TIMEOUT_S) == 0
    path = tmp_path / "visitors.jsonl"
    with running_app("visitors.py", address, str(path)) as visitors:
        for number in range(SHUTDOWNS):
            seen = accepted_in(path)
            run_and_stop(
                folder,
                address,
                tmp_path / f"{number}.jsonl",
                number % 7 * 0.05,
                lambda seen=seen: accepted_in(path) > seen + FEW_REPORTS,
            )
        with running_app("service.py", folder, address, str(tmp_path / "last")) as last:
            assert pipe_of(last.stdout).readline()
            _, errors = visitors.communicate(timeout=2 * TIMEOUT_S)
            last.send_signal(signal.SIGTERM)
            assert last.wait(TIMEOUT_S) == 0
    assert (visitors.returncode, errors.decode()) == (0, "")
    journal = read_journal(path)
    with Broker.open(folder) as broker:
        stored = stored_in(broker, "payments")
        committed = {each.partition: each.committed for each in broker.group("ledger").offsets}
        assert list(broker.verify()) == []
    assert journal["unreported"] == [[0]]
    check_reports(journal, stored)
    assert len(set(stored.values())) == len(stored)
    check_handled(path, stored, committed)


def accepted_in(path: Path) -> int:
    return path.read_text().count('["accepted"') if path.exists() else 0


def handles_in(path: Path) -> bool:
    """Whether the service stores and handles records."""
    text = path.read_text()
    return '["accepted"' in text and '["handled"' in text


def check_handled(
    path: Path, stored: dict[tuple[int, int], str], committed: dict[int, int]
) -> None:
    """Everything was handled and committed, and nothing that a commit had confirmed was handed
    out again."""
    confirmed: dict[int, int] = {}
    handled = set()
    for line in path.read_text().splitlines():
        kind, *rest = json.loads(line)
        if kind == "handled":
            partition, offset = rest
            assert offset > confirmed.get(partition, -1), "acknowledged, and delivered again"
            handled.add((partition, offset))
        elif kind == "acknowledged":
            partition, offset = rest
            confirmed[partition] = max(offset, confirmed.get(partition, -1))
    assert handled == set(stored)
    assert {partition: offset + 1 for partition, offset in confirmed.items()} == committed
