"""Batches that lose some of their records: golden bytes, and what others read in them."""

from __future__ import annotations

import importlib
import re
import warnings
from types import ModuleType
from typing import Any

import aiokafka.record.default_records as aiokafka_records
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.wal import codec, filtering
from seawall.wal.compression import CODEC_NAMES
from seawall.wal.errors import RecordsUnreadable
from seawall.wal.filtering import NEVER, Dirty, Filter, spans_of
from seawall.wal.keymap import KeyMap
from seawall.wal.records import (
    HEADER_BYTES,
    Record,
    check_batch,
    decode_batch,
    empty_batch,
    encode_batch,
    parse_header,
)

with warnings.catch_warnings():  # it reads its resources in a way that is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    kafka_python_records = importlib.import_module("kafka.record.default_records")

NOW = 1_700_000_000_000
ROWS = [
    (NOW, b"a", b"first", ()),
    (NOW + 70_000, b"b", b"only", (("h", b"x"), ("n", None))),
    (NOW - 1, b"a", b"second", ()),
    (NOW + 5, b"c", None, ()),
    (NOW + 9, None, b"no key", ()),
    (NOW + 7, b"a", b"third" * 40, ()),
]


def _cores() -> list[ModuleType]:
    try:
        return [codec, importlib.import_module("seawall.wal._codec")]
    except ImportError:
        return [codec]


@pytest.fixture(params=_cores(), ids=lambda core: core.__name__.rpartition(".")[2])
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(filtering, "record_spans", request.param.record_spans)
    monkeypatch.setattr(filtering, "with_timestamp_delta", request.param.with_timestamp_delta)
    return request.param


def filtered(
    *batches: bytes | bytearray,
    now_ms: int = NOW,
    retention_ms: int = NEVER,
    end: int | None = None,
    last_batches: dict[int, int] | None = None,
) -> tuple[list[bytes | None], Filter]:
    """What stays of some batches."""
    parsed = [(parse_header(batch), bytes(batch)) for batch in batches]
    behind = parsed[-1][0].next_offset
    dirty = Dirty(KeyMap(1 << 16, 0, 1000), 0)
    for header, batch in parsed:
        if end is None or header.next_offset <= end:
            assert dirty.take(header, batch) is None
    one = Filter(
        dirty,
        end=behind if end is None else end,
        now_ms=now_ms,
        delete_retention_ms=retention_ms,
        last_batches=last_batches,
    )
    return [
        left if left is None else bytes(left)
        for left in (one.pass_on(header, batch) for header, batch in parsed)
    ], one


def read(batch: bytes) -> list[Record]:
    check_batch(batch, 0, len(batch))
    return decode_batch(batch, 0, "t", 0)


def read_by_others(batch: bytes) -> None:
    """aiokafka's and kafka-python's parsers see the records that we see."""
    ours = [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in read(batch)]
    parsers = [aiokafka_records.DefaultRecordBatch]
    if parse_header(batch).compression not in ("snappy", "zstd"):  # for want of its libraries
        parsers.append(kafka_python_records.DefaultRecordBatch)
    for parser in parsers:
        parsed = parser(bytes(batch))
        assert parsed.validate_crc()
        assert [
            (each.offset, each.timestamp, each.key, each.value, list(each.headers))
            for each in parsed
        ] == ours
        assert parsed.base_offset == parse_header(batch).base_offset


# -- golden bytes ----------------------------------------------------------------------

# What stays of ROWS at base offset 40: offsets 41, 43, 44 and 45. Written down once the layout
# by hand below, and both parsers, agreed with it. Compressors differ from version to version,
# so of the compressed ones it is what they hold.
GOLDEN_HEADER = (
    "0000000000000028 0000012d 00000000 02 fcbd8f31 0000 00000005 0000018bcfe56800 "
    "0000018bcfe67970 0000000000000005 0006 00000007 00000004"
)
GOLDEN_BODY = (
    "2800e0c508020262086f6e6c790402680278026e010e000a060263010018001208010c6e6f206b65"
    "7900a003000e0a02619003" + b"third".hex() * 40 + "00"
)


