"""The benchmarks run and print their ratios. Not how high those are: this machine may be busy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )


def figures(row: str, printed: str) -> list[str]:
    """The lines with the figures of a row."""
    blocks = re.split(r"\n\n", printed)
    return [block.splitlines()[-1] for block in blocks if block.startswith(f"{row} ")]


@pytest.mark.parametrize(("row", "lines"), [("publish", 1), ("consume", 2)])
def test_a_quick_run_prints_ratios_and_leaves_nothing(row: str, lines: int, tmp_path: Path) -> None:
    ended = run(row, "--quick", "--dir", tmp_path)
    assert ended.returncode == 0, ended.stderr
    found = figures(row, ended.stdout)
    assert len(found) == lines
    for line in found:
        assert re.search(r"^\s+\d+\.\d\d .* at (least|most) [\d.]+ .*(ok|MISSED)", line), line
    assert not list(tmp_path.iterdir())


def test_an_unknown_row_is_wrong_usage() -> None:
    ended = run("nonsense")
    assert ended.returncode == 2
    assert "no such row: nonsense" in ended.stderr


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run("publish", "--quick", "--dir", tmp_path / "file" / "below")
    assert ended.returncode == 1
    assert ended.stderr.startswith("cannot write to ")
