"""Record batches: golden bytes, other implementations, broken and hostile bytes.

What touches the loops per record runs twice: with the pure-Python core and with the
compiled one, where it was built.
"""

from __future__ import annotations

import importlib
import json
import os
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import aiokafka.record.default_records as aiokafka_records
import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall.wal import codec, records
from seawall.wal.compression import CODEC_NAMES, MAX_DECOMPRESSED_BYTES, compress
from seawall.wal.errors import BatchInvalid, RecordsUnreadable
from seawall.wal.records import (
    HEADER_BYTES,
    BatchHeader,
    Record,
    RecordTuple,
    check_batch,
    decode_batch,
    empty_batch,
    encode_batch,
    estimate_size,
    parse_header,
    stamp,
)

with warnings.catch_warnings():  # it reads its resources in a way that is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    kafka_python_records = importlib.import_module("kafka.record.default_records")

NOW = 1_700_000_000_000
GOLDEN = Path(__file__).parents[1] / "golden" / "record_batches" / "record_batches.json"


def _cores() -> list[ModuleType]:
    try:
        return [codec, importlib.import_module("seawall.wal._codec")]
    except ImportError:
        return [codec]


CORES = _cores()
each_core = pytest.mark.parametrize("core", CORES, ids=["pure", "compiled"][: len(CORES)])


@contextmanager
def using(core: ModuleType) -> Iterator[None]:
    """Let ``records`` use that core. (A fixture would outlive Hypothesis' examples.)"""
    before = records.encode_records, records.decode_records
    records.encode_records, records.decode_records = core.encode_records, core.decode_records
    try:
        yield
    finally:
        records.encode_records, records.decode_records = before


def as_rows(decoded: list[Record]) -> list[RecordTuple]:
    return [(r.timestamp, r.key, r.value, tuple(r.headers)) for r in decoded]


def as_read(batch: bytes | bytearray, **options: Any) -> list[Record]:
    batch = bytes(batch)
    check_batch(batch, 0, len(batch))
    return decode_batch(batch, 0, "topic", 3, **options)


def resealed(batch: bytes | bytearray, body: bytes | None = None) -> bytes:
    """Return the batch with a right length and CRC, perhaps around another body."""
    out = bytearray(batch)
    if body is not None:
        out[HEADER_BYTES:] = body
    struct.pack_into(">i", out, 8, len(out) - 12)
    struct.pack_into(">I", out, 17, google_crc32c.value(bytes(out[21:])))
    return bytes(out)


def with_fields(batch: bytes | bytearray, **fields: int) -> bytes:
    """Return the batch with other header fields, and a right CRC."""
    out = bytearray(batch)
    struct.pack_into(">qiibIhiqqqhii", out, 0, *parse_header(out)._replace(**fields))
    struct.pack_into(">I", out, 17, google_crc32c.value(bytes(out[21:])))
    return bytes(out)


nullable = st.none() | st.binary(max_size=300)
rows = st.tuples(
    st.one_of(
        st.integers(NOW, NOW + 100),
        st.integers(NOW - 10**5, NOW + 10**5),
        st.integers(-(2**61), 2**61 - 1),
    ),
    nullable,
    nullable,
    st.just(()) | st.lists(st.tuples(st.text(max_size=20), nullable), max_size=3).map(tuple),
)
many_rows = st.lists(rows, min_size=1, max_size=20)

# --- bytes written by hand and by Kafka --------------------------------------------------


