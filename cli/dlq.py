"""`seawall dlq`: list, show, redrive and purge dead letters."""

import json as json_module
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seawall.cli.errors import CommandFailed, PipeClosed
from seawall.cli.options import (
    BrokerOption,
    DryRunOption,
    JsonOption,
    QuietOption,
    complete_group,
    complete_topic,
    open_broker,
)
from seawall.cli.output import Meter, counted, say, write_bytes, write_table, write_text
from seawall.cli.positions import (
    RangeOption,
    parse_position_option,
    parse_range_option,
    resolve_position,
    resolve_range,
)

if TYPE_CHECKING:
    from seawall.broker import AnyBroker, DeadLetter, DeadLetterChoice

ROWS = 100
MESSAGE_CHARACTERS = 60

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="List, show, redrive and purge dead letters.",
)

TopicArgument = Annotated[
    str,
    typer.Argument(
        metavar="TOPIC",
        help="The topic whose dead letters they are, or the one that holds them",
        show_default=False,
        autocompletion=complete_topic,
    ),
]
PartitionOption = Annotated[
    list[int] | None,
    typer.Option("-p", "--partition", metavar="N", min=0, help="Only this partition; repeatable"),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        "-g",
        "--group",
        metavar="GROUP",
        help="Only those whose handler was of this group",
        autocompletion=complete_group,
    ),
]
ErrorOption = Annotated[
    str | None,
    typer.Option("--error", metavar="CLASS", help="Only those with this error, such as ValueError"),
]


@app.command("list")
def list_(broker: BrokerOption = None, json: JsonOption = False) -> None:
    """List the topics that hold dead letters. With --json, one object to a line.

    RECORDS are those that were not redriven, OLDEST is when the first of them failed.
    """
    with open_broker(broker) as opened:
        found = opened.dead_letter_topics()
    if json:
        write_text(
            "".join(
                _json_line(
                    {
                        "topic": each.name,
                        "records": each.records,
                        "redriven": each.redriven,
                        "oldest_ms": each.oldest_ms,
                        "groups": list(each.groups),
                        "origins": list(each.origins),
                    }
                )
                for each in found
            )
        )
        return
    write_table(
        ("TOPIC", "RECORDS", "REDRIVEN", "OLDEST", "GROUPS", "ORIGINS"),
        [
            (
                each.name,
                each.records,
                each.redriven,
                _time(each.oldest_ms),
                " ".join(each.groups) or None,
                " ".join(each.origins) or None,
            )
            for each in found
        ],
    )


