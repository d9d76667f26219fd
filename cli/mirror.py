"""`seawall mirror`: copy topics and groups from one broker to another."""

import contextlib
import json as json_module
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from seawall.cli.errors import CommandFailed, Stopped
from seawall.cli.options import Codec, JsonOption, QuietOption, open_broker
from seawall.cli.output import counted, say, write_table, write_text
from seawall.cli.progress import Line
from seawall.cli.signals import Signals

if TYPE_CHECKING:
    from seawall.broker import AnyBroker, Mirrored, MirrorProgress

app = typer.Typer(rich_markup_mode=None, add_completion=False)

# How long it may take to end after Ctrl-C: to store how far it is, unless no server answers.
PATIENCE_S = 5.0


@app.command()
def mirror(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="A directory, or kafka://HOST:PORT[,...]")
    ],
    target: Annotated[str, typer.Argument(metavar="TO", help="The same; a new directory is made")],
    topics: Annotated[
        list[str] | None,
        typer.Option(
            "-t",
            "--topics",
            metavar="NAME",
            help="Only these: a name or a pattern such as 'order*'; also with commas, or again",
            show_default=False,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("-x", "--exclude", metavar="NAME", help="But not these", show_default=False),
    ] = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="Then copy where the consumer groups are")
    ] = False,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what is new, until Ctrl-C")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Then compare both sides record by record")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be copied (or compare)")
    ] = False,
    provenance: Annotated[
        bool, typer.Option("--provenance", help="Add headers that say where a record comes from")
    ] = False,
    compression: Annotated[
        Codec,
        typer.Option("--compression", metavar="CODEC", help="Of the copies", show_default=True),
    ] = "none",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Copy topics and groups from one broker to another.

    Run it again to go on where it was, also after a kill: nothing is left out, and nothing comes
    twice. Nobody else may write to these topics at TO meanwhile. A directory keeps the offsets;
    a cluster numbers records anew, and the groups' positions are translated. Topics whose names
    begin with __ are copied only if they are named in full. With --verify the exit code
    is 1 if the sides differ; with --dry-run --verify what is there is compared.
    """
    from seawall.broker import mirror as run

    line = Line()
    begun: dict[str, tuple[float, int]] = {}  # when each stage was heard of first, and with what

    def show(progress: "MirrorProgress") -> None:
        of = f" of {progress.total:,}" if progress.total else ""
        now_s = time.monotonic()
        since_s, before = begun.setdefault(progress.stage, (now_s, progress.records))
        rate = (progress.records - before) / max(now_s - since_s, 0.001)
        line.show(f"{progress.stage}: {progress.records:,}{of} records, {rate:,.0f}/s")

    def tell(note: str) -> None:
        line.clear()
        say(note)

    def tell_of_the_end() -> None:
        tell(f"{signals.what} before all was done; run it again to go on")

    with (
        Signals() as signals,
        signals.ending_within(PATIENCE_S, tell_of_the_end),
        contextlib.ExitStack() as stack,
    ):
        opened = stack.enter_context(open_broker(source))
        copies = stack.enter_context(_target(target, dry_run=dry_run))
        try:
            done = run(
                opened,
                copies,
                topics=_names(topics) or ["*"],
                exclude=_names(exclude),
                groups=groups,
                follow=follow,
                verify=verify,
                dry_run=dry_run,
                provenance=provenance,
                compression=compression,
                on_progress=show,
                on_note=tell,
                should_stop=lambda: signals.received != 0,
            )
        finally:
            line.clear()
    _report(done, dry_run=dry_run, json=json, quiet=quiet)
    if done.difference is not None:
        raise CommandFailed(str(done.difference))
    if done.groups is not None and done.groups.busy:
        raise CommandFailed(
            f"{counted(len(done.groups.busy), 'group')} with members at the target left as "
            f"{'it is' if len(done.groups.busy) == 1 else 'they are'}; stop them, then try again"
        )
    if done.was_stopped and not follow:
        raise Stopped(f"{signals.what}; run it again to go on", signal_number=signals.received)


def _names(given: list[str] | None) -> list[str]:
    """Names and patterns, of which several may stand in one argument."""
    return [name for each in given or [] for name in each.split(",") if name]


@contextlib.contextmanager
def _target(location: str, *, dry_run: bool) -> "Iterator[AnyBroker]":
    """The target; to look only, an empty one in the place of a directory that is not there."""
    if not dry_run:
        with open_broker(location, create=True) as opened:
            yield opened
        return
    from seawall.broker.errors import DirectoryUnusable

    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(open_broker(location))
        except DirectoryUnusable:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="seawall-"))
            opened = stack.enter_context(open_broker(scratch, create=True))
        yield opened


def _report(done: "Mirrored", *, dry_run: bool, json: bool, quiet: bool) -> None:
    if json:
        write_text(json_module.dumps(asdict(done)) + "\n")
        return
    if dry_run and done.compared is None:
        write_table(
            ("TOPIC", "PARTITIONS", "AT TARGET", "OFFSETS LEFT"),
            [
                (each.name, each.partitions, each.target_partitions, done.left.get(each.name, 0))
                for each in done.topics
            ],
        )
        return
    if quiet:
        return
    if not dry_run:
        already = f", {counted(done.found, 'record')} found there" if done.found else ""
        positions = "" if done.groups is None else f", {counted(done.groups.set, 'position')} set"
        say(
            f"{counted(done.records, 'record')} copied, {counted(len(done.topics), 'topic')}, "
            f"{counted(done.partitions, 'partition')}{already}{positions}"
        )
    if done.compared is not None and done.difference is None and not done.was_stopped:
        gone = f"; {counted(done.removed, 'offset')} gone from one side" if done.removed else ""
        say(
            f"both sides are the same: {counted(done.compared, 'record')} in "
            f"{counted(done.partitions, 'partition')}{gone}"
        )
