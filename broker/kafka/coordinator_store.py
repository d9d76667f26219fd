"""What the coordinator has on disk: everything here blocks, and runs on the executor."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from seawall.broker.engine import Engine
from seawall.broker.errors import BrokerError, GroupFenced, InvalidGroupName
from seawall.broker.group_format import SERVER_LIFE, WIRE_ASSIGNOR, Member
from seawall.broker.group_kept_format import KeptGroup, KeptMember
from seawall.broker.group_state import MAX_METADATA_BYTES
from seawall.broker.group_wire import WireCommit, WireGroups
from seawall.broker.kafka import codes
from seawall.broker.kafka.consumer_protocol import (
    CONSUMER,
    assigned_partitions,
    subscribed_topics,
)
from seawall.broker.kafka.coordinator_values import Snapshot
from seawall.broker.names import check_group_name
from seawall.broker.translation import translated
from seawall.wal.errors import LogGone

# A server that was not heard of for so long is taken for dead: it was stopped.
SERVER_SESSION_MS = 45_000
# One that has been silent for so long looks whether others have.
LATE_MS = SERVER_SESSION_MS / 2
MAX_CLIENT_ID_BYTES = 100

TopicPartition = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """Offsets with metadata by topic and partition, and the member whose they are."""

    group: str
    member_id: str
    generation: int
    offsets: Mapping[TopicPartition, tuple[int, str]]


@dataclass(slots=True, kw_only=True)
class CommitResult:
    """A code for each partition. ``is_fenced``: the store knows no such member."""

    partitions: dict[TopicPartition, int] = field(default_factory=dict)
    is_fenced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedOffset:
    offset: int
    metadata: str


class CoordinatorStore:
    """The groups of one server, in its directory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.groups = WireGroups(engine.state, is_dead=engine.lives.is_dead)
        self._life = engine.lives.begin_server()

    def take_over(self) -> dict[str, KeptGroup]:
        """The groups of the server before that this one goes on with, by name. Once."""
        try:
            return self.groups.take_over(os.getpid(), self._engine.lives.boot)
        except BaseException:
            self._life.end()
            raise

    def beat(self) -> bool:
        """Be heard of. False if that was so late that others may have thought it dead."""
        silent_ms = (time.monotonic_ns() - self._life.beaten_ns) / 1_000_000
        self._life.beat()
        return silent_ms < LATE_MS

    def new_member_id(self, prefix: str) -> str:
        """An id that no other member has ever had. It ends with what says that they live."""
        printable = "".join(each for each in prefix if each.isprintable())
        cut = printable.encode("utf-8", "replace")[:MAX_CLIENT_ID_BYTES].decode("utf-8", "ignore")
        return f"{cut}-{uuid.uuid4().hex}-{SERVER_LIFE}"

    def close(self) -> None:
        """Let others have the groups. Until somebody does, the next server has them."""
        self._life.end()

    # -- members ---------------------------------------------------------------------

    def save(self, group: str, snapshot: Snapshot) -> int:
        """Store a group; gives its generation. Raises what `WireGroups` raises."""
        layout = self._engine.layout()
        kept = snapshot.group
        members = [self._member(kept, each, layout) for each in kept.members]
        if snapshot.begins:
            return self.groups.begin_generation(group, members, kept)
        self.groups.update(group, members, kept)
        return kept.generation

    def _member(
        self, group: KeptGroup, member: KeptMember, layout: Mapping[str, Sequence[int]]
    ) -> Member:
        topics: tuple[str, ...] = ()
        owned: list[int] = []
        if group.protocol_type == CONSUMER:
            topics = subscribed_topics(member.protocols.get(group.protocol, b""))
            for topic, number in assigned_partitions(member.assignment):
                if 0 <= number < len(layout.get(topic, ())):
                    owned.append(layout[topic][number])
        partitions = tuple(sorted(set(owned)))
        return Member(
            member_id=member.member_id,
            client_id=member.client_id,
            instance_id=member.instance_id,
            pid=os.getpid(),
            host=member.client_host,
            boot=self._engine.lives.boot,
            joined_ms=time.time_ns() // 1_000_000,
            session_timeout_ms=SERVER_SESSION_MS,
            topics=topics,
            partitions=None,
            assignors=(WIRE_ASSIGNOR + group.protocol_type,),
            target=partitions,
            owned=partitions,
        )

    # -- offsets ---------------------------------------------------------------------

    def commit(self, requests: Sequence[CommitRequest]) -> list[CommitResult]:
        """Store what several clients commit, in one transaction with one sync."""
        results: list[CommitResult] = []
        commits: list[tuple[CommitResult, list[TopicPartition], WireCommit]] = []
        for request in requests:
            result = CommitResult()
            results.append(result)
            offsets: dict[int, tuple[int, str]] = {}
            places = []
            for place, (offset, metadata) in request.offsets.items():
                found = self._place(place, offset, metadata)
                if isinstance(found, int):
                    result.partitions[place] = found
                else:
                    places.append(place)
                    offsets[found[0]] = offset, metadata
            if offsets:
                commit = WireCommit(
                    group=request.group,
                    member_id=request.member_id,
                    generation=request.generation,
                    offsets=offsets,
                )
                commits.append((result, places, commit))
        if commits:
            verdicts = self.groups.commit_all([commit for _, _, commit in commits])
            for (result, places, _), verdict in zip(commits, verdicts, strict=True):
                result.is_fenced = isinstance(verdict, GroupFenced)
                code = codes.NONE if verdict is None else codes.UNKNOWN_MEMBER_ID
                result.partitions.update(dict.fromkeys(places, code))
        return results

    def _place(self, place: TopicPartition, offset: int, metadata: str) -> int | tuple[int]:
        """The id of a partition, in a tuple, or the code that says why nothing is stored."""
        topic, number = place
        partitions = self._engine.layout().get(topic, ())
        if not 0 <= number < len(partitions):
            return codes.UNKNOWN_TOPIC_OR_PARTITION
        if len(metadata.encode("utf-8", "replace")) > MAX_METADATA_BYTES:
            return codes.OFFSET_METADATA_TOO_LARGE
        try:
            with translated(topic, number):
                durable_end = self._engine.log(partitions[number]).ends().durable_end
        except LogGone:
            return codes.UNKNOWN_TOPIC_OR_PARTITION
        except BrokerError as error:
            return codes.group_code_of(error)
        # Recovery takes a committed offset for proof that the log reached it.
        if not 0 <= offset <= durable_end:
            return codes.OFFSET_OUT_OF_RANGE
        return (partitions[number],)

    def fetch(
        self, group: str, wanted: Sequence[TopicPartition] | None
    ) -> dict[TopicPartition, FetchedOffset | None]:
        """What a group has committed: everything, or in these partitions (None: nothing)."""
        check_group_name(group)
        stored = self.groups.offsets(group)
        if wanted is None:
            found: dict[TopicPartition, FetchedOffset | None] = {}
            for partition_id, committed in stored.items():
                place = self._engine.place(partition_id)
                if place is not None:
                    offset = FetchedOffset(offset=committed.offset, metadata=committed.metadata)
                    found[place[0].name, place[1].number] = offset
            return found
        layout = self._engine.layout()
        found = {}
        for topic, number in wanted:
            ids = layout.get(topic, ())
            there = stored.get(ids[number]) if 0 <= number < len(ids) else None
            found[topic, number] = (
                None
                if there is None
                else FetchedOffset(offset=there.offset, metadata=there.metadata)
            )
        return found

    def delete_offsets(
        self, group: str, places: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Forget what a group has committed there; a code for each.

        Raises `UnknownGroup`, and `GroupBusy`; see `WireGroups.delete_offsets`.
        """
        check_group_name(group)
        layout = self._engine.layout()
        found: dict[TopicPartition, int] = {}
        by_id: dict[int, TopicPartition] = {}
        for topic, number in places:
            partitions = layout.get(topic, ())
            if 0 <= number < len(partitions):
                by_id[partitions[number]] = topic, number
            else:
                found[topic, number] = codes.UNKNOWN_TOPIC_OR_PARTITION
        staying = self.groups.delete_offsets(
            group, {partition_id: place[0] for partition_id, place in by_id.items()}
        )
        for partition_id, place in by_id.items():
            is_read = partition_id in staying
            found[place] = codes.GROUP_SUBSCRIBED_TO_TOPIC if is_read else codes.NONE
        return found


def is_valid_group(name: str) -> bool:
    """Whether a group can have this name."""
    try:
        check_group_name(name)
    except InvalidGroupName:
        return False
    return True
