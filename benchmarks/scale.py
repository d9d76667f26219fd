"""How much one directory bears: partitions, groups, gigabytes. Figures for docs/scaling.md.

Each directory is opened in a process of its own, which says how long that took, how much
memory it has then, and how long it takes until a record stands in every partition.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, Setting, distinct_values
from benchmarks.reopen import fill
from seawall.broker import Broker

# Above these something is wrong, whatever the machine.
OPEN_AT_MOST_MS = 5_000.0
MEMORY_AT_MOST_MIB = 1_000.0
CREATE_AT_MOST_MS = 20.0
GROUPS_AT_MOST_MS = 10_000.0

LOOK = """
import json, resource, sys, time
import seawall.broker.broker
from benchmarks.memory import resident_mib
from seawall.broker import Broker

before_mib = resident_mib("VmRSS")
# Two descriptors for each partition that is written to.
most = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 200)
began_s = time.perf_counter()
broker = Broker.open(sys.argv[1])
opened_s = time.perf_counter()
topics = broker.topics()
listed_s = time.perf_counter()
groups = [broker.group(name) for name in broker.groups()[:100]]
described_s = time.perf_counter()
opened_mib = resident_mib("VmRSS")
if sys.argv[2] == "write":
    with broker.producer() as producer:
        for topic in topics:
            for each in topic.partitions[:most]:
                producer.send(topic.name, b"one", partition=each.number)
written_s = time.perf_counter()
written_mib = resident_mib("VmRSS")
broker.compact()
trimmed_s = time.perf_counter()
broker.close()
print(json.dumps({
    "open_ms": (opened_s - began_s) * 1000,
    "list_ms": (listed_s - opened_s) * 1000,
    "groups_ms": (described_s - listed_s) * 1000,
    "write_ms": (written_s - described_s) * 1000,
    "trim_ms": (trimmed_s - written_s) * 1000,
    "before_mib": before_mib, "opened_mib": opened_mib, "written_mib": written_mib,
    "written": min(most, sum(len(each.partitions) for each in topics)),
}))
"""


def look(folder: Path, how: str = "look") -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-c", LOOK, str(folder), how], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def measure(setting: Setting) -> Iterator[Result]:
    rounds = setting.pick(5, 1)
    few, many, most = 10, setting.pick(1_000, 20), setting.pick(10_000, 40)
    for count in (few, many, most):
        yield from measure_partitions(setting.folder / f"partitions-{count}", count, rounds)
    for count in (setting.pick(100, 5), setting.pick(1_000, 10)):
        yield from measure_groups(setting.folder / f"groups-{count}", count, rounds)
    size_bytes = setting.pick(8 << 30, 16 << 20)
    folder = setting.folder / "large"
    fill(folder, size_bytes)
    found = [look(folder) for _ in range(rounds)]
    yield Result(
        what=f"opening a log of {size_bytes / (1 << 30):.1f} GiB",
        against="",
        values=[each["open_ms"] for each in found],
        at_most=OPEN_AT_MOST_MS,
        unit="ms",
        detail=f"{max(each['opened_mib'] for each in found):.0f} MiB resident",
    )


def measure_partitions(folder: Path, count: int, rounds: int) -> Iterator[Result]:
    with Broker.open(folder) as broker:
        began_s = time.perf_counter()
        broker.create_topic("wide", count)
        took_ms = (time.perf_counter() - began_s) * 1000
    yield Result(
        what=f"making a topic of {count:,} partitions: for each",
        against="",
        values=[took_ms / count],
        at_most=CREATE_AT_MOST_MS,
        unit="ms",
    )
    look(folder, "write")
    found = [look(folder) for _ in range(rounds)]
    written = [look(folder, "write") for _ in range(rounds)]
    yield Result(
        what=f"opening a directory with {count:,} partitions",
        against="",
        values=[each["open_ms"] for each in found],
        at_most=OPEN_AT_MOST_MS,
        unit="ms",
        detail=f"listing them {middle(found, 'list_ms'):.0f} ms, a round of trimming "
        f"{middle(found, 'trim_ms'):.0f} ms",
    )
    yield Result(
        what="resident memory then, and once it has written to each (as far as ulimit -n goes)",
        against="",
        values=[each["written_mib"] for each in written],
        at_most=MEMORY_AT_MOST_MIB,
        unit="MiB",
        detail=f"{middle(found, 'before_mib'):.0f} MiB imported, {middle(found, 'opened_mib'):.0f} "
        f"MiB opened; a record to each of {middle(written, 'written'):,.0f}: "
        f"{middle(written, 'write_ms'):.0f} ms",
    )


def measure_groups(folder: Path, count: int, rounds: int) -> Iterator[Result]:
    with Broker.open(folder) as broker:
        broker.create_topic("read", 10)
        with broker.producer() as producer:
            for number, value in enumerate(distinct_values(1_000)):
                producer.send("read", value, partition=number % 10)
        for number in range(count):
            broker.reset_group(f"group-{number}", "read", dict.fromkeys(range(10), number % 100))
    found = [look(folder) for _ in range(rounds)]
    yield Result(
        what=f"opening a directory with {count:,} groups in 10 partitions",
        against="",
        values=[each["open_ms"] for each in found],
        at_most=OPEN_AT_MOST_MS,
        unit="ms",
        detail=f"{middle(found, 'opened_mib'):.0f} MiB resident, a round of trimming "
        f"{middle(found, 'trim_ms'):.0f} ms",
    )
    yield Result(
        what="describing 100 of them",
        against="",
        values=[each["groups_ms"] for each in found],
        at_most=GROUPS_AT_MOST_MS,
        unit="ms",
    )


def middle(found: list[dict[str, Any]], name: str) -> float:
    values: list[float] = sorted(each[name] for each in found)
    return values[len(values) // 2]
