"""`seawall compact`: remove what may go, and show what keeps the rest."""

import json as json_module
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from seawall.cli.options import (
    BrokerOption,
    DryRunOption,
    JsonOption,
    OnlyTopicArgument,
    open_broker,
)
from seawall.cli.output import write_table, write_text

if TYPE_CHECKING:
    from seawall.broker import Hold, Trimmed

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def compact(
    topic: OnlyTopicArgument = None,
    broker: BrokerOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Remove what may go, and show what keeps the rest.

    By each topic's cleanup.policy: whole files, and, where only the last value of each key is
    kept, records of others. A broker that is in use does this by itself. REMOVED counts files
    and records, START is the first offset that is there afterwards, SEGMENTS and BYTES what
    is kept, HELD BY what keeps it. With --dry-run all that would be read is read.
    """
    with open_broker(broker) as opened:
        found = opened.compact(topic, dry_run=dry_run)
    if json:
        write_text("".join(json_module.dumps(asdict(each)) + "\n" for each in found))
        return
    write_table(
        ("TOPIC", "PARTITION", "POLICY", "REMOVED", "BY", "START", "SEGMENTS", "BYTES", "HELD BY"),
        [_row(each) for each in found],
    )


def _row(trimmed: "Trimmed") -> tuple[object, ...]:
    return (
        trimmed.topic,
        trimmed.partition,
        trimmed.policy,
        _removed(trimmed),
        ", ".join(each.rule for each in trimmed.removed) or None,
        trimmed.log_start,
        trimmed.kept_segments,
        trimmed.kept_bytes,
        ", ".join(map(_held, trimmed.held_by)) or None,
    )


def _removed(trimmed: "Trimmed") -> object:
    """So many segments, and so many records of others."""
    segments = sum(each.segments for each in trimmed.removed)
    records = sum(each.records for each in trimmed.removed)
    if not records:
        return segments
    return f"{segments}, {records} records" if segments else f"{records} records"


def _held(hold: "Hold") -> str:
    return hold.rule if hold.group is None else f"group {hold.group} at {hold.offset}"
