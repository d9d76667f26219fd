"""Which batches of which producers a log holds: what makes appending idempotent.

A producer that has an id numbers its records, in each partition for itself, from 0 on up
to 2**31 - 1 and then from 0 again (KIP-98). The log remembers of each producer its epoch and
its last five batches, as Kafka does. So it can tell for a batch that comes

    ========================================  =======================================
    the same numbers as one of these five     duplicate: stored already, at this place
    a lower epoch than the last one           `InvalidProducerEpoch`
    a higher epoch, and number 0              next
    a higher epoch, and another number        `OutOfOrderSequence`
    the same epoch, and the next number       next
    the same epoch, and any other number      `OutOfOrderSequence`
    from a producer that it does not know     next, whatever the number
    ========================================  =======================================

Batches that are appended together are there all or none. So of more than five that come
again together, those before the last five are where they must be.

Not to know a producer is no proof that it is new: it may have been idle for too long, or be
one too many. So any number will do then, as in Kafka since 2.5 (KIP-360). A batch that was
stored before the last five gets `OutOfOrderSequence`, also as in Kafka: after the log has
forgotten and met a producer again, "a lower number" would not prove that it was stored.

No I/O and no clock. `pack` writes, big endian, for each producer::

    producer id  i64     epoch  i16     last seen  i64, ms since the epoch     batches  u8
    for each batch, the oldest first:
        first sequence  i32     last sequence  i32
        base offset     i64     next offset    i64     max timestamp  i64
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from seawall.wal.errors import BatchInvalid, InvalidProducerEpoch, OutOfOrderSequence
from seawall.wal.records import BatchHeader

# As many requests as a Kafka client may have on their way at once.
BATCHES_KEPT = 5
# Of how many producers one log remembers something, the ones that came last.
MOST_PRODUCERS = 2_000
SEQUENCES = 1 << 31

_PRODUCER = struct.Struct(">qhqB")
_BATCH = struct.Struct(">iiqqq")


class StoredBatch(NamedTuple):
    """A batch that is in the log. ``timestamp`` is its greatest, in ms since the epoch."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    next_offset: int
    timestamp: int


class ProducerEntry(NamedTuple):
    """What is known of one producer. There is always at least one batch, the last of which
    came last. ``seen_ms``: when this was learnt, in ms since the epoch."""

    epoch: int
    batches: tuple[StoredBatch, ...]
    seen_ms: int

    @property
    def last_sequence(self) -> int:
        return self.batches[-1].last_sequence


class Placed(NamedTuple):
    """Where a batch is: appended just now, or a duplicate of one that was there already.

    ``timestamp`` is the greatest one of the batch that is stored.
    """

    base_offset: int
    next_offset: int
    timestamp: int
    is_duplicate: bool


class Plan(NamedTuple):
    """What becomes of some batches once those that are no duplicates are appended."""

    placed: list[Placed]
    changes: dict[int, ProducerEntry]


def next_sequence(sequence: int, records: int = 1) -> int:
    """The sequence number that comes `records` after another one."""
    return (sequence + records) % SEQUENCES


