"""ListOffsets (key 2): the offset for a time, or for one of the names that stand for one.

Versions: 1 one offset instead of several (KIP-79); 2 isolation level; 4 leader epochs (KIP-320);
6 flexible; 7 the record with the greatest timestamp, -3 (KIP-734); 8 the earliest on this
machine, -4 (KIP-405); 9 the last one in remote storage, -5 (KIP-1005), of which there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from seawall.broker.errors import BrokerError
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.items import by_partition, repeated
from seawall.broker.kafka.metadata import LEADER_EPOCH
from seawall.broker.kafka.schema import Values
from seawall.broker.kafka.topics import Topics
from seawall.broker.raw import RawPlace, newest_record
from seawall.broker.translation import translated

if TYPE_CHECKING:
    from seawall.broker.engine import Engine

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3
EARLIEST_LOCAL: Final = -4
LATEST_TIERED: Final = -5

# The special timestamps, and the version that each came with.
_SINCE: Final = {LATEST: 1, EARLIEST: 1, MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9}
_NONE: Final = (-1, -1)


async def handle(request: Any, context: RequestContext) -> Values:
    found = await context.node.part(Topics).find(topic.name for topic in request.topics)
    return await context.run(_answer, request, context, found)


def _answer(request: Any, context: RequestContext, found: dict[Any, list[RawPlace]]) -> Values:
    """In a thread of the executor."""
    twice = repeated(
        (topic.name, each.partition_index) for topic in request.topics for each in topic.partitions
    )

    def told(topic: str, asked: Any) -> Values:
        if (topic, asked.partition_index) in twice:
            return _failed(asked.partition_index, codes.INVALID_REQUEST)
        return _partition(asked, found.get(topic, []), context)

    return by_partition(request, told)


def _partition(asked: Any, places: list[RawPlace], context: RequestContext) -> Values:
    """In a thread of the executor."""
    index = asked.partition_index
    try:
        if not 0 <= index < len(places):
            return _failed(index, codes.UNKNOWN_TOPIC_OR_PARTITION)
        if getattr(asked, "current_leader_epoch", -1) > LEADER_EPOCH:
            return _failed(index, codes.UNKNOWN_LEADER_EPOCH)
        if asked.timestamp < 0 and _SINCE.get(asked.timestamp, 1 << 15) > context.version:
            raise KafkaError(codes.UNSUPPORTED_VERSION, f"timestamp {asked.timestamp}")
        place = places[index]
        with translated(place.topic.name, index):
            offset, timestamp = _look_up(context.engine, place, asked.timestamp)
    except (BrokerError, KafkaError) as error:
        return _failed(index, codes.code_of(error))
    return {
        "partition_index": index,
        "error_code": codes.NONE,
        "timestamp": timestamp,
        "offset": offset,
        "leader_epoch": LEADER_EPOCH if offset >= 0 else -1,
    }


def _look_up(engine: Engine, place: RawPlace, timestamp: int) -> tuple[int, int]:
    log = engine.log(place.partition_id)
    if timestamp == LATEST:
        return log.ends().durable_end, -1
    if timestamp in (EARLIEST, EARLIEST_LOCAL):
        return log.ends().log_start, -1
    if timestamp == LATEST_TIERED:
        return _NONE
    if timestamp == MAX_TIMESTAMP:
        return newest_record(log) or _NONE
    return log.offset_for_time(timestamp) or _NONE


def _failed(index: int, code: int) -> Values:
    return {"partition_index": index, "error_code": code}


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every partition."""
    return by_partition(request, lambda _, asked: _failed(asked.partition_index, code))


API = Api(key=2, name="ListOffsets", versions=(1, 9), handle=handle, refuse=refuse)