@each_core
def test_layout_by_hand(core: ModuleType) -> None:
    """Written by hand from the description of the format in Kafka's documentation."""
    body = bytes.fromhex(
        "20"  # record length 16
        "00"  # attributes
        "00"  # timestamp delta 0
        "00"  # offset delta 0
        "02 6b"  # key of 1 byte
        "04 7631"  # value of 2 bytes
        "04"  # 2 headers
        "02 68 02 31"  # "h": 1 byte
        "02 68 01"  # "h": null
        "14"  # record length 10
        "00"  # attributes
        "d00f"  # timestamp delta 1000 ms
        "02"  # offset delta 1
        "01"  # null key
        "06 616263"  # value of 3 bytes
        "00"  # no headers
    )
    checked = bytes.fromhex(
        "0000"  # attributes: no compression, CreateTime
        "00000001"  # last offset delta
        "0000018bcfe56800"  # base timestamp 1,700,000,000,000
        "0000018bcfe56be8"  # max timestamp, 1000 later
        "ffffffffffffffff ffff ffffffff"  # no producer
        "00000002"  # record count
    )
    expected = (
        bytes.fromhex("000000000000002a")  # base offset 42
        + struct.pack(">i", 4 + 1 + 4 + len(checked) + len(body))
        + bytes.fromhex("00000007 02")  # leader epoch, magic
        + struct.pack(">I", google_crc32c.value(checked + body))
        + checked
        + body
    )
    with using(core):
        batch = encode_batch(
            [(NOW, b"k", b"v1", [("h", b"1"), ("h", None)]), (NOW + 1000, None, b"abc", ())]
        )
        stamp(batch, 42, 7)
        assert batch.hex() == expected.hex()
        assert as_read(batch) == [
            Record("topic", 3, 42, NOW, b"k", b"v1", [("h", b"1"), ("h", None)]),
            Record("topic", 3, 43, NOW + 1000, None, b"abc", ()),
        ]


KAFKA_FEW: list[RecordTuple] = [
    (NOW, None, b"hello", ()),
    (NOW + 5, b"k", None, (("h", b"v"), ("h", None))),
    (NOW - 3, b"", b"", (("é", b""),)),
]
KAFKA_ALL: list[RecordTuple] = [
    *KAFKA_FEW,
    (NOW + 100_000, b"k" * 100, b"seawall " * 1200, ()),
    (NOW + 100_000, None, None, ()),
    *((NOW + number, None, b"value %d" % number, ()) for number in range(5, 70)),
]


def kafka_batch(name: str) -> bytes:
    """A batch written by Apache Kafka's Java code; see the README beside the file."""
    return bytes.fromhex(json.loads(GOLDEN.read_text())[name])


@each_core
@pytest.mark.parametrize("name", CODEC_NAMES)
def test_kafka_batches_are_read(core: ModuleType, name: str) -> None:
    batch = kafka_batch(name)
    with using(core):
        decoded = as_read(batch)
    assert as_rows(decoded) == KAFKA_ALL
    assert [record.offset for record in decoded] == list(range(42, 112))
    header = parse_header(batch)
    assert header.compression == name
    assert (header.size_bytes, header.next_offset) == (len(batch), 112)
    assert (header.leader_epoch, header.producer_id) == (5, -1)
    assert (header.base_timestamp, header.max_timestamp) == (NOW, NOW + 100_000)


@each_core
def test_what_is_written_is_what_kafka_writes(core: ModuleType) -> None:
    with using(core):
        written = {
            "none": encode_batch(KAFKA_ALL),
            "log append time": encode_batch(KAFKA_FEW, log_append_time_ms=NOW + 7777),
            "transactional": encode_batch(
                KAFKA_FEW,
                producer_id=4000,
                producer_epoch=3,
                base_sequence=17,
                is_transactional=True,
            ),
            "commit marker": encode_batch(
                [(NOW, bytes.fromhex("00000001"), bytes.fromhex("000000000009"), ())],
                producer_id=4000,
                producer_epoch=3,
                is_transactional=True,
                is_control=True,
            ),
            "empty": empty_batch(0, 9, NOW),
        }
    for name, batch in written.items():
        stamp(batch, 42, 5)
        assert (name, batch.hex()) == (name, kafka_batch(name).hex())


def test_attribute_bits() -> None:
    plain = parse_header(kafka_batch("none"))
    marker = parse_header(kafka_batch("commit marker"))
    appended = parse_header(kafka_batch("log append time"))
    assert not plain.is_control
    assert not plain.is_transactional
    assert not plain.is_log_append_time
    assert marker.is_control
    assert marker.is_transactional
    assert appended.is_log_append_time
    assert {r.timestamp for r in as_read(kafka_batch("log append time"))} == {NOW + 7777}
    assert plain._replace(attributes=6).compression == "unknown (6)"


# --- other implementations ---------------------------------------------------------------


def foreign_rows(batch: Any) -> list[RecordTuple]:
    return [(r.timestamp, r.key, r.value, tuple(r.headers)) for r in batch]


OTHERS = pytest.mark.parametrize(
    "other", [aiokafka_records, kafka_python_records], ids=["aiokafka", "kafka-python"]
)
foreign_timestamps = st.lists(
    st.tuples(st.integers(0, 2**50), nullable, nullable, rows.map(lambda row: row[3])),
    min_size=1,
    max_size=20,
)


