"""The commands on a pipe, against programs that do the same through the Python API.

Both are timed from start to end as processes, imports and all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measure import (
    TOPIC,
    Result,
    Setting,
    broker_with_topic,
    distinct_values,
    rate,
    ratios,
    seconds_for,
    take_turns,
)

AT_LEAST = 0.5
SEAWALL = Path(sys.executable).with_name("seawall")

PRODUCE = f"""
import sys
from seawall.broker.broker import Broker
with Broker.open(sys.argv[1]) as broker, broker.producer() as producer:
    for line in sys.stdin.buffer:
        producer.send({TOPIC!r}, line.rstrip(b"\\n"))
"""
CONSUME = f"""
import sys
from seawall.broker.broker import Broker
with Broker.open(sys.argv[1]) as broker, broker.consumer({TOPIC!r}) as consumer:
    while records := consumer.poll():
        sys.stdout.buffer.writelines([record.value + b"\\n" for record in records])
"""


def run_seconds(command: Sequence[str | Path], source: Path, target: Path) -> float:
    """Run a command between two files; return how long it took."""
    with open(source, "rb") as stdin, open(target, "wb") as stdout:
        return seconds_for(
            lambda: subprocess.run(
                command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, check=True
            )
        )


def measure(setting: Setting) -> Iterator[Result]:
    count = setting.pick(300_000, 5_000)
    lines, printed = setting.folder / "lines", setting.folder / "printed"
    lines.write_bytes(b"\n".join(distinct_values(count)) + b"\n")
    written_to, read_from = setting.folder / "written", setting.folder / "read"
    with broker_with_topic(written_to):
        pass
    with broker_with_topic(read_from) as broker, broker.producer() as producer:
        for value in distinct_values(count):
            producer.send(TOPIC, value)

    def lines_per_s(command: Sequence[str | Path]) -> float:
        return count / run_seconds(command, lines, printed)

    rounds = setting.pick(5, 1)
    ours, theirs = take_turns(
        rounds,
        lambda: lines_per_s([SEAWALL, "produce", "-b", written_to, TOPIC]),
        lambda: lines_per_s([sys.executable, "-c", PRODUCE, written_to]),
    )
    yield Result(
        what="seawall produce < file: lines a second",
        against="a program that reads the file and sends each line with Producer.send",
        values=ratios(ours, theirs),
        at_least=AT_LEAST,
        detail=f"{rate(ours)} to {rate(theirs)}",
    )
    ours, theirs = take_turns(
        rounds,
        lambda: lines_per_s([SEAWALL, "consume", "-b", read_from, TOPIC, "-e"]),
        lambda: lines_per_s([sys.executable, "-c", CONSUME, read_from]),
    )
    if printed.read_bytes() != lines.read_bytes():
        raise AssertionError("what was printed is not what was produced")
    yield Result(
        what="seawall consume -e > file: lines a second",
        against="a program that polls with Consumer.poll and writes each value",
        values=ratios(ours, theirs),
        at_least=AT_LEAST,
        detail=f"{rate(ours)} to {rate(theirs)}",
    )
