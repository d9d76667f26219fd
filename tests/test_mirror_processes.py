"""A mirror that is killed at any moment, and goes on: nothing is left out or comes twice."""

from __future__ import annotations

import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import locations
import pytest
from commands import TIMEOUT_S, environment, pipe_of

from seawall.broker import AnyBroker, connect, mirror
from seawall.broker.mirror_read import Side, read

_SCRIPT = """
import sys
from seawall.broker import connect, mirror
from seawall.broker import mirror_session, mirroring

mirroring.QUIET_S = 1.5
mirror_session.POLL_RECORDS = 200
with connect(sys.argv[1]) as source, connect(sys.argv[2]) as target:
    mirror(source, target, topics=[sys.argv[3]], checkpoint_interval_ms=float(sys.argv[4]),
           on_progress=lambda progress: print(progress.records, flush=True))
"""
RECORDS = 12_000
KILLS = 3
PAIRS = [
    (locations.DIRECTORY, locations.DIRECTORY),
    (locations.DIRECTORY, locations.SERVER),
    (locations.DIRECTORY, locations.KAFKA),
    (locations.SERVER, locations.DIRECTORY),
    (locations.KAFKA, locations.DIRECTORY),
    (locations.KAFKA, locations.SERVER),
    (locations.SERVER, locations.KAFKA),
    (locations.KAFKA, locations.KAFKA),
]


@pytest.fixture(scope="module", params=PAIRS, ids=" to ".join)
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Where from and where to."""
    with ExitStack() as stack:
        if request.param == (locations.KAFKA, locations.KAFKA) and locations.kafka_jars() is None:
            pytest.skip(locations.NO_JARS)  # it takes two of them
        found = [stack.enter_context(locations.at(kind)) for kind in request.param]
        if None in found:
            pytest.skip(locations.NO_KAFKA)
        yield found[0] or "", found[1] or ""


def kill_during(source: str, target: str, topic: str, rounds: int, interval_ms: float) -> bool:
    """Run a mirror and kill it after some rounds; whether it was still at it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, source, target, topic, str(interval_ms)],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    with process:
        try:
            lines = [pipe_of(process.stdout).readline() for _ in range(rounds)]
        finally:
            process.kill()
            process.wait(TIMEOUT_S)
    return lines[-1] != b""


def contents(broker: AnyBroker, topic: str, number: int) -> list[tuple[object, ...]]:
    end = broker.ends(topic, number).durable_end
    return [
        (r.timestamp, r.key, r.value, tuple(r.headers))
        for r in read(Side(broker, topic, number), 0, end)
    ]


@pytest.mark.timeout(300)  # two of Apache Kafka take their time to start
def test_kill_9_during_a_mirror(ends: tuple[str, str]) -> None:
    source, target = ends
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    topic = f"t-{uuid.uuid4().hex[:12]}"
    with connect(source) as home:
        home.create_topic(topic, 2)
        with home.producer() as producer:
            for number in range(RECORDS):
                producer.send(topic, b"%d" % number, key=b"k", partition=number % 2)
    killed = [
        kill_during(source, target, topic, chance.randint(1, 12), chance.choice([0, 20, 10_000]))
        for _ in range(KILLS)
    ]
    assert any(killed), f"seed {seed}"
    with connect(source) as home, connect(target) as other:
        done = mirror(home, other, topics=[topic], verify=True)
        assert done.difference is None, f"seed {seed}: {done.difference}"
        assert done.compared == RECORDS, f"seed {seed}"
        for number in (0, 1):
            assert contents(home, topic, number) == contents(other, topic, number), f"seed {seed}"
