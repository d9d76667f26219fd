"""The watch for leaks (tests/leaks.py and the fixture in conftest.py) watches itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import leaks
import pytest
from commands import eventually

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self")

LEAKY = """
import os, socket, subprocess, sys, threading, time
import leaks, pytest

kept = []

@pytest.fixture(autouse=True)
def impatience(request):
    # What a test leaves on purpose does not go away by itself; all else may take its time.
    yield
    is_clean = request.node.name in ("test_clean", "test_wider_fixture")
    leaks.leaks_since.__defaults__ = (60 if is_clean else 0.1,)

def test_clean(tmp_path):
    with open(tmp_path / "x", "w") as file, socket.socket() as sock:
        thread = threading.Thread(target=time.sleep, args=(0.01,))
        thread.start()
    thread.join()
    subprocess.run([sys.executable, "-c", "pass"], check=True)

def test_thread():
    threading.Thread(target=time.sleep, args=(300,), name="sleeper", daemon=True).start()

def test_descriptor(tmp_path):
    kept.append(os.open(tmp_path / "left-open", os.O_CREAT | os.O_RDWR))

def test_socket():
    kept.append(socket.socket())
    kept[-1].bind(("127.0.0.1", 0))

def test_child():
    kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]))

def test_grandchild():
    subprocess.run(["/bin/sh", "-c", "sleep 301 >/dev/null 2>&1 & exit 0"], check=True)

@pytest.fixture(scope="module")
def server():
    with socket.socket() as sock:
        yield sock

def test_wider_fixture(server):
    pass

def test_fails_and_leaks():
    kept.append(socket.socket())
    raise ValueError("the test's own failure")
"""


@linux_only
def test_leaks_are_named_and_charged_to_their_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", str(here))  # for what conftest.py imports
    for name in ("leaks.py", "conftest.py"):
        shutil.copy(here / name, pytester.path)
    (pytester.path / "leaks.py").write_text(
        (here / "leaks.py").read_text().replace("GRACE_S = 20.0", "GRACE_S = 0.2")
    )
    pytester.makepyfile(test_leaky=LEAKY)
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=7, failed=1, errors=6)
    errors = [line for line in result.outlines if line.startswith("ERROR ")]
    expected = {
        "test_thread": "thread <Thread(sleeper, started daemon",
        "test_descriptor": "left-open",
        "test_socket": "127.0.0.1",
        "test_child": "child process",
        "test_grandchild": "sleep 301",
        "test_fails_and_leaks": "socket, file descriptor",
    }
    assert len(errors) == len(expected)
    sections = "\n".join(result.outlines).split("ERROR at teardown of ")
    for name, what in expected.items():
        (section,) = (s for s in sections[1:] if s.startswith(name + " "))
        assert what in section, name


def test_snapshot_sees_a_thread_until_it_ends() -> None:
    before = leaks.snapshot()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="waiter")
    thread.start()
    assert any("waiter" in found for found in leaks.leaks_since(before, grace_s=0))
    stop.set()
    thread.join()
    assert leaks.leaks_since(before) == []


@linux_only
def test_snapshot_tells_a_reused_descriptor_number(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    first = os.open(tmp_path / "a", os.O_RDONLY)
    before = leaks.snapshot()
    os.close(first)
    second = os.open(tmp_path / "b", os.O_RDONLY)
    assert second == first
    assert leaks.leaks_since(before, grace_s=0) == [f"file descriptor {second}: {tmp_path / 'b'}"]
    os.close(second)


@linux_only
def test_grace_period_covers_what_ends_by_itself() -> None:
    before = leaks.snapshot()
    with subprocess.Popen(["/bin/sleep", "0.2"]) as child:
        assert leaks.leaks_since(before) == []
        with contextlib.suppress(ChildProcessError):
            child.wait()


@linux_only
def test_a_leaked_child_is_killed() -> None:
    before = leaks.snapshot()
    child = os.posix_spawn("/bin/sleep", ["sleep", "300"], os.environ)
    eventually(lambda: Path(f"/proc/{child}/cmdline").read_bytes() != b"")  # not so at first
    (found,) = leaks.leaks_since(before, grace_s=0)
    assert found == f"child process {child}: sleep 300"
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_watching_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is left, nothing is waited for or collected."""
    used: list[object] = []
    monkeypatch.setattr(leaks.time, "sleep", used.append)
    monkeypatch.setattr(leaks.gc, "collect", lambda: used.append("collected"))
    assert leaks.leaks_since(leaks.snapshot()) == []
    assert used == []
