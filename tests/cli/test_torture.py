"""`seawall torture`: what it prints, how it ends, and that a failing case can be run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import TIMEOUT_S, Ended, environment, eventually, pipe_of, running, seawall

from seawall.wal.torture.processes import process_state

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


# -- being stopped ------------------------------------------------------------------------

# A search whose only case never ends. It leaves files, and starts a process that nobody is
# the parent of any more, in another process group, and that takes no note of SIGTERM.
ENDLESS = """
import os, signal, time
from seawall.broker.torture.children import Children
from seawall.wal.torture.search import Search

def idle(line):
    time.sleep(600)

class Endless(Search):
    name = "endless:Endless"
    title = "never ends"
    most_shares = 1

    def cases(self):
        yield {"number": 0}

    def run(self, case):
        children = Children()
        pids = [os.getpid(), children._server, children.start(idle).pid]
        end, beginning = os.pipe()
        if os.fork() == 0:
            orphan = os.fork()
            if orphan:
                os.write(beginning, str(orphan).encode())
                os._exit(0)
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            number = 0
            while True:
                number += 1
                os.mkdir(os.path.join(self.setting.memory, str(number)))
                time.sleep(0.001)
        pids.append(int(os.read(end, 100)))
        os.wait()
        with open(os.path.join(self.setting.scratch, "pids"), "w") as file:
            file.write(" ".join(map(str, pids)) + "\\n")
        while True:
            time.sleep(600)
"""


@pytest.fixture
def endless(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "endless.py").write_text(ENDLESS)
    return {"PYTHONPATH": str(tmp_path)}


def pids_below(scratch: Path) -> list[int]:
    """Whom the endless search has started: its worker, its server, and two more."""

    def written() -> list[str]:
        return [path.read_text() for path in scratch.glob("*/*/pids")]

    eventually(lambda: any(text.endswith("\n") for text in written()))
    return [int(word) for word in written()[0].split()]


def is_at_work(scratch: Path) -> bool:
    """Whether cases are being run: each has a folder."""
    return any(scratch.glob("*/*/*"))


def told(word: str, process: subprocess.Popen[bytes]) -> str:
    """What is said of a search that was stopped: whether a case had ended, time decides."""
    is_anything_found = b"failed-writes" in pipe_of(process.stdout).read()
    found = "that is what was found so far" if is_anything_found else "no case had ended"
    return f"seawall: {word}; {found}\n"


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "hung up"),
    ],
)
@pytest.mark.parametrize("moment", ["beginning", "at work"])
def test_a_search_that_is_stopped_leaves_nothing_behind(
    scratch: Path, number: signal.Signals, code: int, word: str, moment: str
) -> None:
    with running("torture", "--dir", scratch, "--only", "failed-writes", "--full") as process:
        if moment == "beginning":
            eventually(lambda: any(scratch.iterdir()))
        else:
            eventually(lambda: is_at_work(scratch))
            time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == code
        assert pipe_of(process.stderr).read().decode() == told(word, process)
    assert list(scratch.iterdir()) == []


def test_a_group_that_is_told_twice(scratch: Path) -> None:
    """As by `timeout` or an impatient Ctrl-C, which is for all of the terminal's group."""
    command = ("torture", "--dir", scratch, "--only", "failed-writes", "--full")
    with running(*command, process_group=0) as process:
        eventually(lambda: is_at_work(scratch))
        for _ in range(3):
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
        assert pipe_of(process.stderr).read().decode() == told("interrupted", process)
    assert list(scratch.iterdir()) == []


