"""-X on the command line: a member's settings, by Kafka's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from seawall.cli.errors import WrongUsage

_NAMES = {
    "client.id": str,
    "group.instance.id": str,
    "heartbeat.interval.ms": int,
    "max.poll.interval.ms": int,
    "partition.assignment.strategy": list,
    "session.timeout.ms": int,
}

PropertyOption = Annotated[
    list[str] | None,
    typer.Option(
        "-X",
        "--property",
        metavar="NAME=VALUE",
        help=f"With -g, a setting of this member; repeatable: {', '.join(_NAMES)}",
    ),
]


def parse_properties(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings for `Broker.consumer`, of ``name=value`` pairs. Raises WrongUsage."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        kind = _NAMES.get(name)
        if not equals or kind is None:
            raise WrongUsage(f"-X: {pair!r} is not NAME=VALUE with NAME of {', '.join(_NAMES)}")
        try:
            converted = value.split(",") if kind is list else kind(value)
        except ValueError:
            raise WrongUsage(f"-X: {name} is a number, not {value!r}") from None
        found[name.replace(".", "_")] = converted
    if found:
        from seawall.broker.membership import MemberSettings

        try:
            MemberSettings(**found)
        except ValueError as error:
            raise WrongUsage(f"-X: {error}") from None
    return found
