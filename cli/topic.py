"""`seawall topic`: list, create, describe, alter and delete topics."""

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seawall.cli.errors import CommandFailed, WrongUsage
from seawall.cli.options import (
    BrokerOption,
    DryRunOption,
    JsonOption,
    QuietOption,
    TopicArgument,
    complete_topic,
    open_broker,
)
from seawall.cli.output import counted, say, write_table, write_text
from seawall.cli.positions import parse_position_option, resolve_position

if TYPE_CHECKING:
    from seawall.broker import AnyBroker, TopicInfo

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="List, create, describe, alter and delete topics.",
)


@app.command("list")
def list_(
    broker: BrokerOption = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only the names")] = False,
) -> None:
    """List the topics. With --json, one object to a line."""
    with open_broker(broker) as opened:
        topics = sorted(opened.topics(), key=lambda topic: topic.name)
        if quiet:
            write_text("".join(f"{topic.name}\n" for topic in topics))
        elif json:
            write_text("".join(_json_line(_facts(opened, topic)) for topic in topics))
        else:
            write_table(
                ("TOPIC", "PARTITIONS", "RECORDS"),
                [(t.name, len(t.partitions), _records(opened, t)) for t in topics],
            )


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="TOPIC", help="Name of the new topic")],
    broker: BrokerOption = None,
    partitions: Annotated[
        int, typer.Option("-p", "--partitions", metavar="N", min=1, help="Number of partitions")
    ] = 1,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "-c", "--config", metavar="NAME=VALUE", help="Kafka's topic settings; repeatable"
        ),
    ] = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="An existing topic is left as it is")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Create a topic, and the broker's directory if that is new."""
    settings = dict(setting(text, "-c ") for text in config or [])
    with open_broker(broker, create=True) as opened:
        try:
            topic = opened.create_topic(name, partitions, settings, if_not_exists=if_not_exists)
        except ValueError as error:
            raise CommandFailed(f"-p: {error}") from error
        if not quiet:
            say(f"topic {name!r} has {counted(len(topic.partitions), 'partition')}")


@app.command()
def describe(topic: TopicArgument, broker: BrokerOption = None, json: JsonOption = False) -> None:
    """Show the partitions and the configuration of a topic.

    START is the first offset that is still there, END the one that the next durable
    record gets. A setting that is not shown has Kafka's default.
    """
    with open_broker(broker) as opened:
        found = opened.topic(topic)
        facts = _facts(opened, found)
    if json:
        write_text(_json_line(facts))
        return
    write_table(
        ("TOPIC", "UUID", "CONFIG"),
        [
            (
                facts["topic"],
                facts["uuid"],
                _shown(found) or None,
            )
        ],
    )
    write_text("\n")
    write_table(
        ("PARTITION", "ID", "START", "END", "RECORDS"),
        [tuple(p.values()) for p in facts["partitions"]],
    )


@app.command()
def alter(
    topic: TopicArgument,
    broker: BrokerOption = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            "-p", "--partitions", metavar="N", min=1, help="Have so many; never fewer than now"
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "-c",
            "--config",
            metavar="NAME=VALUE",
            help="Change a setting; NAME= takes it back to its default; repeatable",
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Change a topic's settings, or give it more partitions.

    Running processes go by it within moments. With more partitions, keys may go to other
    ones than before.
    """
    changes = {name: value or None for name, value in (setting(c, "-c ") for c in config or [])}
    if partitions is None and not changes:
        raise WrongUsage("nothing to change: give --partitions N or --config NAME=VALUE")
    with open_broker(broker) as opened:
        if changes:
            opened.alter_topic(topic, changes)
        if partitions is not None:
            opened.add_partitions(topic, partitions)
        if not quiet:
            present = counted(len(opened.topic(topic).partitions), "partition")
            say(f"topic {topic!r} has {present}; {_shown(opened.topic(topic)) or 'no settings'}")


@app.command("delete-records")
def delete_records(
    topic: TopicArgument,
    before: Annotated[
        str,
        typer.Option(
            "-o",
            "--before",
            metavar="OFFSET",
            help="end (all of them), N, -N (all but N), @-1h, @2026-01-01T00:00 (UTC) or @MS",
        ),
    ],
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
    """Delete the records below an offset, acknowledged or not, for good.

    START is the first offset that is there before, and afterwards.
    """
    position = parse_position_option(before)
    with open_broker(broker) as opened:
        numbers = [each.number for each in opened.topic(topic).partitions]
        wanted = sorted(set(partition)) if partition else numbers
        for number in set(wanted) - set(numbers):
            raise CommandFailed(f"topic {topic!r} has no partition {number}")
        starts = {number: opened.ends(topic, number).log_start for number in wanted}
        offsets = resolve_position(opened, topic, wanted, position)
        after = {number: max(starts[number], offset) for number, offset in offsets.items()}
        if not dry_run:
            after = opened.delete_records(topic, offsets)
    rows = [(topic, number, starts[number], after[number]) for number in wanted]
    if json:
        names = ("topic", "partition", "from", "to")
        write_text("".join(_json_line(dict(zip(names, row, strict=True))) for row in rows))
    else:
        write_table(("TOPIC", "PARTITION", "START", "NEW START"), rows)


@app.command()
def delete(
    topics: Annotated[
        list[str],
        typer.Argument(
            metavar="TOPIC...", help="Names of the topics", autocompletion=complete_topic
        ),
    ],
    broker: BrokerOption = None,
    if_exists: Annotated[
        bool, typer.Option("--if-exists", help="A topic that is not there is no error")
    ] = False,
) -> None:
    """Delete topics and all their records, at once and for good."""
    from seawall.broker.errors import UnknownTopic

    with open_broker(broker) as opened:
        for name in topics:
            try:
                opened.delete_topic(name)
            except UnknownTopic:
                if not if_exists:
                    raise


def _facts(opened: "AnyBroker", topic: "TopicInfo") -> dict[str, Any]:
    partitions = []
    for partition in topic.partitions:
        ends = opened.ends(topic.name, partition.number)
        partitions.append(
            {
                "partition": partition.number,
                "id": partition.id,
                "start": ends.log_start,
                "end": ends.durable_end,
                "records": ends.durable_end - ends.log_start,
            }
        )
    return {
        "topic": topic.name,
        "uuid": str(topic.uuid),
        "config": dict(topic.config),
        "partitions": partitions,
    }


def _records(opened: "AnyBroker", topic: "TopicInfo") -> int:
    ends = [opened.ends(topic.name, partition.number) for partition in topic.partitions]
    return sum(e.durable_end - e.log_start for e in ends)


def _shown(topic: "TopicInfo") -> str:
    return ",".join(f"{name}={value}" for name, value in topic.config.items())


def _json_line(facts: dict[str, Any]) -> str:
    return json_module.dumps(facts) + "\n"


def setting(text: str, option: str = "") -> tuple[str, str]:
    """NAME=VALUE as a pair; ``option`` is what stands before it on the command line."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise WrongUsage(f"{option}{text!r}: write NAME=VALUE")
    return name, value
