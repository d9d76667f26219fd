"""Metadata (key 3): the one broker, and topics with their partitions.

Versions: 1 controller and rack; 2 cluster id; 4 allow_auto_topic_creation; 5 offline replicas;
7 leader epochs; 8 authorized operations (KIP-430), 9 flexible; 10 topic ids (KIP-516), 11 no
cluster operations any more; 12 topics by id; 13 an error for the whole (KIP-1102).

In version 0 no topics means all of them, later it means none and null means all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from seawall.broker.errors import InvalidTopicName, TopicExists
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.changes import Changes
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.items import MOST_CHANGES
from seawall.broker.kafka.schema import Values
from seawall.broker.kafka.topics import Topics
from seawall.broker.kafka.wire_topics import create_wire_topic
from seawall.broker.names import check_topic_name
from seawall.broker.topic_info import TopicInfo

#: The version of every partition's leadership: there is one leader, for ever.
LEADER_EPOCH: Final = 0
#: Earlier versions have a field for an id, and no answer without a name.
BY_ID_SINCE: Final = 12
#: What a description of a partition takes in memory until it has been sent, rounded up. So few of
#: them are described at once, and more where there is memory for responses.
PARTITION_BYTES: Final = 1_024
FEW_PARTITIONS: Final = 32
#: How long a client waits here for topics to be created before it is told to ask again.
CREATION_TIMEOUT_MS: Final = 10_000
# Kafka's AclOperation numbers as a set of bits: nobody is forbidden anything here.
TOPIC_OPERATIONS: Final = sum(1 << bit for bit in (3, 4, 5, 6, 7, 8, 10, 11))
CLUSTER_OPERATIONS: Final = sum(1 << bit for bit in (5, 7, 8, 9, 10, 11, 12))
NOT_ASKED: Final = -(1 << 31)


async def handle(request: Any, context: RequestContext) -> Values:
    if context.version < BY_ID_SINCE and any(
        each.name is None or _id_of(each) for each in request.topics or ()
    ):
        raise KafkaError(
            codes.INVALID_REQUEST, f"topics are asked for by id from version {BY_ID_SINCE} on"
        )
    failed = await _create_missing(request, context)
    found = await context.run(_find, request, context, failed)
    partitions = sum(len(each.partitions) for each in found if isinstance(each, TopicInfo))
    if partitions <= FEW_PARTITIONS:
        topics = _describe(found, request, context)
    else:
        await context.hold(partitions * PARTITION_BYTES)
        topics = await context.run(_describe, found, request, context)
    node = context.node
    wants_operations = getattr(request, "include_cluster_authorized_operations", False)
    return {
        "brokers": [{"node_id": node.node_id, "host": node.host, "port": node.port, "rack": None}],
        "cluster_id": node.broker.cluster_id,
        "controller_id": node.node_id,
        "topics": topics,
        "cluster_authorized_operations": CLUSTER_OPERATIONS if wants_operations else NOT_ASKED,
        "error_code": codes.NONE,
    }


async def _create_missing(request: Any, context: RequestContext) -> dict[str, int]:
    """Create the topics that are asked for and are not there, if that is allowed.

    Gives the error codes of those that could not be. What one request may create is bounded;
    the others are unknown, and clients ask for unknown ones again.
    """
    named = [
        each.name for each in request.topics or () if each.name is not None and not _id_of(each)
    ]
    failed: dict[str, int] = {}
    valid: list[str] = []
    for name in dict.fromkeys(named):
        try:
            check_topic_name(name)
        except InvalidTopicName as error:
            failed[name] = codes.code_of(error)
        else:
            valid.append(name)
    if not valid or not _may_create(request, context):
        return failed
    present = await context.node.part(Topics).find(valid)
    missing = [name for name in valid if name not in present][:MOST_CHANGES]
    jobs = [partial(_create, context, name) for name in missing]
    made = await context.node.part(Changes).make(jobs, CREATION_TIMEOUT_MS)
    for name, outcome in zip(missing, made, strict=True):
        if outcome is not None:
            failed[name] = _told(codes.code_of(outcome))
    return failed


def _create(context: RequestContext, name: str) -> None:
    """In a thread of the executor."""
    with contextlib.suppress(TopicExists):  # somebody was quicker
        create_wire_topic(context.broker, name, context.settings.num_partitions)


def _told(code: int) -> int:
    """Kafka's word for a topic that is being created; clients ask again."""
    return codes.LEADER_NOT_AVAILABLE if code == codes.REQUEST_TIMED_OUT else code


def _may_create(request: Any, context: RequestContext) -> bool:
    allows: bool = getattr(request, "allow_auto_topic_creation", True)
    return allows and context.settings.auto_create_topics_enable


def _id_of(topic: Any) -> UUID | None:
    uuid: UUID | None = getattr(topic, "topic_id", None)
    return uuid


def _find(
    request: Any, context: RequestContext, failed: Mapping[str, int]
) -> list[TopicInfo | Values]:
    """The topics that are asked for, and answers for those that are not there.

    In a thread of the executor. ``failed``: of what was to be created.
    """
    present = {info.name: info for info in context.broker.topics()}
    wanted = request.topics
    if wanted is None or (not wanted and context.version == 0):
        return list(present.values())
    by_uuid = {info.uuid: info for info in present.values()}
    answered: list[TopicInfo | Values] = []
    # Once each, so that no answer is larger than all topics together.
    for each in {(each.name, _id_of(each)): each for each in wanted}.values():
        uuid = _id_of(each)
        if each.name is None or uuid is not None:
            found = None if uuid is None else by_uuid.get(uuid)
            missing = _missing(codes.UNKNOWN_TOPIC_ID, None, uuid)
        else:
            found = present.get(each.name)
            code = failed.get(each.name, codes.UNKNOWN_TOPIC_OR_PARTITION)
            missing = _missing(code, each.name, None)
        answered.append(missing if found is None else found)
    return answered


def _describe(
    found: Sequence[TopicInfo | Values], request: Any, context: RequestContext
) -> list[Values]:
    wants_operations = getattr(request, "include_topic_authorized_operations", False)
    operations = TOPIC_OPERATIONS if wants_operations else NOT_ASKED
    return [
        described(each, context.node.node_id, operations) if isinstance(each, TopicInfo) else each
        for each in found
    ]


def described(info: TopicInfo, node_id: int, operations: int = NOT_ASKED) -> Values:
    """A topic as Metadata describes it."""
    return {
        "error_code": codes.NONE,
        "name": info.name,
        "topic_id": info.uuid,
        "is_internal": False,
        "partitions": [
            {
                "error_code": codes.NONE,
                "partition_index": each.number,
                "leader_id": node_id,
                "leader_epoch": LEADER_EPOCH,
                "replica_nodes": (node_id,),
                "isr_nodes": (node_id,),
                "offline_replicas": (),
            }
            for each in info.partitions
        ],
        "topic_authorized_operations": operations,
    }


def _missing(code: int, name: str | None, uuid: UUID | None) -> Values:
    return {
        "error_code": code,
        "name": name,
        "topic_id": uuid,
        "partitions": (),
        "topic_authorized_operations": NOT_ASKED,
    }


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every topic that was asked for."""
    return {
        "brokers": (),
        "topics": [
            _missing(code, each.name or "", getattr(each, "topic_id", None))
            for each in request.topics or ()
        ],
        "error_code": code,
    }


API = Api(key=3, name="Metadata", versions=(0, 13), handle=handle, refuse=refuse, is_long=True)
