"""A dead letter: the record as it was, and headers that say where it comes from and why.

Key, value, timestamp and headers are the original's; behind its headers stand, all values
UTF-8 text, numbers in decimal::

    seawall.dlq.topic          where it was
    seawall.dlq.partition
    seawall.dlq.offset
    seawall.dlq.timestamp      ms since the epoch
    seawall.dlq.group          whose handler failed
    seawall.dlq.attempts       how often a handler had it
    seawall.dlq.error.class
    seawall.dlq.error.message  2,000 characters at the most
    seawall.dlq.error.trace    the last 8,000 characters; may be missing
    seawall.dlq.failed.at      ms since the epoch

When it is sent back these go, and in their place come::

    seawall.redrive.count      how often it was sent back
    seawall.redrive.group      the group whose handler had failed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seawall.broker.handling import Failure
from seawall.wal.records import Header, Record

PREFIX = "seawall.dlq."
REDRIVE_COUNT = "seawall.redrive.count"
REDRIVE_GROUP = "seawall.redrive.group"
SUFFIX = ".dlq"

# How much of the error is given up, step by step, where a record would become too large.
FULL, SHORT, ORIGIN_ONLY = range(3)
SHORT_CHARACTERS = 200


def dead_letter_topic(topic: str) -> str | None:
    """Where a topic's dead letters go by default: None for one that holds dead letters."""
    return None if topic.endswith(SUFFIX) else topic + SUFFIX


def encode_text(text: str) -> bytes:
    """Text as a header's value; what is no UTF-8 is escaped."""
    return text.encode("utf-8", "backslashreplace")


def headers_of(
    record: Record, failure: Failure, *, group: str, attempts: int, failed_at_ms: int, detail: int
) -> list[Header]:
    """The headers of a dead letter."""
    values = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": str(record.timestamp),
        "group": group,
        "attempts": str(attempts),
    }
    if detail < ORIGIN_ONLY:
        most = SHORT_CHARACTERS if detail == SHORT else None
        values["error.class"] = failure.error_class[:most]
        values["error.message"] = failure.message[:most]
        if failure.trace and detail == FULL:
            values["error.trace"] = failure.trace
    values["failed.at"] = str(failed_at_ms)
    return [
        *original_headers(record.headers),
        *((PREFIX + name, encode_text(text)) for name, text in values.items()),
    ]


def original_headers(headers: Sequence[Header]) -> list[Header]:
    """The headers without what made a dead letter of the record."""
    return [header for header in headers if not header[0].startswith(PREFIX)]


def redriven_headers(letter: DeadLetter) -> list[Header]:
    """The headers of a dead letter that is sent back."""
    kept = [
        header
        for header in original_headers(letter.record.headers)
        if header[0] not in (REDRIVE_COUNT, REDRIVE_GROUP)
    ]
    kept.append((REDRIVE_COUNT, b"%d" % (letter.redrives + 1)))
    if letter.group is not None:
        kept.append((REDRIVE_GROUP, encode_text(letter.group)))
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter as it was read. What its headers do not say is None.

    `record` is the one in the dead-letter topic. `redrives`: how often it was sent back
    before. `is_redriven`: whether it has been sent back from here.
    """

    record: Record
    topic: str | None
    partition: int | None
    offset: int | None
    group: str | None
    attempts: int | None
    error_class: str | None
    error_message: str | None
    error_trace: str | None
    failed_at_ms: int | None
    redrives: int
    is_redriven: bool = False


def parse(record: Record, *, is_redriven: bool = False) -> DeadLetter:
    """What a record of a dead-letter topic says of itself. Never raises: anybody may write
    there."""
    found = {name: value for name, value in record.headers if value is not None}

    def text(name: str) -> str | None:
        value = found.get(PREFIX + name)
        return None if value is None else value.decode("utf-8", "replace")

    def number(value: bytes | None) -> int | None:
        if value is None or not value.isdigit() or len(value) > 19:
            return None
        return int(value)

    return DeadLetter(
        record=record,
        topic=text("topic"),
        partition=number(found.get(PREFIX + "partition")),
        offset=number(found.get(PREFIX + "offset")),
        group=text("group"),
        attempts=number(found.get(PREFIX + "attempts")),
        error_class=text("error.class"),
        error_message=text("error.message"),
        error_trace=text("error.trace"),
        failed_at_ms=number(found.get(PREFIX + "failed.at")),
        redrives=number(found.get(REDRIVE_COUNT)) or 0,
        is_redriven=is_redriven,
    )


Ranges = Mapping[int, tuple[int, int]]
"""Partition -> from this offset, up to but without that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterChoice:
    """Which dead letters are meant; what is None chooses none away.

    ``ranges``: only these offsets of these partitions. ``group``: whose handler failed.
    ``error_class``: its whole name, or what stands behind its last dot.
    """

    ranges: Ranges | None = None
    group: str | None = None
    error_class: str | None = None

    def has(self, letter: DeadLetter) -> bool:
        """Whether it is one of them."""
        record = letter.record
        if self.ranges is not None:
            start, stop = self.ranges.get(record.partition, (0, 0))
            if not start <= record.offset < stop:
                return False
        if self.group is not None and letter.group != self.group:
            return False
        if self.error_class is None:
            return True
        name = letter.error_class or ""
        return self.error_class in (name, name.rpartition(".")[2])
