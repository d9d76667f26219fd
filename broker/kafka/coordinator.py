"""The group coordinator: groups, their timers, and the disk, put together.

Each group (see `coordinator_group`) takes one thing at a time. While something of it is
being stored, whatever comes waits in its queue, and so do the answers. What no member is in
is forgotten here: what it has committed is in ``state.lmdb``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from seawall.broker.errors import BrokerClosed, BrokerError, GroupBusy, GroupFenced
from seawall.broker.kafka import codes
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.commit_queue import CommitQueue
from seawall.broker.kafka.coordinator_group import Group
from seawall.broker.kafka.coordinator_states import State
from seawall.broker.kafka.coordinator_store import (
    CommitRequest,
    CoordinatorStore,
    TopicPartition,
    is_valid_group,
)
from seawall.broker.kafka.coordinator_values import (
    GroupSettings,
    JoinAnswer,
    JoinRequest,
    SyncAnswer,
    SyncRequest,
    Trouble,
)

if TYPE_CHECKING:
    from seawall.broker.kafka.node import Node

logger = logging.getLogger("seawall.kafka")

T = TypeVar("T")

BEAT_INTERVAL_S: Final = 3.0
# Each has members, or ids that were given out for some seconds.
MOST_GROUPS: Final = 10_000


class _Slot:
    """A group, and what waits for it."""

    __slots__ = ("events", "group", "has_moved", "results", "saving", "timer")

    def __init__(self, group: Group) -> None:
        self.group = group
        self.events: deque[Callable[[Group], None]] = deque()
        # What is told together with the group's own answers.
        self.results: list[tuple[asyncio.Future[Any], Any]] = []
        self.saving: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        # Whether the timer may have to be set to an earlier time.
        self.has_moved = True


class Coordinator:
    """The groups of a server's clients. A `Part` of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loop = node.loop
        settings = node.settings
        self._settings = GroupSettings(
            group_initial_rebalance_delay_ms=settings.group_initial_rebalance_delay_ms,
            group_min_session_timeout_ms=settings.group_min_session_timeout_ms,
            group_max_session_timeout_ms=settings.group_max_session_timeout_ms,
            group_max_size=settings.group_max_size,
        )
        self._slots: dict[str, _Slot] = {}
        self._opening: asyncio.Task[CoordinatorStore] | None = None
        self._store: CoordinatorStore | None = None
        self._commits = CommitQueue(self._loop, self._store_commits)
        self._tasks = {self._task(self._stop_with_node())}
        self._is_closing = False

    # -- beginning ---------------------------------------------------------------------

    def begin(self) -> None:
        """Load the groups of the server before, in the background; requests wait for it."""
        self._tasks.add(self._task(self._begin()))

    async def _begin(self) -> None:
        try:
            await self.loaded()
        except (BrokerError, OSError) as error:
            # The first request tries again, and hears of it.
            logger.warning("the groups of clients could not be loaded: %s", error)

    async def loaded(self) -> CoordinatorStore:
        """Wait until the groups of the server before are there. Raises `BrokerError`."""
        if self._store is None:
            if self._opening is None or (self._opening.done() and self._opening.exception()):
                self._opening = self._task(self._open())
            return await asyncio.shield(self._opening)
        return self._store

    async def _open(self) -> CoordinatorStore:
        store = await self._node.run(CoordinatorStore, self._node.broker.engine)
        kept = await self._node.run(store.take_over)
        self._store = store
        if not self._is_closing:
            for name, group in kept.items():
                slot = self._slots[name] = _Slot(Group(name, self._settings, store.new_member_id))
                slot.group.restore(self._now_ms(), group)
                self._go_on(name, slot)
            self._tasks.add(self._task(self._beat(store)))
        return store

    # -- what handlers ask -------------------------------------------------------------

    async def store(self) -> CoordinatorStore:
        """What is on disk, once this server's sign of life is. Raises `KafkaError`."""
        if self._is_closing:
            raise KafkaError(codes.NOT_COORDINATOR, "the server is stopping")
        return await self.loaded()

    async def join(self, group: str, request: JoinRequest) -> JoinAnswer:
        """Become a member; waits for the others."""
        answer: JoinAnswer = await self._wait(
            group, lambda found, waiter: found.join(self._now_ms(), request, waiter)
        )
        return answer

    async def sync(self, group: str, request: SyncRequest) -> SyncAnswer:
        """Get what the leader said; waits for the leader."""
        answer: SyncAnswer = await self._wait(
            group, lambda found, waiter: found.sync(self._now_ms(), request, waiter)
        )
        return answer

    async def heartbeat(
        self, group: str, member_id: str, generation: int, instance_id: str | None
    ) -> int:
        """A code, as `Group.heartbeat`."""
        return await self._ask(
            group,
            lambda found: found.heartbeat(self._now_ms(), member_id, generation, instance_id),
            moves=False,
        )

    async def leave(self, group: str, leaving: Sequence[tuple[str, str | None]]) -> list[int]:
        """A code for each, as `Group.leave`."""
        return await self._ask(group, lambda found: found.leave(self._now_ms(), leaving))

    async def commit(
        self, request: CommitRequest, instance_id: str | None
    ) -> dict[TopicPartition, int]:
        """Store offsets; a code for each partition."""

        def check(found: Group) -> int:
            now_ms = self._now_ms()
            return found.check_commit(now_ms, request.member_id, request.generation, instance_id)

        code = await self._ask(request.group, check, moves=False)
        if code != codes.NONE:
            return dict.fromkeys(request.offsets, code)
        result = await self._commits.commit(request)
        if result.is_fenced and request.member_id:
            # Either the next generation was just begun, or the store knows better.
            def fence(found: Group) -> int:
                again = check(found)
                if again == codes.NONE:
                    self._fence(found, generation=request.generation)
                    return codes.UNKNOWN_MEMBER_ID
                return again

            code = await self._ask(request.group, fence)
            for place, refusal in result.partitions.items():
                if refusal == codes.UNKNOWN_MEMBER_ID:
                    result.partitions[place] = code
        return result.partitions

    def group(self, name: str) -> Group | None:
        """A group that clients are in, to look at."""
        slot = self._slots.get(name)
        return slot.group if slot is not None and slot.group.members else None

    def groups(self) -> list[Group]:
        """All groups that clients are in, to look at."""
        return [slot.group for slot in self._slots.values() if slot.group.members]

    # -- one thing at a time -----------------------------------------------------------

    async def _wait(self, name: str, event: Callable[[Group, asyncio.Future[Any]], None]) -> Any:
        """Have something done that the group answers in its own time."""
        slot = await self._slot(name)
        waiter = self._loop.create_future()

        def begin(group: Group) -> None:
            try:
                event(group, waiter)
            except Exception as error:  # noqa: BLE001 - a bug costs this request alone
                waiter.set_exception(error)

        self._do(name, slot, begin)
        try:
            return await waiter
        except asyncio.CancelledError:
            # The client is gone.
            found = self._slots.get(name)
            if found is not None:
                self._do(name, found, lambda group: group.disconnected(self._now_ms(), waiter))
            raise

    async def _ask(self, name: str, event: Callable[[Group], T], *, moves: bool = True) -> T:
        """Have something done that has a result, told once it is on disk.

        What does not move anything (`moves` is false) makes nothing due earlier.
        """
        slot = await self._slot(name)
        waiter: asyncio.Future[T] = self._loop.create_future()

        def begin(group: Group) -> None:
            try:
                slot.results.append((waiter, event(group)))
            except Exception as error:  # noqa: BLE001 - a bug costs this request alone
                waiter.set_exception(error)

        self._do(name, slot, begin, moves=moves)
        return await waiter

    async def _slot(self, name: str) -> _Slot:
        store = await self.store()
        if not is_valid_group(name):
            raise KafkaError(codes.INVALID_GROUP_ID, f"{name!r} is no name for a group")
        slot = self._slots.get(name)
        if slot is None:
            if len(self._slots) >= MOST_GROUPS:
                raise KafkaError(codes.COORDINATOR_NOT_AVAILABLE, "there are too many groups")
            slot = _Slot(Group(name, self._settings, store.new_member_id))
            self._slots[name] = slot
        return slot

    def _do(
        self, name: str, slot: _Slot, event: Callable[[Group], None], moves: bool = True
    ) -> None:
        slot.has_moved |= moves
        slot.events.append(event)
        self._go_on(name, slot)

    def _go_on(self, name: str, slot: _Slot) -> None:
        while slot.saving is None and slot.events:
            if slot.group.state is State.DEAD and self._store is not None:
                slot.group = Group(name, self._settings, self._store.new_member_id)
                slot.has_moved = True
            slot.events.popleft()(slot.group)
            if self._is_closing:
                slot.group.drop(codes.NOT_COORDINATOR)
            if slot.group.unsaved is not None:
                slot.saving = self._task(self._save(name, slot))
            else:
                self._deliver(slot)
        if slot.saving is not None or not slot.has_moved:
            return
        slot.has_moved = False
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None
        if slot.group.is_idle:
            if self._slots.get(name) is slot:
                del self._slots[name]
        else:
            at_s = max(slot.group.deadline_ms / 1000, self._loop.time())
            if at_s < math.inf:
                slot.timer = self._loop.call_at(at_s, self._do, name, slot, self._tick)

    def _deliver(self, slot: _Slot) -> None:
        for waiter, answer in [*slot.group.take_answers(), *slot.results]:
            if not waiter.done():
                waiter.set_result(answer)
        slot.results.clear()

    def _tick(self, group: Group) -> None:
        for each in group.tick(self._now_ms()):
            logger.warning(
                "group %s: %s (%s) was not heard of for %d ms, so its partitions go to others",
                group.name,
                each.member_id,
                each.client_host,
                each.session_timeout_ms,
            )

    async def _save(self, name: str, slot: _Slot) -> None:
        group, snapshot, store = slot.group, slot.group.unsaved, self._store
        generation = 0
        trouble: Trouble | None = Trouble.STORAGE
        try:
            if snapshot is not None and store is not None:
                generation = await self._node.run(store.save, name, snapshot)
                trouble = None
        except GroupFenced as error:
            logger.warning("%s", error)
            trouble = Trouble.FENCED
        except GroupBusy as error:
            logger.warning("refusing clients: %s", error)
            trouble = Trouble.HELD
        except BrokerError as error:
            logger.warning("group %s could not be stored: %s", name, error)
        except Exception:
            logger.exception("group %s could not be stored", name)
        try:
            if trouble is None:
                group.saved(self._now_ms(), generation)
            else:
                group.not_saved(self._now_ms(), trouble)
        except Exception:
            logger.exception("group %s begins anew", name)
            group.drop(codes.UNKNOWN_MEMBER_ID)
        slot.saving = None
        slot.has_moved = True
        self._deliver(slot)
        self._go_on(name, slot)

    def _now_ms(self) -> float:
        return self._loop.time() * 1000

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._loop.create_task(work)

    # -- the disk ----------------------------------------------------------------------

    async def _store_commits(self, requests: Sequence[CommitRequest]) -> Any:
        if self._store is None:
            raise KafkaError(codes.COORDINATOR_NOT_AVAILABLE, "the groups are not open yet")
        return await self._node.run(self._store.commit, requests)

    async def _beat(self, store: CoordinatorStore) -> None:
        """Say that the server lives; if it was stopped for long, see what is left to it."""
        while True:
            await asyncio.sleep(BEAT_INTERVAL_S)
            try:
                if await self._node.run(store.beat):
                    continue
                # One without a generation is looked at when its first one is stored.
                begun = [each for each in self.groups() if each.generation]
                generations = {each.name: each.generation for each in begun}
                held = await self._node.run(store.groups.held, generations)
            except BrokerClosed:
                return
            except (BrokerError, OSError) as error:
                logger.warning("the server's sign of life: %s", error)
                continue
            for name in generations.keys() - held:
                slot = self._slots.get(name)
                if slot is not None:
                    self._do(name, slot, partial(self._fence, generation=generations[name]))

    def _fence(self, group: Group, *, generation: int) -> None:
        if group.state is not State.DEAD and group.generation == generation:
            logger.warning("group %s: its members join anew: others held it meanwhile", group.name)
            group.drop(codes.UNKNOWN_MEMBER_ID)

    # -- ending ------------------------------------------------------------------------

    async def _stop_with_node(self) -> None:
        await self._node.stopping.wait()
        self._is_closing = True
        for name, slot in list(self._slots.items()):
            self._do(name, slot, lambda group: None)

    async def close(self) -> None:
        """Send everybody away, and let go of the groups, so that others may have them."""
        self._node.stopping.set()
        await asyncio.sleep(0)
        while saving := [slot.saving for slot in self._slots.values() if slot.saving]:
            await asyncio.wait(saving)
        await self._commits.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._opening is not None:
            with contextlib.suppress(BrokerError, OSError):
                store = await self._opening
                await self._node.run(store.close)
