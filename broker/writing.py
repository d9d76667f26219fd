"""Appending and committing what a round took from a partition; each batch once.

What fails is told to those who wait for it, and not tried again: they know what they have
sent. `idempotence` has a writer that does try again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from seawall.broker.delivery import Batch
from seawall.broker.errors import BrokerError
from seawall.broker.rounds import NumberedRound, Round, interrupted, is_interruption, named
from seawall.broker.routes import TopicPartition
from seawall.wal.errors import HandleClosed, LogGone
from seawall.wal.log import Log

if TYPE_CHECKING:
    from seawall.broker.engine import Engine

#: Gives batches their outcome: the offset of the first, or an error.
Settle = Callable[[Sequence[Batch], int, BrokerError | None], None]


AnyRound = TypeVar("AnyRound", bound=Round)


class Writer(Generic[AnyRound]):
    """Writes rounds to logs. Used by one thread at a time, which holds the drain lock.

    `new_round` makes one of the kind that it writes. `settle` gives batches their outcome;
    `on_gone` is called with the name of a topic whose partitions are no longer there.
    """

    def __init__(
        self,
        engine: Engine,
        new_round: Callable[[TopicPartition], AnyRound],
        *,
        compression: str,
        waits_for_sync: bool,
        settle: Settle,
        on_gone: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self.new_round = new_round
        self._compression = compression
        self._waits_for_sync = waits_for_sync
        self._settle = settle
        self._on_gone = on_gone

    def append(self, each: AnyRound) -> None:
        """Encode and append; sets what `commit` needs, unless the round has come to its end."""
        raise NotImplementedError

    def commit(self, each: AnyRound, log: Log) -> None:
        """Bring to disk what was appended, and settle the batches."""
        raise NotImplementedError

    def interrupted(self, each: AnyRound, left: list[Batch]) -> None:
        """See to those batches of a round that have no outcome: a signal cut it short."""
        raise NotImplementedError

    def give_up(self, each: AnyRound, reason: BrokerError) -> None:
        """Settle a round that would have been written again, but for `reason`."""
        raise NotImplementedError

    def _new_partition_id(self, queue: TopicPartition) -> int:
        self._on_gone(queue.topic)
        return self._engine.partition_id(queue.topic, queue.partition)

    def _sync(self, each: Round, log: Log) -> None:
        try:
            log.commit(each.appended.next_offset)
        except HandleClosed:
            self._engine.topic(each.queue.topic)  # raises what it is, if that is known
            raise LogGone(path=log.context.folder) from None


class PlainWriter(Writer[Round]):
    """Writes each round once."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        super().__init__(engine, Round, **settings)

    def append(self, each: Round) -> None:
        try:
            encoded = each.encode(self._compression)
            partition_id = each.queue.partition_id
            try:
                log = self._engine.log(partition_id)
                appended = log.append(encoded)
            except (LogGone, HandleClosed):
                # Deleted; perhaps there is a new topic of that name already.
                partition_id = self._new_partition_id(each.queue)
                log = self._engine.log(partition_id)
                appended = log.append(encoded)
        except Exception as error:
            if is_interruption(error):
                raise
            self._settle(each.batches, -1, named(error, each.queue))
            return
        if self._waits_for_sync:
            each.log, each.appended = log, appended
        else:
            self._engine.housekeeper.needs_sync(log)
            self._settle(each.batches, appended.base_offset, None)

    def commit(self, each: Round, log: Log) -> None:
        try:
            self._sync(each, log)
        except Exception as error:
            if is_interruption(error):
                raise
            self._settle(each.batches, -1, named(error, each.queue))
        else:
            self._settle(each.batches, each.appended.base_offset, None)

    def interrupted(self, each: Round, left: list[Batch]) -> None:
        self._settle(left, -1, interrupted(each.queue))


def new_writer(
    engine: Engine,
    delivery_timeout_ms: float | None,
    resend: Callable[[NumberedRound, float], bool],
    **settings: Any,
) -> Writer[Any]:
    """A writer that writes each round once, or with ``delivery_timeout_ms`` an idempotent one."""
    if delivery_timeout_ms is None:
        return PlainWriter(engine, **settings)
    from seawall.broker.idempotence import IdempotentWriter

    return IdempotentWriter(
        engine, delivery_timeout_ms=delivery_timeout_ms, resend=resend, **settings
    )
