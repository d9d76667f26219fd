"""`seawall consume`: records out, and for a group, acknowledged once they are out."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from seawall.cli.collector import few_collections
from seawall.cli.errors import CommandFailed, PipeClosed, Stopped, WrongUsage
from seawall.cli.formats import FormatInvalid, compile_format
from seawall.cli.jsonlines import to_line
from seawall.cli.options import (
    BrokerOption,
    QuietOption,
    TopicArgument,
    complete_group,
    open_broker,
)
from seawall.cli.output import (
    Meter,
    counted,
    reader_is_gone,
    say,
    stdout_is_terminal,
    write_bytes,
)
from seawall.cli.positions import RangeOption, parse_range_option, resolve_range
from seawall.cli.properties import PropertyOption, parse_properties
from seawall.cli.signals import Interrupted, Signals

if TYPE_CHECKING:
    from seawall.broker import AnyBroker, AnyConsumer
    from seawall.wal.records import Record

    Render = Callable[[Sequence[Record]], bytes]

BATCH_RECORDS = 2_000
IDLE_CHECK_MS = 200  # how soon a signal, or a reader that has gone, is noticed while idle

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def consume(
    topic: TopicArgument,
    broker: BrokerOption = None,
    offsets: RangeOption = None,
    group: Annotated[
        str | None,
        typer.Option(
            "-g",
            "--group",
            metavar="GROUP",
            autocompletion=complete_group,
            help="Go on where this group acknowledged, and acknowledge what was printed",
        ),
    ] = None,
    partition: Annotated[
        list[int] | None,
        typer.Option(
            "-p", "--partition", metavar="N", min=0, help="Only this partition; repeatable"
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", metavar="N", min=1, help="Stop after this many records"),
    ] = None,
    exit_at_end: Annotated[
        bool, typer.Option("-e", "--exit", help="Stop at what is now the end, instead of waiting")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines, without loss")] = False,
    output_format: Annotated[
        str | None,
        typer.Option(
            "-f",
            "--format",
            metavar="FORMAT",
            help="Print with %t %p %o %T %k %K %s %S %R %h %% \\n \\r \\t \\xNN",
        ),
    ] = None,
    null: Annotated[
        bool, typer.Option("-Z", "--null", help="Print NULL for a null key or value")
    ] = False,
    auto_offset_reset: Annotated[
        Literal["earliest", "latest", "error"],
        typer.Option("--auto-offset-reset", help="Where a group without a position begins"),
    ] = "earliest",
    properties: PropertyOption = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Seek past damaged records, and count them")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Print records, then wait for more.

    One value to a line, unless --json or -f say otherwise. Without -o it begins at the
    start of the topic, with -g where the group acknowledged. With -g, each batch is
    acknowledged once it was written to stdout.
    """
    if group is not None and (offsets is not None or partition):
        raise WrongUsage(
            "-g: the group knows its offsets and partitions; "
            "move it with `seawall group reset`, or leave out -o and -p"
        )
    if json and (output_format is not None or null):
        raise WrongUsage("--json: without -f and -Z")
    if properties and group is None:
        raise WrongUsage("-X: only with -g")
    member = parse_properties(properties or [])
    render = _renderer(json, output_format, null)
    wanted = parse_range_option(offsets)

    with open_broker(broker) as opened, few_collections(), Signals() as signals:
        numbers = signals.first(_partitions, opened, topic, partition)
        starts, stops = signals.first(
            resolve_range, opened, topic, numbers, wanted, stop_at_end=exit_at_end
        )
        with signals.first(
            opened.consumer,
            topic,
            group=group,
            partitions=None if group is not None else numbers,
            auto_offset_reset=auto_offset_reset,
            **member,
        ) as consumer:
            if group is None:
                for number, offset in starts.items():
                    consumer.seek(topic, number, offset)
            printer = Printer(
                consumer,
                topic,
                render,
                signals,
                stops=stops,
                acknowledge=group is not None,
                is_remote=opened.is_remote,
                skip_bad=skip_bad,
            )
            _print_and_report(printer, count, signals, quiet)


