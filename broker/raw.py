"""Record batches as bytes, in and out of partitions: for servers, which do not parse them.

`append_batches` stores what clients sent, `RawReaders.read` gives slices of the log. Both block,
and are meant for an executor's thread.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from seawall.broker.catalog import TopicInfo
from seawall.broker.config import TopicConfig
from seawall.broker.engine import Engine
from seawall.broker.errors import BrokerError
from seawall.broker.raw_batches import (
    DEFAULT_RULES,
    LOG_APPEND_TIME,
    NO_TIMESTAMP,
    RawRules,
    checked_batch,
)
from seawall.broker.translation import from_os_error, translate
from seawall.wal.errors import (
    HandleClosed,
    InvalidProducerEpoch,
    LogGone,
    OffsetOutOfRange,
    OutOfOrderSequence,
    WalError,
)
from seawall.wal.log import Log, LogEnds
from seawall.wal.lookup import TimeFound
from seawall.wal.producers import Placed
from seawall.wal.reader import Reader
from seawall.wal.records import BatchHeader, decode_batch

# Open places in logs that are kept for whoever reads on there; each has one open file.
MOST_READERS: Final = 512
READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPlace:
    """A partition, with what has to be known of its topic to write to it."""

    topic: TopicInfo
    config: TopicConfig
    partition: int
    partition_id: int


class Stored(NamedTuple):
    """A batch that is on disk. ``log_append_time_ms`` is -1 where producers give the time."""

    base_offset: int
    log_append_time_ms: int
    log_start: int
    durable_end: int


class RawChunk(NamedTuple):
    """Whole batches, the first of which may begin before the offset that was asked for."""

    data: bytes
    log_start: int
    durable_end: int


Outcome = Stored | Exception


def append_batches(
    engine: Engine,
    place: RawPlace,
    batches: Sequence[bytes | None],
    *,
    now_ms: int,
    rules: Sequence[RawRules] = (),
) -> list[Outcome]:
    """Store one batch each of several requests: one write, one sync for all.

    Returns when they are on disk and visible. Each has its own outcome: where it is, or a
    `BrokerError`. One that is refused changes nothing, and nothing for the others.
    """
    outcomes: list[Outcome | None] = [None] * len(batches)
    accepted: list[tuple[int, bytearray, BatchHeader]] = []
    for number, data in enumerate(batches):
        try:
            batch, header = checked_batch(
                data, place.config, now_ms=now_ms, rules=rules[number] if rules else DEFAULT_RULES
            )
        except BrokerError as error:
            outcomes[number] = error
        else:
            accepted.append((number, batch, header))
    if accepted:
        try:
            stored = _append(engine, place, accepted, now_ms)
        except Exception as error:  # noqa: BLE001 - whoever waits gets to know, whatever it is
            stored = [_named(error, place)] * len(accepted)
        for (number, _, _), outcome in zip(accepted, stored, strict=True):
            outcomes[number] = outcome
    return [each for each in outcomes if each is not None]


def _append(
    engine: Engine,
    place: RawPlace,
    accepted: Sequence[tuple[int, bytearray, BatchHeader]],
    now_ms: int,
) -> list[Outcome]:
    """Append and sync checked batches; of producers that have an id, each once."""
    log = engine.log(place.partition_id)
    placed = _placed(log, place, [batch for _, batch, _ in accepted])
    ends = [each.next_offset for each in placed if isinstance(each, Placed)]
    if not ends:
        return [each for each in placed if not isinstance(each, Placed)]
    durable_end = log.commit(max(ends))
    log_start = log.ends().log_start
    is_stamped = place.config.message_timestamp_type == LOG_APPEND_TIME
    return [
        Stored(each.base_offset, each.timestamp if is_stamped else -1, log_start, durable_end)
        if isinstance(each, Placed)
        else each
        for each in placed
    ]


def _placed(log: Log, place: RawPlace, batches: Sequence[bytearray]) -> list[Placed | Exception]:
    """Where each batch is now, or why it is not. They come together, unless one is refused."""
    try:
        return list(log.append_checked(batches))
    except (OutOfOrderSequence, InvalidProducerEpoch):
        pass
    placed: list[Placed | Exception] = []
    for batch in batches:
        try:
            placed += log.append_checked([batch])
        except Exception as error:  # noqa: BLE001 - it is this batch's alone
            placed.append(_named(error, place))
    return placed


def _named(error: Exception, place: RawPlace) -> Exception:
    """The broker's error, if it is one; anything else is a bug, and stays what it is."""
    topic, partition = place.topic.name, place.partition
    if isinstance(error, HandleClosed):
        error = LogGone(path=topic)
    if isinstance(error, WalError):
        return translate(error, topic=topic, partition=partition)
    if isinstance(error, OSError):
        return from_os_error(error, topic=topic, partition=partition)
    return error


