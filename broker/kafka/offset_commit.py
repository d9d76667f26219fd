"""OffsetCommit (key 8): what a group has read is stored, and on disk when this is answered.

Versions: 2 is the oldest; 5 has no retention time any more (KIP-211), before that it is
ignored, as is the leader epoch, which comes with 6 (KIP-320); 7 static members (KIP-345);
8 flexible; 9 is the same for members of the classic protocol (KIP-848).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.coordinator_store import CommitRequest
from seawall.broker.kafka.items import by_partition
from seawall.broker.kafka.schema import Values


async def handle(request: Any, context: RequestContext) -> Values:
    found = await context.node.part(Coordinator).commit(
        CommitRequest(
            group=request.group_id,
            member_id=request.member_id,
            generation=request.generation_id_or_member_epoch,
            offsets={
                (topic.name, each.partition_index): (
                    each.committed_offset,
                    each.committed_metadata or "",
                )
                for topic in request.topics
                for each in topic.partitions
            },
        ),
        getattr(request, "group_instance_id", None),
    )
    return _told(request, lambda topic, partition: found[topic, partition])


def refuse(request: Any, code: int, message: str) -> Values:
    """The error, for every partition."""
    return _told(request, lambda topic, partition: code)


def _told(request: Any, code_of: Callable[[str, int], int]) -> Values:
    def told(topic: str, asked: Any) -> Values:
        index = asked.partition_index
        return {"partition_index": index, "error_code": code_of(topic, index)}

    return by_partition(request, told)


API = Api(
    key=8,
    name="OffsetCommit",
    versions=(2, 9),
    handle=handle,
    refuse=refuse,
    is_of_coordinator=True,
)
