"""Checking a finished job: read the sources, the log and the deliveries again, and compare."""

from __future__ import annotations

from demo_parts.checking import (
    Problems,
    Run,
    check_counts,
    check_deliveries,
    check_kills,
    check_log,
)
from demo_parts.deliveries import DeliveriesDamaged, DeliveryFile, as_copy
from demo_parts.job import CONSUMER, GROUP, PARTITIONS, Job
from demo_parts.reading import ReadStalled, read_all
from demo_parts.report import print_findings
from demo_parts.sources import read_sources

from seawall.broker import Broker
from seawall.broker.errors import BrokerError


def check(job: Job) -> bool:
    """Print what was found, and say whether all is as it must be."""
    problems = Problems()
    print("\ncheck    the files, the log and the deliveries, read again from disk", flush=True)
    try:
        _check(job, problems)
    except (BrokerError, DeliveriesDamaged, ReadStalled, OSError, ValueError) as error:
        problems.add(f"the check stopped: {type(error).__name__}: {error}")
    if problems.count:
        print(f"\nFAILED: {problems.count:,} problems, the first of them:")
        for text in problems.texts:
            print(f"  {text}")
        return False
    print("\nOK: nothing is missing, out of order or changed")
    return True


def _check(job: Job, problems: Problems) -> None:
    sources = read_sources(job.source, job.limit)
    lines = sum(map(len, sources.values()))
    kills = job.load_kills()
    with Broker.open(job.broker_path, create=False) as broker:
        for finding in broker.verify():
            problems.add(f"verify: {finding}")
        log = check_log(map(as_copy, read_all(broker)), sources, PARTITIONS, problems)
        for place in broker.group(GROUP).offsets:
            if place.lag:
                problems.add(f"group: {place.lag} records of {place.partition} are left")
    check_kills(kills, log.records, problems)
    nothing = (0,) * PARTITIONS
    acknowledged = [nothing, *(kill.acknowledged for kill in kills if kill.who == CONSUMER)]
    files = [DeliveryFile(job.deliveries_path(run)) for run in range(1, len(acknowledged) + 1)]
    runs = [
        Run(acknowledged=known, start=file.start(), copies=file.copies())
        for known, file in zip(acknowledged, files, strict=True)
    ]
    seen = check_deliveries(runs, sources, log, problems)
    if files[-1].cut_bytes:
        problems.add("deliveries: the last run was not killed, but its file is cut short")
    check_counts(lines, log, seen, problems)
    print_findings(len(sources), lines, log, seen, sum(1 for file in files if file.cut_bytes))
