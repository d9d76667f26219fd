"""The input: the .py files below a folder, and their lines.

A line is what stands between two ``\\n`` bytes, and nothing else ends one: not ``\\r``, not
a form feed. What follows the last ``\\n`` is a line only if there is something.
"""

from __future__ import annotations

import os
from pathlib import Path

NOT_THE_LIBRARY = {"site-packages", "dist-packages"}


def find_files(root: Path, limit: int | None) -> list[str]:
    """The paths of all .py files below `root`, relative to it and sorted; `limit` at most."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_THE_LIBRARY]
        below = os.path.relpath(folder, root)
        for name in files:
            if name.endswith(".py"):
                found.append(os.path.normpath(os.path.join(below, name)))
    return sorted(found)[:limit]


def split_lines(data: bytes) -> list[bytes]:
    """The lines of a file, without the ``\\n`` that ends them."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def read_sources(root: Path, limit: int | None) -> dict[bytes, list[bytes]]:
    """Key -> lines, of every file that can be read, in the order of their paths."""
    sources = {}
    for name in find_files(root, limit):
        try:
            with open(root / name, "rb") as file:
                sources[os.fsencode(name)] = split_lines(file.read())
        except OSError:
            continue
    return sources
