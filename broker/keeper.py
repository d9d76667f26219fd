"""The thread that keeps this process's members in their groups.

Several times a second it lets the members be heard of, looks whether others have died or
the topics have changed, and tells the consumers whose group has changed to look at it.
Any process with a member in a group does this for the whole group: there is no other
coordinator. It runs only while there are members, and writes only if something changed.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from seawall.broker.errors import BrokerClosed

if TYPE_CHECKING:
    from seawall.broker.group_format import Member
    from seawall.broker.group_state import GroupState
    from seawall.broker.liveness import Lives
    from seawall.broker.membership import Membership
    from seawall.broker.rebalance import Layout

logger = logging.getLogger("seawall.broker")

# Twice this, and a transaction or two, is what a partition of a dead member waits.
TICK_S = 0.25


class Keeper:
    """Looks after the members of one process in one directory.

    `layout` gives the partitions of all topics, the same object as long as they are the
    same. `notify` wakes consumers that wait in `poll`.
    """

    def __init__(
        self,
        groups: GroupState,
        lives: Lives,
        *,
        layout: Callable[[], Layout],
        notify: Callable[[], None],
        tick_s: float = TICK_S,
    ) -> None:
        self._groups = groups
        self._lives = lives
        self._layout = layout
        self._notify = notify
        self._tick_s = tick_s
        self._changed = threading.Condition()
        self._members: list[Membership] = []
        self._seen: dict[str, tuple[int, Layout, list[Member]]] = {}
        self._thread: threading.Thread | None = None
        self._ended: threading.Thread | None = None
        self._closed = False
        self._trouble = ""

    def add(self, membership: Membership) -> None:
        """Look after a member from now on."""
        with self._changed:
            if membership not in self._members:
                self._members.append(membership)
            self._wake()

    def _wake(self) -> None:
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name="seawall-keeper", daemon=True)
            thread.start()
            self._thread = thread

    def remove(self, membership: Membership) -> None:
        """Look after it no more. The thread ends when there is nobody left."""
        with self._changed:
            if membership in self._members:
                self._members.remove(membership)
            if not self._members:
                self._changed.notify_all()

    def poke(self, membership: Membership) -> None:
        """Have the other members of its group in this process look at it at once."""
        with self._changed:
            others = [
                each
                for each in self._members
                if each.group == membership.group and each is not membership
            ]
        for each in others:
            each.needs_attention = True
        if others:
            self._notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or not self._members, timeout=self._tick_s
                )
                if self._closed or not self._members:
                    self._ended, self._thread = self._thread, None
                    self._seen.clear()
                    return
                members = list(self._members)
            try:
                self.tick(members)
                self._trouble = ""
            except Exception as error:  # noqa: BLE001 - without this thread they would be dead
                # The next tick tries again; said once, as long as it is the same.
                if not isinstance(error, BrokerClosed) and str(error) != self._trouble:
                    logger.warning("looking after groups: %s", error)
                    self._trouble = str(error)

    def tick(self, members: list[Membership]) -> None:
        """Do all there is to do for these, once."""
        for each in members:  # first of all: what follows may have to wait for a lock
            if not each.is_overdue():
                each.beat_if_due()
        for each in members:
            if each.is_overdue():
                self._let_go(each)
        wake = False
        for group in dict.fromkeys(each.group for each in members):
            generation = self._look_after(group)
            for each in members:
                if each.group == group and (each.generation != generation or each.is_waiting):
                    each.needs_attention = wake = True
        if wake:
            self._notify()

    def _let_go(self, membership: Membership) -> None:
        """Its consumer does not poll: its partitions go to others."""
        polled_s = membership.polled_s
        self._groups.leave(
            membership.group, membership.member_id, self._layout(), self._lives.is_dead
        )
        if membership.polled_s == polled_s:  # else it has come back meanwhile
            membership.polled_s = math.inf
        logger.warning(
            "group %s: consumer %s did not poll for %d ms (max_poll_interval_ms), so its "
            "partitions go to others",
            membership.group,
            membership.member_id,
            membership.settings.max_poll_interval_ms,
        )

    def _look_after(self, group: str) -> int:
        """Let go of members that died; return the generation."""
        layout = self._layout()
        found = self._groups.group(group)
        generation = found.generation if found else 0
        seen = self._seen.get(group)
        if (
            seen is not None
            and (seen[0], seen[1] is layout) == (generation, True)
            and not any(self._lives.is_dead(each) for each in seen[2])
        ):
            return generation
        for each in self._groups.refresh(group, layout, self._lives.is_dead):
            logger.warning(
                "group %s: consumer %s (process %d) is dead, so its partitions go to others",
                group,
                each.member_id,
                each.pid,
            )
            self._lives.clear(each)
        generation, members = self._groups.members(group)
        self._seen[group] = generation, layout, members
        return generation

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = self._thread, self._ended
        for thread in threads:
            if thread is not None:
                thread.join()

    def abandon(self) -> None:
        """In a forked child, which has no such thread."""
        self._changed = threading.Condition()
        self._closed = True
        self._thread = self._ended = None
        self._members = []
