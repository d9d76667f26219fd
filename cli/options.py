"""Options that several commands share, and the broker that they name."""

import os
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from seawall.cli.errors import WrongUsage

if TYPE_CHECKING:
    from seawall.broker import AnyBroker, Broker

LOCATION_VARIABLE = "SEAWALL_BROKER"
CONTEXT_VARIABLE = "SEAWALL_CONTEXT"
LOCATION_DEFAULT = "data"
_LOCATION_KEY = "seawall.location"
_CONTEXT_KEY = "seawall.context"
COMPLETION_TIMEOUT_MS = 300

Codec = Literal["none", "gzip", "snappy", "lz4", "zstd"]


class Place(NamedTuple):
    """A location, the context that it is of, if any, and what has named it."""

    location: str
    context: str | None
    origin: str


def locate(ctx: typer.Context, *, context: str | None = None) -> Place:
    """The location in force; or that of a context, if one is named.

    The nearest -b wins: behind the verb, before it. Then -c; then the environment, a
    location before a context; then the current context, and `data`. Contexts are only
    looked up when it comes to them. Raises WrongUsage, CommandFailed.
    """
    if context is not None:
        return _of_context(context, "NAME")
    nearest: str | None = ctx.meta.get(_LOCATION_KEY)
    if nearest is not None:
        return Place(nearest, None, "-b")
    context = ctx.meta.get(_CONTEXT_KEY)
    if context is not None:
        return _of_context(context, "-c")
    location = os.environ.get(LOCATION_VARIABLE)
    if location:
        return Place(location, None, f"${LOCATION_VARIABLE}")
    context = os.environ.get(CONTEXT_VARIABLE)
    if context:
        return _of_context(context, f"${CONTEXT_VARIABLE}")
    from seawall.cli.contexts import current_context

    context = current_context()
    if context is not None:
        return _of_context(context, "current context")
    return Place(LOCATION_DEFAULT, None, "default")


def _of_context(name: str, origin: str) -> Place:
    from seawall.cli.contexts import location_of

    return Place(location_of(name, origin), name, origin)


def _note_location(ctx: typer.Context, value: str | None) -> str | None:
    """Before the verb: nothing is looked up yet, there may be another one behind it."""
    if value is not None:
        ctx.meta[_LOCATION_KEY] = value
    return value


def _note_context(ctx: typer.Context, value: str | None) -> str | None:
    if value is not None:
        ctx.meta[_CONTEXT_KEY] = value
    return value


def _locate(ctx: typer.Context, value: str | None) -> str:
    _note_location(ctx, value)
    return locate(ctx).location


def complete_context(incomplete: str) -> list[str]:
    """Names of contexts for the shell; none if that is any trouble."""
    from seawall.cli.contexts import read_contexts

    try:
        return [name for name in sorted(read_contexts().locations) if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a shell that completes a word has no use for errors
        return []


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
    """A location that is named. Raises `WrongUsage` for an empty one."""
    if not location:
        raise WrongUsage("-b: the location is empty")
    return location


def directory(location: str | None, operation: str) -> str:
    """The path of a directory. `operation` is what nothing else can do.

    Raises `UnsupportedByLocation`, and `WrongUsage` for what is no location.
    """
    from seawall.broker.errors import UnsupportedByLocation
    from seawall.broker.location import is_cluster, parse_cluster

    location = check_location(location)
    if is_cluster(location):
        raise UnsupportedByLocation(operation=operation, location=str(parse_cluster(location)))
    return location


def open_broker(
    location: str | None, *, create: bool = False, timeout_ms: int | None = None
) -> "AnyBroker":
    """Open the broker at a location. Only now is the broker imported: --help needs none.

    With `timeout_ms`, quickly and quietly or not at all.
    """
    location = check_location(location)
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


_LOCATION_HELP = (
    "A directory, or kafka://HOST:PORT[,...]  [default: $SEAWALL_BROKER, the context, else data]"
)

BrokerOption = Annotated[
    str | None,  # never None once `_locate` has seen it
    typer.Option(
        "-b",
        "--broker",
        metavar="LOCATION",
        help=_LOCATION_HELP,
        show_default=False,
        callback=_locate,
    ),
]
# The same before the verb, where it only is noted.
TopBrokerOption = Annotated[
    str | None,
    typer.Option(
        "-b",
        "--broker",
        metavar="LOCATION",
        help=_LOCATION_HELP,
        show_default=False,
        callback=_note_location,
    ),
]
ContextOption = Annotated[
    str | None,
    typer.Option(
        "-c",
        "--context",
        metavar="NAME",
        help="Where this context is; see `seawall context`  [default: $SEAWALL_CONTEXT]",
        show_default=False,
        callback=_note_context,
        autocompletion=complete_context,
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
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show it, but do nothing")]
QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="No counts on stderr when all went well")
]
