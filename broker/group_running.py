"""What a consumer in a group does by itself, and what `run` needs of it besides `poll`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.broker.consumer import Consumer, TopicPartition

if TYPE_CHECKING:
    from seawall.broker.handling import DeliveredRecord, Handled, HandlingOptions
    from seawall.broker.membership import Membership

Callback = Callable[[list[TopicPartition]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """What a member does by itself. The callbacks are those of `Broker.consumer`."""

    on_assigned: Callback | None = None
    on_revoked: Callback | None = None
    on_lost: Callback | None = None
    enable_auto_commit: bool = False
    auto_commit_interval_ms: int = 5_000


class GroupRunning(Consumer):
    """The part of a `GroupConsumer` that `run` works with."""

    membership: Membership
    _options: GroupOptions
    _announced: set[TopicPartition]

    @property
    def group(self) -> str:
        """The group's name."""
        return self.membership.group

    def ack_offsets(self, wanted: Mapping[TopicPartition, int]) -> None:
        """Acknowledge all before an offset in each partition."""
        raise NotImplementedError

    def _run(
        self, handler: Callable[[DeliveredRecord], object], options: HandlingOptions
    ) -> Handled:
        from seawall.broker.runner import Runner  # most programs have loops of their own

        self._check_usable()
        return Runner(self._engine, self, options).run(handler)

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
    def announced(self) -> set[TopicPartition]:
        """Those that `on_assigned` was told of."""
        return set(self._announced)

    def partition_id(self, topic: str, partition: int) -> int:
        """The id of a partition that it reads. Raises `UnknownPartition`."""
        return self._fetcher(topic, partition).partition_id

    def rewind(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Hand out again from these offsets on, where the partition is read still."""
        for place, offset in offsets.items():
            fetcher = self._fetchers.get(place)
            if fetcher is not None:
                fetcher.rewind(offset)
