"""Who is in which group, what each member has, and what it may therefore change.

A part of ``state.lmdb``. Every change is one synced transaction, and each of them looks
first at who is there: so members of any number of processes agree without talking to each
other. Whether a member lives is not stored; `is_dead` says so (see `liveness`).

A group's *generation* grows whenever its partitions are divided anew, also when it is
deleted and made again in between. A *member id* is never used twice, and a member's entry
goes when it leaves or is taken for dead: so an acknowledgement only has to find it to be
sure that nobody else has been given its partitions. Those it owns stay its own until it
gives them up itself (`reconcile`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from seawall.broker import state_format as layout
from seawall.broker.errors import (
    FencedInstanceId,
    GroupFenced,
    InconsistentGroupProtocol,
)
from seawall.broker.group_format import (
    Group,
    Member,
    pack_group,
    pack_member,
    unpack_group,
    unpack_member,
)
from seawall.broker.group_holds import check_free, check_not_served, check_room
from seawall.broker.names import check_group_name
from seawall.broker.rebalance import Layout, divide, takeable
from seawall.broker.state import State
from seawall.wal.kv_view import ReadTransaction, WriteTransaction

MAX_METADATA_BYTES = 4096  # Kafka's offset.metadata.max.bytes

IsDead = Callable[[Member], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What a member has been given, what its group has committed there, and who made way."""

    generation: int
    member: Member
    committed: Mapping[int, int]
    gone: Sequence[Member] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The next offset to read in each partition (by id), for a member's group."""

    group: str
    member_id: str
    offsets: Mapping[int, int]
    metadata: str = ""
    # Whether the metadata is stored also where the offset is what it was.
    replaces_metadata: bool = False

    def __post_init__(self) -> None:
        if len(self.metadata.encode()) > MAX_METADATA_BYTES:
            raise ValueError(f"metadata has at most {MAX_METADATA_BYTES} bytes")
        for offset in self.offsets.values():
            if offset < 0:
                raise ValueError(f"a committed offset is not negative, but {offset}")