@OTHERS
@each_core
@given(rows=foreign_timestamps)
def test_against_another_implementation(
    core: ModuleType, other: Any, rows: list[RecordTuple]
) -> None:
    builder = other.DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=1,
        producer_id=77,
        producer_epoch=2,
        base_sequence=9,
        batch_size=1 << 24,
    )
    for offset, (timestamp, key, value, headers) in enumerate(rows):
        assert builder.append(offset, timestamp, key, value, list(headers))
    theirs = bytearray(builder.build())
    stamp(theirs, 0, 0)
    with using(core):
        ours = encode_batch(
            rows, producer_id=77, producer_epoch=2, base_sequence=9, is_transactional=True
        )
        assert ours == theirs
        assert as_rows(as_read(theirs)) == rows
    read = other.DefaultRecordBatch(bytes(ours))
    assert read.validate_crc()
    assert foreign_rows(read) == rows


@pytest.mark.parametrize("code", [1, 2, 3, 4], ids=CODEC_NAMES[1:])
@settings(max_examples=25)
@given(rows=foreign_timestamps)
def test_compressed_against_aiokafka(code: int, rows: list[RecordTuple]) -> None:
    rows = [*rows, (NOW, None, b"compress me " * 9000, ())]  # more than one block
    builder = aiokafka_records.DefaultRecordBatchBuilder(
        magic=2,
        compression_type=code,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 24,
    )
    for offset, (timestamp, key, value, headers) in enumerate(rows):
        assert builder.append(offset, timestamp, key, value, list(headers))
    assert as_rows(as_read(builder.build())) == rows
    read = aiokafka_records.DefaultRecordBatch(
        bytes(encode_batch(rows, compression=CODEC_NAMES[code]))
    )
    assert read.validate_crc()
    assert foreign_rows(read) == rows


# --- round trips -------------------------------------------------------------------------


@each_core
@given(
    rows=many_rows,
    compression=st.sampled_from(CODEC_NAMES),
    base_offset=st.integers(0, 2**63 - 100),
    epoch=st.integers(-1, 2**31 - 1),
    is_control=st.booleans(),
)
def test_round_trip(
    core: ModuleType,
    rows: list[RecordTuple],
    compression: str,
    base_offset: int,
    epoch: int,
    is_control: bool,
) -> None:
    with using(core):
        batch = encode_batch(rows, compression=compression, is_control=is_control)
        stamp(batch, base_offset, epoch)
        decoded = as_read(batch)
    assert as_rows(decoded) == rows
    assert [r.offset for r in decoded] == list(range(base_offset, base_offset + len(rows)))
    assert {(type(r), r.topic, r.partition) for r in decoded} == {(Record, "topic", 3)}
    header = parse_header(batch)
    assert header.compression == compression
    assert header.is_control == is_control
    assert header.max_timestamp == max(row[0] for row in rows)
    assert header.base_timestamp == rows[0][0]


@given(rows=many_rows)
def test_cores_write_the_same(rows: list[RecordTuple]) -> None:
    written = []
    for core in CORES:
        out = bytearray(b"in front")
        written.append((core.encode_records(out, rows), bytes(out)))
    assert written == written[:1] * len(CORES)


@each_core
@pytest.mark.parametrize("size", [0, 1, 63, 64, 8191, 8192, 1 << 20, (1 << 20) - 1])
def test_lengths_around_the_varint_sizes(core: ModuleType, size: int) -> None:
    rows: list[RecordTuple] = [(NOW, b"k" * size, b"v" * size, (("h" * size, b"x" * size),))]
    with using(core):
        assert as_rows(as_read(encode_batch(rows))) == rows


@each_core
def test_offset_deltas_around_the_varint_sizes(core: ModuleType) -> None:
    rows: list[RecordTuple] = [(NOW, None, b"", ())] * 20_000
    with using(core):
        batch = encode_batch(rows, base_offset=5)
        assert [record.offset for record in as_read(batch)] == list(range(5, 20_005))


@each_core
@pytest.mark.parametrize("exponent", [5, 6, 7, 12, 13, 14, 20, 27, 34, 41, 48, 55, 60])
def test_timestamp_deltas_around_the_varint_sizes(core: ModuleType, exponent: int) -> None:
    steps = [0, *(s * ((1 << exponent) + d) for s in (1, -1) for d in (-1, 0, 1))]
    rows: list[RecordTuple] = [(step, None, b"", ()) for step in steps]
    with using(core):
        assert as_rows(as_read(encode_batch(rows))) == rows


