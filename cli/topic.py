"""`seawall topic`: list, create, describe and delete topics."""

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seawall.cli.errors import WrongUsage
from seawall.cli.options import (
    BrokerOption,
    JsonOption,
    QuietOption,
    TopicArgument,
    complete_topic,
    open_broker,
)
from seawall.cli.output import counted, say, write_table, write_text

if TYPE_CHECKING:
    from seawall.broker import Broker, TopicInfo

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="List, create, describe and delete topics.",
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
    settings = dict(_setting(text) for text in config or [])
    with open_broker(broker, create=True) as opened:
        topic = opened.create_topic(name, partitions, settings, if_not_exists=if_not_exists)
        if not quiet:
            say(f"topic {name!r} has {counted(len(topic.partitions), 'partition')}")


@app.command()
def describe(topic: TopicArgument, broker: BrokerOption = None, json: JsonOption = False) -> None:
    """Show the partitions and the configuration of a topic.

    START is the first offset that is still there, END the one that the next durable
    record gets. A setting that is not shown has Kafka's default.
    """
    with open_broker(broker) as opened:
        facts = _facts(opened, opened.topic(topic))
    if json:
        write_text(_json_line(facts))
        return
    write_table(
        ("TOPIC", "UUID", "CONFIG"),
        [
            (
                facts["topic"],
                facts["uuid"],
                ",".join(f"{k}={v}" for k, v in facts["config"].items()) or None,
            )
        ],
    )
    write_text("\n")
    write_table(
        ("PARTITION", "ID", "START", "END", "RECORDS"),
        [tuple(p.values()) for p in facts["partitions"]],
    )


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


def _facts(opened: "Broker", topic: "TopicInfo") -> dict[str, Any]:
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


def _records(opened: "Broker", topic: "TopicInfo") -> int:
    ends = [opened.ends(topic.name, partition.number) for partition in topic.partitions]
    return sum(e.durable_end - e.log_start for e in ends)


def _json_line(facts: dict[str, Any]) -> str:
    return json_module.dumps(facts) + "\n"


def _setting(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise WrongUsage(f"-c {text!r}: write NAME=VALUE")
    return name, value
