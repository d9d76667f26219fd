"""OffsetForLeaderEpoch (key 23): where a leadership ended, for clients that look for a loss.

Versions: 2 current leader epoch (KIP-320); 3 replica id; 4 flexible.

There is one leader and one epoch here, and nothing that was visible is ever taken back, so the
epoch ends at the durable end.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from seawall.broker.errors import BrokerError
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.items import by_partition
from seawall.broker.kafka.metadata import LEADER_EPOCH
from seawall.broker.kafka.schema import Values
from seawall.broker.kafka.topics import Topics
from seawall.broker.raw import RawPlace
from seawall.broker.translation import translated

_by_partition: Final = partial(by_partition, name="topic")


async def handle(request: Any, context: RequestContext) -> Values:
    found = await context.node.part(Topics).find(topic.topic for topic in request.topics)

    def told(topic: str, asked: Any) -> Values:
        return _partition(asked, found.get(topic, []), context)

    return await context.run(_by_partition, request, told)


def _partition(asked: Any, places: list[RawPlace], context: RequestContext) -> Values:
    """In a thread of the executor."""
    index = asked.partition
    if not 0 <= index < len(places):
        return _failed(index, codes.UNKNOWN_TOPIC_OR_PARTITION)
    if asked.current_leader_epoch > LEADER_EPOCH:
        return _failed(index, codes.UNKNOWN_LEADER_EPOCH)
    if asked.leader_epoch != LEADER_EPOCH:
        return _failed(index, codes.NONE)  # there never was such an epoch
    place = places[index]
    try:
        with translated(place.topic.name, index):
            durable_end = context.engine.log(place.partition_id).ends().durable_end
    except BrokerError as error:
        return _failed(index, codes.code_of(error))
    return {
        "partition": index,
        "error_code": codes.NONE,
        "leader_epoch": LEADER_EPOCH,
        "end_offset": durable_end,
    }


def _failed(index: int, code: int) -> Values:
    return {"partition": index, "error_code": code}


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every partition."""
    return _by_partition(request, lambda _, asked: _failed(asked.partition, code))


API = Api(key=23, name="OffsetForLeaderEpoch", versions=(2, 4), handle=handle, refuse=refuse)
