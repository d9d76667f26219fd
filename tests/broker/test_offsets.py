"""The grammar of offsets: what it takes, what it refuses, and what it means in a log."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.offsets import (
    END,
    OFFSET_MAX,
    START,
    Kind,
    OffsetRange,
    OffsetSyntaxError,
    Position,
    parse_position,
    parse_range,
    resolve,
)

NEW_YEAR_MS = 1_767_225_600_000  # 2026-01-01T00:00Z

POSITIONS = [
    ("start", START),
    ("end", END),
    ("0", Position(Kind.OFFSET, 0)),
    ("17", Position(Kind.OFFSET, 17)),
    (str(OFFSET_MAX), Position(Kind.OFFSET, OFFSET_MAX)),
    ("-17", Position(Kind.BEFORE_END, 17)),
    ("-0", Position(Kind.BEFORE_END, 0)),
    ("@-1h", Position(Kind.AGO, 3_600_000)),
    ("@-1h30m", Position(Kind.AGO, 5_400_000)),
    ("@-250ms", Position(Kind.AGO, 250)),
    ("@-2m", Position(Kind.AGO, 120_000)),
    ("@-1w1d1s", Position(Kind.AGO, 691_201_000)),
    ("@0", Position(Kind.TIME, 0)),
    (f"@{NEW_YEAR_MS}", Position(Kind.TIME, NEW_YEAR_MS)),
    ("@2026-01-01", Position(Kind.TIME, NEW_YEAR_MS)),
    ("@2026-01-01T00:00", Position(Kind.TIME, NEW_YEAR_MS)),
    ("@2026-01-01 00:00", Position(Kind.TIME, NEW_YEAR_MS)),
    ("@2026-01-01T00:00Z", Position(Kind.TIME, NEW_YEAR_MS)),
    ("@2026-01-01T02:00+02:00", Position(Kind.TIME, NEW_YEAR_MS)),
    ("@2025-12-31T23:00-01:00", Position(Kind.TIME, NEW_YEAR_MS)),
    ("@2026-01-01T00:00:10", Position(Kind.TIME, NEW_YEAR_MS + 10_000)),
    ("@2026-01-01T00:00:10.5Z", Position(Kind.TIME, NEW_YEAR_MS + 10_500)),
]


@pytest.mark.parametrize(("text", "position"), POSITIONS)
def test_position(text: str, position: Position) -> None:
    assert parse_position(text) == position
    assert parse_range(text) == OffsetRange(position, None)
    assert parse_range(text + ":") == OffsetRange(position, None)
    assert parse_range(":" + text) == OffsetRange(START, position)


def test_position_from_a_number() -> None:
    assert parse_position(17) == Position(Kind.OFFSET, 17)
    assert parse_position(-17) == Position(Kind.BEFORE_END, 17)


def test_range() -> None:
    for first_text, first in POSITIONS:
        for stop_text, stop in POSITIONS:
            if stop_text == "17" and first_text.endswith(("T00:00", " 00:00")):
                continue  # seconds: see the next test
            assert parse_range(f"{first_text}:{stop_text}") == OffsetRange(first, stop)


def test_two_digits_behind_minutes_are_seconds() -> None:
    time = Position(Kind.TIME, NEW_YEAR_MS)
    assert parse_range("@2026-01-01T00:00:50").stop is None
    assert parse_range("@2026-01-01T00:00:100") == OffsetRange(time, Position(Kind.OFFSET, 100))
    assert parse_range("@2026-01-01T00:00:00:50") == OffsetRange(time, Position(Kind.OFFSET, 50))


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "::", "x", "Start", "1.5", "1,5", "+1", "--1", " 1", "1 ", "1\n", "٣", "0x10"),
        *("@", "@-", "@-1", "@1h", "@-1y", "@h", "@now", "@-1h-1m", "@+1h", "@2026-01"),
        *("@2026-13-01", "@2026-02-30", "@2026-01-01T", "@2026-01-01T24:01", "@1969-12-31"),
        *("@0001-01-01T00:00+23:00", "@2026-01-01T00:00+99:00", "@2026-01-01Z", "1:2:3"),
        *(str(OFFSET_MAX + 1), "9" * 100_000, "@" + "9" * 5_000, "@-" + "9" * 18 + "w"),
    ],
)
def test_not_an_offset(text: str) -> None:
    with pytest.raises(OffsetSyntaxError) as caught:
        parse_range(text)
    assert caught.value.text == text


@pytest.mark.parametrize("text", ["1:2", "1:", ":2", "start:end", "start:"])
def test_a_range_is_no_position(text: str) -> None:
    with pytest.raises(OffsetSyntaxError, match="one position is wanted"):
        parse_position(text)


@given(st.text(alphabet="0123456789@-:smhdwTZ+. startend", max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_range(text)
    except OffsetSyntaxError:
        return
    assert 0 <= found.first.number <= OFFSET_MAX


EARLIEST, LATEST = datetime(1970, 1, 1), datetime(9999, 12, 31)


@given(
    st.datetimes(EARLIEST, LATEST)
    | st.datetimes(EARLIEST, LATEST, timezones=st.timezones(), allow_imaginary=False)
)
def test_times_mean_what_iso_8601_says(moment: datetime) -> None:
    whole = moment.replace(microsecond=0, second=0, fold=0)
    text = whole.isoformat(timespec="minutes")
    expected = int((whole if whole.tzinfo else whole.replace(tzinfo=UTC)).timestamp()) * 1000
    offset = whole.utcoffset()
    if expected < 0 or (offset is not None and offset.seconds % 60):
        return
    assert parse_position("@" + text) == Position(Kind.TIME, expected)


def times(timestamp_ms: int) -> int | None:
    """A log whose record N is from N * 10 ms, up to 100."""
    found = -(-timestamp_ms // 10)
    return found if found < 100 else None


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("start", 20),
        ("end", 100),
        ("7", 7),
        ("1000", 1000),
        ("-10", 90),
        ("-0", 100),
        ("-1000", 20),
        ("@300", 30),
        ("@301", 31),
        ("@0", 20),
        ("@5000", 100),
        ("@-100ms", 60),
        ("@-1h", 20),
    ],
)
def test_resolve(text: str, offset: int) -> None:
    position = parse_position(text)
    found = resolve(position, log_start=20, durable_end=100, now_ms=700, offset_for_time=times)
    assert found == offset


@given(
    st.sampled_from([k for k in Kind if k is not Kind.OFFSET]),
    st.integers(0, OFFSET_MAX),
    st.integers(0, 100),
    st.integers(0, 100),
    st.none() | st.integers(-5, 300),
)
def test_what_is_not_an_offset_lies_within_the_log(
    kind: Kind, number: int, log_start: int, length: int, at_time: int | None
) -> None:
    end = log_start + length
    found = resolve(
        Position(kind, number),
        log_start=log_start,
        durable_end=end,
        now_ms=1_000,
        offset_for_time=lambda _: at_time,
    )
    assert log_start <= found <= end
