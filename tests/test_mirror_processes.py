"""A mirror that is killed at any moment, and goes on: nothing is left out or comes twice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import locations
import pytest
from commands import TIMEOUT_S, environment, pipe_of
from storage import memory_folder

from seawall.broker import AnyBroker, connect, mirror
from seawall.broker.mirror_read import Side, read

_SCRIPT = """
import sys
from seawall.broker import connect, mirror
from seawall.broker import mirror_session, mirroring

mirroring.QUIET_S = 1.5
mirror_session.POLL_RECORDS = 200
with connect(sys.argv[1]) as source, connect(sys.argv[2]) as target:
    mirror(source, target, topics=["t"], checkpoint_interval_ms=float(sys.argv[3]),
           on_progress=lambda progress: print(progress.records, flush=True))
"""
RECORDS = 12_000
KILLS = 3


@pytest.fixture(scope="module", params=[locations.DIRECTORY, locations.SERVER])
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    with ExitStack() as stack:
        make = locations.directory if request.param == locations.DIRECTORY else locations.server
        yield stack.enter_context(make())


def kill_during(source: str, target: str, rounds: int, interval_ms: float) -> bool:
    """Run a mirror and kill it after some rounds; whether it was still at it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, source, target, str(interval_ms)],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    with process:
        lines = [pipe_of(process.stdout).readline() for _ in range(rounds)]
        process.kill()
        process.wait(TIMEOUT_S)
    return lines[-1] != b""


def contents(broker: AnyBroker, number: int) -> list[tuple[object, ...]]:
    end = broker.ends("t", number).durable_end
    return [
        (r.timestamp, r.key, r.value, tuple(r.headers))
        for r in read(Side(broker, "t", number), 0, end)
    ]


def test_kill_9_during_a_mirror(target: str) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    with memory_folder() as folder:
        with connect(folder) as home:
            home.create_topic("t", 2)
            with home.producer() as producer:
                for number in range(RECORDS):
                    producer.send("t", b"%d" % number, key=b"k", partition=number % 2)
        killed = [
            kill_during(folder, target, chance.randint(1, 12), chance.choice([0, 20, 10_000]))
            for _ in range(KILLS)
        ]
        assert any(killed), f"seed {seed}"
        with connect(folder) as home, connect(target) as other:
            done = mirror(home, other, topics=["t"], verify=True)
            assert done.difference is None, f"seed {seed}: {done.difference}"
            assert done.compared == RECORDS, f"seed {seed}"
            for number in (0, 1):
                assert contents(home, number) == contents(other, number), f"seed {seed}"
