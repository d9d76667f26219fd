"""Who may come into a group as it is, and who keeps it from being changed.

Its members are consumers that have the directory open, or clients of a server. Never both,
because one kind knows nothing of what the other is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seawall.broker.errors import GroupBusy, GroupFull, GroupHeldByServer
from seawall.broker.group_format import Member

# Each of them is read whenever somebody comes or goes.
MOST_MEMBERS = 1_000


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


def check_room(group: str, member: Member, others: Sequence[Member]) -> None:
    """Raise `GroupFull`, or `GroupBusy` if others have asked for one of its partitions."""
    if len(others) >= MOST_MEMBERS:
        raise GroupFull(group=group, members=len(others))
    wanted = set(member.partitions or ())
    for each in others:
        if wanted & set(each.partitions or ()):
            raise GroupBusy(group=group, holder_pid=each.pid, holder_host=each.host)
