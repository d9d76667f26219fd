"""`seawall group`: list, describe, reset and delete consumer groups."""

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seawall.cli.errors import CommandFailed, WrongUsage
from seawall.cli.options import (
    BrokerOption,
    DryRunOption,
    GroupArgument,
    JsonOption,
    complete_topic,
    open_broker,
)
from seawall.cli.output import counted, say, write_table, write_text
from seawall.cli.positions import parse_position_option, resolve_position

if TYPE_CHECKING:
    from seawall.broker import AnyBroker, GroupInfo

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
        list[str] | None,
        typer.Option(
            "-t",
            "--topic",
            metavar="TOPIC",
            help="The topic to move in; repeatable",
            autocompletion=complete_topic,
        ),
    ] = None,
    all_topics: Annotated[
        bool, typer.Option("--all-topics", help="In every topic that the group has read")
    ] = False,
    offset: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--offset",
            metavar="OFFSET",
            help="start, end, N, -N (before the end), @-1h, @2026-01-01T00:00 (UTC) or @MS",
        ),
    ] = None,
    shift_by: Annotated[
        int | None,
        typer.Option(
            "--shift-by",
            metavar="N",
            help="Instead of -o: so many offsets on, or back, as far as there are records",
        ),
    ] = None,
    broker: BrokerOption = None,
    partition: Annotated[
        list[int] | None,
        typer.Option(
            "-p", "--partition", metavar="N", min=0, help="Only this partition; repeatable"
        ),
    ] = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Move a group's committed offsets, back or forth. The group may have no members meanwhile.

    A group that there is not yet begins there.
    """
    if bool(topic) == all_topics:
        raise WrongUsage("either -t TOPIC or --all-topics")
    if (offset is None) == (shift_by is None):
        raise WrongUsage("either -o OFFSET or --shift-by N")
    if partition and len(topic or ()) != 1:
        raise WrongUsage("-p: with one -t")
    position = None if offset is None else parse_position_option(offset)
    with open_broker(broker) as opened:
        found = opened.group(group) if group in opened.groups() else None
        committed = {(o.topic, o.partition): o.committed for o in found.offsets} if found else {}
        topics = list(dict.fromkeys(topic or sorted({name for name, _ in committed})))
        if not topics:
            raise CommandFailed(f"group {group!r} has read no topic; name one with -t")
        wanted = {}
        for name in topics:
            numbers = _numbers(opened, name, partition)
            if position is not None:
                wanted[name] = resolve_position(opened, name, numbers, position)
            else:
                wanted[name] = _shifted(opened, group, name, numbers, committed, shift_by or 0)
        if not dry_run:
            for name, offsets in wanted.items():
                opened.reset_group(group, name, offsets)
    rows = [
        (name, number, committed.get((name, number)), to)
        for name, offsets in wanted.items()
        for number, to in offsets.items()
    ]
    if json:
        names = ("topic", "partition", "from", "to")
        write_text("".join(_json_line(dict(zip(names, row, strict=True))) for row in rows))
    else:
        write_table(("TOPIC", "PARTITION", "FROM", "TO"), rows)
    if found is None:
        say(f"group {group!r} {'would be' if dry_run else 'is'} a new one")
    elif dry_run and found.members:
        count = counted(len(found.members), "member")
        say(f"group {group!r} has {count}, so it would be refused now; end its consumers first")


def _numbers(opened: "AnyBroker", topic: str, wanted: list[int] | None) -> list[int]:
    existing = [p.number for p in opened.topic(topic).partitions]
    for number in wanted or []:
        if number not in existing:
            raise CommandFailed(f"topic {topic!r} has no partition {number}")
    return sorted(set(wanted)) if wanted else existing


def _shifted(
    opened: "AnyBroker",
    group: str,
    topic: str,
    numbers: list[int],
    committed: dict[tuple[str, int], int],
    shift: int,
) -> dict[int, int]:
    """Where the group is, and so much further; as in Kafka, not beyond the log's ends."""
    offsets = {}
    for number in numbers:
        before = committed.get((topic, number))
        if before is None:
            raise CommandFailed(
                f"group {group!r} is nowhere in partition {number} of {topic!r}; use -o"
            )
        ends = opened.ends(topic, number)
        offsets[number] = min(max(before + shift, ends.log_start), ends.durable_end)
    return offsets


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
