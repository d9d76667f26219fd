"""The search for bit rot: what it damages, what it checks, and that it would notice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from storage import memory_folder

from seawall.wal import reader, segment
from seawall.wal.errors import BatchInvalid, RecordsUnreadable
from seawall.wal.quarantine import Quarantine
from seawall.wal.records import (
    HEADER_BYTES,
    BatchHeader,
    check_batch,
    decode_batch,
    encode_batch,
    parse_header,
)
from seawall.wal.torture import bitrot
from seawall.wal.torture.bitrot import BitRot
from seawall.wal.torture.meaning import LEADER_EPOCH, MEANINGLESS, meaningless
from seawall.wal.torture.search import Broken, Setting, run_case
from seawall.wal.torture.specimen import LOG_BYTES, MODES, Specimen
from seawall.wal.torture.trial import Trial


@pytest.fixture
def specimen() -> Iterator[Specimen]:
    with memory_folder() as path:
        specimen = Specimen(path)
        yield specimen
        specimen.close()


@pytest.fixture
def search() -> Iterator[BitRot]:
    with memory_folder() as path:
        search = BitRot(Setting(scratch=path, memory=path, seed=3))
        search.prepare()
        yield search
        search.close()


def trial(specimen: Specimen, changed: dict[int, bytes], mode: str, **options: Any) -> Trial:
    return Trial(specimen, changed, mode, **{"loses_places": False, "thorough": True, **options})


def flipped(specimen: Specimen, base: int, position: int, mask: int = 1) -> dict[int, bytes]:
    content = bytearray(specimen.pristine[base])
    content[position] ^= mask
    return {base: bytes(content)}


# -- the log -----------------------------------------------------------------------------


def test_the_log_has_a_bit_of_everything(specimen: Specimen) -> None:
    assert sum(map(len, specimen.pristine.values())) == LOG_BYTES
    assert len(specimen.pristine) == 2
    records = [record for batch in specimen.batches for record in batch.records]
    headers = [parse_header(batch.data) for batch in specimen.batches]
    assert {header.compression for header in headers} == {"none", "gzip", "snappy", "lz4", "zstd"}
    assert {1, 40} <= {header.record_count for header in headers}
    assert any(header.record_count == 0 and header.last_offset_delta > 0 for header in headers)
    assert any(header.is_log_append_time for header in headers)
    assert any(header.producer_id >= 0 for header in headers)
    assert any(record.key is None and record.value is None for record in records)
    assert any(len(record.headers) == 2 for record in records)
    inner = [value for _, _, _, _, _, value, _ in records if value and is_batch(value)]
    assert len(inner) >= 3
    behind = specimen.pristine[specimen.row.segment][specimen.row.durable_position :]
    assert behind
    assert not behind.strip(b"\0")
    # Some batches can only be found by walking, others through the index.
    assert any(specimen.restart_positions(base) for base in specimen.pristine)
    assert len(specimen.batches) > sum(
        len(specimen.restart_positions(base)) for base in specimen.pristine
    )


def is_batch(value: bytes) -> bool:
    try:
        check_batch(value, 0, len(value))
    except BatchInvalid:
        return False
    return True


def test_the_log_is_the_same_each_time(specimen: Specimen) -> None:
    with memory_folder() as path:
        other = Specimen(path)
        other.close()
    assert other.pristine == specimen.pristine
    assert other.versions == specimen.versions


@pytest.mark.parametrize("mode", MODES)
def test_a_log_that_is_whole_passes(specimen: Specimen, mode: str) -> None:
    for _ in range(2):  # the second finds what the first one's append has left put back
        result = trial(specimen, {}, mode).run()
        assert (result.hit_batches, result.hidden_records) == (0, 0)


# -- bytes without a meaning -------------------------------------------------------------


def is_seen(data: bytes, original: bytes) -> bool:
    """Whether a reader that expects the original's offset sees that a batch was changed."""
    try:
        header = check_batch(data, 0, len(data))
        records = decode_batch(data, 0, "", 0)
    except (BatchInvalid, RecordsUnreadable):
        return True
    was = parse_header(original)
    if header.base_offset != was.base_offset:
        return True
    assert records == decode_batch(original, 0, "", 0)
    assert header.next_offset == was.next_offset
    return False


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_just_the_leader_epoch_of_a_batch_has_no_meaning(compression: str) -> None:
    original = bytes(
        encode_batch(
            [(5, b"k", b"v" * 9, [("h", None)]), (7, None, b"w", ())],
            compression=compression,
            base_offset=300,
        )
    )
    unseen = set()
    for bit in range(8 * len(original)):
        data = bytearray(original)
        data[bit // 8] ^= 1 << bit % 8
        if not is_seen(bytes(data), original):
            unseen.add(bit)
    assert unseen == {8 * byte + bit for byte in range(12, 16) for bit in range(8)}
    assert (LEADER_EPOCH.start, LEADER_EPOCH.stop) == (12, 16)


def test_the_table_says_of_every_byte_whether_it_has_a_meaning(specimen: Specimen) -> None:
    for base, content in specimen.pristine.items():
        reasons = Counter(meaningless(specimen, base, at) for at in range(len(content)))
        batches = [batch for batch in specimen.batches if batch.segment == base]
        end = batches[-1].end
        assert reasons["leader_epoch"] == 4 * len(batches)
        assert reasons["behind_the_end"] == len(content) - end
        assert reasons[None] == end - 4 * len(batches)
        assert reasons.keys() - {None} <= MEANINGLESS.keys()
    assert meaningless(specimen, 0, specimen.batches[1].position + 12) == "leader_epoch"


@pytest.mark.parametrize("mode", MODES)
def test_what_has_no_meaning_harms_nothing(specimen: Specimen, mode: str) -> None:
    for position in (specimen.row.durable_position, specimen.row.durable_position + 200):
        changed = flipped(specimen, specimen.row.segment, position, 255)
        assert trial(specimen, changed, mode).run().hit_batches == 0
    changed = flipped(specimen, 0, specimen.batches[2].position + 14)
    assert trial(specimen, changed, mode).run().hit_batches == 0


# -- damage ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("inside", [0, 7, 16, 17, 20, 22, 26, 60, -1])
def test_a_flip_hits_one_batch_and_hides_none(specimen: Specimen, mode: str, inside: int) -> None:
    for batch in specimen.batches[1::3]:
        position = batch.position + inside % len(batch.data)
        result = trial(specimen, flipped(specimen, batch.segment, position), mode).run()
        assert (result.hit_batches, result.hidden_records) == (1, 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_length_hides_no_more_than_the_index_cannot_find(specimen: Specimen, mode: str) -> None:
    batch = specimen.batches[7]
    changed = flipped(specimen, batch.segment, batch.position + 10, 64)
    assert trial(specimen, changed, mode, loses_places=True).run().hit_batches == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_was_cut_off(specimen: Specimen, mode: str) -> None:
    newest = specimen.batches[-1]
    for base, positions in {0: (0, 100, 9000), newest.segment: (0, newest.end - 9)}.items():
        for position in positions:
            result = trial(specimen, {base: specimen.pristine[base][:position]}, mode).run()
            assert result.hit_batches
            assert not result.leaves_no_trace


def test_an_append_behind_a_lost_zero_brings_it_back(specimen: Specimen) -> None:
    newest = specimen.batches[-1]
    assert newest.data[-1] == 0
    changed = {newest.segment: specimen.pristine[newest.segment][: newest.end - 1]}
    assert trial(specimen, changed, "joined").run().hit_batches == 0
    assert trial(specimen, changed, "reopened").run().hit_batches == 1


def test_an_end_that_is_lost_with_all_that_knew_of_it(specimen: Specimen) -> None:
    newest = specimen.batches[-1]
    for end in (newest.position, newest.position + 4):  # the first bytes are zeros
        changed = {newest.segment: specimen.pristine[newest.segment][:end]}
        assert trial(specimen, changed, "stripped").run().leaves_no_trace
        # The index has a checkpoint at the end.
        assert not trial(specimen, changed, "rebooted").run().leaves_no_trace


@pytest.mark.parametrize("mode", MODES)
def test_a_guessed_batch_counts_only_between_two_that_are_damaged(
    specimen: Specimen, mode: str
) -> None:
    offset, inner = next(iter(specimen.guessed.items()))
    around = next(batch for batch in specimen.batches if batch.next_offset == offset)
    content = bytearray(specimen.pristine[around.segment])
    at = content.index(inner)
    content[around.position : at] = bytes(at - around.position)
    behind = specimen.by_offset[offset]
    one, both = {around.segment: bytes(content)}, content.copy()
    both[behind.position + 40] ^= 1
    once = trial(specimen, one, mode, loses_places=True)
    assert not once._is_guessed(offset, inner)
    twice = trial(specimen, {around.segment: bytes(both)}, mode, loses_places=True)
    assert twice._is_guessed(offset, inner)
    assert not twice._is_guessed(offset, inner[:-1])
    assert not twice._is_guessed(offset + 1, inner)
    twice.run()


def test_a_block_that_is_rolled_back() -> None:
    now, block = b"n" * (3 * 4096), bitrot.BLOCK_BYTES
    assert bitrot._rolled_back(now, b"o" * 5000, 1) == (
        now[:block] + b"o" * (5000 - block) + bytes(2 * block - 5000) + now[2 * block :]
    )
    assert bitrot._rolled_back(b"n" * 5000, b"", 1) == b"n" * block + bytes(5000 - block)


# -- it would notice ---------------------------------------------------------------------


def unchecked(buffer: bytes, position: int, available: int, **options: bool) -> BatchHeader:
    """`check_batch` without its CRC."""
    header = parse_header(buffer, position)
    if header.size_bytes > available:
        raise BatchInvalid(reason="it does not fit")
    return header


@pytest.mark.parametrize("inside", [HEADER_BYTES + 30, -3])
def test_a_reader_that_checks_no_crc_is_caught(
    specimen: Specimen, monkeypatch: pytest.MonkeyPatch, inside: int
) -> None:
    batch = specimen.batches[2]
    changed = flipped(specimen, batch.segment, batch.position + inside % len(batch.data))
    for module in (reader, segment):
        monkeypatch.setattr(module, "check_batch", unchecked)
    with pytest.raises(Broken):
        trial(specimen, changed, "joined").run()


def test_a_reader_that_says_nothing_is_caught(
    specimen: Specimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = specimen.batches[5]
    original = reader.Reader.read

    def read(self: reader.Reader, max_bytes: int) -> reader.Chunk:
        if batch.base_offset <= self.offset < batch.next_offset:
            self.seek(batch.next_offset)
        return original(self, max_bytes)

    monkeypatch.setattr(reader.Reader, "read", read)
    # So that the read before it ends there.
    with pytest.raises(Broken):
        trial(specimen, flipped(specimen, 0, batch.position + 70), "rebooted").run()


def test_a_quarantine_that_keeps_too_little_is_caught(
    specimen: Specimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Quarantine.keep

    def keep(self: Quarantine, descriptor: int, **where: Any) -> str:
        return original(self, descriptor, **{**where, "end": where["end"] - 4})

    monkeypatch.setattr(Quarantine, "keep", keep)
    batch = specimen.batches[-2]
    changed = flipped(specimen, batch.segment, batch.position + 70)
    with pytest.raises(Broken, match="quarantine"):
        trial(specimen, changed, "stripped").run()


# -- the search --------------------------------------------------------------------------


def test_a_quick_search_takes_a_tenth_and_every_header_bit(search: BitRot) -> None:
    cases = list(search.cases())
    kinds = Counter(case["kind"] for case in cases)
    bits = 8 * HEADER_BYTES * len(search.specimen.batches)
    assert kinds["header-bit"] == bits
    assert kinds["flip"] == kinds["cut"] == LOG_BYTES // 10
    assert kinds["roll-back"] == bitrot.ROLL_BACKS[False]
    places = {
        (case["segment"], case["position"], case["mask"])
        for case in cases
        if case["kind"] == "header-bit"
    }
    assert len(places) == bits
    # Every bit of a header meets every way to open the log, in some batch.
    by_segment = {
        (batch.segment, batch.position + byte): byte
        for batch in search.specimen.batches
        for byte in range(HEADER_BYTES)
    }
    met = {
        (by_segment[int(case["segment"]), int(case["position"])], case["mask"], case["mode"])
        for case in cases
        if case["kind"] == "header-bit"
    }
    assert len(met) == 8 * HEADER_BYTES * len(MODES)


def test_a_full_search_takes_everything_in_every_way() -> None:
    with memory_folder() as path:
        search = BitRot(Setting(scratch=path, memory=path, full=True, shares=50, share=7))
        search.prepare()
        share = Counter(case["kind"] for case in search.cases())
        batches = len(search.specimen.batches)
        search.close()
    wanted = {"flip": LOG_BYTES, "cut": LOG_BYTES, "header-bit": 488 * batches, "roll-back": 1000}
    for kind, count in wanted.items():
        assert share[kind] == pytest.approx(count * len(MODES) / 50, rel=0.2)
    assert sum(share.values()) == len(range(7, sum(wanted.values()) * len(MODES), 50))


def test_the_same_seed_gives_the_same_cases(search: BitRot) -> None:
    cases = list(search.cases())
    assert list(search.cases()) == cases
    shares = []
    for share in range(3):
        search.setting = Setting(scratch="", memory="", seed=3, share=share, shares=3)
        shares += list(search.cases())
    assert sorted(map(str, shares)) == sorted(map(str, cases))
    search.setting = Setting(scratch="", memory="", seed=4)
    assert list(search.cases()) != cases


def test_a_case_runs_alone_and_leaves_nothing() -> None:
    with memory_folder() as path:
        search = BitRot(Setting(scratch=path, memory=path))
        case = {"kind": "flip", "segment": 0, "position": 3000, "mask": 9, "mode": "joined"}
        assert run_case(search, {**case, "thorough": 1}) == ""
        assert search.figures["flip: found"] == 1
        assert os.listdir(path) == []


@pytest.mark.parametrize(
    "case",
    [
        # A last offset delta below zero, in the last batch of a segment: no checkpoint more.
        {"kind": "header-bit", "segment": 0, "position": 15997, "mask": 128, "mode": "stripped"},
        # Two holes, of which a reader that begins in one sees only that one.
        {
            "kind": "roll-back",
            "segment": 71,
            "block": 3,
            "version": 11,
            "mode": "stripped",
            "segment2": 71,
            "block2": 2,
            "version2": 10,
        },
    ],
)
def test_cases_that_were_broken(case: dict[str, int | str]) -> None:
    with memory_folder() as path:
        search = BitRot(Setting(scratch=path, memory=path, seed=0, full=True))
        assert run_case(search, {**case, "thorough": 1}) == ""


def test_smaller_cases(search: BitRot) -> None:
    case = {"kind": "flip", "segment": 0, "position": 5, "mask": 6, "mode": "joined"}
    assert [each["mask"] for each in search.smaller(case)] == [2, 4]
    assert list(search.smaller({**case, "mask": 4})) == []
    pair = {"kind": "roll-back", "segment": 0, "block": 1, "version": 2, "mode": "joined"}
    both = {**pair, "segment2": 71, "block2": 3, "version2": 4}
    assert list(search.smaller(both)) == [
        pair,
        {**pair, "segment": 71, "block": 3, "version": 4},
    ]
