"""The housekeeper: late syncs and checkpoints, its one thread, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from storage import Child, FaultyFiles, Store

from seawall.wal.errors import PublishTimeout
from seawall.wal.housekeeper import Housekeeper

MakeStore = Callable[..., Store]


@pytest.fixture
def housekeeper() -> Iterator[Housekeeper]:
    housekeeper = Housekeeper(checkpoint_interval_ms=10, sync_interval_ms=5)
    yield housekeeper
    housekeeper.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_it_syncs_and_makes_checkpoints(store: Store, housekeeper: Housekeeper) -> None:
    assert "seawall-housekeeper" not in thread_names()
    for number in range(1, 4):
        store.append(b"a")
        housekeeper.needs_sync(store.log)
        until(lambda number=number: store.log.ends().durable_end == number)  # type: ignore[misc]
        housekeeper.needs_checkpoint(store.log)
        until(lambda number=number: reach(store) == number)  # type: ignore[misc]
    assert thread_names().count("seawall-housekeeper") == 1


def reach(store: Store) -> int:
    checkpoint = store.index.checkpoint(1)
    return checkpoint.offset if checkpoint else 0


def test_nothing_is_done_before_it_is_due(store: Store) -> None:
    housekeeper = Housekeeper(checkpoint_interval_ms=60_000, sync_interval_ms=60_000)
    store.append(b"a")
    housekeeper.needs_sync(store.log)
    housekeeper.needs_checkpoint(store.log)
    time.sleep(0.02)
    assert store.log.ends().durable_end == 0
    housekeeper.close()  # does at once what is left
    assert store.log.ends().durable_end == 1
    assert reach(store) == 1
    housekeeper.close()


def test_many_appends_cost_few_checkpoints(store: Store) -> None:
    housekeeper = Housekeeper(checkpoint_interval_ms=50, sync_interval_ms=50)
    files = store.files
    assert isinstance(files, FaultyFiles)
    store.put(b"first")
    before, began_s = files.counts["sync"], time.monotonic()
    for _ in range(200):
        store.append(b"a")
        housekeeper.needs_sync(store.log)
    housekeeper.close()
    # One for each interval, and one at the end.
    assert files.counts["sync"] - before <= (time.monotonic() - began_s) / 0.05 + 1
    assert store.log.ends().durable_end == 201


def test_a_failure_is_logged_and_does_not_end_it(
    store: Store, housekeeper: Housekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    store.append(b"a")
    files = store.files
    assert isinstance(files, FaultyFiles)
    files.fail("list")
    store.log.sync()
    housekeeper.needs_checkpoint(store.log)
    until(lambda: "no checkpoint" in caplog.text)
    housekeeper.needs_checkpoint(store.log)
    until(lambda: reach(store) == 1)
    store.append(b"b")
    files.fail("sync")
    housekeeper.needs_sync(store.log)
    until(lambda: "could not sync" in caplog.text)
    caplog.clear()  # the record keeps the error, and its frames keep files open


def test_a_sync_that_could_not_be_published_is_tried_again(
    make_store: MakeStore, housekeeper: Housekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(timeout_ms=20)
    store.append(b"a")
    with store.peer() as peer:
        with peer._appender._lock:
            with pytest.raises(PublishTimeout):
                store.log.sync()
            housekeeper.needs_sync(store.log)
            until(lambda: "not synced yet" in caplog.text)
        until(lambda: store.log.ends().durable_end == 1)
    caplog.clear()


def test_a_log_that_is_gone_needs_nothing(
    store: Store, housekeeper: Housekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    store.append(b"a")
    store.log.mark_deleted()
    housekeeper.needs_sync(store.log)
    housekeeper.needs_checkpoint(store.log)
    housekeeper.close()
    assert caplog.text == ""


def test_without_a_thread_the_work_is_done_at_the_end(
    store: Store, housekeeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append that was made must not fail because the interpreter is ending."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    store.append(b"a")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        housekeeper.needs_sync(store.log)
        housekeeper.needs_checkpoint(store.log)
    housekeeper.close()
    assert store.log.ends().durable_end == 1
    assert reach(store) == 1


def test_a_child_has_no_housekeeper(store: Store, housekeeper: Housekeeper) -> None:
    store.put(b"a")
    housekeeper.needs_checkpoint(store.log)

    def work(say: Callable[[str], None]) -> None:
        housekeeper.abandon()
        housekeeper.close()
        say("done")

    assert Child(work).wait() == ["done"]
    until(lambda: reach(store) == 1)
