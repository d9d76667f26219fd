"""CreatePartitions (key 37): more partitions for topics.

Versions: 2 flexible; 3 may be told to wait (KIP-599).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from seawall.broker.errors import InvalidPartitions
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.changes import Changes
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.items import (
    MOST_CHANGES,
    SUCCESS,
    check_count,
    error_fields,
    failure,
    repeated,
)
from seawall.broker.kafka.placement import check_assignments
from seawall.broker.kafka.schema import Values, milliseconds
from seawall.broker.topics import MOST_PARTITIONS


async def handle(request: Any, context: RequestContext) -> Values:
    check_count(len(request.topics), MOST_CHANGES, "topics")
    twice = repeated(each.name for each in request.topics)
    topics = {each.name: each for each in request.topics}
    jobs = [
        partial(_add, each, context, each.name in twice, request.validate_only)
        for each in topics.values()
    ]
    made = await context.node.part(Changes).make(jobs, milliseconds(request.timeout))
    return {
        "results": [
            {"name": name, **(SUCCESS if outcome is None else failure(outcome))}
            for name, outcome in zip(topics, made, strict=True)
        ]
    }


def _add(topic: Any, context: RequestContext, is_twice: bool, validate_only: bool) -> None:
    """In a thread of the executor."""
    if is_twice:
        raise KafkaError(codes.INVALID_REQUEST, "the request names this topic twice")
    present = len(context.broker.topic(topic.name).partitions)
    if topic.count == present:
        raise KafkaError(codes.INVALID_PARTITIONS, f"the topic has {present} partitions already")
    if not present < topic.count <= MOST_PARTITIONS:
        raise InvalidPartitions(
            topic=topic.name, partitions=present, wanted=topic.count, most=MOST_PARTITIONS
        )
    if topic.assignments is not None:
        if len(topic.assignments) != topic.count - present:
            raise KafkaError(
                codes.INVALID_REPLICA_ASSIGNMENT,
                f"{topic.count - present} partitions are new, "
                f"and {len(topic.assignments)} have an assignment",
            )
        check_assignments([each.broker_ids for each in topic.assignments], context.node.node_id)
    if not validate_only:
        context.broker.add_partitions(topic.name, topic.count)


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every topic."""
    told = error_fields(code, message)
    named = dict.fromkeys(each.name for each in request.topics[:MOST_CHANGES])
    return {"results": [{"name": name, **told} for name in named]}


API = Api(key=37, name="CreatePartitions", versions=(0, 3), handle=handle, refuse=refuse)
