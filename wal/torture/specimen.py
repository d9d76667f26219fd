"""One small log whose every byte and record is known, to be damaged and opened again.

`Specimen` builds it once, committed and checkpointed, in two segments of 64 KiB together:
single records and many, compressed in each way, null keys and values, headers, values that
are themselves record batches, and an empty batch. `lay_out` puts its files as they were, or
as somebody changed them; `open` opens them in one of four ways, as a broker does it:

    joined    another process has the directory open, in the same boot: nothing is judged
    reopened  nobody has, in the same boot: the first opener looks at the end of the log
    rebooted  the machine was booted since: the first opener judges the newest segment
    stripped  the same, and ``index.lmdb`` and ``run/`` were removed
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from seawall.wal.appender import Appender
from seawall.wal.context import LogConfig, LogContext
from seawall.wal.ends import Ends
from seawall.wal.files import Files
from seawall.wal.index import Index
from seawall.wal.kv import Environment
from seawall.wal.log import Log
from seawall.wal.quarantine import Quarantine
from seawall.wal.records import (
    Record,
    RecordTuple,
    decode_batch,
    empty_batch,
    encode_batch,
)
from seawall.wal.recovery import Finding, caught_up, recover
from seawall.wal.segment import Scan, list_segments

MODES = ("joined", "reopened", "rebooted", "stripped")

PARTITION = 1
NOW_MS = 1_700_000_000_000
# Both segments together, with what is allocated ahead of the end.
LOG_BYTES = 64 << 10
ALLOCATE_BYTES = 4096
AHEAD_BYTES = 1500
MAP_BYTES = 1 << 24
_BOOT = b"a boot's 16 byte"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBatch:
    """A batch of the log as it was written, and where."""

    segment: int
    position: int
    base_offset: int
    next_offset: int
    data: bytes
    records: tuple[Record, ...]

    @property
    def end(self) -> int:
        """The position behind it."""
        return self.position + len(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The log, open, and what opening had to decide."""

    log: Log
    findings: list[Finding]