@each_core
def test_min_offset(core: ModuleType) -> None:
    with using(core):
        batch = encode_batch([(NOW, None, b"%d" % i, ()) for i in range(10)], base_offset=100)
        for start in (0, 99, 100, 101, 105, 109, 110):
            offsets = [r.offset for r in as_read(batch, min_offset=start)]
            assert offsets == list(range(max(start, 100), 110))


@each_core
def test_batch_amid_others(core: ModuleType) -> None:
    batches = [bytes(encode_batch([(NOW, None, b"v%d" % i, ())])) for i in range(3)]
    buffer = b"".join(batches)
    position = 0
    with using(core):
        for number, batch in enumerate(batches):
            header = check_batch(buffer, position, len(buffer) - position)
            (record,) = decode_batch(buffer, position, "topic", 0)
            assert record.value == b"v%d" % number
            assert header.size_bytes == len(batch)
            position += header.size_bytes
    assert position == len(buffer)


@each_core
def test_values_that_are_batches(core: ModuleType) -> None:
    with using(core):
        inner = bytes(encode_batch(KAFKA_FEW, base_offset=7))
        batch = bytes(encode_batch([(NOW, inner, inner, (("h", inner),))] * 3))
        for record in as_read(batch):
            assert (record.key, record.value, record.headers) == (inner, inner, [("h", inner)])
            assert as_rows(as_read(inner)) == KAFKA_FEW
        # that a value is a whole, valid batch must not be taken for the log's own
        assert check_batch(batch, batch.index(inner), len(inner)).base_offset == 7


@each_core
def test_header_keys_that_are_not_utf8_come_back_as_they_were(core: ModuleType) -> None:
    with using(core):
        batch = bytes(encode_batch([(NOW, None, b"", (("ab", b"x"),))]))
        foreign = resealed(batch, batch[HEADER_BYTES:].replace(b"ab", b"\xff\xfe"))
        rows = as_rows(as_read(foreign))
        assert rows == [(NOW, None, b"", (("\udcff\udcfe", b"x"),))]
        assert encode_batch(rows) == foreign


@each_core
@given(row=rows)
def test_estimate_is_an_upper_bound(core: ModuleType, row: RecordTuple) -> None:
    with using(core):
        far: RecordTuple = (row[0] - 2**61 if row[0] >= 0 else row[0] + 2**61, None, None, ())
        two, one = encode_batch([far, row]), encode_batch([far])
    assert len(two) - len(one) <= estimate_size(*row[1:])


@each_core
def test_what_cannot_be_written(core: ModuleType) -> None:
    with using(core):
        with pytest.raises(ValueError, match="at least one record"):
            encode_batch([])
        with pytest.raises(ValueError, match="unknown compression 'brotli'"):
            encode_batch([(NOW, None, b"", ())], compression="brotli")
        for timestamp in (2**61, -(2**61) - 1, 2**63, -(2**70)):
            with pytest.raises(ValueError, match="timestamp"):
                encode_batch([(timestamp, None, b"", ())])
            with pytest.raises(ValueError, match="timestamp"):
                encode_batch([(NOW, None, b"", ()), (timestamp, None, b"", ())])
        wrong: list[Any] = ["text", bytearray(b"x"), memoryview(b"x"), 7, [1, 2]]
        for content in wrong:
            with pytest.raises(TypeError, match="key is bytes or None"):
                encode_batch([(NOW, content, b"", ())])
            with pytest.raises(TypeError, match="value is bytes or None"):
                encode_batch([(NOW, b"", content, ())])
            with pytest.raises(TypeError, match="header's value is bytes or None"):
                encode_batch([(NOW, b"", b"", [("h", content)])])
        with pytest.raises(TypeError, match="header's key is str"):
            encode_batch([(NOW, b"", b"", [(b"h", b"")])])  # type: ignore[list-item]
        for first in (NOW, 1.5):
            with pytest.raises(TypeError, match="timestamp is int"):
                encode_batch([(first, b"", b"", ()), (1.5, b"", b"", ())])  # type: ignore[list-item]


