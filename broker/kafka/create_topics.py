"""CreateTopics (key 19).

Versions: 4 takes -1 for the defaults of partitions and replicas (KIP-464); 5 flexible, and
answers with partitions, replicas and settings (KIP-525); 7 with the topic's id (KIP-516).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from seawall.broker.errors import BrokerError, TopicExists
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.changes import Changes
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.config_entries import topic_entries
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
from seawall.broker.kafka.topic_configs import checked_for_topic
from seawall.broker.kafka.wire_topics import check_collision, create_wire_topic, wire_config
from seawall.broker.names import check_topic_name
from seawall.broker.topics import MOST_PARTITIONS


class _Plan(NamedTuple):
    """A topic that can be created."""

    name: str
    partitions: int
    config: dict[str, str]


async def handle(request: Any, context: RequestContext) -> Values:
    check_count(len(request.topics), MOST_CHANGES, "topics")
    planned = await context.run(_plan_all, request.topics, context)
    plans = [each for each in planned.values() if isinstance(each, _Plan)]
    check_count(sum(each.partitions for each in plans), MOST_PARTITIONS, "partitions")
    results: dict[str, Values] = {
        name: {**failure(each), **_NOTHING}
        for name, each in planned.items()
        if not isinstance(each, _Plan)
    }
    if request.validate_only:
        for plan in plans:
            results[plan.name] = _created(plan.partitions, plan.config, None, context)
    else:
        jobs = [partial(create_wire_topic, context.broker, *plan) for plan in plans]
        made = await context.node.part(Changes).make(jobs, milliseconds(request.timeout))
        for plan, outcome in zip(plans, made, strict=True):
            if isinstance(outcome, BrokerError | KafkaError):
                results[plan.name] = {**failure(outcome), **_NOTHING}
            else:
                results[plan.name] = _created(
                    len(outcome.partitions), outcome.config, outcome.uuid, context
                )
    return {"topics": [{"name": name, **results[name]} for name in planned]}


def _plan_all(topics: Any, context: RequestContext) -> dict[str, _Plan | BrokerError | KafkaError]:
    """What is to be created, or why not, by name. In a thread of the executor."""
    present = {info.name for info in context.broker.topics()}
    twice = repeated(each.name for each in topics)
    planned: dict[str, _Plan | BrokerError | KafkaError] = {}
    for each in topics:
        try:
            if each.name in twice:
                raise KafkaError(codes.INVALID_REQUEST, "the request names this topic twice")
            planned[each.name] = _plan(each, present, context)
        except (BrokerError, KafkaError) as error:
            planned[each.name] = error
    return planned


def _plan(topic: Any, present: set[str], context: RequestContext) -> _Plan:
    """In Kafka's order: who creates what is there is told so, whatever else is wrong."""
    check_topic_name(topic.name)
    if topic.name in present:
        raise TopicExists(topic=topic.name)
    check_collision(topic.name, present)
    given = {each.name: each.value for each in topic.configs}
    config = wire_config(checked_for_topic(given, context.settings))
    return _Plan(topic.name, _partitions(topic, context), config)


def _partitions(topic: Any, context: RequestContext) -> int:
    replicas = topic.replication_factor
    if topic.assignments:
        if replicas != -1 or topic.num_partitions != -1:
            raise KafkaError(
                codes.INVALID_REQUEST,
                "with manual assignments, partitions and replication factor have to be -1",
            )
        check_assignments(
            [each.broker_ids for each in topic.assignments],
            context.node.node_id,
            numbers=[each.partition_index for each in topic.assignments],
        )
        partitions = len(topic.assignments)
    else:
        if replicas not in (1, -1):
            raise KafkaError(
                codes.INVALID_REPLICATION_FACTOR,
                f"a replication factor of {replicas} cannot be had: there is one broker; "
                "give 1, or -1 for the default",
            )
        partitions = topic.num_partitions
        if partitions == -1:
            partitions = context.settings.num_partitions
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise KafkaError(
            codes.INVALID_PARTITIONS,
            f"a topic has 1 to {MOST_PARTITIONS} partitions, not {partitions}; "
            "-1 stands for num.partitions",
        )
    return partitions


_NOTHING: Values = {
    "topic_id": None,
    "num_partitions": -1,
    "replication_factor": -1,
    "configs": (),
}


def _created(
    partitions: int, config: Mapping[str, str], uuid: Any, context: RequestContext
) -> Values:
    wants_config = context.version >= 5
    return {
        **SUCCESS,
        "topic_id": uuid,
        "num_partitions": partitions,
        "replication_factor": 1,
        "configs": topic_entries(config, context.settings) if wants_config else (),
    }


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every topic."""
    named = dict.fromkeys(each.name for each in request.topics[:MOST_CHANGES])
    told = {**error_fields(code, message), **_NOTHING}
    return {"topics": [{"name": name, **told} for name in named]}


API = Api(key=19, name="CreateTopics", versions=(2, 7), handle=handle, refuse=refuse, is_long=True)
