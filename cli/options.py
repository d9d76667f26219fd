"""Options that several commands share, and the broker that they name."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from seawall.cli.errors import WrongUsage

if TYPE_CHECKING:
    from seawall.broker import AnyBroker, Broker

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


def directory(location: str | None, operation: str) -> str:
    """The path of a directory. `operation` is what nothing else can do.

    Raises `UnsupportedByLocation`, and `WrongUsage` for what is no location.
    """
    from seawall.broker.errors import UnsupportedByLocation
    from seawall.broker.location import is_cluster, parse_cluster

    if not location:
        raise WrongUsage("-b: the location is empty")
    if is_cluster(location):
        raise UnsupportedByLocation(operation=operation, location=str(parse_cluster(location)))
    return location


def open_broker(
    location: str | None, *, create: bool = False, timeout_ms: int | None = None
) -> "AnyBroker":
    """Open the broker at a location. Only now is the broker imported: --help needs none.

    With `timeout_ms`, quickly and quietly or not at all.
    """
    if not location:
        raise WrongUsage("-b: the location is empty")
    from seawall.broker import connect

    if timeout_ms is not None:
        return connect(location, create=create, open_timeout_ms=timeout_ms, reconnect_attempts=0)
    from seawall.cli.warnings import show_warnings

    show_warnings()
    return connect(location, create=create)


def open_directory(location: str | None, operation: str, *, create: bool = False) -> "Broker":
    """Open a directory, for what nothing else can do. Raises `UnsupportedByLocation`."""
    path = directory(location, operation)
    from seawall.broker import Broker
    from seawall.cli.warnings import show_warnings

    show_warnings()
    return Broker.open(path, create=create)


BrokerOption = Annotated[
    str | None,  # never None once `_locate` has seen it
    typer.Option(
        "-b",
        "--broker",
        metavar="LOCATION",
        help="A directory, or kafka://HOST:PORT[,...]  [default: $SEAWALL_BROKER, else data]",
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
