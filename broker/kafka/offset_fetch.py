"""OffsetFetch (key 9): what a group has committed, of either kind of members.

Versions: 2 null means all topics, and an error for the whole; 5 leader epochs, which are not
kept; 6 flexible; 7 require_stable (KIP-447): without transactions everything is stable;
8 several groups (KIP-709); 9 a member and its epoch (KIP-848), which are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seawall.broker.errors import BrokerError
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.coordinator_store import FetchedOffset, TopicPartition
from seawall.broker.kafka.schema import Values

NO_OFFSET = -1


async def handle(request: Any, context: RequestContext) -> Values:
    store = await context.node.part(Coordinator).store()
    groups = getattr(request, "groups", None)
    if groups is None:
        found = await context.run(store.fetch, request.group_id, _wanted(request.topics))
        return {"error_code": codes.NONE, "topics": _topics(found)}
    answered = []
    # Once each, so that no answer is larger than all groups together.
    for each in {each.group_id: each for each in groups}.values():
        try:
            found = await context.run(store.fetch, each.group_id, _wanted(each.topics))
        except BrokerError as error:
            answered.append(_refused(each, _told(codes.group_code_of(error))))
        else:
            answered.append(
                {"group_id": each.group_id, "error_code": codes.NONE, "topics": _topics(found)}
            )
    return {"groups": answered}


def _wanted(topics: Sequence[Any] | None) -> list[TopicPartition] | None:
    if topics is None:
        return None
    return [(topic.name, number) for topic in topics for number in topic.partition_indexes]


def _topics(found: dict[TopicPartition, FetchedOffset | None]) -> list[Values]:
    topics: dict[str, list[Values]] = {}
    for (topic, number), offset in found.items():
        topics.setdefault(topic, []).append(
            {
                "partition_index": number,
                "committed_offset": NO_OFFSET if offset is None else offset.offset,
                "committed_leader_epoch": -1,
                "metadata": "" if offset is None else offset.metadata,
                "error_code": codes.NONE,
            }
        )
    return [{"name": topic, "partitions": partitions} for topic, partitions in topics.items()]


def _refused(request: Any, code: int) -> Values:
    """What is asked of one group, answered with an error: for the group as a whole, and for
    each partition, because version 1 has no other place for it."""
    return {
        "group_id": request.group_id,
        "error_code": code,
        "topics": [
            {
                "name": topic.name,
                "partitions": [
                    {
                        "partition_index": number,
                        "committed_offset": NO_OFFSET,
                        "committed_leader_epoch": -1,
                        "metadata": "",
                        "error_code": code,
                    }
                    for number in topic.partition_indexes
                ],
            }
            for topic in request.topics or ()
        ],
    }


def _told(code: int) -> int:
    """A code at which everybody asks again. librdkafka takes those of a coordinator that is not
    there, or not any more, for the end: it never reads the partition, as long as it has it."""
    passing = (codes.COORDINATOR_NOT_AVAILABLE, codes.NOT_COORDINATOR)
    return codes.COORDINATOR_LOAD_IN_PROGRESS if code in passing else code


def refuse(request: Any, code: int, message: str) -> Values:
    code = _told(code)
    groups = getattr(request, "groups", None)
    if groups is None:
        return _refused(request, code)
    return {"groups": [_refused(each, code) for each in groups]}


API = Api(
    key=9, name="OffsetFetch", versions=(1, 9), handle=handle, refuse=refuse, is_of_coordinator=True
)
