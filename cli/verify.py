"""`seawall verify`: read everything, and name what is damaged."""

from typing import TYPE_CHECKING

import typer

from seawall.cli.errors import CommandFailed
from seawall.cli.options import BrokerOption, OnlyTopicArgument, QuietOption, open_broker
from seawall.cli.output import counted, say, write_text

if TYPE_CHECKING:
    from seawall.broker import Finding

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def verify(
    topic: OnlyTopicArgument = None,
    broker: BrokerOption = None,
    quiet: QuietOption = False,
) -> None:
    """Read everything, and name what is damaged.

    Each damaged place is named by file, position and offset. Nothing is repaired: see
    `seawall repair`. The exit code is 1 if there is damage.
    """
    found = 0
    with open_broker(broker) as opened:
        for finding in opened.verify(topic):
            found += 1
            write_text(f"{described(finding)}\n")
    if found:
        raise CommandFailed(f"{counted(found, 'damaged place')} found")
    if not quiet:
        say("no damage found")


def described(finding: "Finding") -> str:
    """``file:position: damage: problem (partition 0 of 'orders', from offset 17 to 21)``."""
    where = finding.path
    if finding.position is not None:
        where += f":{finding.position}"
    what = f"{finding.verdict}: {finding.problem}"
    if finding.offset is not None:
        offsets = f"from offset {finding.offset}"
        if finding.next_offset is not None:
            offsets += f" to {finding.next_offset}"
        what += f" (partition {finding.partition} of {finding.topic!r}, {offsets})"
    return f"{where}: {what}"
