"""Topics as handlers look them up: in memory, and never older than a moment.

What other processes change is seen `FRESH_S` later at the latest, as by embedded producers. A
name or id that is not there is looked for at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from uuid import UUID

from seawall.broker.engine import LOOK_INTERVAL_S
from seawall.broker.raw import RawPlace
from seawall.broker.topic_info import TopicInfo

if TYPE_CHECKING:
    from seawall.broker.kafka.node import Node

FRESH_S: Final = LOOK_INTERVAL_S

TopicKey = str | UUID | None


class Topics:
    """A `Part` of the node. Belongs to the loop."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._topics: list[TopicInfo] = []
        self._places: dict[TopicKey, list[RawPlace]] = {}
        self._by_key: dict[TopicKey, TopicInfo] = {}
        self._looked_s = -FRESH_S
        self._changes = 0

    async def find(self, keys: Iterable[TopicKey]) -> dict[TopicKey, list[RawPlace]]:
        """The partitions of topics by name or id; those that do not exist are left out."""
        keys = tuple(keys)
        loop = self._node.loop
        if loop.time() - self._looked_s >= FRESH_S or any(key not in self._by_key for key in keys):
            began_s, changes = loop.time(), self._changes
            self._take(await self._node.run(self._node.broker.topics))
            if changes == self._changes:
                self._looked_s = began_s
        return {key: self._places_of(key) for key in keys if key in self._by_key}

    def look_again(self) -> None:
        """Something was changed: look before the next answer."""
        self._changes += 1
        self._looked_s = -FRESH_S

    def _take(self, topics: list[TopicInfo]) -> None:
        # The same objects as long as nothing in the catalogue has changed.
        if len(topics) == len(self._topics) and all(
            new is old for new, old in zip(topics, self._topics, strict=True)
        ):
            return
        self._topics = topics
        self._places = {}
        self._by_key = {info.name: info for info in topics}
        self._by_key |= {info.uuid: info for info in topics}

    def _places_of(self, key: TopicKey) -> list[RawPlace]:
        places = self._places.get(key)
        if places is None:
            info = self._by_key[key]
            config = info.settings
            places = self._places[key] = [
                RawPlace(topic=info, config=config, partition=each.number, partition_id=each.id)
                for each in info.partitions
            ]
        return places

    async def close(self) -> None:
        """There is nothing to let go of."""


def key_of(topic: object) -> TopicKey:
    """What a request names a topic by: its name, in later versions its id."""
    name: str | None = getattr(topic, "name", None) or getattr(topic, "topic", None)
    if name is not None:
        return name
    uuid: UUID | None = getattr(topic, "topic_id", None)
    return uuid
