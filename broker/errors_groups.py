"""Errors about consumer groups. Import them from `seawall.broker.errors`."""

from __future__ import annotations

from collections.abc import Sequence

from seawall.broker.errors_base import BrokerError, holder


class GroupError(BrokerError):
    """About a consumer group, or what was meant to be one."""

    def __init__(self, message: str, *, group: str) -> None:
        super().__init__(message)
        self.group = group


class InvalidGroupName(GroupError):
    """A name that cannot be stored."""

    def __init__(self, *, group: str, reason: str) -> None:
        super().__init__(
            f"{group!r} is not a valid group name: {reason}; "
            "use 1 to 255 bytes of UTF-8 without control characters",
            group=group,
        )
        self.reason = reason


class UnknownGroup(GroupError):
    """No group with this name has consumed here."""

    def __init__(self, *, group: str) -> None:
        super().__init__(
            f"no group {group!r}; list the groups there are with `seawall group list`",
            group=group,
        )


class NotInGroup(GroupError):
    """A consumer without a group has nothing to acknowledge for."""

    def __init__(self) -> None:
        super().__init__(
            "this consumer is in no group, so it cannot acknowledge; open it with group=…",
            group="",
        )


class GroupBusy(GroupError):
    """The group has members (Kafka: NON_EMPTY_GROUP), or another one has a partition that
    was asked for by number. ``holder_pid`` and ``holder_host`` are of one of them."""

    def __init__(self, *, group: str, holder_pid: int, holder_host: str, members: int = 1) -> None:
        more = f" and {members - 1} more" if members > 1 else ""
        super().__init__(
            f"group {group!r} is in use by {holder(holder_pid)} on {holder_host}{more}; "
            "end its consumers first, or choose another group",
            group=group,
        )
        self.holder_pid = holder_pid
        self.holder_host = holder_host
        self.members = members


class GroupHeldByServer(GroupBusy):
    """Clients of `seawall serve` are in the group, and embedded consumers cannot join them.

    ``holder_pid`` is the server's, ``holder_host`` where one of the clients connects from.
    """

    def __init__(self, *, group: str, holder_pid: int, holder_host: str, members: int = 1) -> None:
        super().__init__(
            group=group, holder_pid=holder_pid, holder_host=holder_host, members=members
        )
        clients = "a client" if members == 1 else f"{members} clients"
        self.args = (
            f"group {group!r} is in use by {clients} of the server (process {holder_pid}, "
            f"connected from {holder_host}); consume through the server as well, end its "
            "consumers first, or choose another group",
        )


class GroupFull(GroupError):
    """The group has as many members as it may have (Kafka: GROUP_MAX_SIZE_REACHED)."""

    def __init__(self, *, group: str, members: int) -> None:
        super().__init__(
            f"group {group!r} has {members} members, and no group has more", group=group
        )
        self.members = members


class GroupFenced(GroupError):
    """This consumer is no longer a member, so its acknowledgement changed nothing.

    It was silent for longer than its ``session_timeout_ms`` (stopped, swapped out), it did
    not poll for longer than ``max_poll_interval_ms``, another one took its instance id, or
    the group was deleted: then ``generation`` is 0, otherwise the group's present one.
    """

    def __init__(self, *, group: str, member_id: str, generation: int) -> None:
        what = (
            f"consumer {member_id} was taken for dead and is no member of group {group!r} any more"
            if generation
            else f"group {group!r} was deleted"
        )
        super().__init__(
            f"{what}; what it has not acknowledged comes again, and its next poll joins anew",
            group=group,
        )
        self.member_id = member_id
        self.generation = generation


class FencedInstanceId(GroupError):
    """Another consumer has this one's instance id by now (Kafka: FENCED_INSTANCE_ID).

    Every poll raises it, for as long as the other one is there.
    """

    def __init__(self, *, group: str, instance_id: str, holder_pid: int, holder_host: str) -> None:
        super().__init__(
            f"process {holder_pid} on {holder_host} has joined group {group!r} as "
            f"{instance_id!r}; give each consumer a group_instance_id of its own",
            group=group,
        )
        self.instance_id = instance_id
        self.holder_pid = holder_pid
        self.holder_host = holder_host


class PartitionRevoked(GroupError):
    """An acknowledgement for a partition that this consumer had to give up."""

    def __init__(self, *, group: str, topic: str, partition: int) -> None:
        super().__init__(
            f"partition {partition} of {topic!r} was given to another member of group {group!r}: "
            "it gets what was not acknowledged (acknowledge in on_revoked at the latest)",
            group=group,
        )
        self.topic = topic
        self.partition = partition


class InconsistentGroupProtocol(GroupError):
    """A consumer and the members that are there know no assignor in common."""

    def __init__(self, *, group: str, assignors: Sequence[str], others: Sequence[str]) -> None:
        super().__init__(
            f"the members of group {group!r} divide partitions by {' or '.join(others)}, "
            f"not by {' or '.join(assignors)}; use the same partition_assignment_strategy",
            group=group,
        )
        self.assignors = tuple(assignors)
        self.others = tuple(others)


class HandlerFailed(GroupError):
    """`Consumer.run` ended: a record cannot be handled, and may not become a dead letter.

    The handler's error is its cause. The record was not acknowledged, so it comes again.
    """

    def __init__(
        self, *, group: str, topic: str, partition: int, offset: int, deliveries: int, reason: str
    ) -> None:
        super().__init__(
            f"group {group!r} cannot handle offset {offset} of {topic}/{partition} "
            f"(deliveries: {deliveries}): {reason}; it was not acknowledged: mend the handler, "
            "or name a dead_letter_topic",
            group=group,
        )
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.deliveries = deliveries
        self.reason = reason
