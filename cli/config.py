"""`seawall config`: show or change the settings of the broker itself."""

import json as json_module
from typing import Annotated

import typer

from seawall.cli.options import BrokerOption, JsonOption, open_broker
from seawall.cli.output import write_table, write_text
from seawall.cli.topic import setting

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def config(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...",
            help="Settings to change; NAME= takes one back to its default",
            show_default=False,
        ),
    ] = None,
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Show or change the settings of the broker itself.

    They hold for every process that has it open, within moments.
    """
    changes = {name: value or None for name, value in map(setting, settings or [])}
    with open_broker(broker) as opened:
        if changes:
            opened.set_config(changes)
        found = opened.config()
    if json:
        write_text(json_module.dumps(found) + "\n")
    elif not changes:
        write_table(("NAME", "VALUE"), list(found.items()))
