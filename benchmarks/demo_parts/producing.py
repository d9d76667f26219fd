"""The producer's process: every line of every file, in order, from where the log ends."""

from __future__ import annotations

import sys

from demo_parts.deliveries import as_copy
from demo_parts.job import LINE_HEADER, TOPIC, Job
from demo_parts.leash import Leash
from demo_parts.reading import read_all
from demo_parts.sources import read_sources

from seawall.broker import Broker


def last_lines(broker: Broker) -> dict[bytes, int]:
    """Key -> the last line of it that is in the log."""
    found: dict[bytes, int] = {}
    for record in read_all(broker):
        copy = as_copy(record)
        found[copy.key] = max(copy.line, found.get(copy.key, 0))
    return found


def produce(job: Job, leash: Leash) -> None:
    """Send what is not in the log yet, and wait wherever the conductor has put the gate.

    The conductor says how many lines may be sent, counted from the very first one, and
    says a higher number later. That keeps some work for everyone who is yet to be killed,
    however fast or slow the machine is.
    """
    gate = 0
    position = 0
    with Broker.open(job.broker_path, create=False) as broker:
        found = last_lines(broker)
        if found:
            print(f"           producer found {sum(found.values()):,} lines in the log", flush=True)
        with broker.producer() as producer:
            for key, lines in read_sources(job.source, job.limit).items():
                for word in leash.read(wait=False):
                    gate = int(word)
                skipped = found.get(key, 0)
                if skipped > len(lines):
                    sys.exit(f"{key!r}: the log has line {skipped} of {len(lines)}")
                position += skipped
                for number, line in enumerate(lines[skipped:], skipped + 1):
                    while position >= gate:
                        producer.flush()
                        gate = int(leash.read(wait=True)[-1])
                    position += 1
                    producer.send(TOPIC, line, key=key, headers=((LINE_HEADER, b"%d" % number),))
