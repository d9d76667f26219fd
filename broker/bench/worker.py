"""One producer or consumer of a measurement, in a process of its own.

It is told its task in a line of JSON on stdin, says ``ready`` on stdout once everything is
open, and begins at the time that the next line names. Further lines tell a consumer where to
end; the end of stdin ends it at once. It says how far it is twice a second, and at last what
it has measured.
"""

from __future__ import annotations

import json
import logging
import random
import string
import struct
import sys
import threading
import time
from collections import deque
from functools import partial
from typing import Any

from seawall.broker.bench.histogram import Histogram
from seawall.broker.bench.plan import STAMP_BYTES, Task
from seawall.broker.connecting import connect
from seawall.broker.errors import BrokerError
from seawall.broker.interface import AnyBroker, AnyDelivery

STAMP = struct.Struct(">8sQ")
# So many different values that none comes twice in a batch.
MOST_PAYLOADS, PAYLOAD_TOTAL_BYTES = 1 << 16, 4 << 20
PROGRESS_NS = 500_000_000
LONGEST_SLEEP_S = 0.02
POLL_RECORDS = 2_000
POLL_MS = 50
FLUSH_MS = 30_000
# For whoever was asked to stop.
LAST_FLUSH_MS = 5_000
LATE_RECORDS_S = 10.0


