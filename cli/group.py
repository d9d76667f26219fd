"""`seawall group`: list, describe, reset and delete consumer groups."""

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seawall.cli.errors import CommandFailed
from seawall.cli.options import (
    BrokerOption,
    GroupArgument,
    JsonOption,
    complete_topic,
    open_broker,
)
from seawall.cli.output import write_table, write_text
from seawall.cli.positions import parse_position_option, resolve_position

if TYPE_CHECKING:
    from seawall.broker import GroupInfo

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="List, describe, reset and delete consumer groups.",
)


@app.command("list")
def list_(
    broker: BrokerOption = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only the names")] = False,
) -> None:
    """List the groups. With --json, one object to a line."""
    with open_broker(broker) as opened:
        names = sorted(opened.groups())
        if quiet:
            write_text("".join(f"{name}\n" for name in names))
            return
        groups = [opened.group(name) for name in names]
    if json:
        write_text("".join(_json_line(_facts(group)) for group in groups))
    else:
        write_table(
            ("GROUP", "STATE", "MEMBERS", "LAG"),
            [(g.name, g.state, len(g.members), sum(o.lag for o in g.offsets)) for g in groups],
        )


@app.command()
def describe(group: GroupArgument, broker: BrokerOption = None, json: JsonOption = False) -> None:
    """Show a group: who is in it, and how far it has acknowledged.

    COMMITTED is the offset of the next record that it reads, LAG what lies between that
    and END, and BEHIND how long ago the first of these was published. HOLDS says that no
    group is further behind, so that acknowledged segments are kept from there on.
    """
    with open_broker(broker) as opened:
        found = opened.group(group)
    if json:
        write_text(_json_line(_facts(found)))
        return
    write_table(
        ("GROUP", "STATE", "GENERATION", "ASSIGNOR"),
        [(found.name, found.state, found.generation, found.assignor or None)],
    )
    if found.members:
        write_text("\n")
        write_table(
            ("MEMBER", "INSTANCE", "CLIENT", "PID", "HOST", "PARTITIONS"),
            [
                (
                    m.member_id,
                    m.group_instance_id,
                    m.client_id,
                    m.pid,
                    m.host,
                    " ".join(f"{topic}/{number}" for topic, number in m.assignment) or None,
                )
                for m in found.members
            ],
        )
    write_text("\n")
    write_table(
        ("TOPIC", "PARTITION", "COMMITTED", "START", "END", "LAG", "BEHIND", "HOLDS", "MEMBER"),
        [
            (
                o.topic,
                o.partition,
                o.committed,
                o.log_start,
                o.durable_end,
                o.lag,
                None if o.lag_ms is None else f"{o.lag_ms / 1000:.1f}s",
                "yes" if o.holds_back else None,
                o.member_id,
            )
            for o in found.offsets
        ],
    )


@app.command()
def reset(
    group: GroupArgument,
    topic: Annotated[
        str,
        typer.Option(
            "-t",
            "--topic",
            metavar="TOPIC",
            help="The topic to move in",
            autocompletion=complete_topic,
        ),
    ],
    offset: Annotated[
        str,
        typer.Option(
            "-o",
            "--offset",
            metavar="OFFSET",
            help="start, end, N, -N (before the end), @-1h, @2026-01-01T00:00 (UTC) or @MS",
        ),
    ],
    broker: BrokerOption = None,
    partition: Annotated[
        list[int] | None,
        typer.Option(
            "-p", "--partition", metavar="N", min=0, help="Only this partition; repeatable"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, but do nothing")] = False,
    json: JsonOption = False,
) -> None:
    """Move a group's committed offsets, back or forth. The group may have no members meanwhile."""
    position = parse_position_option(offset)
    with open_broker(broker) as opened:
        existing = [p.number for p in opened.topic(topic).partitions]
        for number in partition or []:
            if number not in existing:
                raise CommandFailed(f"topic {topic!r} has no partition {number}")
        numbers = sorted(set(partition)) if partition else existing
        committed = {}
        if group in opened.groups():
            before = opened.group(group).offsets
            committed = {o.partition: o.committed for o in before if o.topic == topic}
        offsets = resolve_position(opened, topic, numbers, position)
        if not dry_run:
            opened.reset_group(group, topic, offsets)
    rows = [(topic, number, committed.get(number), to) for number, to in offsets.items()]
    if json:
        names = ("topic", "partition", "from", "to")
        write_text("".join(_json_line(dict(zip(names, row, strict=True))) for row in rows))
    else:
        write_table(("TOPIC", "PARTITION", "FROM", "TO"), rows)


@app.command()
def delete(group: GroupArgument, broker: BrokerOption = None) -> None:
    """Forget a group and what it acknowledged. The group may have no members meanwhile."""
    with open_broker(broker) as opened:
        opened.delete_group(group)


def _facts(group: "GroupInfo") -> dict[str, Any]:
    return {
        "group": group.name,
        "state": group.state,
        "generation": group.generation,
        "assignor": group.assignor,
        "members": [
            {
                "member": m.member_id,
                "instance": m.group_instance_id,
                "client": m.client_id,
                "pid": m.pid,
                "host": m.host,
                "joined_ms": m.joined_ms,
                "partitions": [list(each) for each in m.assignment],
            }
            for m in group.members
        ],
        "offsets": [
            {
                "topic": o.topic,
                "partition": o.partition,
                "committed": o.committed,
                "start": o.log_start,
                "end": o.durable_end,
                "lag": o.lag,
                "lag_ms": o.lag_ms,
                "holds_back": o.holds_back,
                "member": o.member_id,
            }
            for o in group.offsets
        ],
    }


def _json_line(facts: dict[str, Any]) -> str:
    return json_module.dumps(facts) + "\n"
