"""Group commit: who syncs, who waits, and that nobody is told too early."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from storage import Crash, InterruptAt

from seawall.wal.committer import Committer


class Disk:
    """What was appended, and how far it is synced."""

    def __init__(self) -> None:
        self.end = 0
        self.durable = 0
        self.syncs = 0
        self.gate: threading.Event | None = None
        self.began = threading.Event()
        self.error: BaseException | None = None

    def sync(self, next_offset: int = 0) -> int:
        self.syncs += 1
        covered = self.end
        self.began.set()
        if self.gate is not None:
            assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        self.durable = max(self.durable, covered)
        return self.durable


def test_a_lone_waiter_syncs_once_by_itself() -> None:
    disk = Disk()
    committer = Committer(disk.sync)
    disk.end = 5
    assert committer.commit(5) == 5
    assert committer.commit(3) == 5
    assert disk.syncs == 1


def test_a_sync_that_began_too_early_does_not_count() -> None:
    disk = Disk()
    committer = Committer(disk.sync)
    disk.end, disk.gate = 1, threading.Event()
    results: dict[int, int] = {}

    def commit(offset: int) -> None:
        results[offset] = committer.commit(offset)

    first = threading.Thread(target=commit, args=(1,))
    first.start()
    assert disk.began.wait(60)
    disk.end = 2
    second = threading.Thread(target=commit, args=(2,))
    second.start()
    time.sleep(0.02)
    disk.gate.set()
    first.join()
    second.join()
    assert results == {1: 1, 2: 2}
    assert disk.syncs == 2


def test_many_waiters_share_few_syncs_and_none_returns_early() -> None:
    disk = Disk()
    count, rounds = 16, 10
    lock = threading.Lock()
    together = threading.Barrier(count)
    early = []

    def slow_sync(next_offset: int) -> int:
        """It lasts until everybody has appended."""
        covered = disk.end
        deadline_s = time.monotonic() + 60
        while disk.end % count and time.monotonic() < deadline_s:
            time.sleep(0.0005)
        disk.syncs += 1
        disk.durable = max(disk.durable, covered)
        return disk.durable

    committer = Committer(slow_sync)

    def work() -> None:
        for _ in range(rounds):
            together.wait(60)
            with lock:
                disk.end += 1
                mine = disk.end
            committer.commit(mine)
            if disk.durable < mine:
                early.append(mine)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not early
    assert disk.durable == disk.end == count * rounds
    # In each round the one who comes first, and one for all who came meanwhile.
    assert disk.syncs <= 2 * rounds


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), Crash()])
def test_a_leader_that_fails_leaves_the_way_open(error: BaseException) -> None:
    disk = Disk()
    committer = Committer(disk.sync)
    disk.end, disk.error = 1, error
    with pytest.raises(type(error)):
        committer.commit(1)
    disk.error = None
    assert committer.commit(1) == 1


def test_followers_of_a_failed_leader_find_out_for_themselves() -> None:
    disk = Disk()
    committer = Committer(disk.sync)
    disk.end, disk.gate, disk.error = 3, threading.Event(), OSError("disk")
    outcomes: list[object] = []

    def commit() -> None:
        try:
            outcomes.append(committer.commit(3))
        except OSError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=commit) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert disk.began.wait(60)
    disk.gate.set()
    for thread in threads:
        thread.join()
    assert outcomes == ["disk"] * 4
    assert disk.syncs == 4


def test_the_end_of_a_log_that_has_less() -> None:
    disk = Disk()
    disk.end = 5
    assert Committer(disk.sync).commit(6) == 5


def test_an_interrupt_anywhere_hands_the_lead_back() -> None:
    at = places = 0
    while places >= at:
        at += 1
        disk = Disk()
        committer = Committer(disk.sync)
        disk.end = 1
        interrupt = InterruptAt(at, "wal/committer.py", "test_committer.py")
        with contextlib.suppress(KeyboardInterrupt), interrupt:
            committer.commit(1)
        places = interrupt.places
        disk.end = 2
        others = [threading.Thread(target=committer.commit, args=(2,)) for _ in range(2)]
        for thread in others:
            thread.start()
        for thread in others:
            thread.join(60)
            assert not thread.is_alive()
        assert committer.commit(2) == 2
    assert at > 5
