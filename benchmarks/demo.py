"""The main job, on a real input, with kills: what `make demo` runs.

    python benchmarks/demo.py [--keep] [--dir DIR] [--limit FILES] [--source FOLDER]
    python benchmarks/demo.py --check DIR      check again what an earlier run kept

Every line of every .py file of the standard library goes through a topic with four
partitions, the file's relative path as key and the line's number as header, while a group
consumes them in another process. The consumer is killed with SIGKILL three times and the
producer once, each when it has made progress and is unfinished. Then a checker that shares
nothing with them but the files on disk compares everything. Exit code 0 only if all holds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from types import FrameType

from demo_parts import checker, consuming, producing
from demo_parts.conducting import Conductor, DemoFailed
from demo_parts.job import Job
from demo_parts.leash import ConductorGone, Leash

from seawall.broker.errors import BrokerError

CONDUCTOR_GONE = 3
INTERRUPTED = 130


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo.py", description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--dir", type=Path, help="work in this new or empty folder, and keep it")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    parser.add_argument("--limit", type=int, metavar="FILES", help="only the first so many files")
    parser.add_argument("--source", type=Path, help="another folder of .py files")
    parser.add_argument("--check", type=Path, metavar="DIR", help="check a kept folder again")
    # How the conductor starts the processes that it kills.
    parser.add_argument("--role", choices=("produce", "consume"), help=argparse.SUPPRESS)
    parser.add_argument("--run", type=int, default=1, help=argparse.SUPPRESS)
    return parser


def play(role: str, job: Job, run: int) -> int:
    """Be one of the processes that get killed."""
    try:
        if role == "produce":
            producing.produce(job, Leash())
        else:
            consuming.consume(job, run, Leash())
    except ConductorGone:
        return CONDUCTOR_GONE
    return 0


def conduct(folder: Path, source: Path, limit: int | None) -> bool:
    """Run the whole job in a folder. False if anything was not as it must be."""
    job = Job(folder=folder, source=source, limit=limit)
    job.save()
    try:
        Conductor(job, Path(__file__).resolve()).run()
    except (DemoFailed, BrokerError, OSError) as error:
        print(f"\nFAILED: {error}", flush=True)
        return False
    return checker.check(job)


def on_sigterm(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> int:
    options = arguments().parse_args()
    if options.role:
        return play(options.role, Job.load(options.dir), options.run)
    if options.check:
        return 0 if checker.check(Job.load(options.check)) else 1
    if options.limit is not None and options.limit < 1:
        arguments().error("--limit is at least 1")
    # Everything is cleaned up on the way out, and SIGTERM is a way out, too.
    signal.signal(signal.SIGTERM, on_sigterm)
    source = options.source or Path(sysconfig.get_path("stdlib"))
    if options.dir:
        folder = options.dir.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if os.listdir(folder):
            arguments().error(f"--dir {folder} is not empty")
    else:
        folder = Path(tempfile.mkdtemp(prefix="seawall-demo-"))
    keep = options.keep or bool(options.dir)
    good = True
    try:
        good = conduct(folder, source.resolve(), options.limit)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if keep or not good:
            print(f"kept in {folder}; {Path(__file__).name} --check {folder} checks it again")
        else:
            remove(folder)
    return 0 if good else 1


def remove(folder: Path) -> None:
    """Remove everything; a process that was just being started may be writing still."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        if not folder.exists():
            return
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
