"""The groups of a server's clients, as ``state.lmdb`` has them.

The server's coordinator decides who is in a group, and who has what; here is what it stores
of that. So other processes see its clients, no embedded consumer joins them, the generation
rises whoever begins it, and a commit is checked in the transaction that stores it: it counts
only while its member is one in the generation that it names.

That a server lives says one lock for all of its clients (see `liveness`). They stay members
when it ends, so that the next one can go on with them (`take_over`); but as long as nobody has
that lock, any embedded consumer or operator who changes the group puts an end to that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from seawall.broker import state_format as layout
from seawall.broker.errors import GroupBusy, GroupError, UnknownGroup
from seawall.broker.group_format import Member, pack_group
from seawall.broker.group_holds import check_free
from seawall.broker.group_kept_format import (
    KeptGroup,
    pack_kept,
    pack_kept_member,
    unpack_kept,
)
from seawall.broker.group_state import GroupState, IsDead
from seawall.broker.names import check_group_name
from seawall.broker.state import State
from seawall.broker.state_format import Committed, Malformed
from seawall.wal.errors import ValueDamaged
from seawall.wal.kv_view import ReadTransaction, WriteTransaction

logger = logging.getLogger("seawall.groups")

# What is kept of one group at the most. The members of a larger one join anew.
MOST_KEPT_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WireCommit:
    """Offsets, with metadata, by partition id. Without a member (generation -1, KIP-62's
    ``assign``) only while the group has none."""

    group: str
    member_id: str
    generation: int
    offsets: Mapping[int, tuple[int, str]]


class WireGroups(GroupState):
    """The groups of one directory, for its server: there is one at a time.

    All methods may raise what `State`'s may, and then nothing has changed.
    """

    def __init__(self, state: State, *, is_dead: IsDead) -> None:
        super().__init__(state)
        self._is_dead = is_dead

    # -- members ---------------------------------------------------------------------

    def begin_generation(self, group: str, members: Sequence[Member], kept: KeptGroup) -> int:
        """Store who is in a group from now on; gives the generation that begins with it.

        `kept` is what a later server goes on from, whatever generation it names.
        Raises `InvalidGroupName`, and `GroupBusy` if embedded consumers hold the group.
        """
        check_group_name(group)
        with self._state.write() as transaction:
            there = self._members(transaction, group)
            if not members and not any(each.is_wire for each in there):
                found = self._group(transaction, group)
                return found.generation if found else 0
            check_free(group, [each for each in there if not each.is_wire], self._is_dead)
            begun = self._begun(transaction, group)
            if members:  # who divided last is known also when all are gone
                begun = replace(begun, assignor=kept.protocol)
            self._replace_members(transaction, group, there, members)
            self._begin(transaction, group, begun, is_empty=not members)
            generation = begun.generation + 1
            self._keep(transaction, group, replace(kept, generation=generation))
            return generation

    def update(self, group: str, members: Sequence[Member], kept: KeptGroup) -> None:
        """Store what has changed about the members within the generation of `kept`.

        Raises `GroupFenced` if it is over, or if no client is in it.
        """
        with self._state.write() as transaction:
            there = self._members(transaction, group)
            found = self._group(transaction, group)
            is_held = any(each.is_wire for each in there)
            if found is None or found.generation != kept.generation or not is_held:
                raise self._fenced(transaction, group, members[0].member_id)
            self._replace_members(transaction, group, there, members)
            self._keep(transaction, group, kept)

    def held(self, generations: Mapping[str, int]) -> set[str]:
        """Those groups that are this server's still, in these generations."""
        found = set()
        with self._state.read() as view:
            for name, generation in generations.items():
                group = self._group(view, name)
                members = self._members(view, name)
                if group is not None and group.generation == generation and members:
                    found.add(name)
        return found

    def take_over(self, pid: int, boot: str) -> dict[str, KeptGroup]:
        """Go on with the clients of the server before; gives their groups by name.

        For a new server, once it holds their sign of life: so whoever looks from here on sees
        that they live, and in the groups of those who came before, they are none any more.
        In groups that it cannot go on with, they end. `pid` and `boot` are its own.
        """
        found = {}
        with self._state.write() as transaction:
            keys = transaction.keys(b"M", b"N") + transaction.keys(b"W", b"X")
            for name in dict.fromkeys(layout.split_key(key)[0] for key in keys):
                try:
                    kept = self._taken_over(transaction, name, pid, boot)
                except (ValueDamaged, Malformed) as error:
                    logger.warning("group %s cannot be read, and is left alone: %s", name, error)
                    continue
                if kept is not None:
                    found[name] = kept
        return found

    def _taken_over(
        self, transaction: WriteTransaction, name: str, pid: int, boot: str
    ) -> KeptGroup | None:
        group, kept = self._group(transaction, name), None
        try:
            kept = self._kept(transaction, name)
            members = self._members(transaction, name)
        except (ValueDamaged, Malformed) as error:
            if kept is None:
                members = self._members(transaction, name)
            elif group is None or kept.generation != group.generation:
                raise  # it may be others' whose entries cannot be read
            else:
                members, kept = [], None
                transaction.delete_range(*layout.group_range(b"M", name))
                self._begin(transaction, name, group, is_empty=True)
            logger.warning(
                "group %s: its clients join anew, since who they are cannot be read: %s",
                name,
                error,
            )
        wire = {each.member_id: each for each in members if each.is_wire}
        if not wire:
            transaction.delete_range(*layout.group_range(b"W", name))
            return None
        if (
            kept is None
            or group is None
            or kept.generation != group.generation
            or wire.keys() != {each.member_id for each in kept.members}
        ):
            staying = [each for each in members if not each.is_wire]
            self._replace_members(transaction, name, members, staying)
            begun = self._begun(transaction, name)
            self._begin(transaction, name, begun, is_empty=not staying)
            return None
        taken = [replace(each, pid=pid, boot=boot) for each in members]
        self._replace_members(transaction, name, members, taken)
        if group.empty_since_ms:
            there = replace(group, empty_since_ms=0)
            transaction.put(layout.group_key(name), pack_group(there))
        return kept

    def _kept(self, view: ReadTransaction, name: str) -> KeptGroup | None:
        stored = view.get(layout.kept_key(name))
        if stored is None:
            return None
        entries = view.iterate(*layout.group_range(b"W", name))
        found = {layout.split_key(key)[1]: value for key, value in entries}
        del found[""]
        return unpack_kept(stored, found)

    def _keep(self, transaction: WriteTransaction, name: str, kept: KeptGroup) -> None:
        transaction.delete_range(*layout.group_range(b"W", name))
        if not kept.members:
            return
        entries = {layout.kept_key(name): pack_kept(kept)}
        for each in kept.members:
            entries[layout.kept_key(name, each.member_id)] = pack_kept_member(each)
        if sum(map(len, entries.values())) <= MOST_KEPT_BYTES:
            for key, value in entries.items():
                transaction.put(key, value)

    def _replace_members(
        self,
        transaction: WriteTransaction,
        group: str,
        there: Sequence[Member],
        members: Sequence[Member],
    ) -> None:
        before = {each.member_id: each for each in there}
        for each in members:
            old = before.pop(each.member_id, None)
            if old is not None:
                each = replace(each, joined_ms=old.joined_ms)
            if each != old:
                self._put_member(transaction, group, each)
        for member_id in before:
            transaction.delete(layout.member_key(group, member_id))

    # -- offsets ---------------------------------------------------------------------

    def commit_all(self, commits: Sequence[WireCommit]) -> list[GroupError | None]:
        """Store commits, also backwards as with Kafka: all in one transaction.

        Gives for each what kept it from being stored: `GroupFenced` if its member is none in
        its generation, `GroupBusy` if it has no member and the group has.
        """
        verdicts: list[GroupError | None] = []
        with self._state.write() as transaction:
            for commit in commits:
                verdict = self._refusal(transaction, commit)
                verdicts.append(verdict)
                if verdict is None:
                    for partition_id, (offset, metadata) in commit.offsets.items():
                        self._state.put_committed(
                            transaction, commit.group, partition_id, offset, metadata
                        )
        return verdicts

    def _refusal(self, transaction: WriteTransaction, commit: WireCommit) -> GroupError | None:
        found = self._group(transaction, commit.group)
        if commit.member_id or commit.generation >= 0:
            key = layout.member_key(commit.group, commit.member_id)
            is_member = transaction.get(key) is not None
            if found is not None and found.generation == commit.generation and is_member:
                return None
            return self._fenced(transaction, commit.group, commit.member_id)
        try:
            check_free(commit.group, self._members(transaction, commit.group), self._is_dead)
        except GroupBusy as error:
            return error
        if found is None:
            # So that it holds back what it has not acknowledged, and can be described.
            begun = replace(
                self._begun(transaction, commit.group), empty_since_ms=self._state.clock_ms()
            )
            transaction.put(layout.group_key(commit.group), pack_group(begun))
        return None

    def offsets(self, group: str) -> dict[int, Committed]:
        """What a group has committed, by partition id; nothing if there is no such group."""
        with self._state.read() as view:
            found = {}
            for partition_id in self._state.partitions_of(view, group):
                committed = self._state.committed_at(view, group, partition_id)
                if committed is not None:
                    found[partition_id] = committed
            return found

    def delete_offsets(self, group: str, partitions: Mapping[int, str]) -> set[int]:
        """Forget what a group has committed in partitions (by id, with their topics' names).

        Gives those that stay because a member reads their topic. Raises `UnknownGroup`, and
        `GroupBusy` if it has members that do not say which topics they read.
        """
        with self._state.write() as transaction:
            if self._group(transaction, group) is None:
                raise UnknownGroup(group=group)
            living = self._living(transaction, group)
            for each in living:
                if not each.topics:
                    raise GroupBusy(group=group, holder_pid=each.pid, holder_host=each.host)
            read = {topic for each in living for topic in each.topics}
            staying = {each for each, topic in partitions.items() if topic in read}
            for partition_id in partitions.keys() - staying:
                transaction.delete(layout.offset_key(partition_id, group))
                transaction.delete(layout.place_key(group, partition_id))
            return staying

    def _living(self, view: ReadTransaction, group: str) -> list[Member]:
        return [each for each in self._members(view, group) if not self._is_dead(each)]
