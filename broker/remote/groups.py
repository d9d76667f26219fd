"""Groups of a cluster: who is in them, where they are, setting and forgetting them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition,
)

from seawall.broker.errors import BrokerError, GroupBusy, GroupFenced, UnknownGroup
from seawall.broker.groups import EMPTY, RECONCILING, STABLE, GroupInfo, GroupMember, GroupOffset
from seawall.broker.names import check_group_name
from seawall.broker.remote.asking import REQUEST_TIMEOUT_S, Asking, one
from seawall.broker.remote.errors import AWAY
from seawall.broker.remote.topics import Topics

_STATES = {ConsumerGroupState.EMPTY: EMPTY, ConsumerGroupState.STABLE: STABLE}


class Groups:
    """The groups that a cluster's coordinators know."""

    def __init__(self, asking: Asking, topics: Topics) -> None:
        self._asking = asking
        self._topics = topics

    def names(self) -> list[str]:
        """All groups, sorted."""

        def question(client: Any) -> list[str]:
            listed = client.list_consumer_groups(request_timeout=REQUEST_TIMEOUT_S).result()
            for error in listed.errors or ():
                raise KafkaException(error)  # one of the brokers did not answer
            return sorted(each.group_id for each in listed.valid or ())

        return self._asking.ask(question, self._asking.facts())

    def describe(self, name: str) -> GroupInfo:
        """See `Broker.group`."""
        check_group_name(name)
        found = self._described(name)
        committed = self.committed(name)
        if found.state == ConsumerGroupState.DEAD and not committed:
            raise UnknownGroup(group=name)
        members = tuple(_member(each) for each in found.members)
        owners = {place: each.member_id for each in members for place in each.assignment}
        return GroupInfo(
            name=name,
            state=_STATES.get(found.state, RECONCILING if members else EMPTY),
            generation=0,
            assignor=found.partition_assignor or "",
            members=members,
            offsets=tuple(self._offsets(committed, owners)),
        )

    def _described(self, name: str) -> Any:
        return self._asking.ask(
            lambda client: one(
                client.describe_consumer_groups([name], request_timeout=REQUEST_TIMEOUT_S)
            ),
            self._asking.facts(group=name),
        )

    def members(self, name: str) -> tuple[GroupMember, ...]:
        """Who is in a group; nobody if there is none."""
        try:
            return tuple(_member(each) for each in self._described(name).members)
        except UnknownGroup:
            return ()

    def committed(self, name: str) -> dict[tuple[str, int], int]:
        """Where the group is, in every partition in which it is anywhere."""
        return {place: offset for place, (offset, _) in self.places(name).items()}

    def offsets(self, name: str) -> dict[tuple[str, int], int]:
        """See `Broker.group_offsets`."""
        check_group_name(name)
        committed = self.committed(name)
        if not committed and self._described(name).state == ConsumerGroupState.DEAD:
            raise UnknownGroup(group=name)
        there = set(self._topics.names()) if committed else set()  # see `_offsets`
        return {place: offset for place, offset in sorted(committed.items()) if place[0] in there}

    def places(self, name: str) -> dict[tuple[str, int], tuple[int, str]]:
        """The same, with the metadata that was committed with each offset."""

        def question(client: Any) -> dict[tuple[str, int], tuple[int, str]]:
            answer = one(
                client.list_consumer_group_offsets(
                    [ConsumerGroupTopicPartitions(name)], request_timeout=REQUEST_TIMEOUT_S
                )
            )
            found = {}
            for each in answer.topic_partitions or []:
                if each.error is not None and each.error.code() in AWAY:
                    raise KafkaException(each.error)  # it may well be somewhere
                if each.error is None and each.offset >= 0:
                    found[each.topic, each.partition] = each.offset, each.metadata or ""
            return found

        return self._asking.ask(question, self._asking.facts(group=name))

    def _offsets(
        self, committed: Mapping[tuple[str, int], int], owners: Mapping[tuple[str, int], str]
    ) -> list[GroupOffset]:
        offsets = []
        by_topic: dict[str, list[int]] = {}
        for topic, number in sorted(committed):
            by_topic.setdefault(topic, []).append(number)
        there = set(self._topics.names())
        for topic, numbers in by_topic.items():
            if topic not in there:
                continue  # deleted; some clusters remember what was committed in it
            for number, ends in self._topics.ends(topic, numbers).items():
                offset = committed[topic, number]
                lag = max(0, ends.durable_end - offset)
                offsets.append(
                    GroupOffset(
                        topic=topic,
                        partition=number,
                        committed=offset,
                        log_start=ends.log_start,
                        durable_end=ends.durable_end,
                        lag=lag,
                        lag_ms=None if lag else 0,
                        committed_ms=0,
                        member_id=owners.get((topic, number)),
                        holds_back=False,
                    )
                )
        return offsets

    def reset(self, name: str, topic: str, offsets: Mapping[int, int]) -> None:
        """See `Broker.reset_group`."""
        check_group_name(name)
        self._topics.check_partitions(topic, offsets)
        ends = self._topics.ends(topic, list(offsets))
        for number, offset in offsets.items():
            self._topics.check_offset(topic, number, offset, ends[number])
        if not offsets:
            return
        self._check_empty(name)
        try:
            self._alter(name, topic, offsets)
        except (GroupBusy, GroupFenced) as error:
            raise self.busy(name) from error

    def begin(self, name: str, topic: str, offsets: Mapping[int, int]) -> bool:
        """Store where a group begins; False if it has members, who have done so."""
        try:
            self._alter(name, topic, offsets)
        except (GroupBusy, GroupFenced):
            return False
        return True

    def _alter(self, name: str, topic: str, offsets: Mapping[int, int]) -> None:
        wanted = ConsumerGroupTopicPartitions(
            name, [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
        )

        def question(client: Any) -> Any:
            answer = one(
                client.alter_consumer_group_offsets([wanted], request_timeout=REQUEST_TIMEOUT_S)
            )
            for each in answer.topic_partitions:
                if each.error is not None:
                    raise KafkaException(each.error)
            return answer

        self._asking.ask(question, self._asking.facts(group=name, topic=topic))

    def delete(self, name: str) -> None:
        """See `Broker.delete_group`."""
        check_group_name(name)
        unsure: list[bool] = []
        try:
            self._asking.ask(
                lambda client: one(
                    client.delete_consumer_groups([name], request_timeout=REQUEST_TIMEOUT_S)
                ),
                self._asking.facts(group=name),
                on_unsure=lambda: unsure.append(True),
            )
        except UnknownGroup:
            if not unsure:  # else it may well be our doing
                raise
        except GroupBusy as error:
            raise self.busy(name) from error

    def _check_empty(self, name: str) -> None:
        if self.members(name):
            raise self.busy(name)

    def busy(self, name: str) -> BrokerError:
        """The error with one of the members' names, as far as there is one still."""
        try:
            members = self._described(name).members
        except BrokerError:
            members = []
        host = members[0].host.lstrip("/") if members else self._asking.location
        return GroupBusy(group=name, holder_pid=0, holder_host=host, members=max(1, len(members)))


def _member(found: Any) -> GroupMember:
    return GroupMember(
        member_id=found.member_id,
        client_id=found.client_id,
        group_instance_id=found.group_instance_id or None,
        pid=0,
        host=found.host.lstrip("/"),
        joined_ms=0,
        assignment=tuple(
            sorted((each.topic, each.partition) for each in found.assignment.topic_partitions)
        ),
    )
