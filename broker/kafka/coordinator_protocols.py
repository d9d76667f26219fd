"""Which protocol the members of a group use: they vote.

A *protocol type* is what all of them are ("consumer", "connect"), a *protocol* a way of
dividing, such as "range", with metadata that only its members understand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seawall.broker.kafka.coordinator_values import JoinRequest, WireMember


@dataclass(slots=True)
class Protocols:
    """``kind`` is the type; ``name`` the protocol of the present generation, "" without one."""

    kind: str = ""
    name: str = ""

    def accepts(self, request: JoinRequest, others: Sequence[WireMember]) -> bool:
        """Whether somebody can be in a group with these others."""
        if not request.protocol_type or not request.protocols:
            return False
        if not others:
            return True
        return request.protocol_type == self.kind and any(
            all(name in each.protocols for each in others) for name in request.protocols
        )

    def agree(self, kind: str | None, name: str | None) -> bool:
        """Whether what a client says (None: nothing) is what holds."""
        return kind in (None, self.kind) and name in (None, self.name)

    def choose(self, members: Iterable[WireMember], leader: str | None) -> str:
        """The protocol that all know and most like best; among equals the leader's choice.

        "" if they have none in common, or there is nobody.
        """
        members = sorted(members, key=lambda each: each.member_id != leader)
        if not members:
            return ""
        common = [
            name for name in members[0].protocols if all(name in each.protocols for each in members)
        ]
        votes = [next((name for name in each.protocols if name in common), "") for each in members]
        return max(common, key=votes.count, default="")
