"""One measurement from end to end: the topic, the phases, the figures."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from seawall.broker.bench.crew import TICK_S, BenchFailed, Crew
from seawall.broker.bench.histogram import Histogram
from seawall.broker.bench.plan import DEFAULT_FILL_RECORDS, Settings, Task, shares
from seawall.broker.errors import BrokerError, UnknownTopic
from seawall.broker.interface import AnyBroker

SCRATCH_PREFIX = "seawall-bench-"
# How long deleting the scratch topic may take once it was asked to stop: no server may be there.
DELETING_S = 5.0

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a phase came to. ``latency`` is of records, but of polls where only reading is
    measured. ``error`` is what ended it early, if anything did."""

    name: str
    records: int
    bytes: int
    seconds: float
    latency: Histogram
    error: str | None

    @property
    def records_per_s(self) -> float:
        return self.records / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_s(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was measured. ``interrupted``: it was asked to stop before the end."""

    topic: str
    is_scratch: bool
    figures: list[Figures]
    interrupted: bool


class Bench:
    """A measurement. ``is_stopped`` is asked all the time whether to end now."""

    def __init__(
        self,
        broker: AnyBroker,
        settings: Settings,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        on_topic: Callable[[str, str], None] = lambda topic, what: None,
        on_progress: Progress = lambda phase, records: None,
    ) -> None:
        """``on_topic`` hears of a topic that is ``scratch`` or was ``created``, and of one that
        is ``left``, because nobody was there to delete it when it was asked to stop."""
        self._broker = broker
        self._settings = settings
        self._is_stopped = is_stopped
        self._on_topic = on_topic
        self._on_progress = on_progress
        self._interrupted = False
        self._topic = ""
        self._partitions: list[int] = []

    def run(self) -> Report:
        """Measure; a scratch topic is deleted, whatever ends it.

        Raises `BenchFailed`, and `BrokerError`s of the topic.
        """
        mode = self._settings.mode
        with self._with_topic():
            before = self._ends()
            figures = []
            if mode == "end-to-end":
                figures = self._end_to_end(before)
            else:
                if mode != "consume":
                    figures += self._produce()
                elif self._settings.topic is None:
                    self._fill()
                    before = dict.fromkeys(before, 0)
                else:
                    before = {number: self._start(number) for number in self._partitions}
                failed = self._interrupted or any(each.error for each in figures)
                if mode != "produce" and not failed:
                    figures += self._consume(before)
        return Report(
            topic=self._topic,
            is_scratch=self._settings.topic is None,
            figures=figures,
            interrupted=self._interrupted,
        )

    @contextlib.contextmanager
    def _with_topic(self) -> Iterator[None]:
        settings, broker = self._settings, self._broker
        name = settings.topic or f"{SCRATCH_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        try:
            info = None if settings.topic is None else broker.topic(name)
        except UnknownTopic:
            if settings.mode == "consume":
                raise
            info = None
        self._topic = name
        if info is not None:
            self._partitions = [each.number for each in info.partitions]
            yield
            return
        info = broker.create_topic(name, settings.partitions)
        self._partitions = [each.number for each in info.partitions]
        try:
            self._on_topic(name, "scratch" if settings.topic is None else "created")
            yield
        finally:
            if settings.topic is None:
                self._delete(name)

    def _delete(self, name: str) -> None:
        """Delete the scratch topic, however long no server answers; unless asked to stop."""
        failures: list[BrokerError] = []

        def delete() -> None:
            try:
                self._broker.delete_topic(name)
            except BrokerError as error:
                failures.append(error)

        # Whoever closes the broker ends it, if it is left alone.
        deleting = threading.Thread(target=delete, name="seawall-bench-delete", daemon=True)
        deleting.start()
        asked_s: float | None = None
        while deleting.is_alive():
            deleting.join(TICK_S)
            if asked_s is None and self._is_stopped():
                asked_s = time.monotonic()
            if asked_s is not None and time.monotonic() - asked_s > DELETING_S:
                self._on_topic(name, "left")
                return
        if failures:
            raise failures[0]

    def _ends(self) -> dict[int, int]:
        return {n: self._broker.ends(self._topic, n).durable_end for n in self._partitions}

    def _start(self, number: int) -> int:
        return self._broker.ends(self._topic, number).log_start

    # -- the phases --------------------------------------------------------------------

    def _produce(self) -> list[Figures]:
        with Crew(self._producing(), self._is_stopped) as crew:
            return self._measured("produce", crew, range(self._settings.producers))

    def _fill(self) -> None:
        """Have something to read, as fast as it can be had."""
        records = self._settings.records or DEFAULT_FILL_RECORDS
        tasks = [
            self._task("produce", records=share, producer=self._settings.producer)
            for share in shares(records, self._settings.producers)
            if share
        ]
        with Crew(tasks, self._is_stopped) as crew:
            for each in self._measured("fill", crew, range(len(tasks))):
                if each.error:
                    raise BenchFailed(each.error)

    def _consume(self, starts: dict[int, int]) -> list[Figures]:
        tasks = self._consuming(starts, until=self._ends())
        with Crew(tasks, self._is_stopped) as crew:
            return self._measured("consume", crew, range(len(tasks)))

    def _end_to_end(self, starts: dict[int, int]) -> list[Figures]:
        stamp = os.urandom(4).hex()
        producing = self._producing(stamp=stamp)
        consuming = self._consuming(starts, until=None, stamp=stamp)
        producers = range(len(producing))
        consumers = range(len(producing), len(producing) + len(consuming))
        with Crew([*producing, *consuming], self._is_stopped) as crew:
            produced = self._measured("produce", crew, producers)
            if not self._interrupted:
                ends = {str(number): end for number, end in self._ends().items()}
                for number in consumers:
                    crew.tell_until(number, ends)
            return produced + self._measured("end-to-end", crew, consumers, has_begun=True)

    def _measured(
        self, name: str, crew: Crew, numbers: range, *, has_begun: bool = False
    ) -> list[Figures]:
        """Run the phase of these processes; its figures, none if it did not begin."""
        if not has_begun and not crew.start():
            self._interrupted = True
            return []

        def show() -> None:
            self._on_progress(name, sum(crew.progress[number] for number in numbers))

        if not crew.wait(numbers, show):
            self._interrupted = True
        results = [crew.results[number] for number in numbers if number in crew.results]
        return [_figures(name, results)] if results else []

    # -- who does what -----------------------------------------------------------------

    def _task(self, role: str, **given: Any) -> Task:
        settings = self._settings
        return Task(
            role=role,
            location=settings.location,
            topic=self._topic,
            record_bytes=settings.record_bytes,
            **given,
        )

    def _producing(self, stamp: str = "") -> list[Task]:
        settings = self._settings
        count = settings.producers
        records = [None] * count if settings.records is None else shares(settings.records, count)
        throughput = None if settings.throughput is None else settings.throughput / count
        return [
            self._task(
                "produce",
                records=share,
                limit_s=settings.limit_s,
                warmup_s=settings.warmup_s,
                throughput=throughput,
                stamp=stamp,
                producer=settings.producer,
            )
            for share in records
        ]

    def _consuming(
        self, starts: dict[int, int], *, until: dict[int, int] | None, stamp: str = ""
    ) -> list[Task]:
        """The partitions are dealt out; so are the records, where that is the only bound."""
        settings = self._settings
        count = min(settings.consumers, len(self._partitions))
        is_alone = settings.mode == "consume"
        limit_s = settings.limit_s if is_alone or stamp else None
        records = (
            shares(settings.records, count) if is_alone and settings.records else [None] * count
        )
        return [
            self._task(
                "consume",
                records=records[number],
                limit_s=limit_s,
                warmup_s=settings.warmup_s if is_alone or stamp else 0.0,
                stamp=stamp,
                starts={str(n): starts[n] for n in self._partitions[number::count]},
                until=None if until is None else {str(n): end for n, end in until.items()},
            )
            for number in range(count)
        ]


def _figures(name: str, results: list[dict[str, Any]]) -> Figures:
    latency = Histogram()
    for each in results:
        latency.merge(Histogram.from_json(each["latency"], each["max_us"]))
    begun_ns = min(each["first_ns"] for each in results)
    ended_ns = max(each["last_ns"] for each in results)
    return Figures(
        name=name,
        records=sum(each["records"] for each in results),
        bytes=sum(each["bytes"] for each in results),
        seconds=max(0.0, (ended_ns - begun_ns) / 1e9),
        latency=latency,
        error=next((each["error"] for each in results if each["error"]), None),
    )
