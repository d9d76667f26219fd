"""Processes that die with their parent, and sessions that end as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from seawall.wal.torture.processes import (
    die_with_parent,
    kill_session,
    process_state,
    session_members,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl(2)")

# A process, its child and its grandchild: in one session, but in groups of their own. The
# grandchild is nobody's child, and is stopped; only then, as what is stopped when its group is
# orphaned is sent SIGHUP (setpgid(2)). Each line is one write, so that they never mix.
FAMILY = """
import os, signal, sys, time
def tell_pid():
    os.write(1, b"%d\\n" % os.getpid())
if os.fork() == 0:
    os.setpgid(0, 0)
    parent = os.getpid()
    if os.fork() == 0:
        os.setpgid(0, 0)
        while os.getppid() == parent:
            time.sleep(0.001)
        tell_pid()
        os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
os.wait()
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell_pid()
    time.sleep(60)
time.sleep(float(sys.argv[1]))
"""


def family(lifetime_s: float) -> tuple[subprocess.Popen[bytes], list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY, str(lifetime_s)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        with process.stdout as lines:
            return process, [int(lines.readline()) for _ in range(2)]
    except BaseException:
        kill_session(process.pid, 60)
        process.wait(60)
        raise


@pytest.mark.parametrize("lifetime_s", [0, 60])
def test_a_session_ends_as_one(lifetime_s: float) -> None:
    process, others = family(lifetime_s)
    if lifetime_s:
        assert set(session_members(process.pid)) == {process.pid, *others}
    else:
        process.wait(60)
    assert kill_session(process.pid, 60) == []
    assert session_members(process.pid) == []
    assert [process_state(pid).strip("Z") for pid in others] == [""] * 2
    assert process.wait(60) == (-signal.SIGKILL if lifetime_s else 0)


def test_a_session_of_nobody() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    process.wait(60)
    assert kill_session(process.pid, 60) == []


def test_who_cannot_be_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    process, others = family(60)
    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", lambda *_: None)
        patched.setattr(os, "killpg", lambda *_: None)
        assert set(kill_session(process.pid, 0.05)) == {process.pid, *others}
    assert kill_session(process.pid, 60) == []
    process.wait(60)


def test_a_process_dies_with_its_parent() -> None:
    end, beginning = os.pipe()
    parent = os.fork()
    if parent == 0:
        server = os.getpid()
        if os.fork() == 0:
            os.write(beginning, f"{die_with_parent(server)}\n".encode())
        time.sleep(60)
        os._exit(0)
    os.close(beginning)
    with os.fdopen(end) as lines:
        assert lines.readline() == "True\n"
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert lines.read() == ""  # nobody has the pipe open any more


def test_a_parent_that_is_gone_is_noticed() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(10 + die_with_parent(1))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10


def test_the_state_of_a_process() -> None:
    assert process_state(os.getpid()) == "R"
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process.kill()
    process.wait(60)
    assert process_state(process.pid) == ""
