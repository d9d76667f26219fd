"""OffsetDelete (key 47): forget what a group has committed in some partitions (KIP-496).

In topics that a member reads they stay.
"""

from __future__ import annotations

from typing import Any

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.items import by_partition
from seawall.broker.kafka.schema import Values


async def handle(request: Any, context: RequestContext) -> Values:
    store = await context.node.part(Coordinator).store()
    places = [
        (topic.name, each.partition_index) for topic in request.topics for each in topic.partitions
    ]
    found = await context.run(store.delete_offsets, request.group_id, places)

    def told(topic: str, asked: Any) -> Values:
        index = asked.partition_index
        return {"partition_index": index, "error_code": found[topic, index]}

    return {"error_code": codes.NONE, **by_partition(request, told)}


def refuse(request: Any, code: int, message: str) -> Values:
    return {"error_code": code, "topics": ()}


API = Api(key=47, name="OffsetDelete", versions=(0, 0), handle=handle, refuse=refuse)
