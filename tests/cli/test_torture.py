"""`seawall torture`: what it prints, how it ends, and that a failing case can be run again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from commands import Ended, eventually, pipe_of, running, seawall

# A search of somebody's own, in which numbers from 7 on are broken.
BROKEN = """
from seawall.wal.torture.search import Broken, Search

class Sevens(Search):
    name = "sevens:Sevens"
    title = "numbers from 7 on"

    def cases(self):
        for number in range(100):
            if self.setting.mine(number):
                self.figures["numbers"] = self.figures.get("numbers", 0) + 1
                yield {"number": number}

    def run(self, case):
        if case["number"] >= 7:
            raise Broken(f"{case['number']} is not below 7")

    def smaller(self, case):
        return ({"number": number} for number in range(case["number"]))
"""


def torture(*arguments: str | Path, env: dict[str, str] | None = None) -> Ended:
    return seawall("torture", *arguments, env=env)


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """The environment in which a search of one's own is found."""
    (tmp_path / "sevens.py").write_text(BROKEN)
    return {"PYTHONPATH": str(tmp_path)}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def test_a_search_on_a_file_system_of_ones_own(scratch: Path) -> None:
    ended = torture("--dir", scratch, "--only", "failed-syncs", "--budget", "2s", "--seed", "3")
    assert ended.code == 0, ended.err
    header, row = ended.lines
    assert header.split()[:3] == [b"search", b"cases", b"broken"]
    assert row.split()[0] == b"failed-syncs"
    assert int(row.split()[1]) > 0
    assert "seed 3: nothing broke" in ended.err
    assert list(scratch.iterdir()) == [], "it left something behind"


def test_a_broken_promise_is_printed_as_its_smallest_case(own: dict[str, str]) -> None:
    ended = torture("--only", "sevens:Sevens", "--quick", "--seed", "5", env=own)
    assert ended.code == 1
    assert b"7 is not below 7" in ended.out
    assert "seed 5 broke a promise" in ended.err
    [again] = [line for line in ended.out.decode().splitlines() if "again: seawall" in line]
    assert """--seed 5 --only sevens:Sevens --case '{"number": 7}'""" in again


@pytest.mark.parametrize(("number", "code"), [(6, 0), (7, 1)])
def test_a_case_can_be_run_again(own: dict[str, str], number: int, code: int) -> None:
    case = f'{{"number": {number}}}'
    ended = torture("--only", "sevens:Sevens", "--case", case, env=own)
    assert ended.code == code
    assert (b"7 is not below 7" in ended.out) == (code == 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--only", "nothing"), "no search is called 'nothing': crash-states"),
        (("--budget", "soon"), "'soon' is not a time such as 60s"),
        (("--case", "{}"), "say of which search"),
        (("--only", "clock", "--case", "[]"), "not a JSON object"),
        (("--full", "--quick"), "exclude each other"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], sentence: str) -> None:
    ended = torture(*arguments)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert sentence in ended.err


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    ended = torture("--dir", tmp_path / "missing")
    assert ended.code == 1
    assert "is not a directory" in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_search_that_is_stopped_leaves_nothing_behind(
    scratch: Path, number: signal.Signals, code: int
) -> None:
    with running("torture", "--dir", scratch, "--only", "failed-writes", "--full") as process:
        eventually(lambda: any(scratch.iterdir()))
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(30) == code
        said = pipe_of(process.stderr).read()
        # The signal may come in a callback of the garbage collector's, where Python only tells.
        assert said.count(b"Traceback") == said.count(b"Exception ignored in")
    assert list(scratch.iterdir()) == []


def test_the_worker_has_died(own: dict[str, str], tmp_path: Path) -> None:
    deadly = BROKEN.replace("raise Broken", "import os; os._exit(9)\n            raise Broken")
    (tmp_path / "sevens.py").write_text(deadly)
    ended = torture("--only", "sevens:Sevens", "--quick", env=own)
    assert ended.code == 1
    assert "the process that ran sevens:Sevens ended with 9" in ended.err
    assert os.listdir(tmp_path)
