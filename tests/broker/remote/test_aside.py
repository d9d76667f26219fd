"""Calls that no handler of a signal can disturb."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from outages import PATIENCE_S, until

from seawall.broker.remote import aside as module
from seawall.broker.remote.aside import aside


def test_what_it_returns_and_raises() -> None:
    assert aside(divmod, 7, 2) == (3, 1)
    assert aside(int, "10", base=2) == 2
    with pytest.raises(ZeroDivisionError):
        aside(divmod, 7, 0)


def test_only_the_main_thread_has_another_do_it() -> None:
    assert aside(threading.get_ident) != threading.get_ident()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(aside, threading.get_ident).result() in {
            each.ident for each in pool._threads
        }


def test_a_handler_ends_the_waiting_and_not_the_call() -> None:
    class Pressed(BaseException):
        pass

    def raises(*_: object) -> None:
        raise Pressed

    let_on, ended = threading.Event(), threading.Event()

    def call() -> None:
        os.kill(os.getpid(), signal.SIGALRM)
        let_on.wait(PATIENCE_S)
        ended.set()

    before = signal.signal(signal.SIGALRM, raises)
    try:
        with pytest.raises(Pressed):
            aside(call)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not ended.is_set()
    let_on.set()
    until(ended.is_set)


def test_without_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module._thread, "start_new_thread", refused)
    assert aside(threading.get_ident) == threading.get_ident()