class Specimen:
    """A known log in the folder `root`, for one thread. Close it."""

    def __init__(self, root: str) -> None:
        self._files = Files()
        self._now_ms = NOW_MS
        self.folder = os.path.join(root, "logs", "1-known-0")
        self._quarantine = Quarantine(self._files, os.path.join(root, "quarantine"))
        for path in (self.folder, self._quarantine.path, os.path.join(root, "run")):
            os.makedirs(path)
        with contextlib.ExitStack() as undo:
            self._ends = Ends.create(self._files, os.path.join(root, "run", "ends"), _BOOT)
            undo.callback(self._ends.close)
            # Opening an environment takes longer than a whole case, so both stay open, and
            # their entries are put back instead.
            self._environments = {}
            for name in ("index.lmdb", "new.lmdb"):
                environment = Environment(
                    os.path.join(root, name), files=self._files, map_size_bytes=MAP_BYTES
                )
                undo.callback(environment.close)
                self._environments[name] = environment
            self._context = self._new_context("index.lmdb")
            self._stripped_context = self._new_context("new.lmdb")
            self.versions: list[dict[int, bytes]] = []
            self._build()
            self._undo = undo.pop_all()

    def _new_context(self, index: str) -> LogContext:
        return LogContext(
            files=self._files,
            folder=self.folder,
            partition_id=PARTITION,
            ends=self._ends,
            index=Index(self._environments[index]),
            config=LogConfig(allocate_bytes=ALLOCATE_BYTES),
            now_ms=lambda: self._now_ms,
        )

    # -- building --------------------------------------------------------------------

    def _build(self) -> None:
        """Write the log, and keep what each file was after each commit in `versions`."""
        recovered = recover(
            self._context, self._quarantine, log_start=0, floor=0, cache_is_certain=True
        )
        self._ends.write(PARTITION, recovered.row)
        log = Log(self._context)
        try:
            randomness = random.Random(1)
            for number, make in enumerate(_batches()):
                if number == ROLL_BEFORE:
                    log.roll()
                elif number % 4 == 3:
                    self._leave_torn(log, randomness)
                self._append(log, make(log.ends().log_end))
            # The last one fills what is left.
            size = sum(map(len, self.contents().values()))
            self._append(log, _batch(LOG_BYTES - size - AHEAD_BYTES))
            log.checkpoint()
            # As if so much had been allocated ahead; how much that is is a matter of luck.
            newest = log.context.row().segment
            sealed = sum(len(content) for base, content in self.contents().items() if base < newest)
            os.truncate(self.path(newest), LOG_BYTES - sealed)
        finally:
            log.close()
        self.pristine = self.contents()
        row = self._ends.read(PARTITION)
        if row is None:
            raise RuntimeError("the log has no row")
        self.row = row
        self.batches = list(self._known_batches())
        self.by_offset = {batch.base_offset: batch for batch in self.batches}
        self.guessed = {
            batch.next_offset: _inner(batch.next_offset)
            for batch in self.batches
            if any(record.value == _inner(batch.next_offset) for record in batch.records)
        }
        self.end = row.durable_offset
        # A group has acknowledged half of the newest segment.
        in_newest = [batch for batch in self.batches if batch.segment == row.segment]
        self.committed = in_newest[len(in_newest) // 2].base_offset
        with self._environments["index.lmdb"].read() as view:
            self.entries = dict(view.iterate())
        self._changed: set[int] = set()
        self._checkpoint = self._context.index.checkpoint(PARTITION)

    def _append(self, log: Log, batch: bytearray) -> None:
        log.commit(log.append([batch]).next_offset)
        self.versions.append(self.contents())

    def _leave_torn(self, log: Log, randomness: random.Random) -> None:
        """Bytes of a process that died while it wrote; the next append cuts them off."""
        row = log.context.row()
        torn = _batch(randomness.randrange(1000, 6000))
        # At the right offset, as a real one.
        torn[0:8] = row.next_offset.to_bytes(8, "big")
        with open(log.context.segment_path(row.segment), "r+b") as file:
            file.seek(row.position)
            file.write(torn[: len(torn) * 2 // 3])
        self.versions.append(self.contents())

    def _known_batches(self) -> Iterator[KnownBatch]:
        for segment, content in self.pristine.items():
            path = self._context.segment_path(segment)
            limit = self.row.durable_position if segment == self.row.segment else len(content)
            descriptor = self._files.open(path)
            try:
                scan = Scan(self._files, descriptor, position=0, limit=limit, next_offset=segment)
                found = list(scan)
            finally:
                self._files.close(descriptor)
            for position, header in found:
                data = content[position : position + header.size_bytes]
                yield KnownBatch(
                    segment=segment,
                    position=position,
                    base_offset=header.base_offset,
                    next_offset=header.next_offset,
                    data=data,
                    records=tuple(decode_batch(data, 0, "", 0)),
                )

    # -- what is there ---------------------------------------------------------------

    def path(self, segment: int) -> str:
        """The path of the segment that begins at an offset."""
        return self._context.segment_path(segment)

    def contents(self) -> dict[int, bytes]:
        """The bytes of every segment file, by base offset."""
        return {
            segment: content_of(self.path(segment))
            for segment in list_segments(self._files, self.folder)
        }

    def restart_positions(self, segment: int) -> list[int]:
        """Where the index says that batches begin in a segment."""
        kind = b"E" + PARTITION.to_bytes(8, "big") + segment.to_bytes(8, "big")
        return sorted(
            int.from_bytes(value, "big")
            for key, value in self.entries.items()
            if key.startswith(kind)
        )

    def quarantined(self) -> list[str]:
        """The files in the quarantine."""
        return [os.path.join(self._quarantine.path, name) for name in self._quarantine_names()]

    def _quarantine_names(self) -> list[str]:
        return os.listdir(self._quarantine.path)

    # -- damaging and opening --------------------------------------------------------

    def lay_out(self, changed: Mapping[int, bytes]) -> None:
        """Have the files as they were, but for the segments in `changed`."""
        for segment in list_segments(self._files, self.folder):
            if segment not in self.pristine:
                os.unlink(self.path(segment))
        for segment, content in self.pristine.items():
            # Recovery and appending touch the newest one only; `trial` sees to that.
            if segment == self.row.segment or segment in self._changed or segment in changed:
                with open(self.path(segment), "wb", buffering=0) as file:
                    file.write(changed.get(segment, content))
        self._changed = set(changed)
        for path in self.quarantined():
            os.unlink(path)
        self._ends.write(PARTITION, self.row)

    @contextlib.contextmanager
    def open(self, mode: str) -> Iterator[Opened]:
        """Open what `lay_out` left, in one of `MODES`, and close it again."""
        stripped = mode == "stripped"
        context = self._stripped_context if stripped else self._context
        self._put_index_back(stripped)
        findings: list[Finding] = []
        if mode == "reopened":
            findings = self._vouch(context)
        elif mode in ("rebooted", "stripped"):
            findings = self._judge(context, self.committed, certain=not stripped)
        elif mode != "joined":
            raise ValueError(f"there is no mode {mode!r}")
        log = Log(context)
        try:
            yield Opened(log=log, findings=findings)
        finally:
            log.close()

    def _put_index_back(self, stripped: bool) -> None:
        """Every change of an index moves its checkpoint, so that alone is looked at."""
        context = self._stripped_context if stripped else self._context
        wanted = None if stripped else self._checkpoint
        if context.index.checkpoint(PARTITION) != wanted:
            environment = self._environments["new.lmdb" if stripped else "index.lmdb"]
            with environment.write() as transaction:
                transaction.delete_range(b"")
                for key, value in () if stripped else self.entries.items():
                    transaction.put(key, value)

    def _vouch(self, context: LogContext) -> list[Finding]:
        """What the first opener in the same boot does."""
        row = caught_up(context, self.row)
        if row is None:
            return self._judge(context, self.row.durable_offset, certain=False)
        if row != self.row:
            self._ends.write(PARTITION, row)
            appender = Appender(context)
            try:
                appender.sync()
            finally:
                appender.close()
        return []

    def _judge(self, context: LogContext, floor: int, *, certain: bool) -> list[Finding]:
        recovered = recover(
            context, self._quarantine, log_start=0, floor=floor, cache_is_certain=certain
        )
        self._ends.write(PARTITION, recovered.row)
        return recovered.findings

    def close(self) -> None:
        """Close everything; the files stay."""
        self._undo.close()


def new_batch(number: int) -> bytearray:
    """A batch to append after damage: two records that no other batch has."""
    return encode_batch(
        [(NOW_MS + number, b"after", b"damage %d.%d" % (number, each), ()) for each in (0, 1)]
    )


# -- what is in it -----------------------------------------------------------------------

ROLL_BEFORE = 6  # the batch that begins the second segment


def _batches() -> Iterator[Callable[[int], bytearray]]:
    """What makes the batches of the log, in order, given the offset of each."""
    yield lambda _: encode_batch(_rows(40, 60), compression="gzip")
    yield lambda _: encode_batch([(NOW_MS + 2, None, None, ())])
    # Values that are batches: at offset 0 as producers send them, and at the offset that
    # would follow the batch around it.
    yield lambda offset: encode_batch(
        [
            (NOW_MS + 3, None, _inner(0), ()),
            (NOW_MS, None, _inner(offset + 12), ()),
            *_rows(10, 500),
        ]
    )
    yield lambda _: empty_batch(0, 4, NOW_MS + 4)
    yield lambda _: encode_batch(_rows(12, 700), compression="lz4", log_append_time_ms=NOW_MS + 500)
    yield lambda _: _batch(9000)
    # The second segment.
    yield lambda _: encode_batch(_rows(60, 90), compression="zstd")
    yield lambda _: _batch(6000)
    yield lambda _: encode_batch([(NOW_MS - 10**9, b"late", b"", [("h", None), ("h", b"2")])])
    yield lambda offset: encode_batch(
        [*_rows(8, 400), (NOW_MS + 7, b"inner", _inner(offset + 9), ())],
        producer_id=7,
        producer_epoch=1,
        base_sequence=5,
    )
    yield lambda _: encode_batch(_rows(30, 200), compression="snappy")


def _rows(count: int, size: int) -> list[RecordTuple]:
    """Records of about `size` bytes each that compress a little, with keys null and not."""
    randomness = random.Random(size * 1000 + count)
    rows: list[RecordTuple] = []
    for number in range(count):
        timestamp = NOW_MS + randomness.randrange(-1000, 1000)
        key = None if number % 3 == 0 else b"key %d" % number
        value = b"%d " % number + randomness.randbytes(size // 2).hex().encode()
        headers = () if number % 2 else (("type", b"pay"), ("trace", randomness.randbytes(8)))
        rows.append((timestamp, key, None if number % 7 == 6 else value, headers))
    return rows


def _batch(size: int) -> bytearray:
    """One record; the batch has about `size` bytes."""
    return encode_batch([(NOW_MS + size, b"one", random.Random(size).randbytes(size - 80), ())])


def _inner(base_offset: int) -> bytes:
    """A batch to be a value."""
    rows: list[RecordTuple] = [(NOW_MS, b"inner", b"not a record of this log" * 9, ())] * 2
    return bytes(encode_batch(rows, base_offset=base_offset))


def content_of(path: str) -> bytes:
    """All bytes of a file."""
    with open(path, "rb", buffering=0) as file:
        return file.readall()
