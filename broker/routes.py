"""From a topic's name to the partition that a record goes to, for one producer."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from seawall.broker.catalog import TopicInfo
from seawall.broker.delivery import Batch
from seawall.broker.errors import UnknownPartition
from seawall.broker.partitioner import partition_for_key
from seawall.wal.records import HEADER_BYTES

if TYPE_CHECKING:
    from seawall.broker.rounds import NumberedRound

HeaderTuple = tuple[tuple[str, bytes | None], ...]

# Kafka's own bound on a header's key is the batch; this one is on their number, so that
# a mistake (a body passed as headers) is named instead of stored.
MOST_HEADERS = 10_000
# How much one round takes from one partition; bounds what is encoded at once.
MOST_BYTES_PER_ROUND = 8 << 20
# What the codec can write.
MOST_TIMESTAMP_MS = 1 << 61


class TopicPartition:
    """One partition as a producer sees it: its batches that nobody has taken yet.

    And the round that has to be written again before them, at ``resend_s``.
    """

    __slots__ = (
        *("batches", "open", "partition", "partition_id", "resend", "resend_s", "route"),
        "topic",
    )

    def __init__(self, route: Route, partition: int, partition_id: int) -> None:
        self.route = route
        self.topic = route.topic
        self.partition = partition
        self.partition_id = partition_id
        self.batches: deque[Batch] = deque()
        self.open: Batch | None = None
        self.resend: NumberedRound | None = None
        self.resend_s = 0.0


class Route:
    """A topic's partitions, and the choice among them."""

    def __init__(self, info: TopicInfo, batch_bytes: int) -> None:
        self.topic = info.name
        self.queues = [TopicPartition(self, each.number, each.id) for each in info.partitions]
        self._wanted_batch_bytes = batch_bytes
        self._take_settings(info)
        # Each producer begins at another partition, so that many short-lived ones
        # spread evenly.
        self._turn = random.randrange(len(self.queues))
        self.sticky = self.queues[self._turn]

    def _take_settings(self, info: TopicInfo) -> None:
        settings = info.settings
        self.max_record_bytes = settings.max_message_bytes - HEADER_BYTES
        self.batch_bytes = max(1, min(self._wanted_batch_bytes, self.max_record_bytes))
        # One round is one append, and a segment is full only between two of them.
        self.round_bytes = min(MOST_BYTES_PER_ROUND, settings.segment_bytes)
        self.is_log_append_time = settings.message_timestamp_type == "LogAppendTime"

    def update(self, info: TopicInfo) -> bool:
        """Take over what was changed about the topic: its settings, and more partitions.

        What waits in a partition stays there, in its order. False, and nothing is taken
        over, if this is another topic of the same name.
        """
        if info.partitions[0].id != self.queues[0].partition_id:
            return False
        self._take_settings(info)
        added = info.partitions[len(self.queues) :]
        self.queues += [TopicPartition(self, each.number, each.id) for each in added]
        return True

    def choose(
        self,
        key: bytes | None,
        partition: int | None,
        partitioner: Callable[[str, bytes | None, int], int] | None,
    ) -> TopicPartition:
        """The partition for a record; raises `UnknownPartition`."""
        queues = self.queues
        if partition is None:
            if partitioner is not None:
                partition = partitioner(self.topic, key, len(queues))
            elif key is None:
                return self.sticky
            else:
                return queues[partition_for_key(key, len(queues))]
        if not 0 <= partition < len(queues):
            raise UnknownPartition(topic=self.topic, partition=partition, partitions=len(queues))
        return queues[partition]

    def turn(self) -> TopicPartition:
        """Go on to the next partition for records without a key.

        That is done when a batch is full or taken: the sticky choice of KIP-480, which
        fills one batch at a time.
        """
        self._turn = (self._turn + 1) % len(self.queues)
        self.sticky = self.queues[self._turn]
        return self.sticky


def check_bytes(data: object, what: str) -> bytes:
    """`data` as bytes; `TypeError` for what is not bytes-like."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a record's {what} is bytes or None, not {type(data).__name__}")


def check_timestamp(timestamp: object) -> None:
    """`TypeError` or `ValueError` for what is no timestamp in ms since the epoch."""
    if type(timestamp) is not int:
        raise TypeError(f"a record's timestamp is int, not {type(timestamp).__name__}")
    if abs(timestamp) >= MOST_TIMESTAMP_MS:
        raise ValueError(f"timestamp {timestamp} is not in ms since the epoch")


def as_header_tuple(
    headers: Mapping[str, bytes | None] | Sequence[tuple[str, bytes | None]],
) -> tuple[HeaderTuple, int]:
    """Headers as they are encoded, and an upper bound of their encoded size."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    result = []
    size = 0
    for name, content in pairs:
        if not isinstance(name, str):
            raise TypeError(f"a header's name is str, not {type(name).__name__}")
        if content is not None and type(content) is not bytes:
            content = check_bytes(content, "header")
        result.append((name, content))
        # The codec writes names so; one that cannot be written is named here, before it
        # shares a batch with others.
        name_bytes = len(name.encode("utf-8", "surrogateescape"))
        size += 10 + name_bytes + (len(content) if content else 0)
    if len(result) > MOST_HEADERS:
        raise ValueError(f"a record has {MOST_HEADERS} headers at the most, not {len(result)}")
    return tuple(result), size
