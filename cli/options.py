"""Options that several commands share, and the broker that they name."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from seawall.cli.errors import WrongUsage

if TYPE_CHECKING:
    from seawall.broker import Broker

LOCATION_VARIABLE = "SEAWALL_BROKER"
LOCATION_DEFAULT = "data"
_LOCATION_KEY = "seawall.location"
COMPLETION_TIMEOUT_MS = 300


def _locate(ctx: typer.Context, value: str | None) -> str:
    """The nearest -b wins: behind the verb, before it; then the environment; then `data`."""
    if value is not None:
        ctx.meta[_LOCATION_KEY] = value
    nearest: str | None = ctx.meta.get(_LOCATION_KEY)
    if nearest is not None:
        return nearest
    return os.environ.get(LOCATION_VARIABLE) or LOCATION_DEFAULT


def complete_topic(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of topics for the shell; none if that is any trouble."""
    try:
        with open_broker(_locate(ctx, None), timeout_ms=COMPLETION_TIMEOUT_MS) as broker:
            return [t.name for t in broker.topics() if t.name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a shell that completes a word has no use for errors
        return []


def complete_group(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of groups for the shell; none if that is any trouble."""
    try:
        with open_broker(_locate(ctx, None), timeout_ms=COMPLETION_TIMEOUT_MS) as broker:
            return [name for name in broker.groups() if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a shell that completes a word has no use for errors
        return []


def check_location(location: str | None) -> str:
    """A directory's path. Raises `WrongUsage` for anything else."""
    if not location:
        raise WrongUsage("-b: the location is empty")
    if location.startswith("kafka://"):
        raise WrongUsage(f"{location!r}: this version opens directories only")
    return location


def open_broker(
    location: str | None, *, create: bool = False, timeout_ms: int | None = None
) -> "Broker":
    """Open the broker at a location. Only now is the broker imported: --help needs none."""
    location = check_location(location)
    from seawall.broker import Broker
    from seawall.cli.warnings import show_warnings

    show_warnings()
    if timeout_ms is None:
        return Broker.open(location, create=create)
    return Broker.open(location, create=create, open_timeout_ms=timeout_ms)


BrokerOption = Annotated[
    str | None,  # never None once `_locate` has seen it
    typer.Option(
        "-b",
        "--broker",
        metavar="LOCATION",
        help="The broker's directory  [default: $SEAWALL_BROKER, else data]",
        show_default=False,
        callback=_locate,
    ),
]
TopicArgument = Annotated[
    str,
    typer.Argument(
        metavar="TOPIC", help="Name of the topic", show_default=False, autocompletion=complete_topic
    ),
]
OnlyTopicArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[TOPIC]", help="Only this topic", show_default=False, autocompletion=complete_topic
    ),
]
GroupArgument = Annotated[
    str,
    typer.Argument(
        metavar="GROUP", help="Name of the group", show_default=False, autocompletion=complete_group
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="No counts on stderr when all went well")
]
