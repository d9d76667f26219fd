"""How much a short command takes on top of Python and the packages that it imports; and how soon
a server is ready, on top of all its imports.

What a command imports from other packages is looked up while it runs, module by module;
the comparison is a Python that imports exactly those and nothing else. Both find their
byte code cached, as after any installation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import (
    Result,
    Setting,
    broker_with_topic,
    ratios,
    seconds_for,
    take_turns,
)

AT_MOST = 1.5
HELP_AT_MOST_MS = 150
SERVE_AT_MOST_MS = 500
FIXTURE_AT_MOST_MS = 100
SEAWALL = Path(sys.executable).with_name("seawall")

# Runs a command and then prints, in the order of loading, the modules of other packages.
LIST_MODULES = """
import contextlib, io, json, sys, sysconfig
before = set(sys.modules)
from seawall.cli.main import main
main(sys.argv[1:])
sites = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
found = [
    name for name, module in list(sys.modules.items())
    if name not in before and (getattr(module, "__file__", None) or "").startswith(sites)
    and not name.startswith("seawall")
]
print(json.dumps(found), file=sys.stderr)
"""


# Imports what a server imports until it listens.
SERVE_IMPORTS = """
import seawall.cli.main, seawall.cli.serve, seawall.broker, seawall.broker.kafka.server
from seawall.broker.kafka.registry import load_apis
load_apis()
"""

# What the pytest fixture does, in a process that has done it before.
FIXTURE = """
import sys, tempfile, time
from seawall.broker.broker import Broker
from seawall.broker.kafka.threaded import ServerThread
took_ms = []
for number in range(int(sys.argv[1]) + 1):
    with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
        began_s = time.perf_counter()
        with Broker.open(folder) as broker, ServerThread(broker, listen="127.0.0.1:0"):
            took_ms.append(1000 * (time.perf_counter() - began_s))
print(*took_ms[1:])
"""


def with_byte_code(folder: Path) -> dict[str, str]:
    """The environment, with byte code kept in a folder."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def modules_of(arguments: Sequence[str]) -> list[str]:
    """The modules of other packages that a command imports."""
    done = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, *arguments], capture_output=True, check=True
    )
    modules: list[str] = json.loads(done.stderr.splitlines()[-1])
    return modules


def run_ms(command: Sequence[str | Path], environment: Mapping[str, str]) -> float:
    """How long a command takes as a process."""
    return 1000 * seconds_for(
        lambda: subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True)
    )


def ready_ms(folder: Path, environment: Mapping[str, str]) -> float:
    """How long `seawall serve` takes until it says that it listens."""
    command = [SEAWALL, "serve", "-b", folder, "--listen", "127.0.0.1:0"]
    began_s = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        line = process.stderr.readline() if process.stderr else b""
        took_s = time.perf_counter() - began_s
        process.terminate()
    if b"listening on" not in line:
        raise RuntimeError(line.decode())
    return 1000 * took_s


def serve_rows(setting: Setting, folder: Path, environment: Mapping[str, str]) -> Iterator[Result]:
    rounds = setting.pick(15, 2)
    ready, imports = take_turns(
        rounds,
        lambda: ready_ms(folder, environment),
        lambda: run_ms([sys.executable, "-c", SERVE_IMPORTS], environment),
    )
    yield Result(
        what="seawall serve: until it listens",
        against="minus python -c 'import …' of its modules",
        values=[max(0.0, one - other) for one, other in zip(ready, imports, strict=True)],
        at_most=SERVE_AT_MOST_MS,
        unit="ms",
        detail=f"{median(ready):.0f} ms to {median(imports):.0f} ms",
    )
    done = subprocess.run(
        [sys.executable, "-c", FIXTURE, str(rounds), str(setting.folder)],
        capture_output=True,
        check=True,
        env=environment,
    )
    yield Result(
        what="the fixture seawall_server: until it listens",
        against="",
        values=[float(each) for each in done.stdout.split()],
        at_most=FIXTURE_AT_MOST_MS,
        unit="ms",
    )


def measure(setting: Setting) -> Iterator[Result]:
    folder = setting.folder / "broker"
    environment = with_byte_code(setting.folder / "byte-code")
    with broker_with_topic(folder):
        pass
    for arguments in (["--help"], ["topic", "list", "-b", str(folder)]):
        modules = modules_of(arguments)
        imports = "\n".join(f"import {name}" for name in modules)
        packages = sorted({name.split(".")[0] for name in modules})
        bare = [sys.executable, "-c", imports or "pass"]
        ours, theirs = take_turns(
            setting.pick(15, 2),
            lambda arguments=arguments: run_ms([SEAWALL, *arguments], environment),  # type: ignore[misc]
            lambda bare=bare: run_ms(bare, environment),  # type: ignore[misc]
        )
        name = " ".join(["seawall", *arguments[:2]])
        yield Result(
            what=f"{name}: time",
            against=f"python -c 'import …' of the same modules of {', '.join(packages)}",
            values=ratios(ours, theirs),
            at_most=AT_MOST,
            detail=f"{median(ours):.0f} ms to {median(theirs):.0f} ms",
        )
        if arguments == ["--help"]:
            yield Result(
                what=f"{name}: time", against="", values=ours, at_most=HELP_AT_MOST_MS, unit="ms"
            )
    yield from serve_rows(setting, folder, environment)
