"""What a consumer in a group does by itself, and what `run` needs of it besides `poll`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from seawall.broker.consumer import Consumer, TopicPartition

if TYPE_CHECKING:
    from seawall.broker.dead_letter_writer import DeadLetterWriter
    from seawall.broker.handling_place import Notes, RunPlace
    from seawall.broker.membership import MemberSettings, Membership

Callback = Callable[[list[TopicPartition]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """What a member does by itself. The callbacks are those of `Broker.consumer`."""

    on_assigned: Callback | None = None
    on_revoked: Callback | None = None
    on_lost: Callback | None = None
    enable_auto_commit: bool = False
    auto_commit_interval_ms: int = 5_000


def check_has_group(group: str | None, member: MemberSettings, options: GroupOptions) -> None:
    """Raise ValueError if something was set that only a member of a group does."""
    if group is not None:
        return
    set_ = {
        "enable_auto_commit": options.enable_auto_commit,
        "group_instance_id": member.group_instance_id is not None,
        "on_assigned": options.on_assigned is not None,
        "on_revoked": options.on_revoked is not None,
        "on_lost": options.on_lost is not None,
    }
    names = [name for name, is_set in set_.items() if is_set]
    if names:
        raise ValueError(
            f"{', '.join(names)}: without effect without a group; open it with group=…"
        )


class GroupRunning(Consumer):
    """The part of a `GroupConsumer` that `run` works with."""

    passing: ClassVar[tuple[type[Exception], ...]] = ()
    outlives_loss: ClassVar[bool] = False
    idle_wait_ms: ClassVar[float] = 0
    attend_ms: ClassVar[float] = 250
    membership: Membership
    _options: GroupOptions
    _announced: set[TopicPartition]

    @property
    def group(self) -> str:
        """The group's name."""
        return self.membership.group

    @property
    def topics(self) -> Collection[str]:
        """The topics that it reads."""
        return self.membership.topics

    @property
    def max_poll_interval_ms(self) -> float:
        """How long it may go without polling."""
        return self.membership.settings.max_poll_interval_ms

    def ack_offsets(self, wanted: Mapping[TopicPartition, int]) -> None:
        """Acknowledge all before an offset in each partition."""
        raise NotImplementedError

    def place_to_run(self) -> RunPlace:
        """What handlers are run with. Raises `BrokerClosed`."""
        self._check_usable()
        return self

    def swap_options(self, options: GroupOptions | None = None) -> GroupOptions:
        """What it does by itself; `run` puts callbacks of its own before the user's."""
        old = self._options
        self._options = options or old
        return old

    def attend(self) -> None:
        """What `poll` does besides reading: partitions are given up and taken."""
        self.membership.polled_s = math.inf
        try:
            self._attend()
        finally:
            self.membership.polled_s = time.monotonic()

    @property
    def caller(self) -> int:
        """The thread that callbacks are called for: the one that calls them."""
        return threading.get_ident()

    @property
    def announced(self) -> set[TopicPartition]:
        """Those that `on_assigned` was told of."""
        return set(self._announced)

    def interrupt(self) -> None:
        """Have a `poll` that is under way look again."""
        self._engine.watcher.notify()

    def rejoin(self) -> None:
        """It was taken for dead: the next `poll` joins anew."""
        self.membership.needs_attention = True

    def keep_progress(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing: whoever lost partitions here was away for long."""

    def open_notes(self, topic: str, partition: int) -> Notes:
        """How often records of a partition that it reads were delivered."""
        committed = self.committed(topic, partition) or 0
        return self._engine.notes.open(self.group, self.partition_id(topic, partition), committed)

    def close_notes(
        self, notes: Mapping[TopicPartition, Notes], owned: Collection[TopicPartition]
    ) -> None:
        """Let go of notes; those of partitions that are `owned`, and say nothing, go."""
        for place, each in notes.items():
            each.close(is_owner=place in owned)

    def open_dead_letters(self) -> DeadLetterWriter:
        """Where records go that cannot be handled."""
        from seawall.broker.dead_letter_writer import DeadLetterWriter

        return DeadLetterWriter(self._engine, self.group)

    def partition_id(self, topic: str, partition: int) -> int:
        """The id of a partition that it reads. Raises `UnknownPartition`."""
        return self._fetcher(topic, partition).partition_id

    def rewind(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Hand out again from these offsets on, where the partition is read still."""
        for place, offset in offsets.items():
            fetcher = self._fetchers.get(place)
            if fetcher is not None:
                fetcher.rewind(offset)