class Producers:
    """The producers of one log, the one that came last at the end."""

    def __init__(self) -> None:
        self._entries: dict[int, ProducerEntry] = {}

    def entries(self) -> dict[int, ProducerEntry]:
        """A copy: producer id -> what is known."""
        return dict(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    # -- appending -------------------------------------------------------------------

    def plan(self, headers: Sequence[BatchHeader], next_offset: int, now_ms: int) -> Plan:
        """Say what becomes of batches that are to be appended at `next_offset`.

        Batches without a producer id are appended as they are. Nothing is changed until
        `apply`. Raises `OutOfOrderSequence`, `InvalidProducerEpoch`, or `BatchInvalid` if a
        batch has a producer id and no epoch or sequence; then none may be appended.
        """
        if len(headers) > BATCHES_KEPT and (repeated := self._repeated(headers)):
            return Plan(repeated, {})
        placed: list[Placed] = []
        changes: dict[int, ProducerEntry] = {}
        for header in headers:
            end = next_offset + header.last_offset_delta + 1
            producer_id = header.producer_id
            if producer_id >= 0:
                entry = changes.get(producer_id) or self._entries.get(producer_id)
                duplicate = None if entry is None else _duplicate(entry, header)
                if duplicate is not None:
                    _, _, base_offset, duplicate_end, timestamp = duplicate
                    placed.append(Placed(base_offset, duplicate_end, timestamp, True))
                    continue
                _check(entry, header)
                changes[producer_id] = _with(entry, header, next_offset, now_ms)
            placed.append(Placed(next_offset, end, header.max_timestamp, False))
            next_offset = end
        return Plan(placed, changes)

    def _repeated(self, headers: Sequence[BatchHeader]) -> list[Placed] | None:
        """Where more batches than are remembered are, if they come again all together."""
        entry = self._entries.get(headers[-1].producer_id)
        if entry is None:
            return None
        offset, timestamp = entry.batches[-1].next_offset, entry.batches[-1].timestamp
        following = next_sequence(entry.last_sequence)
        placed = []
        for header, known in itertools.zip_longest(reversed(headers), reversed(entry.batches)):
            span = header.last_offset_delta + 1
            if (
                header.producer_id != headers[-1].producer_id
                or header.producer_epoch != entry.epoch
                or next_sequence(header.base_sequence, span) != following
                or (known is not None and known.base_offset != offset - span)
            ):
                return None
            placed.append(Placed(offset - span, offset, timestamp, True))
            offset, following = offset - span, header.base_sequence
        return placed[::-1] if offset >= 0 else None

    def apply(self, changes: Mapping[int, ProducerEntry]) -> None:
        """The batches of a plan are in the log."""
        for producer_id, entry in changes.items():
            self._put(producer_id, entry)

    # -- learning from the log -------------------------------------------------------

    def learn(self, headers: Iterable[BatchHeader], now_ms: int) -> None:
        """Take over what stands in the log, unasked: it is the truth.

        What was learnt before is passed over, so the same stretch may be read twice.
        """
        for header in headers:
            if header.producer_id < 0 or header.base_sequence < 0:
                continue
            entry = self._entries.get(header.producer_id)
            if entry is None or entry.batches[-1].base_offset < header.base_offset:
                entry = _with(entry, header, header.base_offset, now_ms)
                self._put(header.producer_id, entry)

    def take_over(self, later: Producers) -> None:
        """Take over what was learnt from a stretch that lies behind all that is known."""
        for producer_id, entry in later.entries().items():
            known = self._entries.get(producer_id)
            if known is not None and known.epoch == entry.epoch:
                batches = (*known.batches, *entry.batches)[-BATCHES_KEPT:]
                entry = entry._replace(batches=batches)
            self._put(producer_id, entry)

    def _put(self, producer_id: int, entry: ProducerEntry) -> None:
        self._entries.pop(producer_id, None)
        self._entries[producer_id] = entry
        if len(self._entries) > MOST_PRODUCERS:
            del self._entries[next(iter(self._entries))]

    def forget_idle(self, now_ms: int, expiration_ms: int) -> None:
        """Forget producers of which nothing has come for so long."""
        while self._entries:
            producer_id = next(iter(self._entries))
            if now_ms - self._entries[producer_id].seen_ms < expiration_ms:
                return
            del self._entries[producer_id]

    # -- as bytes --------------------------------------------------------------------

    def pack(self) -> bytes:
        """All of it, as it stands at the top of this module."""
        pieces = []
        for producer_id, (epoch, batches, seen_ms) in self._entries.items():
            pieces.append(_PRODUCER.pack(producer_id, epoch, seen_ms, len(batches)))
            pieces += [_BATCH.pack(*batch) for batch in batches]
        return b"".join(pieces)

    @classmethod
    def unpack(cls, data: bytes) -> Producers:
        """What `pack` wrote. Raises ValueError for anything else."""
        producers = cls()
        at = 0
        while at < len(data):
            try:
                producer_id, epoch, seen_ms, count = _PRODUCER.unpack_from(data, at)
                at += _PRODUCER.size
                end = at + count * _BATCH.size
                batches = tuple(map(StoredBatch._make, _BATCH.iter_unpack(data[at:end])))
            except struct.error as error:
                raise ValueError(f"not a list of producers: {error}") from error
            if not 1 <= len(batches) == count <= BATCHES_KEPT:
                raise ValueError(f"not a list of producers: one has {count} batches")
            producers._put(producer_id, ProducerEntry(epoch, batches, seen_ms))
            at = end
        return producers


def _duplicate(entry: ProducerEntry, header: BatchHeader) -> StoredBatch | None:
    """The batch that is stored already with the same numbers, None if there is none."""
    if header.producer_epoch == entry.epoch:
        first = header.base_sequence
        last = next_sequence(first, header.last_offset_delta)
        for batch in entry.batches:
            if batch.first_sequence == first and batch.last_sequence == last:
                return batch
    return None


def _check(entry: ProducerEntry | None, header: BatchHeader) -> None:
    """Raise unless this is what comes next from its producer."""
    epoch, sequence = header.producer_epoch, header.base_sequence
    if epoch < 0 or sequence < 0:
        raise BatchInvalid(
            reason=f"it has producer id {header.producer_id}, but epoch {epoch} and sequence "
            f"{sequence}"
        )
    if entry is None:
        return
    if epoch < entry.epoch:
        raise InvalidProducerEpoch(
            producer_id=header.producer_id, epoch=epoch, current_epoch=entry.epoch
        )
    expected = next_sequence(entry.last_sequence) if epoch == entry.epoch else 0
    if sequence != expected:
        raise OutOfOrderSequence(
            producer_id=header.producer_id, epoch=epoch, sequence=sequence, expected=expected
        )


def _with(
    entry: ProducerEntry | None, header: BatchHeader, base_offset: int, now_ms: int
) -> ProducerEntry:
    """An entry with one batch more; those of another epoch go."""
    first = header.base_sequence
    batch = StoredBatch(
        first,
        next_sequence(first, header.last_offset_delta),
        base_offset,
        base_offset + header.last_offset_delta + 1,
        header.max_timestamp,
    )
    if entry is None or entry.epoch != header.producer_epoch:
        return ProducerEntry(header.producer_epoch, (batch,), now_ms)
    return ProducerEntry(entry.epoch, (*entry.batches[1 - BATCHES_KEPT :], batch), now_ms)
