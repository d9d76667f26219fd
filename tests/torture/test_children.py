"""Processes of a search: started, heard, stopped, ended, and never left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from seawall.broker.torture.children import (
    Child,
    ChildFailed,
    Children,
    Line,
    Silent,
)
from seawall.wal.torture.processes import process_state


@pytest.fixture
def children() -> Iterator[Children]:
    with Children() as children:
        yield children


def echo(line: Line, word: str) -> None:
    while (told := line.hear()) is not None:
        line.say({"pid": os.getpid(), "word": word, **told})


def fail(line: Line) -> None:
    raise ValueError("as it should")


def sleep(line: Line) -> None:
    line.say({"asleep": 1})
    time.sleep(60)


def asleep(children: Children) -> Child:
    child = children.start(sleep)
    assert child.hear(60) == {"asleep": 1}
    return child


def test_a_child_is_talked_to_until_its_line_is_closed(children: Children) -> None:
    first, second = children.start(echo, "a"), children.start(echo, "b")
    for number in range(3):
        first.say({"number": number})
        second.say({"number": number})
    for number in range(3):
        assert second.hear(60) == {"pid": second.pid, "word": "b", "number": number}
        assert first.hear(60) == {"pid": first.pid, "word": "a", "number": number}
    for child in (first, second):
        child.line.close()
        assert child.wait(60) == 0
        assert process_state(child.pid) == ""


def test_a_message_may_be_long(children: Children) -> None:
    child = children.start(echo, "x" * 60_000)
    child.say({"more": "y" * 300_000})
    heard = child.hear(60)
    assert heard is not None
    assert (len(heard["word"]), len(heard["more"])) == (60_000, 300_000)


def test_what_a_child_raises_is_heard(children: Children) -> None:
    child = children.start(fail)
    with pytest.raises(ChildFailed, match="ValueError: as it should"):
        child.hear(60)
    assert child.hear(60) is None
    assert child.wait(60) == 1


def test_a_child_is_stopped_and_killed(children: Children) -> None:
    child = asleep(children)
    with pytest.raises(Silent):
        child.hear(0.01)
    with pytest.raises(Silent):
        child.wait(0.01)
    child.signal(signal.SIGSTOP)
    deadline_s = time.monotonic() + 60
    while not child.is_stopped():
        assert time.monotonic() < deadline_s
    assert child.kill() == -signal.SIGKILL
    assert child.kill() == -signal.SIGKILL
    child.say({"nobody": "listens"})


def test_what_is_left_is_killed_when_the_search_ends() -> None:
    with Children() as children:
        pids = [asleep(children).pid for _ in range(3)]
        os.kill(pids[1], signal.SIGSTOP)
    assert [process_state(pid) for pid in pids] == [""] * 3
    children.close()


def test_all_are_killed_at_once(children: Children) -> None:
    pids = [asleep(children).pid for _ in range(3)]
    children.kill()
    assert [process_state(pid) for pid in pids] == [""] * 3


def test_a_line_stays_usable_to_its_end(children: Children) -> None:
    child = children.start(echo, "a")
    child.say({"number": 1})
    child.line.hear(60)
    child.kill()
    assert process_state(child.pid) == ""


def test_the_server_gets_ready_first(tmp_path: os.PathLike[str]) -> None:
    with Children(lambda: os.chdir(tmp_path)) as children:
        child = children.start(echo, "a")
        assert os.readlink(f"/proc/{child.pid}/cwd") == os.fspath(tmp_path)


def test_a_server_that_cannot_get_ready_says_why() -> None:
    def refuse() -> None:
        raise OSError("no such right")

    with pytest.raises(ChildFailed, match="OSError: no such right"):
        Children(refuse)


def test_a_server_that_is_gone_is_named() -> None:
    with Children() as children:
        os.kill(children._server, signal.SIGKILL)
        with pytest.raises(ChildFailed, match="is gone"):
            children.start(echo, "a")
