"""What one directory has told all its clients so far, and whether it keeps to it.

For a directory that is carried through many rounds of kills and that no power cut ever
meets: nothing that was given an offset goes away, so offsets are dense, and after each
round only what is new has to be read. What each client was told in a round is judged once
its new records are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seawall.wal.torture.search import Broken

Report = Mapping[str, Any]


@dataclass(slots=True)
class _Place:
    """A partition: the tokens of its records from the log start on."""

    start: int = 0
    tokens: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """How many records there are of each producer of this round."""

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


@dataclass(slots=True)
class _Committed:
    """A group's offset in one place lies between these."""

    least: int = 0
    most: int = 0
    done: list[tuple[int, int]] = field(default_factory=list)
    """When, in this round, and how far."""


class Carried:
    """The knowledge of all rounds; a round's reports are gathered until `judge`."""

    def __init__(self, places: Iterable[str], groups: Iterable[str]) -> None:
        self._places = {place: _Place() for place in places}
        self._committed = {(group, place): _Committed() for group in groups for place in places}
        self._reports: list[tuple[str, Report]] = []
        # Figures: records, of each client that was told.
        self.acknowledged = self.seen = 0

    # -- what clients say --------------------------------------------------------------

    def take(self, who: str, report: Report) -> None:
        """A client was told something; of one client in the order in which it was."""
        self._reports.append((who, report))

    # -- what the directory says -------------------------------------------------------

    def start(self, place: str) -> int:
        """The log start."""
        return self._places[place].start

    def end(self, place: str) -> int:
        """Up to where its records are known."""
        return self._places[place].end

    def drop(self, place: str, log_start: int) -> None:
        """Its log starts there from now on."""
        known = self._places[place]
        del known.tokens[: log_start - known.start]
        known.start = log_start

    def read(self, place: str, offset: int, token: str) -> None:
        """A record has been read that is new, or not. Raises `Broken`."""
        known = self._places[place]
        if offset < known.end:
            before = known.tokens[offset - known.start]
            if token != before:
                raise Broken(f"{place} offset {offset} was {before!r} and is {token!r}")
            return
        if offset != known.end:
            raise Broken(f"{place} has no record at offset {known.end}, but one at {offset}")
        who, _, number = token.rpartition(".")
        expected = known.counts.get(who)
        if expected is None:
            raise Broken(f"{place} offset {offset} is {token!r}, which nobody sent now")
        if number != str(expected):
            raise Broken(f"{place} offset {offset} is {token!r} instead of {who}.{expected}")
        known.counts[who] = expected + 1
        known.tokens.append(token)

    # -- rounds ------------------------------------------------------------------------

    def begin(self, producers: Iterable[str]) -> None:
        """A round begins, with these producers; nothing of others may appear any more."""
        for known in self._places.values():
            known.counts = dict.fromkeys(producers, 0)

    def judge(self) -> None:
        """Hold what clients were told in this round against what was read. Raises `Broken`."""
        positions: dict[tuple[str, str], int] = {}
        about_groups = []
        for who, report in self._reports:
            if "acked" in report:
                self._judge_acked(who, report)
            elif "saw" in report:
                self._judge_seen(who, report, positions)
            else:
                about_groups.append((report["t"], who, report))
                for place, offset in report.get("starts", {}).items():
                    positions[who, place] = offset
        self._reports.clear()
        for _, who, report in sorted(about_groups, key=lambda each: each[0]):
            self._judge_group(who, report)

    def _judge_acked(self, who: str, report: Report) -> None:
        place = report["acked"]
        self.acknowledged += len(report["offsets"])
        for number, offset in enumerate(report["offsets"], report["first"]):
            self._expect(place, offset, f"{who}.{number}", f"was acknowledged to {who} as")

    def _judge_seen(self, who: str, report: Report, positions: dict[tuple[str, str], int]) -> None:
        place, first, tokens = report["saw"], report["first"], report["tokens"]
        position = positions.get((who, place))
        if position is not None and position != first:
            raise Broken(f"consumer {who} was at {position} in {place} and was given {first}")
        positions[who, place] = first + len(tokens)
        self.seen += len(tokens)
        for offset, token in enumerate(tokens, first):
            self._expect(place, offset, token, f"was given to consumer {who} as")

    def _expect(self, place: str, offset: int, token: str, how: str) -> None:
        known = self._places[place]
        if offset < known.start:
            raise Broken(f"{place} offset {offset} {how} {token!r}, below the log start")
        if offset >= known.end:
            raise Broken(f"{place} offset {offset} {how} {token!r} and is gone")
        found = known.tokens[offset - known.start]
        if found != token:
            raise Broken(f"{place} offset {offset} {how} {token!r} and is {found!r}")

    def _judge_group(self, who: str, report: Report) -> None:
        group = report["group"]
        for place, offset in report.get("acking", {}).items():
            committed = self._committed[group, place]
            committed.most = max(committed.most, offset)
        for place, offset in report.get("done", {}).items():
            self._committed[group, place].done.append((report["t"], offset))
        for place, offset in report.get("starts", {}).items():
            committed = self._committed[group, place]
            earlier = (done for when, done in committed.done if when <= report["since"])
            self._judge_place(group, place, offset, max(earlier, default=0), f"{who} began")

    def committed(self, group: str, place: str, offset: int) -> None:
        """Where a group is now that the round is over and judged. Raises `Broken`."""
        committed = self._committed[group, place]
        least = max((done for _, done in committed.done), default=0)
        self._judge_place(group, place, offset, least, "it is now")
        if offset > self.end(place):
            raise Broken(f"group {group!r} is at {offset} in {place}, which ends before that")
        committed.least = committed.most = offset
        committed.done.clear()

    def acknowledge_all(self, group: str, place: str) -> None:
        """A group has acknowledged all that there is."""
        committed = self._committed[group, place]
        committed.least = committed.most = self.end(place)

    def _judge_place(self, group: str, place: str, offset: int, least: int, what: str) -> None:
        committed = self._committed[group, place]
        least = max(least, committed.least)
        if not least <= offset <= committed.most:
            raise Broken(
                f"group {group!r} has acknowledged {least} (or up to {committed.most}) "
                f"in {place}, and {what} at {offset}"
            )
