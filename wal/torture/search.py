"""What a search for broken promises is: cases in an order that a seed decides.

A search is one row of the fault matrix. It enumerates *cases*, small dicts of numbers and
words that say everything about one way to break things, and runs each of them: the case
passes, or `Broken` says which promise did not hold. The same seed gives the same cases,
and a case alone is enough to run it again.

Any prefix of the cases is a fair sample, so a search may be cut off by a clock. Several
processes share one: each takes the cases of its own share.
"""

from __future__ import annotations

import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

Case = Mapping[str, int | str]

# A failing case is made smaller for at most so long.
SHRINK_TIMEOUT_S = 60.0
MOST_FAILURES = 5


class Broken(Exception):
    """A promise that did not hold. The text says which, where, and what was found."""


class Unavailable(Exception):
    """This machine cannot run the search; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and how thoroughly to search.

    ``scratch``: an empty directory for this process alone, on the file system in question.
    ``memory``: one on a file system in memory (the same if there is none), for what tests
    no disk and would only be slow on one.
    ``full``: the whole search instead of the sample that every test run takes.
    ``share`` of ``shares``: which part of the cases is this process's.
    """

    scratch: str
    memory: str
    seed: int = 0
    full: bool = False
    share: int = 0
    shares: int = 1

    def mine(self, number: int) -> bool:
        """Whether the case (or the state) with this number is this process's."""
        return number % self.shares == self.share


class Search(ABC):
    """One row of the matrix.

    ``name`` is what the command line calls it, ``title`` what the matrix does. `prepare`
    comes first, then cases and runs, then `close`. ``figures`` are counts worth printing
    (how many kill points, distinct states, …), and are added up over the shares.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    most_shares: ClassVar[int] = 16
    """How many processes may share it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.figures: dict[str, int] = {}

    def prepare(self) -> None:  # noqa: B027 - optional
        """What all cases have in common, such as a recorded workload.

        Raises `Unavailable` if this machine cannot run it, and `Broken` if a promise does not
        hold even before anything is broken: that is a failure of the empty case.
        """

    @abstractmethod
    def cases(self) -> Iterator[Case]:
        """This process's share of the cases, as many as the setting asks for."""

    @abstractmethod
    def run(self, case: Case) -> None:
        """Run one case. Raises `Broken`; any other exception counts as broken too."""

    def smaller(self, case: Case) -> Iterator[Case]:
        """Simpler cases that may fail for the same reason, the simplest first."""
        return iter(())

    def close(self) -> None:  # noqa: B027 - optional
        """Leave nothing behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A case that broke a promise, and how."""

    case: Case
    reason: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of one search, or of one share of it. ``seconds``: added up over the shares."""

    name: str
    title: str
    cases: int = 0
    figures: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    unavailable: str = ""
    seconds: float = 0.0
    is_whole: bool = True
    """False if a deadline cut it off."""

    def add(self, other: Outcome) -> None:
        """Take in another share's outcome."""
        self.cases += other.cases
        for key, count in other.figures.items():
            self.figures[key] = self.figures.get(key, 0) + count
        self.failures += other.failures
        self.unavailable = self.unavailable or other.unavailable
        self.seconds += other.seconds
        self.is_whole = self.is_whole and other.is_whole


def run_search(
    search: Search,
    *,
    deadline_s: float = float("inf"),
    on_case: Callable[[Outcome], None] = lambda outcome: None,
    stop_at_first: bool = False,
    shrinks: bool = True,
) -> Outcome:
    """Run a search to its end, to `deadline_s` (of `time.monotonic`), or to some failures.

    With `shrinks`, a smaller case that fails as well is looked for. `on_case` is given what
    came of it so far, which is not whole.
    """
    outcome = Outcome(name=search.name, title=search.title, is_whole=False)
    began_s = time.monotonic()

    def tell() -> None:
        outcome.seconds = time.monotonic() - began_s
        on_case(outcome)

    try:
        reason = _prepared(search)
        outcome.figures = search.figures  # as they grow
        if reason:
            outcome.failures.append(Failure(case={}, reason=reason))
        for case in () if reason else search.cases():
            if time.monotonic() >= deadline_s and outcome.cases:
                break
            reason = _reason(search, case)
            outcome.cases += 1
            if reason:
                failure = Failure(case=case, reason=reason)
                outcome.failures.append(failure)
                if shrinks:
                    tell()  # that takes its time
                    outcome.failures[-1] = _shrunk(search, failure)
                if stop_at_first or len(outcome.failures) >= MOST_FAILURES:
                    break
            tell()
        else:
            outcome.is_whole = True
    except Unavailable as error:
        outcome.unavailable = str(error)
    finally:
        search.close()
    outcome.figures = dict(search.figures)
    outcome.seconds = time.monotonic() - began_s
    return outcome


def run_case(search: Search, case: Case) -> str:
    """Run one case alone; the reason if it is broken, else empty."""
    try:
        return _prepared(search) or _reason(search, case)
    finally:
        search.close()


def _prepared(search: Search) -> str:
    try:
        search.prepare()
    except Broken as error:
        return str(error)
    return ""


def _reason(search: Search, case: Case) -> str:
    try:
        search.run(case)
    except Unavailable:
        raise
    except Broken as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it should not be
        return f"{type(error).__name__}: {error}"
    return ""


def _shrunk(search: Search, failure: Failure) -> Failure:
    """The simplest case found in time that fails as well."""
    deadline_s = time.monotonic() + SHRINK_TIMEOUT_S
    smaller = search.smaller(failure.case)
    while time.monotonic() < deadline_s:
        case = next(smaller, None)
        if case is None:
            break
        reason = _reason(search, case)
        if reason:
            failure = Failure(case=case, reason=reason)
            smaller = search.smaller(case)
    return failure


def seed_for(*parts: int | str) -> int:
    """A seed that follows from others, the same in every process and Python version."""
    return zlib.crc32(repr(parts).encode())