class RawReaders:
    """Reads slices of logs; keeps the places where the next read will go on.

    Safe to use from any thread.
    """

    def __init__(self, engine: Engine, most: int = MOST_READERS) -> None:
        self._engine = engine
        self._most = most
        self._lock = threading.Lock()
        # (partition id, offset) -> who is there, and since when; the longest there first
        self._readers: OrderedDict[tuple[int, int], tuple[Reader, float]] = OrderedDict()

    def read(
        self, partition_id: int, offset: int, max_bytes: int, *, at_least_one: bool
    ) -> RawChunk:
        """The batches from `offset` on, below the durable end, checked, and not parsed.

        ``at_least_one``: give the first batch even if it is longer than `max_bytes`.
        Raises `OffsetOutOfRange`, `LogDamaged`, `LogGone`, as the storage engine's.
        """
        log = self._engine.log(partition_id)
        ends = log.ends()
        if offset == ends.durable_end or (max_bytes <= 0 and not at_least_one):
            _check(offset, ends)
            return RawChunk(b"", ends.log_start, ends.durable_end)
        reader = self._take(log, partition_id, offset)
        chunk = reader.read(max_bytes)
        data = chunk.data
        if not at_least_one and len(data) > max_bytes:
            data = b""
            reader.seek(offset)
        self._put_back(partition_id, reader)
        return RawChunk(data, ends.log_start, ends.durable_end)

    def _take(self, log: Log, partition_id: int, offset: int) -> Reader:
        with self._lock:
            found = self._readers.pop((partition_id, offset), None)
        return log.reader(offset) if found is None else found[0]

    def _put_back(self, partition_id: int, reader: Reader) -> None:
        with self._lock:
            self._readers[partition_id, reader.offset] = reader, time.monotonic()
            self._readers.move_to_end((partition_id, reader.offset))
            if len(self._readers) > self._most:
                self._readers.popitem(last=False)

    def expire(self, idle_s: float) -> None:
        """Let go of places where nobody has gone on for so long.

        Their files may have been removed since, and take room until they are closed.
        """
        before_s = time.monotonic() - idle_s
        expired = []
        with self._lock:
            while self._readers and next(iter(self._readers.values()))[1] <= before_s:
                expired.append(self._readers.popitem(last=False))
        del expired  # which closes the files, without the lock

    def close(self) -> None:
        """Let go of all open files. Safe to call twice."""
        with self._lock:
            self._readers.clear()


def _check(offset: int, ends: LogEnds) -> None:
    if not ends.log_start <= offset <= ends.durable_end:
        raise OffsetOutOfRange(
            offset=offset, log_start=ends.log_start, durable_end=ends.durable_end
        )


def durable_ends(engine: Engine, partition_ids: Sequence[int]) -> dict[int, int | None]:
    """Where the durable records of partitions end; None for one that is gone."""
    ends = engine.opening.ends
    rows = ((each, ends.read(each)) for each in partition_ids)
    return {each: None if row is None else row.durable_offset for each, row in rows}


def newest_record(log: Log) -> TimeFound | None:
    """The first record with the greatest timestamp; None if no record has any."""
    ends = log.ends()
    greatest = set()
    for segment in log.segments():
        if segment.end_offset > ends.log_start:
            if segment.base_offset >= ends.log_start and not segment.is_active:
                # That of the file, if no record in it has one: then nothing is found for it.
                greatest.add(log.newest_ms(segment, lambda _: None))
            else:
                last = min(segment.end_offset, ends.durable_end)
                greatest.add(_newest_between(log, max(segment.base_offset, ends.log_start), last))
    for timestamp in sorted(greatest, reverse=True):
        found = log.offset_for_time(timestamp) if timestamp >= 0 else None
        if found is not None:
            return found
    return None


def _newest_between(log: Log, offset: int, end: int) -> int:
    """The greatest timestamp of the records from `offset` to `end`."""
    newest = NO_TIMESTAMP
    reader = log.reader(offset)
    while reader.offset < end:
        chunk = reader.read(READ_BYTES)
        for inside, header in chunk.batches:
            if header.base_offset >= offset:
                newest = max(newest, header.max_timestamp)
            else:
                records = decode_batch(chunk.data, inside, "", 0, min_offset=offset)
                newest = max([newest, *(record.timestamp for record in records)])
    return newest
