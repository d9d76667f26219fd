"""`seawall repair`: make holes of what is damaged, so that readers pass over it."""

from typing import TYPE_CHECKING, Annotated

import typer

from seawall.cli.errors import CommandFailed
from seawall.cli.options import BrokerOption, OnlyTopicArgument, QuietOption, directory
from seawall.cli.output import counted, say, write_text
from seawall.cli.verify import described

if TYPE_CHECKING:
    from seawall.broker import Repaired

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def repair(
    topic: OnlyTopicArgument = None,
    broker: BrokerOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Make holes of what `verify` finds, so that readers pass over it.

    Restore the files from a backup instead if there is one: what was damaged is lost
    here. Its bytes are copied to quarantine/ first, and nothing that is valid is touched.
    Nothing else may have the directory open, except with --dry-run. The exit code is 1
    if something is left that only a backup can mend.
    """
    location = directory(broker, "repair files; run it where the directory is")
    from seawall.broker.repair import repair as repair_directory

    done = left = 0
    for repaired in repair_directory(location, topic, dry_run=dry_run):
        if repaired.action == "left":
            left += 1
        else:
            done += 1
        write_text(_line(repaired, dry_run=dry_run))
    if left:
        raise CommandFailed(f"{counted(left, 'damaged place')} left: only a backup can mend that")
    if not quiet:
        would = "would be " if dry_run else ""
        say(f"{counted(done, 'damaged place')} {would}repaired" if done else "nothing to repair")


def _line(repaired: "Repaired", *, dry_run: bool) -> str:
    """What was found, as `verify` says it, and what was done."""
    actions = {
        "hole": "would become a hole" if dry_run else "is a hole now",
        "cut": "would be cut off" if dry_run else "cut off",
        "rebuilt": "would be built again" if dry_run else "built again",
        "left": "left as it is",
    }
    line = f"{described(repaired.finding)}: {actions[repaired.action]}"
    if repaired.quarantined is not None:
        line += f", kept in {repaired.quarantined}"
    return f"{line}\n"
