"""`seawall context`: names for locations, and which of them is in force."""

import json as json_module
import os
from collections.abc import Mapping
from typing import Annotated

import typer

from seawall.cli.contexts import (
    add_context,
    contexts_path,
    read_contexts,
    remove_context,
    use_context,
    without_secrets,
)
from seawall.cli.errors import WrongUsage
from seawall.cli.options import (
    CONTEXT_VARIABLE,
    LOCATION_VARIABLE,
    JsonOption,
    QuietOption,
    complete_context,
    locate,
)
from seawall.cli.output import say, write_table, write_text

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Give locations names, and choose one of them.",
)

ContextArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Name of the context",
        show_default=False,
        autocompletion=complete_context,
    ),
]
SecretsOption = Annotated[bool, typer.Option("--show-secrets", help="Show passwords as they are")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name from now on")],
    location: Annotated[
        str, typer.Argument(metavar="LOCATION", help="A directory, or kafka://HOST:PORT[,…]")
    ],
    use: Annotated[bool, typer.Option("--use", help="Make it the current one as well")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace one of the same name")] = False,
    quiet: QuietOption = False,
) -> None:
    """Give a location a name. It need not exist yet."""
    add_context(name, location, replace=force, use=use)
    if not quiet:
        say(f"context {name!r} is in {contexts_path()}")
    if use:
        _warn_if_overruled()


@app.command("list")
def list_(json: JsonOption = False, show_secrets: SecretsOption = False) -> None:
    """List the contexts; * marks the current one. With --json, one object to a line."""
    found = read_contexts()
    rows = [
        (name, location if show_secrets else without_secrets(location), name == found.current)
        for name, location in sorted(found.locations.items())
    ]
    if json:
        names = ("name", "location", "current")
        write_text("".join(_json_line(dict(zip(names, row, strict=True))) for row in rows))
    else:
        write_table(
            ("CURRENT", "NAME", "LOCATION"),
            [("*" if is_current else "", name, location) for name, location, is_current in rows],
        )
    _warn_if_overruled()


@app.command()
def use(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Name of the context",
            show_default=False,
            autocompletion=complete_context,
        ),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Have no current context")] = False,
) -> None:
    """Make a context the current one: it is in force where nothing else is said."""
    if (name is None) != none:
        raise WrongUsage("give the name of a context, or --none")
    use_context(name)
    _warn_if_overruled()


@app.command()
def remove(name: ContextArgument) -> None:
    """Forget a context. Nothing happens to what is at its location."""
    if remove_context(name):
        say(f"{name!r} was the current context; there is none now")


@app.command()
def show(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Name of the context  [default: whatever is in force]",
            show_default=False,
            autocompletion=complete_context,
        ),
    ] = None,
    json: JsonOption = False,
    show_secrets: SecretsOption = False,
) -> None:
    """Show where a context is; without a name, which location is in force, and why."""
    place = locate(ctx, context=name)
    location = place.location if show_secrets else without_secrets(place.location)
    if json:
        facts = {"location": location, "context": place.context, "origin": place.origin}
        write_text(_json_line(facts))
    else:
        write_table(("LOCATION", "CONTEXT", "BY"), [(location, place.context, place.origin)])


def _warn_if_overruled() -> None:
    for variable in (LOCATION_VARIABLE, CONTEXT_VARIABLE):
        if os.environ.get(variable):
            say(f"${variable} is set, and goes before the current context")
            return


def _json_line(facts: Mapping[str, object]) -> str:
    return json_module.dumps(facts) + "\n"