def test_workers_that_are_told_to_end_as_well(scratch: Path, endless: dict[str, str]) -> None:
    """As by `pkill seawall`, which meets everybody."""
    command = ("torture", "--dir", scratch, "--only", "endless:Endless")
    with running(*command, env=environment(endless)) as process:
        for pid in [process.pid, *pids_below(scratch)]:
            os.kill(pid, signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 143
        assert pipe_of(process.stderr).read() == b"seawall: terminated; no case had ended\n"
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("is_stopped", [False, True])
def test_whoever_is_stuck_is_killed(
    scratch: Path, endless: dict[str, str], is_stopped: bool
) -> None:
    command = ("torture", "--dir", scratch, "--only", "endless:Endless")
    with running(*command, env=environment(endless)) as process:
        pids = pids_below(scratch)
        for pid in pids if is_stopped else ():
            os.kill(pid, signal.SIGSTOP)
        process.terminate()
        assert process.wait(TIMEOUT_S) == 143
        assert pipe_of(process.stderr).read() == b"seawall: terminated; no case had ended\n"
        assert [process_state(pid).strip("Z") for pid in pids] == [""] * len(pids)
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells the workers")
def test_nobody_outlives_a_command_that_is_killed(scratch: Path, endless: dict[str, str]) -> None:
    command = ("torture", "--dir", scratch, "--only", "endless:Endless")
    with running(*command, env=environment(endless)) as process:
        *pids, orphan = pids_below(scratch)
        process.kill()
        eventually(lambda: not any(process_state(pid).strip("Z") for pid in pids))
        os.kill(orphan, signal.SIGKILL)  # its parent has left it long before


def test_what_an_unfinished_search_has_found(scratch: Path, tmp_path: Path) -> None:
    """Those for hours are stopped by hand: what they had found by then must not be lost."""
    slow = BROKEN.replace(
        "        if case",
        """        if case["number"] > 8:
            import os, time
            os.mkdir(os.path.join(self.setting.scratch, "here"))
            time.sleep(600)
        if case""",
    )
    (tmp_path / "sevens.py").write_text(slow)
    command = ("torture", "--dir", scratch, "--only", "sevens:Sevens", "--jobs", "1")
    env = environment({"PYTHONPATH": str(tmp_path)})
    with running(*command, env=env) as process:
        eventually(lambda: any(scratch.glob("*/*/here")))
        process.terminate()
        assert process.wait(TIMEOUT_S) == 143
        _, row, _, reason, again = pipe_of(process.stdout).read().decode().splitlines()
        assert row.split()[:4] == ["sevens:Sevens", "9", "2", "part"]
        assert reason == "sevens:Sevens: 7 is not below 7"
        assert again.endswith("""--case '{"number": 7}'""")
        said = pipe_of(process.stderr).read()
        assert said == b"seawall: terminated; that is what was found so far\n"
    assert list(scratch.iterdir()) == []


def test_what_was_found_before_it_was_stopped(
    scratch: Path, own: dict[str, str], endless: dict[str, str]
) -> None:
    command = ("torture", "--dir", scratch, "--only", "sevens:Sevens", "--only", "endless:Endless")
    with running(*command, "--jobs", "1", "--full", env=environment(own)) as process:
        pids_below(scratch)
        process.terminate()
        assert process.wait(TIMEOUT_S) == 143
        assert b"7 is not below 7" in pipe_of(process.stdout).read()
        said = pipe_of(process.stderr).read()
        assert said == b"seawall: terminated; that is what was found so far\n"
    assert list(scratch.iterdir()) == []


def test_a_worker_that_has_died_leaves_nothing_behind(
    scratch: Path, endless: dict[str, str]
) -> None:
    """Those that it has started still have its end of the pipe open."""
    command = ("torture", "--dir", scratch, "--only", "endless:Endless")
    with running(*command, env=environment(endless)) as process:
        worker, *others = pids_below(scratch)
        os.kill(worker, signal.SIGSEGV)
        assert process.wait(TIMEOUT_S) == 1
        said = pipe_of(process.stderr).read()
        assert said == b"seawall: the process that ran endless:Endless ended with -11\n"
        assert [process_state(pid).strip("Z") for pid in others] == [""] * len(others)
    assert list(scratch.iterdir()) == []


def test_the_worker_has_died(own: dict[str, str], tmp_path: Path) -> None:
    deadly = BROKEN.replace("raise Broken", "import os; os._exit(9)\n            raise Broken")
    (tmp_path / "sevens.py").write_text(deadly)
    ended = torture("--only", "sevens:Sevens", "--quick", env=own)
    assert ended.code == 1
    assert "the process that ran sevens:Sevens ended with 9" in ended.err
    assert os.listdir(tmp_path)