def test_what_could_not_be_read_is_not_written() -> None:
    too_large: list[RecordTuple] = [(NOW, None, bytes(MAX_DECOMPRESSED_BYTES), ())]
    with pytest.raises(ValueError, match="more than a compressed batch may hold"):
        encode_batch(too_large, compression="zstd")


# --- valid or not ------------------------------------------------------------------------

BATCH = bytes(encode_batch(KAFKA_FEW, base_offset=1000))


def test_valid_with_trailing_bytes() -> None:
    for behind in (b"\0", bytes(100), BATCH, b"junk" * 50):
        buffer = b"junk" + BATCH + behind
        assert check_batch(buffer, 4, len(buffer) - 4) == parse_header(BATCH)


def test_truncated_at_every_length() -> None:
    for size in range(len(BATCH)):
        with pytest.raises(BatchInvalid, match=r"less than a header|that are left"):
            check_batch(BATCH[:size], 0, size)
        with pytest.raises(BatchInvalid, match=r"less than a header|that are left"):
            check_batch(BATCH, 0, size)
        with pytest.raises(BatchInvalid):
            check_batch(BATCH[:size], 0, len(BATCH))


def test_every_byte_flipped() -> None:
    """Base offset and leader epoch lie outside the CRC; every other bit is protected."""
    for position in range(len(BATCH)):
        for bit in range(8):
            flipped = bytearray(BATCH)
            flipped[position] ^= 1 << bit
            if position < 8 and (position, bit) != (0, 7):
                header = check_batch(bytes(flipped), 0, len(flipped))
                assert header.base_offset != 1000
            elif 12 <= position < 16:
                header = check_batch(bytes(flipped), 0, len(flipped))
                assert header.leader_epoch != 0
            else:
                with pytest.raises(BatchInvalid):
                    check_batch(bytes(flipped), 0, len(flipped))


@pytest.mark.parametrize("size", [0, 60, 61, 62, 1000])
def test_zero_bytes_are_not_valid(size: int) -> None:
    with pytest.raises(BatchInvalid):
        check_batch(bytes(size), 0, size)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"base_offset": -1}, "base offset -1 is negative"),
        ({"magic": 1}, "magic is 1"),
        ({"magic": 3}, "magic is 3"),
        ({"batch_length": 48}, "length 48 is less than a header"),
        ({"batch_length": -1}, "length -1 is less than a header"),
        ({"batch_length": 2**31 - 1}, "that are left"),
        ({"record_count": 4}, "4 records for 3 offsets"),
        ({"record_count": -1}, "-1 records for 3 offsets"),
        ({"last_offset_delta": -1}, "last offset delta -1 is out of range"),
        ({"last_offset_delta": -1, "record_count": 0}, "last offset delta -1 is out of range"),
        ({"base_offset": 2**63 - 1}, "last offset delta 2 is out of range"),
    ],
)
def test_right_crc_and_yet_invalid(fields: dict[str, int], reason: str) -> None:
    batch = with_fields(BATCH, **fields)
    with pytest.raises(BatchInvalid, match=reason) as caught:
        check_batch(batch, 0, len(batch))
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("count", "last_offset_delta", "valid", "valid_dense"),
    [
        (0, 0, True, False),
        (0, 9, True, False),
        (3, 2, True, True),
        (3, 9, True, False),
        (1, 9, True, False),
        (4, 2, False, False),
        (-1, 9, False, False),
    ],
)
def test_count_and_delta(
    count: int, last_offset_delta: int, valid: bool, valid_dense: bool
) -> None:
    batch = with_fields(BATCH, record_count=count, last_offset_delta=last_offset_delta)
    for dense, expected in ((False, valid), (True, valid_dense)):
        if expected:
            check_batch(batch, 0, len(batch), dense=dense)
        else:
            with pytest.raises(BatchInvalid):
                check_batch(batch, 0, len(batch), dense=dense)


@given(junk=st.binary(max_size=200), position=st.integers(0, 220))
def test_random_bytes_are_refused_by_name(junk: bytes, position: int) -> None:
    with pytest.raises(BatchInvalid):
        check_batch(junk, position, len(junk) - position)
    try:
        assert isinstance(parse_header(junk, position), BatchHeader)
    except BatchInvalid:
        pass


def test_stamp_leaves_the_crc_right() -> None:
    batch = bytearray(BATCH)
    stamp(batch, 2**62, 2**31 - 1)
    header = check_batch(bytes(batch), 0, len(batch))
    assert (header.base_offset, header.leader_epoch) == (2**62, 2**31 - 1)
    assert batch[16:] == BATCH[16:]