class GroupState:
    """The groups of one directory, for every thread.

    All methods may raise what `State`'s may, and then nothing has changed.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    # -- looking ---------------------------------------------------------------------

    def group(self, name: str) -> Group | None:
        """A registered group, None if there is none."""
        with self._state.read() as view:
            return self._group(view, name)

    def groups(self) -> list[Group]:
        """Every registered group, by name."""
        with self._state.read() as view:
            entries = view.iterate(b"G", b"H")
            return [unpack_group(layout.group_of(key), value) for key, value in entries]

    def members(self, group: str) -> tuple[int, list[Member]]:
        """The generation of a group (0: there is none) and its members, by their ids."""
        with self._state.read() as view:
            found = self._group(view, group)
            return found.generation if found else 0, self._members(view, group)

    # -- coming, staying and going ---------------------------------------------------

    def join(
        self,
        group: str,
        member: Member,
        starts: Mapping[int, int],
        partitions: Layout,
        is_dead: IsDead,
        *,
        again: bool = False,
    ) -> Joined:
        """Make a member of a group, registering that if it is new, and divide anew.

        `starts` is where the group begins in partitions in which it has committed nothing;
        what has been removed there since is passed over.
        The member has at once what nobody else has. One of the same instance id makes way
        for it, and leaves it what it had (KIP-345). Not if it joins `again`, after it was
        taken for dead: then it is itself the one that has to make way, while the other lives.

        Raises `InvalidGroupName`, `GroupBusy` if it asks by number for a partition that
        another one asked for, `GroupHeldByServer`, `GroupFull`, `InconsistentGroupProtocol`
        and `FencedInstanceId`.
        """
        check_group_name(group)
        with self._state.write() as transaction:
            others = []
            there = self._members(transaction, group)
            check_not_served(group, there, is_dead)
            for each in there:
                if each.is_wire:
                    continue  # its server is dead, and so is it
                if each.instance_id is not None and each.instance_id == member.instance_id:
                    if again and not is_dead(each):
                        raise FencedInstanceId(
                            group=group,
                            instance_id=each.instance_id,
                            holder_pid=each.pid,
                            holder_host=each.host,
                        )
                    member = replace(member, target=each.target, owned=each.owned)
                elif not is_dead(each):
                    others.append(each)
            check_room(group, member, others)
            divided = self._divide(transaction, group, [*others, member], partitions)
            member = next(each for each in divided if each.member_id == member.member_id)
            begun = self._begun(transaction, group)
            for partition_id, start in starts.items():
                if self._state.committed_at(transaction, group, partition_id) is None:
                    # It may have been trimmed since it was looked up.
                    start = max(start, self._state.log_start_at(transaction, partition_id))
                    self._state.put_committed(transaction, group, partition_id, start)
            return Joined(
                generation=begun.generation,
                member=member,
                committed=self._committed(transaction, group, member.owned),
                gone=tuple(set(there).difference(others)),
            )

    def reconcile(self, group: str, member_id: str, gives_up: Sequence[int]) -> Joined:
        """Give up partitions, and take those that are to be had and that nobody else has.

        In a partition that is new since it joined, the group begins at the log start.
        Raises `GroupFenced`.
        """
        with self._state.write() as transaction:
            found = self._check_member(transaction, group, member_id)
            others = [
                each for each in self._members(transaction, group) if each.member_id != member_id
            ]
            owned = set(found.owned) - set(gives_up)
            owned |= takeable(replace(found, owned=tuple(owned)), others)
            member = replace(found, owned=tuple(sorted(owned)))
            if member != found:
                self._put_member(transaction, group, member)
            registered = self._group(transaction, group)
            return Joined(
                generation=registered.generation if registered else 0,
                member=member,
                committed=self._committed(transaction, group, member.owned),
            )

    def leave(self, group: str, member_id: str, partitions: Layout, is_dead: IsDead) -> None:
        """Stop being a member, if it is one still, and divide anew."""
        with self._state.write() as transaction:
            members = self._members(transaction, group)
            staying = [each for each in members if each.member_id != member_id]
            if len(staying) < len(members):
                staying = [each for each in staying if not is_dead(each)]
                self._divide(transaction, group, staying, partitions)

    def refresh(self, group: str, partitions: Layout, is_dead: IsDead) -> list[Member]:
        """Let go of members that are dead, and divide anew if anything makes it necessary.

        Returns those that were let go. Writes nothing if all is as it should be. Clients of a
        server are its own concern, and that of the server that follows it.
        """
        with self._state.read() as view:
            members = [each for each in self._members(view, group) if not each.is_wire]
            division = divide(members, partitions)
            is_right = division is None or all(
                each.target == division.targets[each.member_id] for each in members
            )
        if is_right and not any(is_dead(each) for each in members):
            return []
        with self._state.write() as transaction:
            members = self._members(transaction, group)
            if any(each.is_wire for each in members):
                return []
            dead = [each for each in members if is_dead(each)]
            if members:
                living = [each for each in members if each not in dead]
                self._divide(transaction, group, living, partitions)
        return dead

    # -- committed offsets -----------------------------------------------------------

    def commit(self, commits: Sequence[Commit]) -> list[GroupFenced | None]:
        """Store what members have acknowledged: all in one transaction, with one sync.

        A committed offset never moves backwards: a lower one changes nothing, and an
        equal one nothing but the metadata, if that is asked for.
        Gives for each commit what kept it from being stored: `GroupFenced` if its member
        is none any more.
        """
        verdicts: list[GroupFenced | None] = []
        with self._state.write() as transaction:
            for commit in commits:
                key = layout.member_key(commit.group, commit.member_id)
                if transaction.get(key) is None:
                    verdicts.append(self._fenced(transaction, commit.group, commit.member_id))
                    continue
                verdicts.append(None)
                for partition_id, offset in commit.offsets.items():
                    old = self._state.committed_at(transaction, commit.group, partition_id)
                    if old is None or (offset, commit.replaces_metadata) > (old.offset, False):
                        self._state.put_committed(
                            transaction, commit.group, partition_id, offset, commit.metadata
                        )
        return verdicts

    def reset(self, group: str, offsets: Mapping[int, int], is_dead: IsDead) -> dict[int, int]:
        """Set committed offsets, also backwards. Registers the group if it is new.

        If an offset lies below its partition's log start, nothing is changed, and the log
        starts of these partitions are returned. Raises `GroupBusy` if it has members.
        """
        check_group_name(group)
        with self._state.write() as transaction:
            starts = {each: self._state.log_start_at(transaction, each) for each in offsets}
            trimmed = {each: start for each, start in starts.items() if offsets[each] < start}
            if trimmed:
                return trimmed
            self._let_go(transaction, group, is_dead)
            self._begin(transaction, group, self._begun(transaction, group), is_empty=True)
            for partition_id, offset in offsets.items():
                self._state.put_committed(transaction, group, partition_id, offset)
        return {}

    def delete(self, group: str, is_dead: IsDead) -> bool:
        """Forget a group and all it has committed. False if there is none.

        Raises `GroupBusy` if it has members.
        """
        with self._state.write() as transaction:
            if self._group(transaction, group) is None:
                return False
            self._let_go(transaction, group, is_dead)
            self._forget(transaction, group)
        return True

    def expire(self, group: str, before_ms: int, is_dead: IsDead) -> bool:
        """Forget a group that has been empty, and has committed nothing, since `before_ms`
        (KIP-211). The clients of a server that is away leave it empty from when that is
        first seen here."""
        with self._state.write() as transaction:
            found = self._group(transaction, group)
            members = self._members(transaction, group)
            if found is None:
                return False
            is_held = any(not each.is_wire or not is_dead(each) for each in members)
            if is_held == (found.empty_since_ms > 0):
                found = replace(found, empty_since_ms=0 if is_held else self._state.clock_ms())
                transaction.put(layout.group_key(group), pack_group(found))
            if is_held:
                return False
            times = [found.empty_since_ms]
            for partition_id in self._state.partitions_of(transaction, group):
                committed = self._state.committed_at(transaction, group, partition_id)
                times += [committed.timestamp_ms] if committed else []
            if max(times) >= before_ms:
                return False
            self._forget(transaction, group)
        return True

    # -- inside a transaction --------------------------------------------------------

    def _divide(
        self,
        transaction: WriteTransaction,
        group: str,
        members: Sequence[Member],
        partitions: Layout,
    ) -> list[Member]:
        """Begin a generation with these members, and give everyone what is free."""
        division = divide(members, partitions)
        if division is None:
            raise InconsistentGroupProtocol(
                group=group,
                assignors=members[-1].assignors,
                others=sorted({name for each in members[:-1] for name in each.assignors}),
            )
        before = {each.member_id: each for each in self._members(transaction, group)}
        divided = [replace(each, target=division.targets[each.member_id]) for each in members]
        newest = divided[-1] if divided and divided[-1].member_id not in before else None
        if newest is not None:
            # Who is there already takes what is free when it polls next.
            owned = set(newest.owned) & set(newest.target)
            owned |= takeable(replace(newest, owned=tuple(owned)), divided[:-1])
            divided[-1] = replace(newest, owned=tuple(sorted(owned)))
        for each in divided:
            if each != before.pop(each.member_id, None):
                self._put_member(transaction, group, each)
        for member_id in before:
            transaction.delete(layout.member_key(group, member_id))
        begun = replace(self._begun(transaction, group), assignor=division.assignor)
        self._begin(transaction, group, begun, is_empty=not divided)
        return divided

    def _begin(
        self, transaction: WriteTransaction, group: str, old: Group, *, is_empty: bool
    ) -> None:
        """Store a group under its next generation. What a server has kept of it is over."""
        transaction.delete_range(*layout.group_range(b"W", group))
        empty_since_ms = 0
        if is_empty:
            empty_since_ms = old.empty_since_ms or self._state.clock_ms()
        begun = replace(old, generation=old.generation + 1, empty_since_ms=empty_since_ms)
        transaction.put(layout.group_key(group), pack_group(begun))

    def _begun(self, view: ReadTransaction, group: str) -> Group:
        """A group as it is, or as one begins that is not registered."""
        found = self._group(view, group)
        return found or Group(name=group, generation=self._newest_deleted(view))

    def _let_go(self, transaction: WriteTransaction, group: str, is_dead: IsDead) -> None:
        members = self._members(transaction, group)
        check_free(group, members, is_dead)
        for each in members:
            transaction.delete(layout.member_key(group, each.member_id))

    def _forget(self, transaction: WriteTransaction, group: str) -> None:
        generation = self._begun(transaction, group).generation
        newest = max(generation, self._newest_deleted(transaction))
        transaction.put(layout.NEWEST_DELETED_KEY, layout.pack_generation(newest))
        for partition_id in self._state.partitions_of(transaction, group):
            transaction.delete(layout.offset_key(partition_id, group))
        transaction.delete_range(*layout.group_range(b"P", group))
        transaction.delete_range(*layout.group_range(b"M", group))
        transaction.delete_range(*layout.group_range(b"W", group))
        transaction.delete(layout.group_key(group))

    def _check_member(self, view: ReadTransaction, group: str, member_id: str) -> Member:
        stored = view.get(layout.member_key(group, member_id))
        if stored is None:
            raise self._fenced(view, group, member_id)
        return unpack_member(stored)

    def _fenced(self, view: ReadTransaction, group: str, member_id: str) -> GroupFenced:
        found = self._group(view, group)
        generation = found.generation if found else 0
        return GroupFenced(group=group, member_id=member_id, generation=generation)

    def _newest_deleted(self, view: ReadTransaction) -> int:
        stored = view.get(layout.NEWEST_DELETED_KEY)
        return 0 if stored is None else layout.unpack_generation(stored)

    def _group(self, view: ReadTransaction, group: str) -> Group | None:
        stored = view.get(layout.group_key(group))
        return None if stored is None else unpack_group(group, stored)

    def _members(self, view: ReadTransaction, group: str) -> list[Member]:
        entries = view.iterate(*layout.group_range(b"M", group))
        return [unpack_member(value) for _, value in entries]

    def _put_member(self, transaction: WriteTransaction, group: str, member: Member) -> None:
        transaction.put(layout.member_key(group, member.member_id), pack_member(member))

    def _committed(
        self, transaction: WriteTransaction, group: str, partitions: Sequence[int]
    ) -> dict[int, int]:
        found = {}
        for partition_id in partitions:
            committed = self._state.committed_at(transaction, group, partition_id)
            if committed is None:
                found[partition_id] = self._state.log_start_at(transaction, partition_id)
                self._state.put_committed(transaction, group, partition_id, found[partition_id])
            else:
                found[partition_id] = committed.offset
        return found
