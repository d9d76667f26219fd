"""Offsets on the command line: -o, and what it means for the partitions of a topic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from seawall.cli.errors import CommandFailed, WrongUsage

if TYPE_CHECKING:
    from seawall.broker import AnyBroker
    from seawall.broker.offsets import OffsetRange, Position

RangeOption = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--offset",
        metavar="OFFSETS",
        help="start, end, N, -N (before the end), @-1h, @2026-01-01T00:00 (UTC), @MS, "
        "or a range A:B of these, without B",
    ),
]


def parse_range_option(text: str | None) -> OffsetRange:
    """What -o says; everything, and what follows, if it was not given."""
    from seawall.broker.offsets import START, OffsetRange, OffsetSyntaxError, parse_range

    if text is None:
        return OffsetRange(START, None)
    try:
        return parse_range(text)
    except OffsetSyntaxError as error:
        raise WrongUsage(f"-o: {error}") from None


def parse_position_option(text: str) -> Position:
    """What -o says where only one position makes sense."""
    from seawall.broker.offsets import OffsetSyntaxError, parse_position

    try:
        return parse_position(text)
    except OffsetSyntaxError as error:
        raise WrongUsage(f"-o: {error}") from None


def resolve_position(
    broker: AnyBroker, topic: str, numbers: Sequence[int], position: Position
) -> dict[int, int]:
    """The offset that a position means in each partition. Raises CommandFailed out of range."""
    return _resolve(broker, topic, numbers, position, within=True)


def resolve_range(
    broker: AnyBroker, topic: str, numbers: Sequence[int], wanted: OffsetRange, *, stop_at_end: bool
) -> tuple[dict[int, int], dict[int, int]]:
    """Where to start in each partition, and before which offset to stop, where that is known.

    `stop_at_end`: stop at the latest at what is the end now.
    """
    starts = _resolve(broker, topic, numbers, wanted.first, within=True)
    stops: dict[int, int] = {}
    if wanted.stop is not None:
        stops = _resolve(broker, topic, numbers, wanted.stop, within=False)
    if stop_at_end:
        for number in numbers:
            end = broker.ends(topic, number).durable_end
            stops[number] = min(stops.get(number, end), end)
    return starts, stops


def _resolve(
    broker: AnyBroker, topic: str, numbers: Sequence[int], position: Position, *, within: bool
) -> dict[int, int]:
    from seawall.broker.offsets import resolve

    now_ms = time.time_ns() // 1_000_000
    offsets = {}
    for number in numbers:
        ends = broker.ends(topic, number)

        def offset_for_time(timestamp_ms: int, number: int = number) -> int | None:
            found = broker.offset_for_time(topic, number, timestamp_ms)
            return None if found is None else found.offset

        offset = resolve(
            position,
            log_start=ends.log_start,
            durable_end=ends.durable_end,
            now_ms=now_ms,
            offset_for_time=offset_for_time,
        )
        if within and not ends.log_start <= offset <= ends.durable_end:
            raise CommandFailed(
                f"offset {offset} is out of range: partition {number} of {topic!r} "
                f"holds {ends.log_start} to {ends.durable_end}"
            )
        offsets[number] = offset
    return offsets