@pytest.mark.parametrize("compression", CODEC_NAMES)
def test_a_filtered_batch(core: ModuleType, compression: str) -> None:
    batch = encode_batch(
        ROWS,
        compression=compression,
        base_offset=40,
        producer_id=5,
        producer_epoch=6,
        base_sequence=7,
    )
    [left], counts = filtered(batch)
    assert left is not None
    before, after = parse_header(batch), parse_header(left)
    assert (
        after._replace(batch_length=before.batch_length, crc=before.crc, record_count=6) == before
    )
    assert after.record_count == 4
    assert [r for r in read(bytes(batch)) if r.offset in (41, 43, 44, 45)] == read(left)
    assert (counts.superseded, counts.expired, counts.horizon_ms) == (2, 0, NEVER)
    body, spans = spans_of(before, bytes(batch))
    kept = b"".join(body[s[0] : s[1]] for s in spans if s[4] in (1, 3, 4, 5))
    assert spans_of(after, left)[0][-len(kept) :] == kept  # the very bytes that they were
    read_by_others(left)
    assert bytes(spans_of(after, left)[0])[-len(kept) :].hex() == GOLDEN_BODY
    if compression == "none":
        assert left[:HEADER_BYTES].hex() == GOLDEN_HEADER.replace(" ", "")


def test_the_layout_by_hand(core: ModuleType) -> None:
    rows = [(1000, b"k", b"1", ()), (1001, b"k", b"2", ())]
    [left], _ = filtered(encode_batch(rows, base_offset=9))
    assert left is not None
    assert left[:8] == (9).to_bytes(8, "big")
    assert left[8:12] == (49 + 9).to_bytes(4, "big")
    assert left[21:61] == (
        bytes.fromhex("0000 00000001")  # no attributes; it still spans two offsets
        + (1000).to_bytes(8, "big")  # base timestamp
        + (1001).to_bytes(8, "big")  # of what stays
        + bytes.fromhex("ffffffffffffffff ffff ffffffff")
        + bytes.fromhex("00000001")
    )
    assert left[61:] == bytes.fromhex("10 00 02 02 02 6b 02 32 00")


def test_a_tombstone_gets_its_horizon(core: ModuleType) -> None:
    """KIP-534: bit 6, the base timestamp, and all deltas anew."""
    for compression in CODEC_NAMES:
        batch = encode_batch(ROWS, compression=compression, base_offset=40)
        [left], counts = filtered(batch, retention_ms=86_400_000)
        assert left is not None
        after = parse_header(left)
        assert after.attributes == parse_header(batch).attributes | 0x40
        assert after.delete_horizon_ms == after.base_timestamp == NOW + 86_400_000
        assert counts.horizon_ms == after.base_timestamp
        assert [r for r in read(bytes(batch)) if r.offset in (41, 43, 44, 45)] == read(left)
        assert after.max_timestamp == NOW + 70_000
        read_by_others(left)
        # It keeps it, and goes when that is over.
        again, counts = filtered(left, now_ms=NOW + 86_399_999, retention_ms=1)
        assert again == [left]
        assert counts.horizon_ms == after.base_timestamp
        [rest], counts = filtered(left, now_ms=NOW + 86_400_000, retention_ms=1)
        assert rest is not None
        assert [r.offset for r in read(rest)] == [41, 44, 45]
        assert (counts.expired, counts.horizon_ms) == (1, NEVER)
        assert parse_header(rest).base_timestamp == after.base_timestamp
        read_by_others(rest)


def test_log_append_time_stays(core: ModuleType) -> None:
    batch = encode_batch(ROWS, log_append_time_ms=NOW + 1)
    [left], _ = filtered(batch, retention_ms=5)
    assert left is not None
    assert {r.timestamp for r in read(left)} == {NOW + 1}
    assert parse_header(left).max_timestamp == NOW + 1
    read_by_others(left)


# -- what stays as it is ----------------------------------------------------------------


