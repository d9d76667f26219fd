"""`seawall produce`: lines in, records out, and how many are safe."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seawall.cli.collector import few_collections
from seawall.cli.errors import CommandFailed, Stopped, WrongUsage
from seawall.cli.feeder import STDIN, Feeder
from seawall.cli.jsonlines import PARTITION_MAX, from_line
from seawall.cli.options import BrokerOption, Codec, QuietOption, TopicArgument, open_broker
from seawall.cli.output import Meter, counted, say
from seawall.cli.signals import Interrupted, Signals

if TYPE_CHECKING:
    from seawall.broker import AnyDelivery, AnyProducer

    Headers = Sequence[tuple[str, bytes | None]]

# After a signal, what is on its way over a network gets two seconds.
FLUSH_MS = 200
STOPPING_FLUSHES = 10

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def produce(
    topic: TopicArgument,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Input; - or none is stdin", show_default=False),
    ] = None,
    broker: BrokerOption = None,
    key: Annotated[
        str | None, typer.Option("-k", "--key", metavar="KEY", help="Key of every record")
    ] = None,
    key_delimiter: Annotated[
        str | None,
        typer.Option(
            "-K", "--key-delimiter", metavar="DELIM", help="Each line is a key, DELIM, and a value"
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("-H", "--header", metavar="NAME=VALUE", help="Add a header; repeatable"),
    ] = None,
    compression: Annotated[
        Codec,
        typer.Option("-z", "--compression", help="Compress record batches"),
    ] = "none",
    partition: Annotated[
        int | None,
        typer.Option(
            "-p",
            "--partition",
            metavar="N",
            min=0,
            max=PARTITION_MAX,
            help="Partition of every record  [default: by key]",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Each line is JSON, as consume --json prints it")
    ] = False,
    keep_partition: Annotated[
        bool, typer.Option("--keep-partition", help="With --json: to the partition that it names")
    ] = False,
    null: Annotated[
        bool, typer.Option("-Z", "--null", help="An empty key or value is null")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count lines that can not be sent, and go on")
    ] = False,
    linger_ms: Annotated[
        int,
        typer.Option(
            "--linger-ms", metavar="MS", min=0, help="How long a batch may wait for more lines"
        ),
    ] = 5,
    batch_bytes: Annotated[
        int,
        typer.Option("--batch-bytes", metavar="BYTES", min=1, help="How large a batch may grow"),
    ] = 65_536,
    idempotent: Annotated[
        bool,
        typer.Option(
            "--idempotent",
            help="Try again for two minutes what can pass, such as a full disk; store it once",
        ),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Send each line of the input as a record.

    Lines are bytes, split at \\n only; an empty line is an empty record. Whenever it stops,
    it says how many lines from the first on are acknowledged, so that `tail -n +N` resumes.
    """
    if key is not None and key_delimiter is not None:
        raise WrongUsage("-k and -K: a record has one key")
    if key_delimiter == "":
        raise WrongUsage("-K: the delimiter is empty")
    if json and (key is not None or key_delimiter is not None or null):
        raise WrongUsage("--json lines bring their own keys and nulls: without -k, -K and -Z")
    if keep_partition and (not json or partition is not None):
        raise WrongUsage("--keep-partition goes with --json, and without -p")
    headers = [_header(text) for text in header or []]

    from seawall.broker.errors import InvalidRecord, RecordTooLarge, UnknownPartition

    bad_line: tuple[type[Exception], ...] = (ValueError, RecordTooLarge, InvalidRecord)
    if keep_partition:
        bad_line += (UnknownPartition,)

    with open_broker(broker) as opened, few_collections(), Signals() as signals:
        # An unknown one is refused before anything is read.
        signals.first(opened.topic, topic)
        meter = Meter("lines", enabled=not quiet)
        with opened.producer(
            linger_ms=linger_ms,
            batch_bytes=batch_bytes,
            compression=compression,
            idempotent=idempotent or opened.is_remote,
        ) as producer:
            if json:
                send_line = _json_sender(producer, topic, headers, partition, keep_partition)
            else:
                send_line = _line_sender(
                    producer, topic, headers, partition, _bytes(key), _bytes(key_delimiter), null
                )
            feeder = Feeder(
                send_line,
                bad_line=bad_line,
                skip_bad=skip_bad,
                signals=signals,
                meter=meter,
            )
            _feed_and_report(
                feeder,
                files or [STDIN],
                signals,
                meter,
                quiet,
                flush=partial(_flush, producer, signals) if opened.is_remote else producer.flush,
                close=partial(_close, producer, signals) if opened.is_remote else producer.close,
            )


