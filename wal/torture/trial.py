"""One damaged log: opened, read in every way, appended to, and held against what it was.

What must hold, whatever bytes were changed:

* Every record that is read is the one that was written at that offset. An offset without
  one is named: by an error of the reader, or by a finding of recovery. (There is one
  exception, which takes a guess and damage in two places: `Trial._is_guessed`.)
* The first batch of each segment that was hit is named with file, position and offset,
  and `Log.verify` names the same places as a reader that reads everything.
* Batches before the first that was hit, and those of other segments, are read. So are
  those behind it, unless their place is lost: the length of the one before them is wrong,
  or more than one batch is gone, and no entry of the index lies in between.
* Reading from an offset, and looking up a time, find just what reading everything finds.
* What recovery takes out of a file lies in the quarantine, and all else is still there.
* Appending works, with offsets that nothing that can be read has, and reading everything
  back gives what was read before, and the new records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from seawall.wal.errors import LogDamaged, RecordsUnreadable
from seawall.wal.log import Log
from seawall.wal.records import BatchHeader, decode_batch
from seawall.wal.recovery import Finding, Verdict
from seawall.wal.torture.meaning import hit_batches
from seawall.wal.torture.search import Broken
from seawall.wal.torture.specimen import KnownBatch, Specimen, content_of, new_batch

# Batches of the log and places to go on at are far fewer.
MOST_READS = 200
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a trial in which every promise held.

    ``hit_batches`` were changed, ``hidden_records`` are records of others that could not
    be read any more. With ``leaves_no_trace`` nothing could tell that anything had been
    there: the end of the log, the index and ``run/`` were lost together. ``guessed`` values
    were read as batches, as `Trial._is_guessed` says.
    """

    hit_batches: int
    hidden_records: int
    leaves_no_trace: bool
    guessed: int


@dataclass(slots=True)
class Reading:
    """What reading everything gave."""

    batches: set[int] = field(default_factory=set)
    """The base offsets of the batches that were read as they were written."""
    emptied: list[tuple[int, int]] = field(default_factory=list)
    """Offsets that were read as holes and had records."""
    damages: list[LogDamaged] = field(default_factory=list)
    guessed: list[int] = field(default_factory=list)
    """Where a record's value was read as a batch of its own; see `Trial._is_guessed`."""
    has_appended: bool = False
    """Whether the records that were appended after the damage are there."""


