"""Writing what was read at the source into the target, each record once.

A writer knows for each partition where the target ends, and that nobody else writes there: a
record that came to lie elsewhere is a `ForeignRecord`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from seawall.broker.errors import BatchTooLarge, BrokerError, ForeignRecord
from seawall.broker.mirror_read import PROVENANCE_PREFIX
from seawall.broker.translation import translated
from seawall.wal.records import Record, empty_batch, encode_batch, estimate_size

if TYPE_CHECKING:
    from seawall.broker.broker import Broker
    from seawall.broker.engine import Engine
    from seawall.broker.interface import AnyBroker, Place
    from seawall.wal.log import Log

# What is encoded into one batch, unless a record is larger.
BATCH_BYTES: Final = 256 << 10
BATCH_RECORDS: Final = 10_000
# A hole spans that many offsets at the most: a batch has them in 32 bits.
MOST_HOLE_OFFSETS: Final = 1 << 31
# A hole of so many offsets gets a file of its own, which can go as soon as it may.
_FILE_HOLE: Final = 100_000

CLOSE_MS: Final = 10_000
# How long a record may wait for room in the buffer: a year, for as long as the servers are away.
ROOM_MS: Final = 365 * 24 * 3_600_000

Provenance = Callable[[Record], Sequence[tuple[str, bytes | None]]]


class MirrorWriter(Protocol):
    """Writes to the target. For one thread."""

    keeps_offsets: bool

    def begin(self, place: Place, target_end: int) -> None:
        """From now on the target ends there, and grows only by this writer."""

    def write(self, place: Place, records: Sequence[Record]) -> None:
        """Take records of one partition, in order. They may be durable later."""

    def flush(self) -> None:
        """Return once all that was taken is durable. Raises what befell it."""

    def next_offset(self, place: Place) -> int:
        """The target's offset behind what was taken."""

    def close(self) -> None:
        """Let go; what was taken, but not flushed, may or may not be there."""


def as_it_is(record: Record) -> Sequence[tuple[str, bytes | None]]:
    """The headers of a copy: those of the record."""
    return record.headers


def with_provenance(source_id: str) -> Provenance:
    """The same, and where it comes from: cluster id and offset."""
    origin = (f"{PROVENANCE_PREFIX}source", source_id.encode())

    def headers(record: Record) -> Sequence[tuple[str, bytes | None]]:
        offset = (f"{PROVENANCE_PREFIX}offset", b"%d" % record.offset)
        return (*record.headers, origin, offset)

    return headers