# --- valid, but its records do not parse -------------------------------------------------

RECORD = bytes.fromhex("0e 00 00 00 01 02 76 00")  # length 7: null key, value "v"


def batch_of(body: bytes, count: int = 1) -> bytes:
    plain = encode_batch([(NOW, None, b"", ())] * count, base_offset=50)
    return resealed(plain, body)


@each_core
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "do not fit"),
        ("0e 00 00 00 01 02", "do not fit"),
        ("0e 00 00 00 01 02 76 00 00", "bytes are left behind"),
        ("10 00 00 00 01 02 76 00", "length does not fit"),
        ("0d 00 00 00 01 02 76 00", "length does not fit"),
        ("80 80 80 80 80 80 80 80 80 00", "longer than 9 bytes"),
        ("ff ff ff ff ff ff ff ff ff ff", "longer than 9 bytes"),
        ("0e 00 00 02 01 02 76 00", "offset is not one"),
        ("0e 00 00 01 01 02 76 00", "offset is not one"),
        ("0e 00 00 00 01 04 76 00", "ends early|do not fill"),
        ("0e 00 00 00 04 02 76 00", "ends early|do not fill"),
        ("0e 00 00 00 01 fe ff ff ff 0f", "ends early|do not fill|does not fit"),
        ("0c 00 00 00 01 02 76 00", "do not fill"),
        ("0e 00 00 00 01 02 76 01", "header count"),
        ("0e 00 00 00 01 02 76 02", "header count|ends early"),
        ("12 00 00 00 01 02 76 02 01 00", "header key's length"),
        ("12 00 00 00 01 02 76 02 10 00", "header key's length"),
        ("12 00 00 00 01 02 76 02 00 10", "do not fill"),
        ("10 00 00 00 01 02 76 00 00", "do not fill"),
    ],
)
def test_malformed_records(core: ModuleType, body: str, reason: str) -> None:
    batch = batch_of(bytes.fromhex(body))
    assert check_batch(batch, 0, len(batch)).record_count == 1
    with using(core), pytest.raises(RecordsUnreadable, match=reason) as caught:
        decode_batch(batch, 0, "topic", 3)
    assert (caught.value.offset, caught.value.next_offset) == (50, 51)


@each_core
def test_null_lengths_and_attributes_are_lenient_as_kafka_is(core: ModuleType) -> None:
    """Kafka takes every negative length for null, and ignores the record's attributes."""
    with using(core):
        assert as_rows(as_read(batch_of(RECORD))) == [(NOW, None, b"v", ())]
        lenient = bytes.fromhex("0c ff 00 00 03 05 00")
        assert as_rows(as_read(batch_of(lenient))) == [(NOW, None, None, ())]


@each_core
def test_offsets_must_increase(core: ModuleType) -> None:
    with using(core):
        first, second = RECORD, RECORD[:3] + b"\x02" + RECORD[4:]
        assert len(as_read(batch_of(first + second, count=2))) == 2
        for body in (first + first, second + first, second + second):
            with pytest.raises(RecordsUnreadable, match="offset is not one"):
                as_read(batch_of(body, count=2))


@each_core
def test_compacted_batch_keeps_its_offsets(core: ModuleType) -> None:
    rows = [RECORD[:3] + bytes((delta * 2,)) + RECORD[4:] for delta in (1, 4, 8)]
    batch = with_fields(batch_of(b"".join(rows), count=3), last_offset_delta=9)
    with using(core):
        assert check_batch(batch, 0, len(batch)).next_offset == 60
        decoded = decode_batch(batch, 0, "topic", 3)
        assert [record.offset for record in decoded] == [51, 54, 58]
        decoded = decode_batch(batch, 0, "topic", 3, min_offset=54)
        assert [record.offset for record in decoded] == [54, 58]


@each_core
def test_count_is_compared_with_the_bytes_before_anything_is_built(core: ModuleType) -> None:
    count = 2**31 - 1
    batch = with_fields(BATCH, record_count=count, last_offset_delta=count - 1)
    assert check_batch(batch, 0, len(batch)).record_count == count
    with using(core), pytest.raises(RecordsUnreadable, match="do not fit"):
        decode_batch(batch, 0, "topic", 3)