@app.command()
def show(
    topic: TopicArgument,
    broker: BrokerOption = None,
    partition: PartitionOption = None,
    offset: RangeOption = None,
    group: GroupOption = None,
    error: ErrorOption = None,
    number: Annotated[
        int | None,
        typer.Option(
            "-n", "--count", metavar="N", min=1, help="So many at the most  [table: 100; JSON: all]"
        ),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Also those that were redriven already")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show dead letters: where they were, and why they could not be handled.

    With --json one to a line, whole: the record as `consume --json` prints it, and what is
    known of it under "dead_letter", the handler's traceback included.
    """
    most = number if number is not None else None if json else ROWS
    shown: list[DeadLetter] = []
    with open_broker(broker) as opened:
        letters = opened.dead_letters(topic)
        choice = _choice(opened, letters.topic, partition, offset, group, error)
        more = False
        for count, letter in enumerate(letters.records(choice, with_redriven=all_)):
            if most is not None and count >= most:
                more = True
                break
            if json:
                try:
                    write_bytes(_letter_line(letter))
                except PipeClosed:
                    return
            else:
                shown.append(letter)
    if not json:
        write_table(
            (
                *("PARTITION", "OFFSET", "FAILED", "ORIGIN", "GROUP", "ATTEMPTS"),
                *("REDRIVES", "ERROR", "KEY"),
            ),
            [_row(letter) for letter in shown],
        )
    if more and number is None:
        say(f"these are the first {ROWS}; -n N shows more, --json all of them whole")


@app.command()
def redrive(
    topic: TopicArgument,
    broker: BrokerOption = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="TOPIC",
            help="Send them there  [default: to the topic that each was in]",
            show_default=False,
            autocompletion=complete_topic,
        ),
    ] = None,
    partition: PartitionOption = None,
    offset: RangeOption = None,
    group: GroupOption = None,
    error: ErrorOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Send dead letters back to the topic that they were in, or to another one.

    What was sent is not sent again by the next redrive. Every group that reads the topic
    gets it, not only the one whose handler had failed.
    """
    meter = Meter("records", enabled=not quiet)
    with open_broker(broker) as opened:
        letters = opened.dead_letters(topic)
        choice = _choice(opened, letters.topic, partition, offset, group, error)
        try:
            done = letters.redrive(choice, to=to, dry_run=dry_run, on_progress=meter.update)
        except ValueError as problem:
            raise CommandFailed(str(problem)) from problem
        finally:
            meter.clear()
    rows = [
        (each.topic, each.partition, each.target, each.records, each.first_offset, each.last_offset)
        for each in done
    ]
    if json:
        write_text("".join(_json_line(asdict(each)) for each in done))
    else:
        write_table(("TOPIC", "PARTITION", "TO", "RECORDS", "FIRST", "LAST"), rows)
    if not quiet:
        total = counted(sum(each.records for each in done), "record")
        say(f"{total} would be sent" if dry_run else f"{total} sent")
    refused = [each for each in done if each.refused]
    if refused:
        first = refused[0]
        count = counted(sum(each.refused for each in refused), "record")
        raise CommandFailed(
            f"{count} {'would stay' if dry_run else 'stayed'}, because a topic does not take such "
            f"ones: {first.topic}/{first.partition} offset {first.refused_offset}: {first.reason}; "
            "change that topic, send them to another one with --to, or purge them"
        )


@app.command()
def purge(
    topic: TopicArgument,
    broker: BrokerOption = None,
    before: Annotated[
        str,
        typer.Option(
            "-o",
            "--before",
            metavar="OFFSET",
            help="end (all of them), N, -N (all but N), @-7d, @2026-01-01T00:00 (UTC) or @MS",
        ),
    ] = "end",
    partition: PartitionOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Delete dead letters, redriven or not, for good.

    START is the first offset that is there before, and afterwards.
    """
    position = parse_position_option(before)
    with open_broker(broker) as opened:
        letters = opened.dead_letters(topic)
        numbers = _numbers(opened, letters.topic, partition)
        offsets = resolve_position(opened, letters.topic, numbers, position)
        done = letters.purge(offsets, dry_run=dry_run)
        rows = [(letters.topic, number, *done[number]) for number in numbers]
    if json:
        names = ("topic", "partition", "from", "to")
        write_text("".join(_json_line(dict(zip(names, row, strict=True))) for row in rows))
    else:
        write_table(("TOPIC", "PARTITION", "START", "NEW START"), rows)


def _numbers(opened: "AnyBroker", topic: str, partition: list[int] | None) -> list[int]:
    numbers = [each.number for each in opened.topic(topic).partitions]
    wanted = sorted(set(partition)) if partition else numbers
    for number in wanted:
        if number not in numbers:
            raise CommandFailed(f"topic {topic!r} has no partition {number}")
    return wanted


def _choice(
    opened: "AnyBroker",
    topic: str,
    partition: list[int] | None,
    offset: str | None,
    group: str | None,
    error: str | None,
) -> "DeadLetterChoice":
    from seawall.broker import DeadLetterChoice

    ranges = None
    if partition or offset is not None:
        numbers = _numbers(opened, topic, partition)
        wanted = parse_range_option(offset)
        starts, stops = resolve_range(opened, topic, numbers, wanted, stop_at_end=True)
        ranges = {number: (starts[number], stops[number]) for number in numbers}
    return DeadLetterChoice(ranges=ranges, group=group, error_class=error)


def _row(letter: "DeadLetter") -> tuple[object, ...]:
    record = letter.record
    origin = None
    if letter.topic is not None:
        origin = f"{letter.topic}/{letter.partition} {letter.offset}"
    error = letter.error_class
    if error is not None and letter.error_message:
        message = " ".join(letter.error_message.split())
        error = f"{error}: {message}"
        if len(error) > MESSAGE_CHARACTERS:
            error = error[: MESSAGE_CHARACTERS - 1] + "…"
    return (
        record.partition,
        record.offset,
        _time(letter.failed_at_ms),
        origin,
        letter.group,
        letter.attempts,
        letter.redrives,
        error,
        None if record.key is None else record.key.decode("utf-8", "backslashreplace"),
    )


def _letter_line(letter: "DeadLetter") -> bytes:
    from seawall.cli.jsonlines import to_line

    known = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "group": letter.group,
        "attempts": letter.attempts,
        "error_class": letter.error_class,
        "error_message": letter.error_message,
        "error_trace": letter.error_trace,
        "failed_at_ms": letter.failed_at_ms,
        "redrives": letter.redrives,
        "redriven": letter.is_redriven,
    }
    line = to_line(letter.record)
    return line[:-1] + b',"dead_letter":' + json_module.dumps(known).encode() + b"}\n"


def _time(timestamp_ms: int | None) -> str | None:
    if timestamp_ms is None:
        return None
    from datetime import UTC, datetime, timedelta

    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return str(timestamp_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _json_line(facts: dict[str, Any]) -> str:
    return json_module.dumps(facts) + "\n"
