"""Commits that wait for the disk together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from seawall.broker.errors import StorageFull
from seawall.broker.kafka.commit_queue import MOST_TOGETHER, CommitQueue
from seawall.broker.kafka.coordinator_store import CommitRequest, CommitResult


def request(number: int) -> CommitRequest:
    return CommitRequest(group=str(number), member_id="", generation=-1, offsets={})


class Disk:
    def __init__(self) -> None:
        self.together: list[list[str]] = []
        self.fails = False

    async def store(self, requests: Sequence[CommitRequest]) -> Sequence[CommitResult]:
        await asyncio.sleep(0.001)
        self.together.append([each.group for each in requests])
        if self.fails:
            raise StorageFull(path="x", reason="why")
        return [CommitResult(partitions={(each.group, 0): 0}) for each in requests]


def test_what_comes_while_one_is_stored_goes_together() -> None:
    async def main() -> None:
        disk = Disk()
        queue = CommitQueue(asyncio.get_running_loop(), disk.store)
        first = asyncio.create_task(queue.commit(request(0)))
        await asyncio.sleep(0)
        rest = [asyncio.create_task(queue.commit(request(each))) for each in range(1, 5)]
        results = await asyncio.gather(first, *rest)
        assert [next(iter(each.partitions)) for each in results] == [(str(n), 0) for n in range(5)]
        assert disk.together == [["0"], ["1", "2", "3", "4"]]
        await queue.commit(request(9))
        assert disk.together[-1] == ["9"]

    asyncio.run(main())


def test_not_too_many_go_together() -> None:
    async def main() -> None:
        disk = Disk()
        queue = CommitQueue(asyncio.get_running_loop(), disk.store)
        count = MOST_TOGETHER + 1
        await asyncio.gather(*(queue.commit(request(each)) for each in range(count)))
        assert [len(each) for each in disk.together] == [MOST_TOGETHER, 1]

    asyncio.run(main())


def test_an_error_is_everybodys_and_the_next_tries_again() -> None:
    async def main() -> None:
        disk = Disk()
        disk.fails = True
        queue = CommitQueue(asyncio.get_running_loop(), disk.store)
        tasks = [queue.commit(request(each)) for each in range(3)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in found] == [StorageFull] * 3
        disk.fails = False
        await queue.commit(request(7))

    asyncio.run(main())


def test_who_does_not_wait_any_more_is_stored_all_the_same() -> None:
    async def main() -> None:
        disk = Disk()
        queue = CommitQueue(asyncio.get_running_loop(), disk.store)
        task = asyncio.create_task(queue.commit(request(0)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await queue.close()
        assert disk.together == [["0"]]

    asyncio.run(main())