@each_core
def test_base_timestamp_out_of_range(core: ModuleType) -> None:
    for timestamp in (2**62, -(2**62) - 1, 2**63 - 1):
        batch = with_fields(BATCH, base_timestamp=timestamp)
        with using(core), pytest.raises(RecordsUnreadable, match="timestamp"):
            decode_batch(batch, 0, "topic", 3)


@each_core
@pytest.mark.parametrize("attributes", [5, 6, 7])
def test_unknown_codec(core: ModuleType, attributes: int) -> None:
    batch = with_fields(BATCH, attributes=attributes)
    check_batch(batch, 0, len(batch))
    with using(core), pytest.raises(RecordsUnreadable, match="unknown compression"):
        decode_batch(batch, 0, "topic", 3)


@pytest.mark.parametrize("code", [1, 2, 3, 4], ids=CODEC_NAMES[1:])
def test_compressed_junk_and_bombs(code: int) -> None:
    bomb = compress(code, bytes(MAX_DECOMPRESSED_BYTES + 1))
    for body, reason in ((b"junk", "."), (bomb, "decompress to more than 67108864 bytes")):
        batch = resealed(with_fields(BATCH, attributes=code), body)
        check_batch(batch, 0, len(batch))
        with pytest.raises(RecordsUnreadable, match=reason):
            decode_batch(batch, 0, "topic", 3)


def test_empty_batch() -> None:
    batch = bytes(empty_batch(7, 4, NOW))
    header = check_batch(batch, 0, len(batch))
    assert (header.base_offset, header.next_offset, header.max_timestamp) == (7, 12, NOW)
    assert len(batch) == HEADER_BYTES
    assert decode_batch(batch, 0, "topic", 3) == []


def outcomes(body: bytes, count: int, *rest: Any) -> list[Any]:
    """What each core makes of these bytes: the records, or the sentence."""
    found: list[Any] = []
    for core in CORES:
        try:
            found.append(core.decode_records(body, 0, len(body), count, "t", 0, *rest, Record))
        except ValueError as error:
            found.append(str(error))
    return found


mutations = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=3)


@settings(max_examples=120)
@given(rows=many_rows, changes=mutations, cut=st.integers(0, 3))
def test_cores_agree_on_mutated_records(
    rows: list[RecordTuple], changes: list[tuple[int, int]], cut: int
) -> None:
    body = bytearray()
    CORES[0].encode_records(body, rows)
    for place, byte in changes:
        body[place % len(body)] = byte
    content = bytes(body[: len(body) - cut])
    found = outcomes(content, len(rows), 5, len(rows) - 1, rows[0][0])
    assert found == found[:1] * len(CORES)


@settings(max_examples=120)
@given(body=st.binary(max_size=100), count=st.integers(0, 5))
def test_random_records_are_refused_by_name(body: bytes, count: int) -> None:
    found = outcomes(body, count, 5, max(0, count - 1), NOW)
    assert found == found[:1] * len(CORES)
    if count:
        batch = batch_of(body, count)
        for core in CORES:
            with using(core):
                try:
                    as_read(batch)
                except RecordsUnreadable:
                    pass


def test_records_truncated_at_every_length() -> None:
    body = BATCH[HEADER_BYTES:]
    for size in range(len(body)):
        found = outcomes(body[:size], 3, 0, 2, NOW)
        assert found == found[:1] * len(CORES)
        assert isinstance(found[0], str)
        batch = resealed(BATCH, body[:size])
        with pytest.raises(RecordsUnreadable):
            as_read(batch)


# --- which core --------------------------------------------------------------------------


def test_the_compiled_core_has_its_c_types() -> None:
    """Without seawall.wal._codec.pxd it would still compile, and be three times as slow."""
    if len(CORES) == 1:
        pytest.skip("the compiled core was not built")
    assert not hasattr(CORES[1], "_decode_varint"), "what the .pxd declares cdef is not visible"


@pytest.mark.parametrize("value", ["1", ""])
def test_pure_python_can_be_forced(value: str) -> None:
    code = "import seawall.wal.records as r; print(r.IS_COMPILED, r.encode_records.__module__)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SEAWALL_PURE_PYTHON": value},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    is_compiled = not value and len(CORES) == 2
    name = "seawall.wal._codec" if is_compiled else "seawall.wal.codec"
    assert result.stdout.split() == [str(is_compiled), name]
