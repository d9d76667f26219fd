"""What one round of writing takes from one partition, and what to call what befell it."""

from __future__ import annotations

import logging
import threading
import time

from seawall.broker.delivery import Batch
from seawall.broker.errors import BrokerError, OutcomeUnknown
from seawall.broker.routes import TopicPartition
from seawall.broker.translation import from_os_error, translate
from seawall.wal.appender import Appended
from seawall.wal.errors import WalError
from seawall.wal.log import Log
from seawall.wal.producers import next_sequence
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


class NumberedRound(Round):
    """A round of an idempotent producer, which may be sent more than once.

    ``encoded`` is what is sent each time, empty before the first; ``is_unknown``: an attempt
    may have stored it; ``error``: what the last attempt met.
    """

    __slots__ = ("attempts", "counts", "encoded", "end_sequence", "error", "is_unknown")

    def __init__(self, queue: TopicPartition) -> None:
        super().__init__(queue)
        self.encoded: list[bytearray] = []
        self.counts: list[int] = []
        self.end_sequence = 0
        self.attempts = 0
        self.is_unknown = False
        self.error: BrokerError | None = None

    def number(self, compression: str, producer_id: int, epoch: int, sequence: int) -> None:
        """Encode the batches, with sequence numbers from `sequence` on."""
        is_log_append_time = self.queue.route.is_log_append_time
        now_ms = time.time_ns() // 1_000_000 if is_log_append_time else None
        encoded, counts = [], []
        for batch in self.batches:
            batch.append_time_ms = now_ms
            encoded.append(
                encode_batch(
                    batch.records,
                    compression=compression,
                    log_append_time_ms=now_ms,
                    producer_id=producer_id,
                    producer_epoch=epoch,
                    base_sequence=sequence,
                )
            )
            counts.append(len(batch.records))
            sequence = next_sequence(sequence, counts[-1])
        self.counts, self.end_sequence = counts, sequence
        self.encoded = encoded


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


def is_interruption(error: Exception) -> bool:
    """Whether a signal handler has raised this, in the middle of what this thread writes.

    Signals come to the main thread, in any line. Such an error is neither seawall's nor the
    operating system's: a handler's `TimeoutError` is an `OSError`, but has no errno.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if isinstance(error, OSError):
        return error.errno is None
    return not isinstance(error, BrokerError | WalError)


def interrupted(queue: TopicPartition) -> OutcomeUnknown:
    """For records whose writing a signal's exception cut short."""
    return OutcomeUnknown(
        path=queue.topic,
        reason="writing it was interrupted",
        topic=queue.topic,
        partition=queue.partition,
    )