class Printer:
    """Polls, prints and acknowledges until there is a reason to stop."""

    def __init__(
        self,
        consumer: "AnyConsumer",
        topic: str,
        render: "Render",
        signals: Signals,
        *,
        stops: dict[int, int],
        acknowledge: bool,
        skip_bad: bool,
        is_remote: bool = False,
    ) -> None:
        self.printed = 0
        self.skipped = 0
        self.unacknowledged = 0  # of what was printed last, if that could not be done
        self._consumer = consumer
        self._topic = topic
        self._render = render
        self._signals = signals
        self._stops = stops  # partition -> the offset before which it stops, if it does
        self._acknowledge = acknowledge
        self._skip_bad = skip_bad
        self._is_remote = is_remote

    def run(self, count: int | None, meter: Meter) -> None:
        """Print until `count` records, all the stops, a signal or a closed pipe."""
        while (count is None or self.printed < count) and not self._at_stops():
            limit = BATCH_RECORDS if count is None else min(BATCH_RECORDS, count - self.printed)
            if self._signals.received:
                return
            records = self._poll(limit)
            if not records:
                meter.update(self.printed)
                if reader_is_gone():
                    raise PipeClosed
                continue
            wanted = self._within_stops(records)
            if wanted:
                write_bytes(self._render(wanted), self._signals.wait)
                self.printed += len(wanted)
                if self._acknowledge:
                    self._ack(wanted)
            meter.update(self.printed)

    def _ack(self, printed: "list[Record]") -> None:
        """Acknowledge; what was handed out, but lies behind a stop, is not among it."""
        from seawall.broker.errors import GroupFenced, PartitionRevoked

        newest = list({r.partition: r for r in printed}.values())
        self.unacknowledged = len(printed)
        try:
            if self._is_remote:
                # It takes as long as an outage does, and a signal ends the waiting.
                self._signals.wait(self._consumer.ack, newest)
            else:
                self._consumer.ack(newest)
        except (GroupFenced, PartitionRevoked) as error:
            say(str(error))  # somebody prints it again, perhaps this one
        self.unacknowledged = 0

    def _poll(self, limit: int) -> "list[Record]":
        from seawall.broker.errors import LogDamaged, RecordDecodeError

        try:
            return self._consumer.poll(limit, IDLE_CHECK_MS)
        except (LogDamaged, RecordDecodeError) as error:
            if not self._skip_bad or error.partition is None or error.next_offset <= error.offset:
                raise
            self._consumer.seek(self._topic, error.partition, error.next_offset)
            self.skipped += error.next_offset - error.offset
            return []

    def _at_stops(self) -> bool:
        """Whether it is at the stop of each partition; others' are other members' affair."""
        if not self._stops or self._consumer.is_rebalancing:
            return False
        return all(
            self._consumer.position(self._topic, number) >= self._stops.get(number, 0)
            for _, number in self._consumer.assignment()
        )

    def _within_stops(self, records: "list[Record]") -> "list[Record]":
        position = self._consumer.position
        beyond = {
            number: self._stops[number]
            for _, number in self._consumer.assignment()
            if number in self._stops and position(self._topic, number) > self._stops[number]
        }
        if not beyond:
            return records
        return [r for r in records if r.partition not in beyond or r.offset < beyond[r.partition]]


def _print_and_report(printer: Printer, count: int | None, signals: Signals, quiet: bool) -> None:
    """Run the printer and say how much came out, whatever ends it."""
    from seawall.broker.errors import BrokerError

    meter = Meter("records", enabled=not quiet and not stdout_is_terminal())
    problem: Exception | None = None
    try:
        printer.run(count, meter)
    except (Interrupted, PipeClosed):
        pass
    except (BrokerError, CommandFailed) as error:
        problem = error
    finally:
        meter.clear()
    if problem is not None:
        raise CommandFailed(f"{problem}; {_summary(printer)}") from problem
    if signals.received:
        raise Stopped(f"{signals.what}; {_summary(printer)}", signal_number=signals.received)
    if not quiet or printer.skipped:
        say(_summary(printer))


def _summary(printer: Printer) -> str:
    summary = f"{counted(printer.printed, 'record')} printed"
    if printer.unacknowledged:
        summary += f", {printer.unacknowledged} of them not acknowledged"
    if printer.skipped:
        summary += f", {counted(printer.skipped, 'damaged record')} skipped"
    return summary


def _partitions(opened: "AnyBroker", topic: str, wanted: list[int] | None) -> list[int]:
    existing = [p.number for p in opened.topic(topic).partitions]
    for number in wanted or []:
        if number not in existing:
            raise CommandFailed(
                f"topic {topic!r} has no partition {number}; it has 0 to {len(existing) - 1}"
            )
    return sorted(set(wanted)) if wanted else existing


def _renderer(json: bool, output_format: str | None, null: bool) -> "Render":
    if json:
        return lambda records: b"\n".join([to_line(r) for r in records]) + b"\n"
    shown_null = b"NULL" if null else b""
    if output_format is not None:
        try:
            show = compile_format(output_format, null=shown_null)
        except FormatInvalid as error:
            raise WrongUsage(f"-f: {error}") from None
        return lambda records: b"".join([show(r) for r in records])
    if null:
        return lambda records: (
            b"\n".join([b"NULL" if r.value is None else r.value for r in records]) + b"\n"
        )
    return lambda records: b"\n".join([r.value or b"" for r in records]) + b"\n"
