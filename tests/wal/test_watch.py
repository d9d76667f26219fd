"""Watcher: whoever waits is woken by a write to the file, from whatever process."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from storage import Child, void

from seawall.wal import watch
from seawall.wal.watch import FolderWatch, Watcher


@pytest.fixture
def path(folder: str) -> str:
    path = os.path.join(folder, "ends")
    with open(path, "wb") as file:
        file.write(bytes(256))
    return path


@pytest.fixture
def watcher(path: str) -> Iterator[Watcher]:
    watcher = Watcher(path)
    yield watcher
    watcher.close()


def write(path: str) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.write(b"x")


def settle(watcher: Watcher) -> int:
    """Start the thread, let its first news pass, and return the generation."""
    watcher.wait(0, 60)
    return watcher.generation


def test_a_write_by_another_process_wakes_the_waiter(path: str, watcher: Watcher) -> None:
    generation = settle(watcher)

    def work(say: Callable[[str], None]) -> None:
        write(path)

    child = Child(work)
    assert watcher.wait(generation, 60)
    assert watcher.generation > generation
    child.wait()


def test_without_a_write_the_time_runs_out(watcher: Watcher) -> None:
    generation = settle(watcher)
    assert not watcher.wait(generation, 0.02)


def test_a_write_before_the_first_wait_is_not_missed(path: str, watcher: Watcher) -> None:
    generation = watcher.generation
    write(path)
    assert watcher.wait(generation, 60)


def test_no_write_is_missed_by_who_looks_and_then_waits(path: str, watcher: Watcher) -> None:
    """The order that the module asks for: generation, look, wait."""
    written = 0

    def work() -> None:
        nonlocal written
        for _ in range(50):
            written += 1
            write(path)
            time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    while True:
        generation = watcher.generation
        if written == 50:
            break
        assert watcher.wait(generation, 60)
    thread.join()


def test_notify_wakes_without_a_write(watcher: Watcher) -> None:
    generation = settle(watcher)
    timer = threading.Timer(0.01, watcher.notify)
    timer.start()
    assert watcher.wait(generation, 60)
    timer.join()


def test_listeners_hear_of_changes_until_they_unsubscribe(path: str, watcher: Watcher) -> None:
    heard = threading.Event()
    watcher.subscribe(heard.set)
    assert heard.wait(60)  # the look after the watch was set
    time.sleep(0.01)
    heard.clear()
    write(path)
    assert heard.wait(60)
    watcher.unsubscribe(heard.set)
    watcher.unsubscribe(heard.set)


def test_a_listener_that_fails_harms_nobody_else(
    path: str, watcher: Watcher, caplog: pytest.LogCaptureFixture
) -> None:
    """An event loop that was closed raises at each call; others must still be woken."""

    def fail() -> None:
        raise RuntimeError("the loop is closed")

    heard = threading.Event()
    watcher.subscribe(fail)
    watcher.subscribe(heard.set)
    generation = settle(watcher)
    heard.clear()
    write(path)
    assert heard.wait(60)
    assert watcher.wait(generation, 60)
    watcher.notify()  # as a committing thread does
    assert "the loop is closed" in caplog.text


def test_closing_wakes_the_waiters_and_ends_the_thread(watcher: Watcher) -> None:
    generation = settle(watcher)
    timer = threading.Timer(0.01, watcher.close)
    timer.start()
    assert watcher.wait(generation, 60)
    timer.join()
    watcher.close()
    assert watcher.wait(watcher.generation, 0.01)  # returns at once


def test_without_inotify_it_polls(
    path: str, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)
    generation = watcher.generation
    assert watcher.wait(generation, 60)
    assert watcher.wait(watcher.generation, 60)


def test_a_missing_file_is_polled_for(folder: str) -> None:
    watcher = Watcher(os.path.join(folder, "nowhere"))
    assert watcher.wait(watcher.generation, 60)
    watcher.close()


def test_a_busy_file_does_not_wake_at_every_write(path: str, watcher: Watcher) -> None:
    settle(watcher)
    before, began_s = watcher.generation, time.monotonic()
    while time.monotonic() < began_s + 0.1:
        write(path)
    news = watcher.generation - before
    assert news <= (time.monotonic() - began_s) / watch.SHORTEST_INTERVAL_S + 1


def test_a_child_waits_for_nothing(path: str, watcher: Watcher) -> None:
    settle(watcher)

    def work(say: Callable[[str], None]) -> None:
        watcher.abandon()
        assert watcher.wait(watcher.generation, 60)
        watcher.close()
        say("done")

    assert Child(work).wait() == ["done"]
    generation = watcher.generation
    write(path)
    assert watcher.wait(generation, 60)  # the parent's goes on


def test_without_a_thread_to_start_nothing_is_left_behind(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    watcher = Watcher(path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            watcher.wait(watcher.generation, 0.01)
    assert watcher.wait(watcher.generation, 60)
    watcher.close()


# -- folders -------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"old")
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_a_write_in_any_folder_ends_the_sleep_once(folders: list[str]) -> None:
    with FolderWatch(folders) as watch:
        assert not watch.wait(0)
        for folder in folders:
            Path(folder, "file").write_bytes(b"new")
            Path(folder, "other").write_bytes(b"new")
            assert watch.wait(60)
            assert not watch.wait(0)
        assert Path(folders[0], "file").read_bytes() == b"new"
        assert not watch.wait(0.01)  # reading is no write


def test_a_write_of_another_process_wakes(folders: list[str]) -> None:
    with FolderWatch(folders) as watch:
        Child(lambda say: void(Path(folders[1], "file").write_bytes(b"new"))).wait()
        assert watch.wait(60)


def test_stopping_ends_every_sleep(folders: list[str]) -> None:
    with FolderWatch(folders) as watch:
        timer = threading.Timer(0.02, watch.stop)
        timer.start()
        assert not watch.wait(60)
        timer.join()
        Path(folders[0], "file").write_bytes(b"new")
        assert not watch.wait(60)
    watch.stop()
    watch.close()


def test_no_program_is_started_for_it(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits for one waits for ever if the process forks just then."""

    def start(*_: object, **__: object) -> None:
        raise AssertionError("a program is started")

    monkeypatch.setattr("inotify_simple._libc", None)
    monkeypatch.setattr("subprocess.Popen.__init__", start)
    with FolderWatch([folder]) as watch:
        with open(os.path.join(folder, "file"), "wb") as file:
            file.write(b"x")
        assert watch.wait(60)


def test_without_inotify_it_may_have_been_written(
    folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(24, "too many")

    monkeypatch.setattr("inotify_simple.INotify.__init__", refuse)
    monkeypatch.setattr("seawall.wal.watch.FOLDER_POLL_INTERVAL_S", 0.01)
    with FolderWatch(folders) as watch:
        assert watch.wait(60)
        watch.stop()
        assert not watch.wait(60)


def test_a_folder_that_is_not_there_is_looked_at_as_well(
    folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seawall.wal.watch.FOLDER_POLL_INTERVAL_S", 0.01)
    with FolderWatch([*folders, folders[0] + "/none"]) as watch:
        assert watch.wait(60)