class Worker:
    """What producers and consumers have in common."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.stopping = threading.Event()
        self.until = task.until
        self.histogram = Histogram()
        self.records = 0
        self.bytes = 0
        self.first_ns = 0
        self.last_ns = 0
        self.error: str | None = None
        self._due_ns = 0

    def listen(self) -> None:
        """In a thread: what else there is to know, and the end of it."""
        for line in sys.stdin:
            message = json.loads(line)
            if "until" in message:
                self.until = message["until"]
        self.stopping.set()

    def tell(self, now_ns: int) -> None:
        """How far it is, if that is due."""
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + PROGRESS_NS
            say({"progress": self.records})

    def begin_ns(self, start_ns: int) -> int:
        """When the warm-up is over."""
        return start_ns + int(self.task.warmup_s * 1e9)

    def end_ns(self, start_ns: int) -> float:
        if self.task.limit_s is None:
            return float("inf")
        return self.begin_ns(start_ns) + self.task.limit_s * 1e9

    def result(self) -> dict[str, Any]:
        """What it has measured."""
        return {
            "records": self.records,
            "bytes": self.bytes,
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "error": self.error,
            "latency": self.histogram.to_json(),
            "max_us": self.histogram.max_us,
        }


class ProducingWorker(Worker):
    """Sends records; measures from when each was due to its acknowledgement."""

    def __init__(self, task: Task, broker: AnyBroker) -> None:
        super().__init__(task)
        self._producer = broker.producer(**task.producer)
        self._payloads = _payloads(task.record_bytes)
        self._reports: deque[tuple[int, int]] = deque()
        self._failed: str | None = None

    def run(self, start_ns: int) -> None:
        """Send what there is to send, and wait for the reports."""
        task, producer, payloads = self.task, self._producer, self._payloads
        begin_ns, end_ns = self.begin_ns(start_ns), self.end_ns(start_ns)
        step_ns = None if task.throughput is None else 1e9 / task.throughput
        stamp, tails = task.stamp.encode(), [payload[STAMP_BYTES:] for payload in payloads]
        sent = counted = 0
        while not self.stopping.is_set() and self._failed is None:
            now_ns = time.monotonic_ns()
            # What is late is sent at once, and its latency counts from when it was due: a
            # location that stalls does not keep records from being measured.
            due_ns = now_ns if step_ns is None else start_ns + int(sent * step_ns)
            if max(now_ns, due_ns) >= end_ns or counted == task.records:
                break
            self.tell(now_ns)
            if due_ns > now_ns:
                self._take_reports()
                time.sleep(min((due_ns - now_ns) / 1e9, LONGEST_SLEEP_S))
                continue
            value = payloads[sent % len(payloads)]
            if stamp:
                value = STAMP.pack(stamp, due_ns) + tails[sent % len(tails)]
            sent += 1
            is_counted = due_ns >= begin_ns
            counted += is_counted
            delivery = producer.send(task.topic, value)
            delivery.add_done_callback(partial(self._report, due_ns if is_counted else 0))
            if len(self._reports) > POLL_RECORDS:
                self._take_reports()
        self._finish(begin_ns)

    def _report(self, due_ns: int, delivery: AnyDelivery) -> None:
        # In the thread that wrote the batch.
        error = delivery.exception()
        if error is not None:
            self._failed = self._failed or str(error)
        elif due_ns:
            self._reports.append((due_ns, time.monotonic_ns()))

    def _take_reports(self) -> None:
        reports = self._reports
        while reports:
            due_ns, now_ns = reports.popleft()
            self.histogram.add((now_ns - due_ns) // 1000)
            self.records += 1
            self.bytes += self.task.record_bytes
            self.last_ns = max(self.last_ns, now_ns)

    def _finish(self, begin_ns: int) -> None:
        self.first_ns = begin_ns
        try:
            self._producer.flush(LAST_FLUSH_MS if self.stopping.is_set() else FLUSH_MS)
        except TimeoutError:
            self._failed = self._failed or "some records were not acknowledged in time"
        self._take_reports()
        self.error = self._failed


class ConsumingWorker(Worker):
    """Reads some partitions; measures each poll, or from when each record was due."""

    def __init__(self, task: Task, broker: AnyBroker) -> None:
        super().__init__(task)
        self._places = {int(number): offset for number, offset in task.starts.items()}
        self._consumer = broker.consumer(task.topic, partitions=list(self._places))
        for number, offset in self._places.items():
            self._consumer.seek(task.topic, number, offset)

    def run(self, start_ns: int) -> None:
        """Read to the end of the time, or to where it is told to end."""
        task, poll = self.task, self._consumer.poll
        begin_ns, end_ns = self.begin_ns(start_ns), self.end_ns(start_ns)
        if task.stamp:
            end_ns += LATE_RECORDS_S * 1e9
        self.first_ns = begin_ns
        while not self.stopping.is_set() and self.records != task.records:
            before_ns = time.monotonic_ns()
            if before_ns >= end_ns or self._is_done():
                break
            self.tell(before_ns)
            left = POLL_RECORDS if task.records is None else task.records - self.records
            records = poll(min(POLL_RECORDS, left), POLL_MS)
            now_ns = time.monotonic_ns()
            if not records:
                continue
            if task.stamp:
                records = [r for r in records if self._is_measured(r.value, begin_ns, now_ns)]
            elif now_ns < begin_ns:
                continue
            else:
                self.histogram.add((now_ns - before_ns) // 1000)
            if records:
                self.records += len(records)
                self.bytes += sum(len(r.value or b"") for r in records)
                self.last_ns = now_ns
        self._consumer.close()

    def _is_measured(self, value: bytes | None, begin_ns: int, now_ns: int) -> bool:
        """Whether a record is one of this measurement; then its latency is counted."""
        if value is None or len(value) < STAMP_BYTES:
            return False
        stamp, due_ns = STAMP.unpack_from(value)
        if stamp != self.task.stamp.encode() or due_ns < begin_ns:
            return False
        self.histogram.add((now_ns - due_ns) // 1000)
        return True

    def _is_done(self) -> bool:
        until, topic = self.until, self.task.topic
        return until is not None and all(
            self._consumer.position(topic, number) >= until.get(str(number), 0)
            for number in self._places
        )


def _payloads(size_bytes: int) -> list[bytes]:
    """Different values of random letters, the same ones each time."""
    chosen = random.Random(0)
    letters = string.ascii_letters.encode()
    table = bytes(letters[byte % len(letters)] for byte in range(256))
    count = max(1, min(MOST_PAYLOADS, PAYLOAD_TOTAL_BYTES // size_bytes))
    return [chosen.randbytes(size_bytes).translate(table) for _ in range(count)]


def say(message: dict[str, Any]) -> None:
    """A line for whoever has started this process."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do the one task that stdin names."""
    try:
        task = Task(**json.loads(sys.stdin.readline()))
        kind = ProducingWorker if task.role == "produce" else ConsumingWorker
        with connect(task.location, create=False) as broker:
            worker = kind(task, broker)
            say({"ready": True})
            line = sys.stdin.readline()
            if not line:
                return
            start_ns = json.loads(line)["start_ns"]
            threading.Thread(target=worker.listen, daemon=True).start()
            time.sleep(max(0.0, (start_ns - time.monotonic_ns()) / 1e9))
            try:
                worker.run(start_ns)
            except BrokerError as error:
                worker.error = str(error)
            say({"done": worker.result()})
    except BrokenPipeError:
        pass  # nobody listens any more
    except (BrokerError, ValueError, TypeError) as error:
        say({"failed": str(error)})


if __name__ == "__main__":
    logging.basicConfig(format="seawall: %(message)s", level=logging.WARNING)  # to stderr
    main()