class DirectoryWriter:
    """Writes to a directory: every record at the offset that it has at the source.

    Offsets without a record become holes, as recovery and compaction leave them. Each append is
    made only if the log ends where it should, under the log's own lock.
    """

    keeps_offsets = True

    def __init__(self, target: Broker, *, compression: str, headers: Provenance) -> None:
        self._engine: Engine = target.engine
        self._compression = compression
        self._headers = headers
        self._next: dict[Place, int] = {}
        self._dirty: dict[Place, tuple[Log, int]] = {}

    def begin(self, place: Place, target_end: int) -> None:
        self._next[place] = target_end

    def skip_to(self, place: Place, offset: int) -> None:
        """Make a hole up to an offset."""
        at = self._next[place]
        if offset > at:
            self._append(place, _holes(offset - at), offset)
            if offset - at >= _FILE_HOLE:
                with translated(*place):
                    self._log(place).roll()

    def write(self, place: Place, records: Sequence[Record]) -> None:
        batches: list[bytearray] = []
        batch: list[Any] = []
        size = written = 0
        at = self._next[place]
        limit = min(BATCH_BYTES, self._engine.topic(place[0]).settings.segment_bytes // 2)
        for record in records:
            headers = self._headers(record)
            record_bytes = estimate_size(record.key, record.value, headers)
            gap = record.offset - at
            if batch and (gap or size + record_bytes > limit or len(batch) == BATCH_RECORDS):
                batches.append(self._encoded(place, batch))
                written += len(batches[-1])
                batch, size = [], 0
                if written > limit:
                    self._append(place, batches, at)
                    batches, written = [], 0
            if gap:
                batches += _holes(gap)
            batch.append((record.timestamp, record.key, record.value, headers))
            size += record_bytes
            at = record.offset + 1
        if batch:
            batches.append(self._encoded(place, batch))
            self._append(place, batches, at)

    def _encoded(self, place: Place, batch: list[Any]) -> bytearray:
        encoded = encode_batch(batch, compression=self._compression)
        most = self._engine.topic(place[0]).settings.segment_bytes
        if len(encoded) > most:
            raise BatchTooLarge(
                topic=place[0], partition=place[1], size_bytes=len(encoded), max_bytes=most
            )
        return encoded

    def _append(self, place: Place, batches: Sequence[bytearray], end: int) -> None:
        log, at = self._log(place), self._next[place]
        with translated(*place):
            appended = log.append_at(at, batches)
        if appended is None:
            raise ForeignRecord(
                topic=place[0],
                partition=place[1],
                offset=at,
                source_offset=at,
                reason="something was written there while the mirror ran",
            )
        self._next[place] = end
        self._dirty[place] = log, end

    def _log(self, place: Place) -> Log:
        with translated(*place):
            return self._engine.log(self._engine.partition_id(*place))

    def flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for place, (log, end) in dirty.items():
            with translated(*place):
                log.commit(end)

    def next_offset(self, place: Place) -> int:
        return self._next[place]

    def close(self) -> None:
        self._dirty.clear()


def _holes(count: int) -> list[bytearray]:
    """Batches that span so many offsets and hold no record."""
    holes = []
    while count:
        span = min(count, MOST_HOLE_OFFSETS)
        holes.append(empty_batch(0, span - 1, -1))
        count -= span
    return holes


class ClusterWriter:
    """Writes to servers, by an idempotent producer. They number the records themselves."""

    keeps_offsets = False

    def __init__(
        self, target: AnyBroker, *, batch_bytes: int, compression: str, headers: Provenance
    ) -> None:
        self._target = target
        self._headers = headers
        self._lock = threading.Lock()
        self._sent: dict[Place, int] = {}
        self._highest: dict[Place, int] = {}
        # Stored, but where was not told: the server had it already when it came again.
        self._unsure: set[Place] = set()
        self._failure: BrokerError | None = None
        self._producer = target.producer(
            linger_ms=20,
            batch_bytes=batch_bytes,
            max_block_ms=ROOM_MS,
            compression=compression,
            idempotent=True,
            on_delivery=self._settled,
        )

    def begin(self, place: Place, target_end: int) -> None:
        self._sent[place] = target_end
        self._highest[place] = target_end - 1

    def write(self, place: Place, records: Sequence[Record]) -> None:
        topic, partition = place
        send, headers = self._producer.send, self._headers
        for record in records:
            if self._failure is not None:
                raise self._failure
            send(
                topic,
                record.value,
                key=record.key,
                headers=headers(record),
                partition=partition,
                timestamp=max(record.timestamp, 1),
            )
            self._sent[place] += 1

    def _settled(self, delivery: Any) -> None:
        """The outcome of a record: in the producer's thread or in that of `flush`, so that the
        order in which this hears of them says nothing."""
        failure = delivery.exception(0)
        if failure is not None:
            self._failure = self._failure or failure
            return
        metadata = delivery.metadata()
        place = metadata.topic, metadata.partition
        with self._lock:
            self._highest[place] = max(metadata.offset, self._highest[place])
            if metadata.offset < 0:
                self._unsure.add(place)

    def _foreign(self, place: Place, wanted: int, end: int) -> BrokerError:
        return ForeignRecord(
            topic=place[0],
            partition=place[1],
            offset=end,
            source_offset=None,
            reason="something was written there while the mirror ran: it ends there, and should "
            f"end at {wanted}",
        )

    def flush(self) -> None:
        """So many records at offsets that all differ, the highest being the last that is free
        for them: then there was nobody else."""
        self._producer.flush()
        if self._failure is not None:
            raise self._failure
        for place, highest in self._highest.items():
            end = highest + 1
            if place in self._unsure:
                end = self._target.ends(*place).durable_end
            if end != self._sent[place]:
                raise self._foreign(place, self._sent[place], end)
        self._unsure.clear()

    def next_offset(self, place: Place) -> int:
        return self._sent[place]

    def close(self) -> None:
        self._producer.close(CLOSE_MS)


def batch_bytes(target: AnyBroker, names: Sequence[str]) -> int:
    """How large batches may be, so that every one of these topics takes them."""
    limits = [BATCH_BYTES]
    for name in names:
        in_force = target.topic(name).in_force
        limits += [
            int(in_force[key]) // 2
            for key in ("max.message.bytes", "segment.bytes")
            if in_force.get(key)
        ]
    return min(limits)


def durable_end(target: AnyBroker, place: Place) -> int:
    """Where the target ends. In a directory that others have open, what a mirror wrote that was
    killed may not be durable yet: it is made so."""
    if target.is_remote:
        return target.ends(*place).durable_end
    engine = cast("Broker", target).engine
    with translated(*place):
        return engine.log(engine.partition_id(*place)).sync()


def settle(target: AnyBroker, places: Sequence[Place], quiet_s: float) -> None:
    """Wait until nothing has come for a while: what a mirror sent that was killed may still be
    on its way to the log of a server."""
    before: list[int] = []
    while (ends := [target.ends(*place).durable_end for place in places]) != before:
        before = ends
        time.sleep(quiet_s)
