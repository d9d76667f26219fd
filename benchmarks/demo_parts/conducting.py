"""Who starts the processes, watches how far they are, and kills them.

Nothing here waits for a time to pass; it waits for progress, which it sees from outside:
the durable ends of the partitions and the group's acknowledged offsets.

The producer may send only up to a *gate*, which opens further with each kill. So on the
fastest and on the most loaded machine alike, whoever is killed is unfinished, and whoever
is started after a kill has something left to do. With a machine to itself the conductor is
quick enough that nobody comes to wait at a gate.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from demo_parts.deliveries import DeliveriesDamaged, DeliveryFile
from demo_parts.job import CONSUMER, GROUP, PARTITIONS, PRODUCER, TOPIC, Job, Kill
from demo_parts.report import Meter, print_head, print_kill, print_rates
from demo_parts.sources import read_sources

from seawall.broker import Broker
from seawall.broker.errors import UnknownGroup

# Fractions of all lines. A consumer is killed once the group acknowledged so much …
CONSUMER_KILLS = (0.2, 0.4, 0.6)
# … and the producer once so much is durable.
PRODUCER_KILL = 0.5
# How much may be sent before the first, second, third kill of the consumer; after these,
# what the last one says, until the producer has been killed, too.
GATES = (0.7, 0.8, 0.9, 0.95)

MIN_LINES = 200  # with fewer there is no room for four kills
ACKS = 200  # how often a consumer would acknowledge on its way through a small input
ACK_RECORDS_MAX = 2_000
LOOK_EVERY_S = 0.01
STALLED_S = 60.0
EXIT_S = 20.0


class DemoFailed(Exception):
    """The demo cannot show what it is for; the text says why."""


class Look(NamedTuple):
    """How far things are, by partition."""

    acknowledged: tuple[int, ...]
    durable: tuple[int, ...]

    @property
    def finished(self) -> bool:
        return self.acknowledged == self.durable


class Child:
    """A process that is held by a pipe. `started_at` is the progress that it began with."""

    def __init__(self, command: list[str], who: str, started_at: int) -> None:
        self.who = who
        self.started_at = started_at
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the conductor, who then ends it
        )

    def places(self, look: Look) -> tuple[int, ...]:
        """The offsets that show how far it is."""
        return look.acknowledged if self.who == CONSUMER else look.durable

    def progress(self, look: Look) -> int:
        return sum(self.places(look))

    def tell(self, word: str) -> None:
        # It may have ended meanwhile; that is found out when its exit code is looked at.
        with contextlib.suppress(BrokenPipeError):
            if self.process.stdin is not None:
                self.process.stdin.write(word.encode() + b"\n")

    def kill(self) -> int:
        """End it whatever it does, wait for it, and return its exit code."""
        self.process.kill()
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        try:
            code = self.process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the {self.who} does not end") from None
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code


class Conductor:
    """Runs a job to its end, but for the checking."""

    def __init__(self, job: Job, script: Path) -> None:
        self._job = job
        self._script = script
        self._kills: list[Kill] = []
        self._consumer_runs = 0
        self._children: list[Child] = []
        self._meters = {PRODUCER: Meter(), CONSUMER: Meter()}

    def run(self) -> None:
        """Raises `DemoFailed`; whatever happens, no process is left."""
        sources = read_sources(self._job.source, self._job.limit)
        self._total = sum(map(len, sources.values()))
        self._bytes = sum(len(line) for lines in sources.values() for line in lines)
        print_head(self._job, len(sources), self._total, self._bytes)
        if self._total < MIN_LINES:
            raise DemoFailed(f"{self._total} lines are too few; it takes {MIN_LINES}")
        self._began_s = time.monotonic()
        try:
            with Broker.open(self._job.broker_path) as broker:
                # Everything is compared at the end.
                config = {"cleanup.policy": "delete", "retention.ms": -1}
                broker.create_topic(TOPIC, PARTITIONS, config)
                self._consumer = self._start_consumer(0)
                self._producer = self._start_producer(0)
                self._conduct(broker)
        finally:
            for child in self._children:
                child.process.kill()
            for child in self._children:
                child.wait()
        self._job.save_kills(self._kills)
        print_rates(self._meters, self._bytes / self._total, time.monotonic() - self._began_s)

    # -- the course of things ----------------------------------------------------------

    def _conduct(self, broker: Broker) -> None:
        look = self._look(broker)
        moved_s = time.monotonic()
        while True:
            before, look, now_s = look, self._look(broker), time.monotonic()
            self._meters[CONSUMER].observe(now_s, sum(look.acknowledged))
            self._meters[PRODUCER].observe(now_s, sum(look.durable))
            if look != before:
                moved_s = now_s
            elif now_s - moved_s > STALLED_S:
                raise DemoFailed(f"nothing moved for {STALLED_S:.0f} s at {look}")
            if self._consumer_is_due(look):
                self._kill(broker, self._consumer, look)
                self._consumer = self._start_consumer(self._kills[-1].reached)
                self._producer.tell(str(self._gate()))
            if self._producer_is_due(look):
                self._kill(broker, self._producer, look)
                self._producer = self._start_producer(self._kills[-1].reached)
            if self._consumer.process.poll() is not None:
                raise DemoFailed(f"the consumer ended: {self._consumer.process.returncode}")
            code = self._producer.process.poll()
            if code:
                raise DemoFailed(f"the producer failed: {code}")
            if code == 0 and self._look(broker).finished:
                break
            time.sleep(LOOK_EVERY_S)
        for meter in self._meters.values():
            meter.end_life()
        self._consumer.tell("done")
        code = self._consumer.wait()
        if code:
            raise DemoFailed(f"the consumer failed: {code}")

    def _look(self, broker: Broker) -> Look:
        acknowledged = [0] * PARTITIONS
        with contextlib.suppress(UnknownGroup):  # until the first consumer is there
            for place in broker.group(GROUP).offsets:
                acknowledged[place.partition] = place.committed
        durable = [broker.ends(TOPIC, number).durable_end for number in range(PARTITIONS)]
        return Look(tuple(acknowledged), tuple(durable))

    def _killed(self, who: str) -> int:
        return sum(1 for kill in self._kills if kill.who == who)

    def _consumer_is_due(self, look: Look) -> bool:
        done = self._killed(CONSUMER)
        if done == len(CONSUMER_KILLS) or not self._consumer_has_begun():
            return False
        due_at = max(self._total * CONSUMER_KILLS[done], self._consumer.started_at + 1)
        return sum(look.acknowledged) >= due_at

    def _consumer_has_begun(self) -> bool:
        """Whether it has said where it found the group. That may be further than the group was
        when the consumer before was dead: see `Run`."""
        try:
            start = DeliveryFile(self._job.deliveries_path(self._consumer_runs)).start()
        except (FileNotFoundError, DeliveriesDamaged):
            return False
        self._consumer.started_at = sum(start)
        return True

    def _producer_is_due(self, look: Look) -> bool:
        return not self._killed(PRODUCER) and sum(look.durable) >= self._total * PRODUCER_KILL

    def _gate(self) -> int:
        """How many lines may be sent now, counted from the first."""
        if self._killed(CONSUMER) == len(CONSUMER_KILLS) and self._killed(PRODUCER):
            return self._total
        return int(self._total * GATES[self._killed(CONSUMER)])

    # -- processes ---------------------------------------------------------------------

    def _start(self, who: str, started_at: int, *options: str) -> Child:
        command = [sys.executable, str(self._script), "--dir", str(self._job.folder), *options]
        child = Child(command, who, started_at)
        self._children.append(child)
        return child

    def _start_consumer(self, started_at: int) -> Child:
        self._consumer_runs += 1
        run = str(self._consumer_runs)
        child = self._start(CONSUMER, started_at, "--role", "consume", "--run", run)
        child.tell(str(min(ACK_RECORDS_MAX, self._total // ACKS)))
        return child

    def _start_producer(self, started_at: int) -> Child:
        child = self._start(PRODUCER, started_at, "--role", "produce")
        child.tell(str(self._gate()))
        return child

    def _kill(self, broker: Broker, child: Child, seen: Look) -> None:
        """SIGKILL, and note how far things were once the process was dead."""
        if not child.progress(seen) > child.started_at:
            raise DemoFailed(f"the {child.who} was to be killed before it had done anything")
        code = child.kill()
        if code != -signal.SIGKILL:
            raise DemoFailed(f"the {child.who} had ended before it could be killed: {code}")
        look = self._look(broker)
        reached = child.progress(look)
        self._meters[child.who].observe(time.monotonic(), reached)
        self._meters[child.who].end_life()
        self._kills.append(
            Kill(
                who=child.who,
                started_at=child.started_at,
                reached=reached,
                acknowledged=look.acknowledged,
            )
        )
        print_kill(
            time.monotonic() - self._began_s, self._kills[-1], child.places(look), self._total
        )
