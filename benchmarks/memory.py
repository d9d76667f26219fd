"""Resident memory while 1 GiB of 100-byte records passes through one process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import TOPIC, VALUE_BYTES, Result, Setting, broker_with_topic

AT_MOST_MIB = 150
RECORDS_PER_STEP = 10_000


def resident_mib(field: str = "VmHWM") -> float:
    """The most that this process ever had resident; with VmRSS, what it has now
    (proc_pid_status(5))."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found[1]) / 1024


def measure(setting: Setting) -> Iterator[Result]:
    total_bytes = setting.pick(1 << 30, 4 << 20)
    value = bytes(VALUE_BYTES)
    before_mib = resident_mib()
    sent = received = 0
    with (
        broker_with_topic(setting.folder / "broker") as broker,
        broker.producer() as producer,
        broker.consumer(TOPIC) as consumer,
    ):
        while received * VALUE_BYTES < total_bytes:
            if sent * VALUE_BYTES < total_bytes:
                for _ in range(RECORDS_PER_STEP):
                    producer.send(TOPIC, value)
                sent += RECORDS_PER_STEP
            while records := consumer.poll():
                received += len(records)
    yield Result(
        what=f"resident memory while {total_bytes >> 20:,} MiB are produced and consumed: peak",
        against="",
        values=[resident_mib()],
        at_most=AT_MOST_MIB,
        unit="MiB",
        detail=f"{sent:,} records; {before_mib:.0f} MiB before the broker was opened",
    )