def test_what_is_not_touched_is_the_same_object(core: ModuleType) -> None:
    rows = [(NOW, None, b"v", ()), (NOW, b"k", b"v", ())]
    for batch in (
        encode_batch(rows, compression="gzip"),
        encode_batch(rows, is_control=True),
        encode_batch([(NOW, b"k", None, ())]),
    ):
        header, data = parse_header(batch), bytes(batch)
        dirty = Dirty(KeyMap(1 << 16, 0, 10), 0)
        dirty.take(header, data)
        one = Filter(dirty, end=2, now_ms=NOW, delete_retention_ms=NEVER)
        assert one.pass_on(header, data) is data


def test_nothing_is_left_of_some(core: ModuleType) -> None:
    one = encode_batch([(NOW, b"k", b"1", ())])
    two = encode_batch([(NOW, b"k", b"2", ())], base_offset=1)
    assert filtered(one, two)[0] == [None, bytes(two)]
    assert filtered(empty_batch(0, 3, NOW), encode_batch(ROWS, base_offset=4))[0][0] is None


def test_of_a_producer_an_empty_batch_is_left(core: ModuleType) -> None:
    """With a codec it had: nothing is not compressed, which others could not read."""
    fields = {"producer_id": 3, "producer_epoch": 1, "base_sequence": 9}
    one = encode_batch([(NOW, b"k", b"1", ())] * 2, compression="zstd", **fields)  # type: ignore[arg-type]
    two = encode_batch([(NOW, b"k", b"2", ())], base_offset=2)
    [left, _], _ = filtered(one, two, last_batches={3: 0})
    assert left is not None
    header = parse_header(left)
    assert (len(left), header.record_count, header.last_offset_delta) == (HEADER_BYTES, 0, 1)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (3, 1, 9)
    assert (header.compression, header.max_timestamp) == ("none", NOW)
    read_by_others(left)
    assert filtered(left, two, last_batches={3: 0})[0][0] == left
    # Where it is not known which is the last, it stays.
    assert filtered(left, two)[0][0] == filtered(one, two)[0][0] == left
    # The producer has gone on, or was forgotten.
    for last_batches in ({3: 3}, {}):
        assert filtered(left, two, last_batches=last_batches)[0][0] is None
        assert filtered(one, two, last_batches=last_batches)[0][0] is None


def test_beyond_the_end_everything_stays(core: ModuleType) -> None:
    one = encode_batch([(NOW, b"k", b"1", ())])
    two = encode_batch([(NOW, b"k", None, ())], base_offset=1)
    assert filtered(one, two, end=1, retention_ms=5)[0] == [bytes(one), bytes(two)]


def test_timestamps_that_no_delta_reaches_get_no_horizon(core: ModuleType) -> None:
    early = encode_batch([(-(2**61), b"k", None, ())])
    assert filtered(early, retention_ms=2**61 - NOW - 1)[0] != [bytes(early)]
    assert filtered(early, retention_ms=2**61)[0] == [bytes(early)]


@given(junk=st.binary(min_size=7, max_size=60), count=st.integers(0, 8))
def test_what_readers_cannot_read_is_not_looked_into(junk: bytes, count: int) -> None:
    """Both decoders take the same batches."""
    batch = bytearray(encode_batch([(NOW, b"k", b"v", ())])[:HEADER_BYTES]) + junk
    header = parse_header(batch)._replace(
        batch_length=len(batch) - 12, record_count=count, last_offset_delta=7
    )
    for each in _cores():
        try:
            decoded = each.decode_records(
                bytes(batch), 61, len(batch), count, "t", 0, 0, 7, NOW, Record
            )
        except ValueError as error:
            with pytest.raises(ValueError, match=re.escape(str(error))):
                each.record_spans(bytes(batch), 61, len(batch), count, 7)
            continue
        spans = each.record_spans(bytes(batch), 61, len(batch), count, 7)
        assert [(r.offset, r.timestamp - NOW, r.key, r.value is not None) for r in decoded] == [
            (s[4], s[2], s[5], s[6]) for s in spans
        ]
    with pytest.raises(RecordsUnreadable):
        spans_of(header._replace(attributes=5, base_timestamp=NOW), bytes(batch))
