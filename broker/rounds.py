"""What one round of writing takes from one partition, and what to call what befell it."""

from __future__ import annotations

import logging
import time

from seawall.broker.delivery import Batch
from seawall.broker.errors import BrokerError, OutcomeUnknown
from seawall.broker.routes import TopicPartition
from seawall.broker.translation import from_os_error, translate
from seawall.wal.appender import Appended
from seawall.wal.errors import WalError
from seawall.wal.log import Log
from seawall.wal.records import encode_batch

logger = logging.getLogger("seawall.broker")


_NOT_APPENDED = Appended(-1, -1)


class Round:
    """The batches that were taken from one partition, and how far they came."""

    __slots__ = ("appended", "batches", "log", "queue")

    def __init__(self, queue: TopicPartition) -> None:
        self.queue = queue
        self.batches: list[Batch] = []
        self.log: Log | None = None
        self.appended = _NOT_APPENDED

    def encode(self, compression: str) -> list[bytearray]:
        """The batches as they are stored, but for their offsets."""
        is_log_append_time = self.queue.route.is_log_append_time
        now_ms = time.time_ns() // 1_000_000 if is_log_append_time else None
        encoded = []
        for batch in self.batches:
            batch.append_time_ms = now_ms
            encoded.append(
                encode_batch(batch.records, compression=compression, log_append_time_ms=now_ms)
            )
        return encoded


def named(error: Exception, queue: TopicPartition) -> BrokerError:
    """The broker's error for whatever went wrong while writing to a partition."""
    if isinstance(error, BrokerError):
        return error
    if isinstance(error, WalError):
        return translate(error, topic=queue.topic, partition=queue.partition)
    if isinstance(error, OSError):
        return from_os_error(error, topic=queue.topic, partition=queue.partition)
    logger.exception("an unexpected error while writing to %s", queue.topic)
    unexpected = BrokerError(f"{type(error).__name__}: {error}")
    unexpected.__cause__ = error
    return unexpected


def interrupted(queue: TopicPartition) -> OutcomeUnknown:
    """For records whose writing a signal's exception cut short."""
    return OutcomeUnknown(
        path=queue.topic,
        reason="writing it was interrupted",
        topic=queue.topic,
        partition=queue.partition,
    )
