"""DeleteRecords (key 21): raise the log starts of partitions (KIP-107).

Versions: 2 flexible. The offset -1 stands for the high watermark.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from seawall.broker.broker import Broker
from seawall.broker.config import COMPACT
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.changes import Changes
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.items import MOST_CHANGES, by_partition, check_count
from seawall.broker.kafka.schema import Values, milliseconds

_UNKNOWN: Final = -1


async def handle(request: Any, context: RequestContext) -> Values:
    wanted = [
        (topic.name, each.partition_index, each.offset)
        for topic in request.topics
        for each in topic.partitions
    ]
    check_count(len(wanted), MOST_CHANGES, "partitions")
    jobs = [partial(_delete, context.broker, *each) for each in wanted]
    made = iter(await context.node.part(Changes).make(jobs, milliseconds(request.timeout)))
    return by_partition(request, lambda _, each: _told(each.partition_index, next(made)))


def _delete(broker: Broker, topic: str, partition: int, offset: int) -> int:
    """The log start afterwards. In a thread of the executor."""
    if broker.topic(topic).settings.cleanup_policy == COMPACT:
        raise KafkaError(codes.POLICY_VIOLATION, "records of a compacted topic go by their keys")
    return broker.delete_records(topic, {partition: offset})[partition]


def _told(partition: int, outcome: int | BaseException) -> Values:
    if isinstance(outcome, BaseException):
        return _failed(partition, codes.code_of(outcome))
    return {
        "partition_index": partition,
        "low_watermark": outcome,
        "error_code": codes.NONE,
    }


def _failed(partition: int, code: int) -> Values:
    return {"partition_index": partition, "low_watermark": _UNKNOWN, "error_code": code}


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every partition."""
    return by_partition(request, lambda _, each: _failed(each.partition_index, code))


API = Api(key=21, name="DeleteRecords", versions=(0, 2), handle=handle, refuse=refuse)
