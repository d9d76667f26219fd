"""Writing each record once, though it may have to be tried several times.

An idempotent producer has an id, and numbers its records in each partition (KIP-98). A
round that met something which can pass is sent again as it was, with its numbers, before
anything else goes to that partition: if it was stored the first time, the log knows it by
them and says where it is. That goes on for ``delivery_timeout_ms``.

What fails for good is told to those who wait for it. Whether it was stored may be unknown
then, so the partition goes on with the next epoch and number 0 (KIP-360): nobody will ever
take what comes after for a part of what failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seawall.broker.delivery import Batch
from seawall.broker.errors import (
    AppendLockTimeout,
    BrokerError,
    CatalogBusy,
    LockTimeout,
    OutcomeUnknown,
    StorageFull,
    SyncFailed,
)
from seawall.broker.producer_ids import LAST_EPOCH, ProducerId
from seawall.broker.rounds import NumberedRound, interrupted, is_interruption, named
from seawall.broker.routes import TopicPartition
from seawall.broker.writing import Writer
from seawall.wal.appender import Appended
from seawall.wal.errors import HandleClosed, LogGone, ProducerError
from seawall.wal.log import Log

if TYPE_CHECKING:
    from seawall.broker.engine import Engine

# Kafka's retry.backoff.ms and retry.backoff.max.ms.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0

# What can pass. A failed sync cannot: it fences the log until the directory is opened anew.
_PASSES = (AppendLockTimeout, LockTimeout, CatalogBusy, StorageFull, OutcomeUnknown)


class Numbering:
    """How far a producer has counted in one partition."""

    __slots__ = ("epoch", "next_sequence", "producer_id")

    def __init__(self, producer: ProducerId) -> None:
        self.producer_id, self.epoch = producer
        self.next_sequence = 0


class IdempotentWriter(Writer[NumberedRound]):
    """Writes rounds to logs, again and again if need be.

    `resend` is called with a round that has to come again, and when (`time.monotonic`).
    """

    def __init__(
        self,
        engine: Engine,
        *,
        delivery_timeout_ms: float,
        resend: Callable[[NumberedRound, float], bool],
        **settings: Any,
    ) -> None:
        super().__init__(engine, NumberedRound, **settings)
        self._delivery_timeout_s = delivery_timeout_ms / 1000
        self._resend = resend
        self._numberings: dict[TopicPartition, Numbering] = {}
        self._producer: ProducerId | None = None

    # -- one attempt -----------------------------------------------------------------

    def append(self, each: NumberedRound) -> None:
        each.log = None
        try:
            log, appended = self._appended(each)
        except Exception as error:
            if is_interruption(error):
                raise
            self._failed(each, named(error, each.queue))
            return
        each.appended = appended
        if self._waits_for_sync:
            each.log = log
        else:
            self._engine.housekeeper.needs_sync(log)
            self._succeeded(each)

    def _appended(self, each: NumberedRound) -> tuple[Log, Appended]:
        try:
            return self._append(each, each.queue.partition_id)
        except (LogGone, HandleClosed):
            # Deleted; perhaps there is a new topic of that name already. There this
            # producer may be known by what it has sent to that one.
            partition_id = self._new_partition_id(each.queue)
            self._begin_anew(each)
            return self._append(each, partition_id)
        except ProducerError:
            if each.is_unknown:
                raise
            # The log has forgotten what came last, or never knew it. Nothing of this round
            # is there, so it may come under another id.
            self._begin_anew(each)
            return self._append(each, each.queue.partition_id)

    def _append(self, each: NumberedRound, partition_id: int) -> tuple[Log, Appended]:
        if not each.encoded:
            numbering = self._numbering(each.queue)
            each.number(
                self._compression,
                numbering.producer_id,
                numbering.epoch,
                numbering.next_sequence,
            )
        log = self._engine.log(partition_id)
        placed = log.append_checked(each.encoded)
        # They were appended together, so they stand together.
        return log, Appended(placed[0].base_offset, placed[-1].next_offset)

    def _numbering(self, queue: TopicPartition) -> Numbering:
        numbering = self._numberings.get(queue)
        if numbering is None:
            if self._producer is None:
                self._producer = self._engine.producer_ids.next()
            numbering = self._numberings[queue] = Numbering(self._producer)
        elif numbering.epoch > LAST_EPOCH:
            numbering = self._numberings[queue] = Numbering(self._engine.producer_ids.next())
        return numbering

    def _begin_anew(self, each: NumberedRound) -> None:
        """Number a round, of which nothing is stored, under an id that nobody knows."""
        self._numberings[each.queue] = Numbering(self._engine.producer_ids.next())
        each.encoded = []

    def commit(self, each: NumberedRound, log: Log) -> None:
        try:
            self._sync(each, log)
        except Exception as error:
            if is_interruption(error):
                raise
            self._failed(each, named(error, each.queue))
        else:
            self._succeeded(each)

    # -- what becomes of a round -----------------------------------------------------

    def _succeeded(self, each: NumberedRound) -> None:
        self._numberings[each.queue].next_sequence = each.end_sequence
        offset = each.appended.base_offset
        if not any(batch.done for batch in each.batches):
            self._settle(each.batches, offset, None)
            return
        # Some had their outcome already when a signal interrupted this.
        for batch, count in zip(each.batches, each.counts, strict=True):
            if not batch.done:
                self._settle([batch], offset, None)
            offset += count

    def _failed(self, each: NumberedRound, error: BrokerError) -> None:
        each.is_unknown = each.is_unknown or isinstance(error, OutcomeUnknown)
        each.error = error
        now_s = time.monotonic()
        if isinstance(error, _PASSES) and not isinstance(error, SyncFailed):
            each.attempts += 1
            pause_s = min(FIRST_PAUSE_S * 2 ** min(each.attempts - 1, 10), LONGEST_PAUSE_S)
            deadline_s = each.batches[0].due_s + self._delivery_timeout_s
            if now_s < deadline_s and self._resend(each, min(now_s + pause_s, deadline_s)):
                return
        self._fail(each, error)

    def _fail(self, each: NumberedRound, error: BrokerError) -> None:
        """Settle a round for good, and have what comes next not be taken for a part of it."""
        if each.is_unknown and not isinstance(error, OutcomeUnknown):
            error = OutcomeUnknown(
                path=each.queue.topic,
                reason=f"an attempt may have stored them, and then: {error}",
                topic=each.queue.topic,
                partition=each.queue.partition,
            )
        numbering = self._numberings.get(each.queue)
        if numbering is not None and each.encoded:
            numbering.epoch += 1
            numbering.next_sequence = 0
        self._settle([batch for batch in each.batches if not batch.done], -1, error)

    def interrupted(self, each: NumberedRound, left: list[Batch]) -> None:
        self._failed(each, interrupted(each.queue))

    def give_up(self, each: NumberedRound, reason: BrokerError) -> None:
        self._fail(each, each.error or reason)
