"""Errors about single records: producing them, and consuming them.

Import them from ``seawall.broker.errors``, whose docstring draws the whole tree.
"""

from __future__ import annotations

from seawall.broker.errors_base import BrokerError, holder, place

# -- producing -----------------------------------------------------------------------


class ProduceError(BrokerError):
    """A record that was not, or perhaps not, published."""

    def __init__(
        self, message: str, *, topic: str | None = None, partition: int | None = None
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition


class RecordTooLarge(ProduceError):
    """The record, encoded, is larger than the topic allows. Nothing was stored."""

    def __init__(
        self,
        *,
        size_bytes: int,
        max_bytes: int,
        topic: str | None = None,
        partition: int | None = None,
    ) -> None:
        super().__init__(
            f"a record of {size_bytes} bytes is above the limit of {max_bytes}; "
            "send less, or raise the topic's max.message.bytes",
            topic=topic,
            partition=partition,
        )
        self.size_bytes = size_bytes
        self.max_bytes = max_bytes


class InvalidRecord(ProduceError):
    """What was given is not a record, or not a whole and valid batch of them."""

    def __init__(
        self, *, reason: str, topic: str | None = None, partition: int | None = None
    ) -> None:
        super().__init__(
            f"cannot store this in {place(topic, partition)}: {reason}",
            topic=topic,
            partition=partition,
        )
        self.reason = reason


class BatchTooLarge(RecordTooLarge):
    """A batch that is longer than a segment may be (``segment.bytes``). Nothing was stored."""


class CorruptBatch(InvalidRecord):
    """Bytes that are not one whole batch with the right checksum. Nothing was stored."""


class InvalidTimestamp(InvalidRecord):
    """A record's timestamp is not allowed in this topic. Nothing was stored."""


class UnsupportedCompression(InvalidRecord):
    """A codec that is not known, or not to the client's version. Nothing was stored."""


class BufferFull(ProduceError):
    """The producer's buffer had no room for ``max_block_ms``. The record was not taken."""

    def __init__(self, *, buffer_bytes: int, max_block_ms: float) -> None:
        super().__init__(
            f"the producer's {buffer_bytes} bytes of buffer were full for {max_block_ms:g} ms; "
            "send more slowly, or raise buffer_bytes or max_block_ms"
        )
        self.buffer_bytes = buffer_bytes
        self.max_block_ms = max_block_ms


class AppendLockTimeout(ProduceError):
    """Another process keeps the partition's append lock. Nothing was stored."""

    def __init__(
        self,
        *,
        path: str,
        holder_pid: int,
        timeout_ms: int,
        topic: str | None = None,
        partition: int | None = None,
    ) -> None:
        super().__init__(
            f"{holder(holder_pid)} has kept {place(topic, partition)} locked for more than "
            f"{timeout_ms} ms; continue or end that process, then send again",
            topic=topic,
            partition=partition,
        )
        self.path = path
        self.holder_pid = holder_pid
        self.timeout_ms = timeout_ms


class WriteFailed(ProduceError):
    """Writing failed, other than for lack of room. Nothing was stored."""

    def __init__(
        self,
        *,
        path: str,
        position: int,
        reason: str,
        topic: str | None = None,
        partition: int | None = None,
    ) -> None:
        super().__init__(
            f"writing {path!r} at position {position} failed: {reason}; "
            "check the disk, then try again",
            topic=topic,
            partition=partition,
        )
        self.path = path
        self.position = position
        self.reason = reason


class LogFenced(ProduceError):
    """A sync failed earlier, or the partition's end cannot be trusted. Nothing was stored."""

    def __init__(
        self, *, path: str, topic: str | None = None, partition: int | None = None
    ) -> None:
        super().__init__(
            f"{place(topic, partition)} takes no more records: a sync of {path!r} failed, or "
            "its end cannot be trusted; check the disk, run `seawall verify`, then let every "
            "process close the directory and open it again",
            topic=topic,
            partition=partition,
        )
        self.path = path


class ProducerError(ProduceError):
    """A batch that its producer cannot append as it is. Nothing was stored."""

    def __init__(
        self,
        message: str,
        *,
        producer_id: int,
        epoch: int,
        topic: str | None,
        partition: int | None,
    ) -> None:
        super().__init__(message, topic=topic, partition=partition)
        self.producer_id = producer_id
        self.epoch = epoch


class OutOfOrderSequence(ProducerError):
    """Not the next batch of its producer, nor one of its last five (KIP-98)."""

    def __init__(
        self,
        *,
        producer_id: int,
        epoch: int,
        sequence: int,
        expected: int,
        topic: str | None = None,
        partition: int | None = None,
    ) -> None:
        super().__init__(
            f"{place(topic, partition)}: producer {producer_id}, epoch {epoch}, comes with "
            f"sequence {sequence}, but {expected} is next; begin anew with the next epoch",
            producer_id=producer_id,
            epoch=epoch,
            topic=topic,
            partition=partition,
        )
        self.sequence = sequence
        self.expected = expected


class InvalidProducerEpoch(ProducerError):
    """The producer has come with a higher epoch already (KIP-360)."""

    def __init__(
        self,
        *,
        producer_id: int,
        epoch: int,
        current_epoch: int,
        topic: str | None = None,
        partition: int | None = None,
    ) -> None:
        super().__init__(
            f"{place(topic, partition)}: producer {producer_id} comes with epoch {epoch}, but "
            f"has come with epoch {current_epoch} already; begin anew with a new producer id",
            producer_id=producer_id,
            epoch=epoch,
            topic=topic,
            partition=partition,
        )
        self.current_epoch = current_epoch


class OutcomeUnknown(ProduceError):
    """The records may or may not be in the log, and may or may not survive."""

    def __init__(
        self,
        *,
        path: str,
        reason: str,
        topic: str | None = None,
        partition: int | None = None,
    ) -> None:
        super().__init__(
            f"{place(topic, partition)}: {reason}; whether the last records were stored is "
            "unknown: read the end of the log before you send them again",
            topic=topic,
            partition=partition,
        )
        self.path = path
        self.reason = reason


class SyncFailed(OutcomeUnknown):
    """The disk did not take what was written."""


# -- consuming -----------------------------------------------------------------------


class ConsumeError(BrokerError):
    """Records that cannot be given to a consumer."""

    def __init__(self, message: str, *, topic: str | None, partition: int | None) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition


class OffsetOutOfRange(ConsumeError):
    """An offset outside ``log_start <= offset <= durable_end``."""

    def __init__(
        self,
        *,
        topic: str | None,
        partition: int | None,
        offset: int,
        log_start: int,
        durable_end: int,
    ) -> None:
        super().__init__(
            f"{place(topic, partition)} has no offset {offset}: it holds {log_start} to "
            f"{durable_end}; seek to one of these",
            topic=topic,
            partition=partition,
        )
        self.offset = offset
        self.log_start = log_start
        self.durable_end = durable_end


class NoOffset(ConsumeError):
    """The group has acknowledged nothing here, and ``auto_offset_reset`` is ``"error"``."""

    def __init__(self, *, group: str, topic: str | None, partition: int | None) -> None:
        super().__init__(
            f"group {group!r} has no offset for {place(topic, partition)}; set one with "
            "`seawall group reset`, or choose auto_offset_reset='earliest' or 'latest'",
            topic=topic,
            partition=partition,
        )
        self.group = group


class RecordDecodeError(ConsumeError):
    """A batch that is as it was written, but whose records do not parse.

    ``offset`` is where reading stopped, ``next_offset`` where it can go on.
    """

    def __init__(
        self,
        *,
        topic: str | None,
        partition: int | None,
        offset: int,
        next_offset: int,
        reason: str = "",
    ) -> None:
        super().__init__(
            f"the records at offset {offset} of {place(topic, partition)} do not parse"
            f"{f' ({reason})' if reason else ''}; seek to {next_offset} to go on behind them",
            topic=topic,
            partition=partition,
        )
        self.offset = offset
        self.next_offset = next_offset
        self.reason = reason


class LogDamaged(ConsumeError):
    """Bytes that were durable once are not valid any more."""

    def __init__(
        self,
        *,
        topic: str | None,
        partition: int | None,
        path: str,
        position: int,
        offset: int,
        next_offset: int,
        reason: str = "",
    ) -> None:
        super().__init__(
            f"{place(topic, partition)} is damaged at offset {offset} ({path!r}, position "
            f"{position}{f': {reason}' if reason else ''}); run `seawall verify`, restore the "
            f"file, or seek to {next_offset} behind it",
            topic=topic,
            partition=partition,
        )
        self.path = path
        self.position = position
        self.offset = offset
        self.next_offset = next_offset
        self.reason = reason
