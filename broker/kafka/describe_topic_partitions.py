"""DescribeTopicPartitions (key 75): topics and their partitions, page by page (KIP-966).

Version 0. Topics come in order of their names; a page has so many partitions at the most, and
says where the next one begins.
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.errors import InvalidTopicName
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.items import MOST_ASKED, check_count
from seawall.broker.kafka.metadata import (
    FEW_PARTITIONS,
    NOT_ASKED,
    PARTITION_BYTES,
    TOPIC_OPERATIONS,
    described,
)
from seawall.broker.kafka.schema import Values
from seawall.broker.names import check_topic_name

#: Kafka's ``max.request.partition.size.limit``.
MOST_PARTITIONS_OF_A_PAGE: Final = 2_000


async def handle(request: Any, context: RequestContext) -> Values:
    check_count(len(request.topics), MOST_ASKED, "topics")
    if request.cursor is not None and request.cursor.partition_index < 0:
        raise KafkaError(codes.INVALID_REQUEST, "a cursor's partition is 0 or more")
    limit = min(request.response_partition_limit, MOST_PARTITIONS_OF_A_PAGE)
    if limit > FEW_PARTITIONS:
        await context.hold(limit * PARTITION_BYTES)
    return await context.run(_page, request, context)


def _page(request: Any, context: RequestContext) -> Values:
    """In a thread of the executor."""
    present = {info.name: info for info in context.broker.topics()}
    names = sorted({each.name for each in request.topics} or present)
    first_topic, first_partition = "", 0
    if request.cursor is not None:
        first_topic, first_partition = request.cursor.topic_name, request.cursor.partition_index
    left = max(1, min(request.response_partition_limit, MOST_PARTITIONS_OF_A_PAGE))
    topics: list[Values] = []
    next_cursor: Values | None = None
    for name in names:
        if name < first_topic:
            continue
        if left == 0:
            next_cursor = {"topic_name": name, "partition_index": 0}
            break
        if name not in present:
            topics.append(_missing(name))
            continue
        topic = described(present[name], context.node.node_id, TOPIC_OPERATIONS)
        begin = first_partition if name == first_topic else 0
        page = topic["partitions"][begin : begin + left]
        left -= len(page)
        for partition in page:
            partition.update(eligible_leader_replicas=(), last_known_elr=())
        topics.append({**topic, "partitions": page})
        if begin + len(page) < len(topic["partitions"]):
            next_cursor = {"topic_name": name, "partition_index": begin + len(page)}
            break
    return {"topics": topics, "next_cursor": next_cursor}


def _missing(name: str, code: int = codes.UNKNOWN_TOPIC_OR_PARTITION) -> Values:
    try:
        check_topic_name(name)
    except InvalidTopicName:
        code = codes.INVALID_TOPIC_EXCEPTION
    return _failed(name, code)


def _failed(name: str, code: int) -> Values:
    return {
        "error_code": code,
        "name": name,
        "topic_id": None,
        "partitions": (),
        "topic_authorized_operations": NOT_ASKED,
    }


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every topic."""
    named = dict.fromkeys(each.name for each in request.topics[:MOST_ASKED])
    return {"topics": [_failed(name, code) for name in named], "next_cursor": None}


API = Api(
    key=75,
    name="DescribeTopicPartitions",
    versions=(0, 0),
    handle=handle,
    refuse=refuse,
    is_long=True,
)
