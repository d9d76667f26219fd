"""Where to start and stop reading: one grammar for offsets, for commands and programs.

A *position* is one of::

    start               the first record that the log still has
    end                 behind the last durable record
    N                   the record with offset N
    -N                  N records before the end
    @-DURATION          the first record younger than that: @-90s, @-1h, @-1h30m, @-7d
    @TIME               the first record at or after a time: @2026-01-01, @2026-01-01T00:00,
                        @2026-01-01T00:00:30.5, with Z or +02:00 behind it; UTC without
    @MS                 the same, as milliseconds since the epoch (what records carry)

A *range* is ``A:B``: from A up to, but without, B. Either may be left out: ``A:`` and a
position alone have no end, ``:B`` begins at the start. Two digits behind the minutes of a
time are seconds, so ``@2026-01-01T00:00:30`` is a position, not a range.

Everything here is pure: what a position means in a log is worked out by `resolve` from
facts that its caller brings, the present time among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import NamedTuple

OFFSET_MAX = 2**63 - 1
_DIGITS_MAX = 19

_UNITS_MS = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_DURATION = r"(?:\d+(?:ms|[smhdw]))+"
_TIME = (
    r"\d{4}-\d{2}-\d{2}"
    r"(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?(?:Z|[+-]\d{2}:\d{2})?)?"
)
_POSITION = rf"start|end|-?\d+|@-{_DURATION}|@\d+(?!\d|-)|@{_TIME}"
_RANGE = re.compile(rf"(?P<first>{_POSITION})?(?P<colon>:(?P<stop>{_POSITION})?)?", re.ASCII)
_DURATION_PART = re.compile(r"(\d+)(ms|[smhdw])", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OffsetSyntaxError(ValueError):
    """Text that is neither a position nor a range of offsets."""

    def __init__(self, text: str, reason: str, *, is_range: bool = True) -> None:
        wanted = "start, end, N, -N, @-1h, @2026-01-01T00:00, @MS"
        wanted += ", or a range A:B of these" if is_range else ""
        super().__init__(f"{text!r} is not an offset: {reason}; write {wanted}")
        self.text = text
        self.reason = reason


class Kind(Enum):
    """How a position says where it is. The comment says what its number counts."""

    START = "start"  # nothing
    END = "end"  # nothing
    OFFSET = "offset"  # the offset
    BEFORE_END = "before end"  # records
    TIME = "time"  # milliseconds since the epoch
    AGO = "ago"  # milliseconds before the present


class Position(NamedTuple):
    """One place in a log, not yet resolved."""

    kind: Kind
    number: int = 0


START = Position(Kind.START)
END = Position(Kind.END)


class OffsetRange(NamedTuple):
    """From `first` up to, but without, `stop`; a `stop` of None: without an end."""

    first: Position
    stop: Position | None


def parse_position(text: str | int) -> Position:
    """One position. An int is an offset, a negative one counts from the end.

    Raises OffsetSyntaxError.
    """
    if isinstance(text, int):
        text = str(text)
    try:
        found = parse_range(text)
    except OffsetSyntaxError as error:
        raise OffsetSyntaxError(text, error.reason, is_range=False) from None
    if found.stop is not None or text.endswith(":"):
        reason = "a range, where one position is wanted"
        raise OffsetSyntaxError(text, reason, is_range=False)
    return found.first


def parse_range(text: str) -> OffsetRange:
    """A range ``A:B``, or a position alone, which is a range without an end.

    Raises OffsetSyntaxError.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        raise OffsetSyntaxError(text, "not of the grammar")
    first, colon, stop = match["first"], match["colon"], match["stop"]
    if first is None and (colon is None or stop is None):
        raise OffsetSyntaxError(text, "nothing is named")
    return OffsetRange(
        _position(text, first) if first is not None else START,
        _position(text, stop) if stop is not None else None,
    )


def resolve(
    position: Position,
    *,
    log_start: int,
    durable_end: int,
    now_ms: int,
    offset_for_time: Callable[[int], int | None],
) -> int:
    """The offset that a position means in a log that holds `log_start` to `durable_end`.

    `offset_for_time` gives the first offset whose record is at or after a time, None if
    there is none: then that is the durable end. Offsets named outright are returned as
    they are, in range or not; all others lie within the log.
    """
    match position.kind:
        case Kind.START:
            return log_start
        case Kind.END:
            return durable_end
        case Kind.OFFSET:
            return position.number
        case Kind.BEFORE_END:
            return max(log_start, durable_end - position.number)
        case Kind.TIME:
            timestamp_ms = position.number
        case Kind.AGO:
            timestamp_ms = max(0, now_ms - position.number)
    found = offset_for_time(timestamp_ms)
    return durable_end if found is None else min(max(found, log_start), durable_end)


def _position(text: str, part: str) -> Position:
    if part == "start":
        return START
    if part == "end":
        return END
    if part.startswith("@-"):
        return Position(Kind.AGO, _duration_ms(text, part[2:]))
    if part.startswith("@"):
        if part[1:].isdigit():
            return Position(Kind.TIME, _number(text, part[1:]))
        return Position(Kind.TIME, _time_ms(text, part[1:]))
    if part.startswith("-"):
        return Position(Kind.BEFORE_END, _number(text, part[1:]))
    return Position(Kind.OFFSET, _number(text, part))


def _number(text: str, digits: str) -> int:
    # The length first: int() of many digits takes quadratic time.
    digits = digits.lstrip("0") or "0"
    if len(digits) > _DIGITS_MAX or int(digits) > OFFSET_MAX:
        raise OffsetSyntaxError(text, "a number beyond 64 bits")
    return int(digits)


def _duration_ms(text: str, part: str) -> int:
    total = sum(
        _number(text, digits) * _UNITS_MS[unit] for digits, unit in _DURATION_PART.findall(part)
    )
    if total > OFFSET_MAX:
        raise OffsetSyntaxError(text, "a duration beyond 64 bits")
    return total


def _time_ms(text: str, part: str) -> int:
    try:
        moment = datetime.fromisoformat(part)
    except ValueError as error:
        raise OffsetSyntaxError(text, f"no such time ({error})") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        since = (moment - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError:
        raise OffsetSyntaxError(text, "no such time") from None
    if since < 0:
        raise OffsetSyntaxError(text, "a time before 1970")
    return since