def _feed_and_report(
    feeder: Feeder,
    paths: Sequence[str],
    signals: Signals,
    meter: Meter,
    quiet: bool,
    *,
    flush: Callable[[], object],
    close: Callable[[], object],
) -> None:
    """Feed, flush, close and say how far it came, whatever happens."""
    fed = _attempt(partial(feeder.feed, paths))
    flushed = _attempt(flush)
    settled = _attempt(feeder.settle)
    closed = _attempt(close)
    meter.clear()
    ledger = feeder.ledger
    acknowledged = f"{counted(ledger.settled, 'line')} acknowledged"
    if ledger.skipped:
        acknowledged += f" or skipped ({ledger.skipped} skipped)"
    sent = f", {ledger.pending} not yet" if ledger.pending else ""
    resume = f"{acknowledged}{sent}, resume with: {feeder.resume_hint()}"
    problem = fed or settled or flushed or closed  # `settled` names the line, `flushed` does not
    if problem is not None:
        raise CommandFailed(f"{problem}; {resume}") from problem
    if signals.received:
        raise Stopped(f"{signals.what}; {resume}", signal_number=signals.received)
    if not quiet or ledger.skipped:
        say(acknowledged)


def _flush(producer: "AnyProducer", signals: Signals) -> None:
    """Flush over a network, for as long as it takes; but not for ever once a signal came."""
    patience = STOPPING_FLUSHES
    while patience:
        try:
            producer.flush(FLUSH_MS)
            return
        except TimeoutError:
            patience -= bool(signals.received)
    raise Interrupted


def _close(producer: "AnyProducer", signals: Signals) -> None:
    try:
        producer.close(FLUSH_MS)
    except TimeoutError:
        if not signals.received:
            raise


def _attempt(step: Callable[[], object]) -> Exception | None:
    """Take a step; return what it raised. An interruption is no error."""
    try:
        step()
    except Interrupted:
        pass
    except Exception as error:  # noqa: BLE001 - reported once it is known how far it came
        return error
    return None


def _line_sender(
    producer: "AnyProducer",
    topic: str,
    headers: "Headers",
    partition: int | None,
    key: bytes | None,
    delimiter: bytes | None,
    null: bool,
) -> Callable[[bytes], "AnyDelivery"]:
    """A function that sends a line as it is, or with its key split off."""
    fixed: dict[str, Any] = {}
    if headers:
        fixed["headers"] = headers
    if partition is not None:
        fixed["partition"] = partition
    send: Callable[..., AnyDelivery] = partial(producer.send, topic, **fixed)
    if delimiter is None and not null:
        return send if key is None else partial(send, key=key)

    def send_line(line: bytes) -> "AnyDelivery":
        line_key, value = key, line
        if delimiter is not None:
            before, found, behind = line.partition(delimiter)
            if found:
                line_key, value = before, behind
        if null:
            return send(value or None, key=line_key or None)
        return send(value, key=line_key)

    return send_line


def _json_sender(
    producer: "AnyProducer",
    topic: str,
    headers: "Headers",
    partition: int | None,
    keep_partition: bool,
) -> Callable[[bytes], "AnyDelivery"]:
    """A function that sends what a JSON line describes. It raises NotARecord."""
    send = producer.send

    def send_line(line: bytes) -> "AnyDelivery":
        fields = from_line(line)
        return send(
            topic,
            fields.value,
            key=fields.key,
            headers=[*fields.headers, *headers],
            partition=fields.partition if keep_partition else partition,
            timestamp=fields.timestamp,
        )

    return send_line


def _header(text: str) -> tuple[str, bytes | None]:
    """``name=value``; a name alone has a null value."""
    name, found, value = text.partition("=")
    if not name:
        raise WrongUsage(f"-H {text!r}: a header needs a name")
    return name, os.fsencode(value) if found else None


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)
