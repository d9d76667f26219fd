"""Build the client programs that are not in Python, into `.venv/clients`.

    python tests/clients/build.py

Each needs its toolchain (npm, go, mvn) and what that fetches its packages from. Where one is
missing, that is said, and the tests skip the client. What is built and unchanged stays.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SOURCES = Path(__file__).parent
BUILT = SOURCES.parent.parent / ".venv" / "clients"
TIMEOUT_S = 600


def build_kafkajs(target: Path) -> None:
    for name in ("package.json", "package-lock.json", "program.js"):
        shutil.copy(SOURCES / "kafkajs" / name, target)
    run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=target)


def build_go(target: Path) -> None:
    run(
        "go", "build", "-trimpath", "-o", f"{target}/", "./franz", "./segmentio", cwd=SOURCES / "go"
    )


def build_java(target: Path) -> None:
    work = target / "work"
    shutil.copytree(SOURCES / "java", work)
    run(
        "mvn",
        "-q",
        "-B",
        "package",
        "dependency:copy-dependencies",
        "-DoutputDirectory=..",
        cwd=work,
    )
    shutil.move(work / "target" / "client.jar", target)
    shutil.rmtree(work)


PROGRAMS: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "kafkajs": (("npm", "node"), build_kafkajs),
    "go": (("go",), build_go),
    "java": (("mvn", "java"), build_java),
}


class NotBuilt(Exception):
    """The sentence says why."""


def run(*command: str, cwd: Path) -> None:
    # Go would fetch another version of itself.
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotBuilt(f"`{command[0]}` took more than {TIMEOUT_S} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise NotBuilt(f"`{command[0]}` failed: {' '.join(said)}")


def fingerprint(name: str) -> str:
    """Of the sources of a program."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted((SOURCES / name).rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def build(name: str) -> str:
    """Build one program, unless it is built; what to tell about it."""
    tools, make = PROGRAMS[name]
    stamp = BUILT / f"{name}.built"
    mark = fingerprint(name)
    if stamp.exists() and stamp.read_text() == mark:
        return "built before"
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"not built, its tests are skipped: there is no {' and no '.join(missing)} here"
    target = BUILT / name
    stamp.unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        make(target)
    except NotBuilt as error:
        shutil.rmtree(target)
        return f"not built, its tests are skipped: {error}"
    stamp.write_text(mark)
    return "built"


def main() -> None:
    for name in PROGRAMS:
        print(f"{name}: {build(name)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
