"""`seawall info`: what this broker is, and what this installation is made of."""

import json as json_module
from dataclasses import asdict

import typer

from seawall.cli.options import BrokerOption, JsonOption, open_broker
from seawall.cli.output import write_table, write_text

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def info(broker: BrokerOption = None, json: JsonOption = False) -> None:
    """Show what this broker is, and the versions in use."""
    with open_broker(broker) as opened:
        facts = asdict(opened.info())
    if json:
        write_text(json_module.dumps(facts) + "\n")
    else:
        shown = [(name.replace("_", " "), _shown(value)) for name, value in facts.items()]
        write_table(("NAME", "VALUE"), shown)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
