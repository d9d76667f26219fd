"""`seawall bench` on a directory, over `seawall serve`, and over Apache Kafka, in turns.

``SEAWALL_APACHE_KAFKA=HOST:PORT`` says where Apache Kafka is; without it there are two places.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.apache import kafka_address
from benchmarks.measure import Result, Setting, ratios
from benchmarks.serve import serving

SEAWALL = Path(sys.executable).with_name("seawall")
# Anything but a catastrophe: the places promise different things, and are told apart.
AT_LEAST = 0.02
RECORDS_PER_S = 1_000


def bench(location: str, *arguments: str) -> dict[str, Any]:
    ended = subprocess.run(
        [SEAWALL, "bench", *arguments, "-b", location, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def measure(setting: Setting) -> Iterator[Result]:
    count = str(setting.pick(300_000, 2_000))
    lasting = f"{setting.pick(5, 1)}s"
    rounds = setting.pick(5, 1)
    with serving(setting.folder / "served") as (_, address):
        places = {"directory": str(setting.folder / "here"), "seawall serve": f"kafka://{address}"}
        kafka = kafka_address()
        if kafka is not None:
            places["Apache Kafka"] = f"kafka://{kafka}"
        rates: list[tuple[str, dict[str, Any]]] = []
        delays: list[tuple[str, dict[str, Any]]] = []
        for turn in range(-1, rounds):
            # Whoever comes first goes last the next time.
            names = list(places) if turn % 2 else list(places)[::-1]
            for name in names:
                both = bench(places[name], "--records", count)
                paced = bench(
                    places[name],
                    *("end-to-end", "--throughput", str(RECORDS_PER_S), "--duration", lasting),
                    *("--warmup", "1s"),
                )
                if turn >= 0:
                    rates.append((name, both))
                    delays.append((name, paced["end_to_end"]))
    for what in ("produce", "consume"):
        figures = {p: [r[what]["records_per_s"] for n, r in rates if n == p] for p in places}
        for name, values in figures.items():
            median = sorted(values)[len(values) // 2]
            yield Result(
                what=f"seawall bench: {what}, {name}",
                against="a directory",
                values=ratios(values, figures["directory"]),
                at_least=AT_LEAST,
                detail=f"{median:,.0f}/s ({min(values):,.0f} to {max(values):,.0f})",
            )
    for name in places:
        found = [each["latency_ms"] for n, each in delays if n == name]
        yield Result(
            what=f"seawall bench end-to-end at {RECORDS_PER_S:,}/s: p50, {name}",
            against="",
            values=[each["p50"] for each in found],
            at_most=1_000,
            unit="ms",
            detail="p99 "
            + ", ".join(f"{value:.2f}" for value in sorted(each["p99"] for each in found)),
        )