class Trial:
    """One way to damage a specimen, in one way to open it."""

    def __init__(
        self,
        specimen: Specimen,
        changed: Mapping[int, bytes],
        mode: str,
        *,
        loses_places: bool,
        thorough: bool,
    ) -> None:
        """`changed` holds the new bytes of some segments, by their base offset.

        With `loses_places` more than one batch may be damaged, or a length.
        If not `thorough`, only the records are read that are there after an append.
        """
        self._specimen = specimen
        self._changed = changed
        self._mode = mode
        self._loses_places = loses_places
        self._hit = hit_batches(specimen, changed)
        newest, end = specimen.row.segment, specimen.row.durable_position
        if mode == "joined" and newest in changed:
            # Whoever appends behind the end of a file that was cut off fills it with zeros.
            filled = changed[newest].ljust(end, b"\0")
            hit = hit_batches(specimen, {**changed, newest: filled})
            thorough = thorough and hit == self._hit
            self._hit = hit
        self._thorough = thorough
        self._hit_offsets = {batch.base_offset for batch in self._hit}
        self._appended = (-1, b"")  # the offset and the bytes

    def run(self) -> Result:
        """Raises `Broken`."""
        specimen = self._specimen
        specimen.lay_out(self._changed)
        with specimen.open(self._mode) as opened:
            log, findings = opened.log, opened.findings
            end = log.ends().durable_end
            self._check_end(end)
            reading = None
            if self._thorough:
                reading = self._read(log)
                self._check_verify(log, reading)
                self._check_seeks(log, reading, end)
                self._check_times(log, reading)
            if self._thorough or findings:
                self._check_kept(findings)
            self._append(log, end)
            after = self._read(log)
            self._check_holes(after, findings, end)
            self._check_named(after, findings)
            hidden = self._check_hidden(after)
            if not after.has_appended:
                raise Broken(f"the records appended at {end} cannot be read")
            if reading is not None:
                self._check_same(reading, after)
        return Result(
            hit_batches=len(self._hit),
            hidden_records=hidden,
            leaves_no_trace=self._leaves_no_trace(),
            guessed=len(after.guessed),
        )

    def _leaves_no_trace(self) -> bool:
        """Whether the newest segment looks as if it had always ended where it was hit first.

        So it does with only zeros behind a whole batch. What knows better is the index,
        ``run/`` and the groups; here the first two are gone, and no group was there yet.
        """
        specimen = self._specimen
        newest = [each for each in self._hit if each.segment == specimen.row.segment]
        return (
            self._mode == "stripped"
            and bool(newest)
            and newest[0].base_offset >= specimen.committed
            and not self._changed[newest[0].segment][newest[0].position :].strip(b"\0")
        )

    # -- where it ends, and what was taken out ---------------------------------------

    def _check_end(self, end: int) -> None:
        specimen = self._specimen
        least = specimen.end
        if self._mode == "stripped" and any(b.segment == specimen.row.segment for b in self._hit):
            # Nothing tells damage from a torn tail, but for what a group acknowledged.
            least = specimen.committed
        if not least <= end <= specimen.end:
            raise Broken(f"the log ends at {end}, not between {least} and {specimen.end}")

    def _check_kept(self, findings: list[Finding]) -> None:
        """Nothing that was in a file is gone without a copy in the quarantine."""
        specimen = self._specimen
        removed = [each for each in findings if each.verdict is not Verdict.DAMAGE]
        if len(specimen.quarantined()) != len(removed):
            raise Broken(f"{len(specimen.quarantined())} files in quarantine, not {len(removed)}")
        contents = specimen.contents()
        for segment, pristine in specimen.pristine.items():
            before, after = self._changed.get(segment, pristine), contents.get(segment, b"")
            kept_from = written = 0
            if segment == specimen.row.segment:
                for finding in removed:
                    lost = before[finding.position : finding.end].rstrip(b"\0")
                    if finding.quarantined is None or content_of(finding.quarantined) != lost:
                        raise Broken(f"bytes from {finding.position} on are not in quarantine")
                    piece = before[kept_from : finding.position]
                    at = after.find(piece, written)
                    if at < 0:
                        raise Broken(f"bytes before position {finding.position} are gone")
                    kept_from, written = finding.end, at + len(piece)
            rest = before[kept_from:].rstrip(b"\0")
            if after.find(rest, written) < 0 or not (kept_from or after[: len(rest)] == rest):
                raise Broken(f"segment {segment} was changed from position {kept_from} on")

    # -- reading ---------------------------------------------------------------------

    def _read(self, log: Log) -> Reading:
        """Read everything, going on behind damage. Every batch is held against its original."""
        reading = Reading()
        reader = log.reader(0)
        try:
            for _ in range(MOST_READS):
                expected = reader.offset
                try:
                    chunk = reader.read(READ_BYTES)
                except LogDamaged as error:
                    if error.offset != expected or error.next_offset <= expected:
                        raise Broken(f"at offset {expected} the reader says: {error}") from error
                    reading.damages.append(error)
                    reader.seek(error.next_offset)
                    continue
                if not chunk.batches:
                    return reading
                for position, header in chunk.batches:
                    if header.base_offset != expected:
                        raise Broken(f"offsets {expected} to {header.base_offset} passed over")
                    self._take(reading, chunk.data[position : position + header.size_bytes], header)
                    expected = header.next_offset
        finally:
            reader.close()
        raise Broken(f"{MOST_READS} reads did not reach the end")

    def _take(self, reading: Reading, data: bytes, header: BatchHeader) -> None:
        offset = header.base_offset
        known = self._specimen.by_offset.get(offset)
        if known is not None and known.data == data:
            reading.batches.add(offset)
            return
        if self._appended == (offset, data):
            reading.has_appended = True
            return
        if self._is_guessed(offset, data):
            reading.guessed.append(offset)
            return
        try:
            records = decode_batch(data, 0, "", 0)
        except RecordsUnreadable as error:
            raise Broken(f"wrong bytes were handed out as a batch: {error}") from error
        whole = known is not None and header.next_offset == known.next_offset
        if known is not None and whole and tuple(records) == known.records:
            reading.batches.add(offset)
            return
        if records:
            raise Broken(f"wrong records were read, without an error, at offset {offset}")
        reading.emptied.append((offset, header.next_offset))

    def _is_guessed(self, offset: int, data: bytes) -> bool:
        """Whether this is a value that is a batch at the offset that follows its own batch.

        Only who guesses offsets can write one. If both the batch around it and the one at
        that offset are damaged, nothing tells it from a batch that is left between them.
        """
        around = next((each for each in self._hit if each.next_offset == offset), None)
        return (
            self._specimen.guessed.get(offset) == data
            and around is not None
            and offset in self._hit_offsets
        )

    def _check_holes(self, reading: Reading, findings: list[Finding], end: int) -> None:
        """Holes that were not there before are recovery's, and the tail's loss is named."""
        holes = {
            (finding.offset, finding.next_offset)
            for finding in findings
            if finding.verdict is Verdict.HOLE
        }
        for hole in reading.emptied:
            if hole not in holes:
                raise Broken(f"offsets {hole[0]} to {hole[1]} are empty, and nothing says why")
        if end < self._specimen.end and not findings and not self._leaves_no_trace():
            raise Broken(f"offsets {end} to {self._specimen.end} are gone, and nothing says why")

    def _check_verify(self, log: Log, reading: Reading) -> None:
        """Whoever verifies is told of the same damage as whoever reads."""
        verified = [(each.path, each.position, each.offset) for each in log.verify()]
        read = [each.offset for each in reading.damages]
        if read != [offset for _, _, offset in verified]:
            raise Broken(f"a reader names offsets {read}, verify {verified}")
        for batch in self._first_hits():
            if batch.base_offset in read and self._places(batch).isdisjoint(verified):
                raise Broken(f"the batch at {batch.base_offset} is not named, but {verified}")

    def _check_named(self, reading: Reading, findings: list[Finding]) -> None:
        """Each first batch that was hit is named; if none was, nothing is."""
        specimen = self._specimen
        named = [(each.path, each.position, each.offset) for each in reading.damages]
        named += [(each.path, each.position, each.offset) for each in findings]
        for batch in self._first_hits():
            if batch.segment == specimen.row.segment and self._leaves_no_trace():
                continue
            if self._places(batch).isdisjoint(named):
                raise Broken(f"the batch at offset {batch.base_offset} is not named, but {named}")
        behind = specimen.row.durable_position
        if not self._hit and (reading.damages or any(each.position < behind for each in findings)):
            raise Broken(f"nothing that has a meaning was changed, but named are {named}")

    def _first_hits(self) -> list[KnownBatch]:
        """The first batch that was hit of each segment."""
        firsts: dict[int, KnownBatch] = {}
        for batch in self._hit:
            firsts.setdefault(batch.segment, batch)
        return list(firsts.values())

    def _places(self, batch: KnownBatch) -> set[tuple[str, int, int]]:
        """What may be named when a batch was hit: path, position, offset."""
        return {
            (self._specimen.path(batch.segment), batch.position, batch.base_offset),
            # A segment that ends between two batches looks like one whose successor is
            # missing.
            (self._specimen.path(batch.base_offset), 0, batch.base_offset),
        }

    def _check_hidden(self, reading: Reading) -> int:
        """Batches that were not hit are read, unless their place is lost; else how many not."""
        hidden = 0
        for batch in self._specimen.batches:
            offset = batch.base_offset
            if offset in reading.batches:
                # Recovery may have put a hole where a hole was hit.
                if offset in self._hit_offsets and batch.records:
                    raise Broken(f"the batch at offset {offset} was changed, and read")
            elif offset not in self._hit_offsets:
                hidden += len(batch.records)
                self._check_may_hide(batch)
        return hidden

    def _check_may_hide(self, batch: KnownBatch) -> None:
        before = [
            each.position
            for each in self._hit
            if each.segment == batch.segment and each.position < batch.position
        ]
        where = f"the batch at offset {batch.base_offset} was not hit, and cannot be read"
        if not before or not self._loses_places:
            raise Broken(where)
        if self._mode != "stripped":
            restarts = self._specimen.restart_positions(batch.segment)
            if any(before[-1] < each <= batch.position for each in restarts):
                raise Broken(f"{where}, although the index has an entry before it")

    def _check_seeks(self, log: Log, reading: Reading, end: int) -> None:
        """Reading from anywhere finds what reading everything found."""
        offsets = {end - 1}
        for batch in self._hit[:1]:
            offsets |= {(batch.base_offset + batch.next_offset) // 2, batch.next_offset}
        for offset in offsets:
            if offset >= end:
                continue
            reader = log.reader(offset)
            found = Reading()
            try:
                chunk = reader.read(1)
                position, header = chunk.batches[0]
                if not header.base_offset <= offset < header.next_offset:
                    raise Broken(f"seeking to {offset} led to {header.base_offset}")
                self._take(found, chunk.data[position : position + header.size_bytes], header)
                if not (
                    found.batches <= reading.batches and set(found.emptied) <= set(reading.emptied)
                ):
                    raise Broken(f"offset {offset} is found by seeking only")
            except LogDamaged as error:
                if (
                    not any(each.offset <= offset < each.next_offset for each in reading.damages)
                    or error.next_offset <= offset
                ):
                    raise Broken(f"seeking to {offset} gives: {error}") from error
            finally:
                reader.close()

    def _check_times(self, log: Log, reading: Reading) -> None:
        """A time leads to the first record at or after it of those that can be read."""
        hit = self._hit[0] if self._hit else self._specimen.batches[-1]
        highest = max((record.timestamp for record in hit.records), default=0)
        for time_ms in (highest, highest + 1):
            expected = next(
                (
                    (record.offset, record.timestamp)
                    for batch in self._specimen.batches
                    if batch.base_offset in reading.batches
                    for record in batch.records
                    if record.timestamp >= time_ms
                ),
                None,
            )
            found = log.offset_for_time(time_ms)
            if found != expected:
                raise Broken(f"time {time_ms} leads to {found}, not {expected}")

    # -- afterwards ------------------------------------------------------------------

    def _append(self, log: Log, end: int) -> None:
        batch = new_batch(end)
        appended = log.append([batch])
        log.commit(appended.next_offset)
        if appended.base_offset != end:
            raise Broken(f"the log ended at {end}, and the next record got {appended.base_offset}")
        self._appended = (end, bytes(batch))
        if self._thorough:
            log.checkpoint()

    def _check_same(self, before: Reading, after: Reading) -> None:
        """What could be read before the append can be read after it."""
        kept = (before.batches, before.emptied, before.guessed)
        if (after.batches, after.emptied, after.guessed) != kept:
            raise Broken(
                f"after an append {sorted(after.batches)} are read, not {sorted(before.batches)}"
            )
        damages = [(each.position, each.offset) for each in after.damages]
        if damages != [(each.position, each.offset) for each in before.damages]:
            raise Broken(f"after an append the damage is {damages}")
