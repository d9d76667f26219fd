"""Signals: noted while working, raised while waiting, deadly when repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from commands import TIMEOUT_S

from seawall.cli.signals import Interrupted, Signals


def test_a_signal_is_noted_while_working() -> None:
    with Signals() as signals:
        assert signals.received == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        assert signals.what == "terminated"


def test_a_command_that_clears_up_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Signals(can_be_killed=False) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(time, "monotonic", lambda: float("inf"))
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGTERM


def test_a_signal_ends_a_wait() -> None:
    with Signals() as signals:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            with pytest.raises(Interrupted):
                signals.wait(time.sleep, 200)
        finally:
            timer.join()
        assert (signals.received, signals.what) == (signal.SIGINT, "interrupted")


def test_no_wait_begins_after_a_signal() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Interrupted):
            signals.wait(pytest.fail, "called")
        assert signals.what == "hung up"


def test_a_wait_returns_what_it_waited_for() -> None:
    with Signals() as signals:
        assert signals.wait(divmod, 7, 2) == (3, 1)


def test_the_handlers_of_before_are_restored() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("pause_s", "code"), [(0.5, 7), (0.6, 130)])
def test_a_late_second_signal_kills(pause_s: float, code: int) -> None:
    program = (
        "import os, signal, sys, time\n"
        "from seawall.cli.signals import Signals\n"
        "time.monotonic = lambda: now_s\n"
        "now_s = 0.0\n"
        "with Signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        f"    now_s = {pause_s}\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == code


def test_what_may_take_for_ever_is_ended() -> None:
    program = (
        "import time; from seawall.cli.signals import Signals\n"
        "with Signals() as signals, signals.ending_within(0.2, lambda: print('bye', flush=True)):\n"
        "    print('in', flush=True)\n"
        "    time.sleep(30)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 143
        assert process.stdout.read() == b"bye\n"


def test_what_ends_in_time_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("ended"))
    with Signals() as signals:
        with signals.ending_within(60, lambda: pytest.fail("ended")):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        assert signals.received == signal.SIGTERM
