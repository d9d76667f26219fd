"""`seawall torture`: break a scratch directory in every way, and see that nothing is lost."""

import json
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from seawall.cli.durations import seconds
from seawall.cli.errors import CommandFailed, Stopped, WrongUsage
from seawall.cli.output import counted, say, write_table, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seawall.broker.torture.runner import Plan
    from seawall.wal.torture.search import Case, Outcome

app = typer.Typer(rich_markup_mode=None, add_completion=False)

DEFAULT_BUDGET = "60s"
_LONGEST_PROGRESS = 100


@app.command()
def torture(
    directory: Annotated[
        str | None,
        typer.Option(
            "--dir",
            metavar="PATH",
            help="A directory on the file system to test; nothing in it is touched  "
            "[default: the temporary one, and memory where no disk is needed]",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help=f"How long to search: 60s, 10m, 2h  [default: {DEFAULT_BUDGET}]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Every search to its end, however long it takes")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A sample of every search to its end: some minutes")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Only this search, of the matrix or your own (module:Class); may be given again",
        ),
    ] = None,
    case: Annotated[
        str | None,
        typer.Option("--case", metavar="JSON", help="Only this case of the one search named"),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", min=0, help="Processes; 0: one for each core")
    ] = 0,
) -> None:
    """Break a scratch directory in every way, and see that nothing is lost.

    Searches for a broken promise on a file system of yours: power cuts, killed processes,
    failed syncs and writes, a full disk, bit rot, lost caches, clock jumps. Prints what was
    tried and what was found. The exit code is 1 if anything broke; the case that is printed
    then can be run again.
    """
    from seawall.broker.torture.matrix import SEARCHES, load
    from seawall.broker.torture.runner import Plan

    names = only or list(SEARCHES)
    for name in names:
        try:
            load(name)
        except (KeyError, ImportError, AttributeError):
            raise WrongUsage(
                f"--only: no search is called {name!r}: {', '.join(SEARCHES)}"
            ) from None
    if case is not None and len(names) != 1:
        raise WrongUsage("--case: say of which search with one --only")
    if full and quick:
        raise WrongUsage("--full and --quick exclude each other")
    if budget is None and not full and not quick and case is None:
        budget = DEFAULT_BUDGET
    _run(
        Plan(
            names=names,
            seed=seed,
            directory=directory,
            budget_s=None if budget is None else seconds(budget, "--budget"),
            full=full or not quick,
            jobs=jobs,
            case=None if case is None else _case(case),
        )
    )


def _case(text: str) -> "Case":
    try:
        case = json.loads(text)
    except ValueError:
        case = None
    if not isinstance(case, dict):
        raise WrongUsage("--case: not a JSON object")
    return case


def _run(plan: "Plan") -> None:
    import os

    from seawall.broker.torture.runner import LeftBehind, Run, WorkerDied
    from seawall.cli.progress import Line
    from seawall.cli.signals import Signals

    if plan.directory is not None and not os.path.isdir(plan.directory):
        raise CommandFailed(f"--dir: {plan.directory!r} is not a directory")
    line = Line()

    def show(cases: "Mapping[str, int]") -> None:
        line.show(", ".join(f"{name} {count:,}" for name, count in cases.items()))

    outcomes: dict[str, Outcome] = {}
    # To kill the processes that search takes no time, and what they leave is to be removed.
    with Signals(can_be_killed=False) as signals:
        try:
            with Run(plan, on_progress=show, is_stopped=lambda: bool(signals.received)) as run:
                outcomes = run.run()
        except LeftBehind as error:
            raise CommandFailed(str(error)) from error
        except WorkerDied as error:
            if not signals.received:  # else it was told to stop as well
                raise CommandFailed(str(error)) from error
        except OSError as error:
            raise CommandFailed(f"cannot search: {error}") from error
        finally:
            line.clear()
    if outcomes or not signals.received:
        write_matrix(list(outcomes.values()))
    broken = [outcome for outcome in outcomes.values() if outcome.failures]
    for outcome in broken:
        smallest = min(outcome.failures, key=lambda failure: len(json.dumps(dict(failure.case))))
        write_text(
            f"\n{outcome.name}: {smallest.reason}\n"
            f"  again: seawall torture --seed {plan.seed} --only {outcome.name} "
            f"--case {shlex.quote(json.dumps(dict(smallest.case)))}\n"
        )
    if signals.received:
        found = "that is what was found so far" if outcomes else "no case had ended"
        raise Stopped(f"{signals.what}; {found}", signal_number=signals.received)
    if broken:
        raise CommandFailed(f"{counted(len(broken), 'search')} of seed {plan.seed} broke a promise")
    say(f"seed {plan.seed}: nothing broke")


def write_matrix(outcomes: "list[Outcome]") -> None:
    """What was tried, a row for each search."""
    rows = []
    for outcome in outcomes:
        figures = ", ".join(f"{count:,} {name}" for name, count in outcome.figures.items())
        if outcome.unavailable:
            figures = f"not run: {outcome.unavailable}"
        rows.append(
            (
                outcome.name,
                outcome.cases,
                len(outcome.failures),
                "all" if outcome.is_whole and not outcome.unavailable else "part",
                round(outcome.seconds),
                figures,
            )
        )
    write_table(("search", "cases", "broken", "done", "s", "of which"), rows)
