"""Which kind of members holds a group: consumers that have the directory open, or clients of
a server. Never both, because one kind knows nothing of what the other is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seawall.broker.errors import GroupBusy, GroupHeldByServer
from seawall.broker.group_format import Member


def check_not_served(
    group: str, members: Sequence[Member], is_dead: Callable[[Member], bool]
) -> None:
    """Raise `GroupHeldByServer` if clients of a server that lives are among the members."""
    served = [each for each in members if each.is_wire and not is_dead(each)]
    if served:
        raise GroupHeldByServer(
            group=group,
            holder_pid=served[0].pid,
            holder_host=served[0].host,
            members=len(served),
        )


def check_free(group: str, members: Sequence[Member], is_dead: Callable[[Member], bool]) -> None:
    """Raise `GroupBusy`, or `GroupHeldByServer`, if any of the members lives."""
    check_not_served(group, members, is_dead)
    living = [each for each in members if not is_dead(each)]
    if living:
        raise GroupBusy(
            group=group,
            holder_pid=living[0].pid,
            holder_host=living[0].host,
            members=len(living),
        )
