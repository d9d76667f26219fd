"""`seawall bench`: how fast a location takes and gives records, and how long each takes."""

import json as json_module
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seawall.cli.durations import seconds
from seawall.cli.errors import CommandFailed, Stopped, WrongUsage
from seawall.cli.options import BrokerOption, Codec, check_location, complete_topic, open_broker
from seawall.cli.output import counted, say, write_text

if TYPE_CHECKING:
    from seawall.broker.bench.plan import Settings
    from seawall.broker.bench.run import Figures, Report

app = typer.Typer(rich_markup_mode=None, add_completion=False)

BAR_WIDTH = 40
STAMP_BYTES = 16  # of a record that is followed to its consumer


@app.command()
def bench(
    mode: Annotated[
        Literal["both", "produce", "consume", "end-to-end"],
        typer.Argument(
            metavar="[both|produce|consume|end-to-end]",
            help="both: produce, then consume that. end-to-end: from producer to consumer",
            show_default=False,
        ),
    ] = "both",
    broker: BrokerOption = None,
    topic: Annotated[
        str | None,
        typer.Option(
            "-t",
            "--topic",
            metavar="TOPIC",
            help="Use this topic and keep it  [default: a scratch topic, deleted afterwards]",
            show_default=False,
            autocompletion=complete_topic,
        ),
    ] = None,
    partitions: Annotated[
        int, typer.Option("-p", "--partitions", metavar="N", min=1, help="Of a topic made for it")
    ] = 1,
    records: Annotated[
        int | None,
        typer.Option("-n", "--records", metavar="N", min=1, help="How many, of all together"),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration",
            metavar="TIME",
            help="How long each part lasts: 30s, 10m  [default: 5s, without --records]",
            show_default=False,
        ),
    ] = None,
    warmup: Annotated[
        str | None,
        typer.Option("--warmup", metavar="TIME", help="So long before that without counting"),
    ] = None,
    record_bytes: Annotated[
        int,
        typer.Option("--record-bytes", metavar="N", min=1, max=100 << 20, help="Size of a value"),
    ] = 100,
    producers: Annotated[
        int, typer.Option("--producers", metavar="N", min=1, max=1000, help="Processes that send")
    ] = 1,
    consumers: Annotated[
        int,
        typer.Option(
            "--consumers", metavar="N", min=1, max=1000, help="Processes that read; they share"
        ),
    ] = 1,
    throughput: Annotated[
        int | None,
        typer.Option(
            "--throughput",
            metavar="N",
            min=1,
            help="Records a second, of all producers  [default: as fast as they can]",
            show_default=False,
        ),
    ] = None,
    compression: Annotated[
        Codec | None,
        typer.Option("-z", "--compression", metavar="CODEC", help="none, gzip, snappy, lz4, zstd"),
    ] = None,
    batch_bytes: Annotated[
        int | None, typer.Option("--batch-bytes", metavar="N", min=1, help="Largest batch")
    ] = None,
    linger_ms: Annotated[
        int | None,
        typer.Option("--linger-ms", metavar="MS", min=0, help="How long a batch waits for more"),
    ] = None,
    durability: Annotated[
        Literal["fsync", "os"] | None,
        typer.Option("--durability", metavar="WHAT", help="Acknowledged when: fsync, os"),
    ] = None,
    idempotent: Annotated[
        bool, typer.Option("--idempotent", help="Producers that store each record once")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Measure how fast a location takes and gives records.

    Each producer and consumer is a process. With --throughput records are due by a plan made
    beforehand, and a latency counts from when its record was due, not from when it could be
    sent. Without it, latencies include waiting in a full buffer.
    """
    location = check_location(broker)
    if mode == "end-to-end" and record_bytes < STAMP_BYTES:
        raise WrongUsage(
            f"--record-bytes: at least {STAMP_BYTES} end to end, for the time it was due"
        )
    if topic is None and consumers > partitions and mode != "produce":
        raise WrongUsage(
            f"--consumers {consumers}: a partition has one reader; give --partitions {consumers}"
        )
    given = {
        "compression": compression,
        "batch_bytes": batch_bytes,
        "linger_ms": linger_ms,
        "durability": durability,
        "idempotent": idempotent or None,
    }
    from seawall.broker.bench.plan import Settings

    settings = Settings(
        location=location,
        mode=mode,
        topic=topic,
        partitions=partitions,
        records=records,
        duration_s=None if duration is None else seconds(duration, "--duration"),
        warmup_s=0.0 if warmup is None else seconds(warmup, "--warmup"),
        record_bytes=record_bytes,
        producers=producers,
        consumers=consumers,
        throughput=throughput,
        producer={name: value for name, value in given.items() if value is not None},
    )
    _run(settings, json)


def _run(settings: "Settings", json: bool) -> None:
    from seawall.broker.bench.crew import BenchFailed
    from seawall.broker.bench.run import Bench
    from seawall.broker.location import is_cluster
    from seawall.cli.progress import Line
    from seawall.cli.signals import Signals

    is_new = not is_cluster(settings.location) and not _has_content(settings.location)
    line = Line()

    def hear_of_topic(name: str, what: str) -> None:
        if what == "left":
            line.clear()
            say(f"nobody was there to delete it: seawall topic delete {name}")
        else:
            say(f"made topic {name!r}{'; it is deleted afterwards' if what == 'scratch' else ''}")

    with Signals() as signals:
        try:
            with open_broker(settings.location, create=True) as broker:
                signals.first(broker.topics)  # servers that are away are waited for, till Ctrl-C
                if is_new:
                    say(f"made {settings.location!r}; it was not there")
                report = Bench(
                    broker,
                    settings,
                    is_stopped=lambda: bool(signals.received),
                    on_topic=hear_of_topic,
                    on_progress=lambda phase, count: line.show(
                        f"{phase}: {counted(count, 'record')}"
                    ),
                ).run()
        except BenchFailed as error:
            line.clear()
            raise CommandFailed(str(error)) from error
        line.clear()
        write_text(_as_json(settings, report) if json else _as_text(settings, report))
        if signals.received:
            raise Stopped(
                f"{signals.what}; that is what was measured so far",
                signal_number=signals.received,
            )
    for figures in report.figures:
        if figures.error:
            raise CommandFailed(f"{figures.name}: {figures.error}")


def _has_content(path: str) -> bool:
    try:
        return bool(os.listdir(path))
    except OSError:
        return False


# -- what is printed -----------------------------------------------------------------------


def _as_json(settings: "Settings", report: "Report") -> str:
    from dataclasses import asdict

    from seawall.cli.contexts import without_secrets

    facts: dict[str, Any] = {
        **asdict(settings),
        "location": without_secrets(settings.location),
        "topic": report.topic,
        "scratch": report.is_scratch,
        "interrupted": report.interrupted,
    }
    for figures in report.figures:
        facts[figures.name.replace("-", "_")] = {
            "records": figures.records,
            "bytes": figures.bytes,
            "seconds": figures.seconds,
            "records_per_s": figures.records_per_s,
            "bytes_per_s": figures.bytes_per_s,
            "latency_of": _latency_of(figures),
            "latency_ms": figures.latency.summary_ms(),
            "histogram_us": figures.latency.rows(),
            "error": figures.error,
        }
    return json_module.dumps(facts) + "\n"


def _as_text(settings: "Settings", report: "Report") -> str:
    if not report.figures:
        return ""
    return "\n".join(_paragraph(settings, figures) for figures in report.figures)


def _paragraph(settings: "Settings", figures: "Figures") -> str:
    rate = (
        f"{figures.name}: {figures.records:,} records in {figures.seconds:.2f} s: "
        f"{figures.records_per_s:,.0f} records/s, {figures.bytes_per_s / 1e6:,.2f} MB/s\n"
    )
    if not figures.latency.total:
        return rate
    shown = "  ".join(
        f"{'p99.9' if name == 'p999' else name} {value:.2f}"
        for name, value in figures.latency.summary_ms().items()
    )
    text = f"{rate}{_latency_of(figures)} (ms): {shown}\n"
    wanted = settings.throughput
    if figures.name == "produce" and wanted is not None and figures.records_per_s < 0.95 * wanted:
        text += f"It could not keep up with {wanted:,.0f} records/s.\n"
    return text + _bars(figures)


def _latency_of(figures: "Figures") -> str:
    return "poll" if figures.name == "consume" else "latency"


def _bars(figures: "Figures") -> str:
    rows = figures.latency.rows()
    most = max(count for _, count in rows)
    bounds = [f"{bound / 1000:g}" for bound, _ in rows]
    width, digits = max(map(len, bounds)), len(f"{most:,}")
    lines = []
    for bound, (_, count) in zip(bounds, rows, strict=True):
        bar = "#" * -(-count * BAR_WIDTH // most)
        lines.append(f"  <= {bound:>{width}} ms  {count:>{digits},}  {bar}".rstrip() + "\n")
    return "".join(lines)
