"""A record as JSON and back: nothing is lost, nothing malformed is taken."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.cli.jsonlines import Fields, NotARecord, from_line, to_line
from seawall.wal.records import Record

HALF = "\udc80"  # a byte that is not UTF-8, as the codec reads it in a header's name


def record(
    value: bytes | None = b"v",
    key: bytes | None = None,
    headers: list[tuple[str, bytes | None]] | None = None,
) -> Record:
    return Record("orders", 1, 17, 1_767_225_600_000, key, value, headers or ())


data = st.none() | st.binary() | st.text().map(str.encode)
names = st.text(alphabet=st.characters(codec="utf-8") | st.just(HALF))
records = st.builds(
    Record,
    topic=st.just("orders"),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    timestamp=st.integers(-1, 2**63 - 1),
    key=data,
    value=data,
    headers=st.lists(st.tuples(names, data)),
)


@given(records)
def test_nothing_is_lost(one: Record) -> None:
    line = to_line(one)
    assert b"\n" not in line
    back = from_line(line)
    assert (back.key, back.value, back.timestamp) == (one.key, one.value, one.timestamp)
    assert (list(back.headers), back.partition) == (list(one.headers), one.partition)
    assert json.loads(line)["offset"] == one.offset


def test_text_is_readable() -> None:
    line = to_line(record("grün\u2028".encode(), b"k", [("type", b"pay"), ("type", None)]))
    assert line.decode() == (
        '{"topic":"orders","partition":1,"offset":17,"timestamp":1767225600000,"key":"k",'
        '"value":"grün\u2028","headers":[{"name":"type","value":"pay"},'
        '{"name":"type","value":null}]}'
    )


def test_bytes_are_base64_under_another_name() -> None:
    found = json.loads(to_line(record(b"\xff\x00", b"\xfe", [("h", b"\xfd")])))
    assert found["value_base64"] == "/wA="
    assert found["key_base64"] == "/g=="
    assert found["headers"] == [{"name": "h", "value_base64": "/Q=="}]
    assert "value" not in found
    assert "key" not in found


def test_null_is_not_empty() -> None:
    assert from_line(to_line(record(None, None))).value is None
    assert from_line(to_line(record(b"", b""))).value == b""
    assert from_line(to_line(record(b"", b""))).key == b""
    assert from_line(b'{"value_base64": ""}').value == b""


def test_only_the_value_must_be_there() -> None:
    assert from_line(b' {"value": "x"}\r') == Fields(b"x", None, (), None, None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"value": "x"} {}', "Extra data at column"),
        (b"\xff", "not UTF-8 at byte 0"),
        ('{"value": "x"}'.encode("utf-16"), "not UTF-8"),
        ('\ufeff{"value": "x"}'.encode(), "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b"{}", 'neither "value" nor "value_base64"'),
        (b'{"key": "x"}', 'neither "value" nor "value_base64"'),
        (b'{"value": 1}', '"value" is neither a string nor null'),
        (b'{"value": {}}', '"value" is neither a string nor null'),
        (b'{"value": "\\ud800"}', "half a surrogate pair"),
        (b'{"value": "x", "value_base64": "eA=="}', 'both "value" and'),
        (b'{"value": null, "value_base64": "eA=="}', 'both "value" and'),
        (b'{"value_base64": null}', "not a string"),
        (b'{"value_base64": "eA"}', "not base64"),
        (b'{"value_base64": "e A=="}', "not base64"),
        (b'{"value_base64": "\xc3\xa9"}', "not base64"),
        (b'{"value": "x", "key": 1}', '"key" is neither a string nor null'),
        (b'{"vaule": "x"}', "unknown field 'vaule'"),
        (b'{"value": "x", "timestamp": "1"}', '"timestamp" is not an integer'),
        (b'{"value": "x", "timestamp": 1.5}', '"timestamp" is not an integer'),
        (b'{"value": "x", "timestamp": true}', '"timestamp" is not an integer'),
        (b'{"value": "x", "timestamp": -2}', '"timestamp" is not an integer'),
        (b'{"value": "x", "timestamp": 9223372036854775808}', '"timestamp" is not an integer'),
        (b'{"value": "x", "partition": -1}', '"partition" is not an integer'),
        (b'{"value": "x", "headers": {}}', '"headers" is not a list'),
        (b'{"value": "x", "headers": ["a"]}', 'not an object with a "name"'),
        (b'{"value": "x", "headers": [{"value": "a"}]}', 'not an object with a "name"'),
        (b'{"value": "x", "headers": [{"name": "a", "val": "a"}]}', "unknown header's field"),
        (b'{"value": "x", "headers": [{"name": "\\ud800", "value": "a"}]}', "half a surrogate"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"value": "x", "offset": ' + b"9" * 5_000 + b"}", "a number too long"),
    ],
)
def test_malformed(line: bytes, reason: str) -> None:
    with pytest.raises(NotARecord) as caught:
        from_line(line)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary())
def test_any_bytes_are_a_record_or_malformed(line: bytes) -> None:
    try:
        from_line(line)
    except NotARecord:
        pass


@given(records)
def test_a_truncated_line_is_malformed(one: Record) -> None:
    line = to_line(one)
    for length in range(len(line)):
        with pytest.raises(NotARecord):
            from_line(line[:length])
