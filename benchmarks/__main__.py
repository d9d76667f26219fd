"""Runs the rows, each in a process of its own, and prints the table."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Result, Setting

CHECKOUT = Path(__file__).parent.parent
BOTH_CORES = ("compiled", "pure")

# The modules, in the order of the table, and the record codecs they are measured with.
ROWS = {
    "publish": ("compiled",),
    "threads": ("compiled",),
    "tasks": ("compiled",),
    "produce": BOTH_CORES,
    "consume": BOTH_CORES,
    "handlers": ("compiled",),
    "commands": ("compiled",),
    "reopen": ("compiled",),
    "memory": ("compiled",),
    "trim": ("compiled",),
    "idempotent": ("compiled",),
    "acknowledge": ("compiled",),
    "rebalance": ("compiled",),
    "isolation": ("compiled",),
    "keycompact": BOTH_CORES,
    "startup": ("compiled",),
    "visibility": ("compiled",),
    "serve": ("compiled",),
    "restart": ("compiled",),
    "apache": ("compiled",),
    "mirror": ("compiled",),
    "places": ("compiled",),
    "scale": ("compiled",),
}

# Only if they are named: they take minutes, gigabytes, or an Apache Kafka that runs.
ON_REQUEST = {"apache", "places", "scale"}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure, and print ratios."
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of: {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: a trial of the rows")
    parser.add_argument(
        "--dir",
        type=Path,
        default=CHECKOUT / "build",
        help="where to write, on the disk to be measured (default: build/ in the checkout)",
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [row for row in options.rows if row not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}")
    if options.worker:
        measure(options.rows[0], options.dir, options.quick)
        return 0
    try:
        options.dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"cannot write to {options.dir}: {error.strerror}", file=sys.stderr)
        return 1
    print_heading(options.dir, options.quick)
    missed = failed = 0
    for row in options.rows or [row for row in ROWS if row not in ON_REQUEST]:
        for core in ROWS[row]:
            try:
                for result in run(row, core, options.dir, options.quick):
                    print_result(row, core, result)
                    missed += result.is_missed
            except RowFailed as failure:
                print(f"\n{row:11} FAILED: {failure}", flush=True)
                failed += 1
    summary = f"{missed} missed" if missed else "all within their targets"
    print(f"\n{summary}{f', {failed} failed' if failed else ''}")
    return 1 if failed else 0


class RowFailed(Exception):
    """A row's process ended before its time."""


def run(row: str, core: str, parent: Path, is_quick: bool) -> Iterator[Result]:
    """Measure a row in a process of its own, with a folder of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "SEAWALL_PURE_PYTHON"}
    if core == "pure":
        environment["SEAWALL_PURE_PYTHON"] = "1"
    folder = tempfile.mkdtemp(prefix="benchmark-", dir=parent)
    command = [sys.executable, "-m", "benchmarks", "--worker", row, "--dir", folder]
    try:
        with subprocess.Popen(
            command + ["--quick"] * is_quick,
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
            env=environment,
        ) as worker:
            for line in worker.stdout or ():
                yield Result(**json.loads(line))
        if worker.returncode:
            raise RowFailed(f"its process ended with code {worker.returncode}")
    finally:
        shutil.rmtree(folder)


def measure(row: str, folder: Path, is_quick: bool) -> None:
    """In the row's own process: print each result as a line of JSON."""
    module = importlib.import_module(f"benchmarks.{row}")
    for result in module.measure(Setting(folder=folder, is_quick=is_quick)):
        print(json.dumps(dataclasses.asdict(result)), flush=True)


def print_heading(folder: Path, is_quick: bool) -> None:
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, files in {folder}")
    print("median of all rounds (lowest to highest)")
    if is_quick:
        print("--quick: far too short to mean anything")


def print_result(row: str, core: str, result: Result) -> None:
    """Two or three lines: what, against what, and the figures."""
    low, high = min(result.values), max(result.values)
    spread = f"({low:.2f} to {high:.2f})" if len(result.values) > 1 else ""
    if result.at_least is not None:
        target = f"at least {result.at_least:g} {result.unit}"
    else:
        target = f"at most {result.at_most:g} {result.unit}"
    verdict = "MISSED" if result.is_missed else "ok"
    title = result.what if len(ROWS[row]) == 1 else f"{result.what} ({core})"
    print(f"\n{row:11} {title}")
    if result.against:
        against = f"against {result.against}"
        print(textwrap.fill(against, 100, initial_indent=" " * 12, subsequent_indent=" " * 12))
    print(
        f"{'':11} {result.median:8.2f} {result.unit:4}{spread:20} {target:16} {verdict:7}"
        f" {result.detail}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
