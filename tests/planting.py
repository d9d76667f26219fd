"""Bugs that are planted on purpose: patches, what applies them, and the search that meets them.

A patch below ``tests/planted/`` begins with a header, a line for each::

    Bug: what is wrong, in one sentence
    Caught-by: the search that must find it

A unified diff follows, against ``wal/`` or ``broker/``. It is applied to a copy of the
production code, never to the code itself, and as it stands: what a hunk takes away or
leaves must be there, word for word and once only. Line numbers mean nothing.
"""

from __future__ import annotations

import builtins
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PLANTED = ROOT / "tests" / "planted"
LAYERS = ("wal", "broker", "cli")
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()

# Nothing that a search says of a promise has a line that begins with one of these: they come
# from a patch that does not fit what is around it. (An `OSError` a user may really meet.)
PROGRAMMING_ERRORS = [
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, OSError)
]
_PROGRAMMING_ERROR = re.compile(rf"^\s*({'|'.join(PROGRAMMING_ERRORS)})(:|$)", re.MULTILINE)


class PatchError(Exception):
    """A patch that cannot be read, or does not fit the code any more."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One hunk: in the file `path`, the lines `old` become `new`."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Planted:
    """One patch. ``search`` is the name of the one that must catch it."""

    name: str
    bug: str
    search: str
    edits: tuple[Edit, ...]

    def apply(self, root: Path) -> None:
        """Change the copy of the code below `root`. Raises `PatchError`."""
        for edit in self.edits:
            path = root / edit.path
            text = path.read_text()
            found = text.count(edit.old)
            if found != 1:
                raise PatchError(
                    f"{self.name} no longer applies: {edit.path} has {found} times, not once,\n"
                    f"{edit.old}"
                )
            path.write_text(text.replace(edit.old, edit.new))
            Path(cache_from_source(str(path))).unlink(missing_ok=True)


def all_planted() -> list[Planted]:
    """Every patch that there is, by name."""
    return [parse(path.stem, path.read_text()) for path in sorted(PLANTED.glob("*.patch"))]


def parse(name: str, text: str) -> Planted:
    """Read a patch. Raises `PatchError`."""
    header, separator, diff = text.partition("\n--- ")
    fields = dict(re.findall(r"^([A-Z][\w-]*): (.+)$", header, re.MULTILINE))
    if not separator or not {"Bug", "Caught-by"} <= fields.keys():
        raise PatchError(f"{name} lacks its header, or has no diff behind it")
    edits: list[Edit] = []
    for piece in ("\n" + separator.strip() + " " + diff).split("\n--- ")[1:]:
        edits += _edits(name, piece)
    return Planted(name, fields["Bug"], fields["Caught-by"], tuple(edits))


def _edits(name: str, piece: str) -> list[Edit]:
    """The hunks for one file; `piece` begins behind its ``---``."""
    before, *hunks = re.split(r"^@@ .*\n", piece, flags=re.MULTILINE)
    target = re.search(r"^\+\+\+ b/(\S+)$", before, re.MULTILINE)
    if target is None or not hunks:
        raise PatchError(f"{name} does not say which file it changes, or how")
    edits = []
    for hunk in hunks:
        lines = hunk.splitlines()
        if any(line[:1] not in ("+", "-", " ", "") for line in lines):
            raise PatchError(f"{name} has a line that is neither old nor new: {hunk}")
        old, new = (
            "".join(line[1:] + "\n" for line in lines if line[:1] != left_out)
            for left_out in ("+", "-")
        )
        edits.append(Edit(target[1], old, new))
    return edits


def copy_code(root: Path) -> Path:
    """Copy the production code to ``root/seawall``, compiled parts and all; return that."""
    target = root / "seawall"
    for layer in LAYERS:
        # With the byte code, but not what some process is just writing of it.
        ignored = shutil.ignore_patterns("*.pyc.*")
        shutil.copytree(ROOT / layer, target / layer, ignore=ignored)
    return target


# Runs in the child: what is imported must be the copy, and not what is installed.
_WORKER = """
import sys
import seawall.broker, seawall.cli, seawall.wal
for package in (seawall.broker, seawall.cli, seawall.wal):
    if not package.__path__[0].startswith(sys.argv[1]):
        sys.exit(f"{package.__name__} comes from {package.__path__[0]}")
from seawall.broker.torture.worker import main
main()
"""


def search(root: Path, name: str, budget_s: float, seed: int = 0) -> dict[str, Any]:
    """What came of a quick search, with the code below `root`, until its first failure.

    That is an `Outcome` as a dict. Raises `RuntimeError` if the search itself did not work.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as memory:
        return _searched(root, name, memory, budget_s, seed)


def _searched(root: Path, name: str, memory: str, budget_s: float, seed: int) -> dict[str, Any]:
    task = {
        "name": name,
        "scratch": str(root),
        "memory": memory,
        "seed": seed,
        "full": False,
        "case": None,
        "stop_at_first": True,
        "shrinks": False,
        "share": 0,
        "shares": 1,
        "budget_s": budget_s,
    }
    process = subprocess.run(
        [sys.executable, "-P", "-c", _WORKER, str(root)],
        env={**os.environ, "PYTHONPATH": str(root)},
        input=json.dumps(task).encode() + b"\n",
        capture_output=True,
        timeout=2 * budget_s,
        check=False,
    )
    messages = [json.loads(line) for line in process.stdout.splitlines()]
    if process.returncode or not messages or "outcome" not in messages[-1]:
        raise RuntimeError(f"{name} ended with {process.returncode}: {process.stderr.decode()}")
    outcome: dict[str, Any] = messages[-1]["outcome"]
    return outcome


def is_broken_promise(reason: str) -> bool:
    """Whether that is why a case failed, and not a patch that does not even run."""
    return _PROGRAMMING_ERROR.search(reason) is None
