"""DeleteTopics (key 20).

Versions: 4 flexible; 5 says what is wrong (KIP-599); 6 by name or id (KIP-516).
"""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from seawall.broker.broker import Broker
from seawall.broker.errors import UnknownTopic
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
from seawall.broker.kafka.schema import Values, milliseconds
from seawall.broker.topic_info import TopicInfo


def _wanted(request: Any) -> list[tuple[str | None, UUID | None]]:
    """The topics that a request names, by name or by id."""
    if hasattr(request, "topics"):
        return [(each.name, each.topic_id) for each in request.topics]
    return [(name, None) for name in request.topic_names]


async def handle(request: Any, context: RequestContext) -> Values:
    wanted = _wanted(request)
    check_count(len(wanted), MOST_CHANGES, "topics")
    present = await context.run(context.broker.topics)
    name_of = {info.uuid: info.name for info in present}
    known = {info.name: info for info in present}
    named = [(name if uuid is None else name or name_of.get(uuid), uuid) for name, uuid in wanted]
    twice = repeated(name or uuid for name, uuid in named)
    jobs = [
        partial(_delete, context.broker, asked, known.get(name or ""), (name or uuid) in twice)
        for asked, (name, uuid) in zip(wanted, named, strict=True)
    ]
    made = await context.node.part(Changes).make(jobs, milliseconds(request.timeout))
    responses: dict[str | UUID | None, Values] = {}
    for (name, uuid), outcome in zip(named, made, strict=True):
        info = known.get(name or "")
        told = SUCCESS if outcome is None else failure(outcome)
        responses[name or uuid] = {
            "name": name,
            "topic_id": uuid if info is None else info.uuid,
            **told,
        }
    return {"responses": list(responses.values())}


def _delete(
    broker: Broker, asked: tuple[str | None, UUID | None], info: TopicInfo | None, is_twice: bool
) -> None:
    """In a thread of the executor."""
    name, uuid = asked
    if (name is None) == (uuid is None):
        raise KafkaError(codes.INVALID_REQUEST, "give either a topic's name or its id")
    if is_twice:
        raise KafkaError(codes.INVALID_REQUEST, "the request names this topic twice")
    if name is not None:
        broker.delete_topic(name)
        return
    unknown = KafkaError(codes.UNKNOWN_TOPIC_ID, f"there is no topic with the id {uuid}")
    if info is None:
        raise unknown
    try:
        broker.delete_topic(info.name, uuid=uuid)
    except UnknownTopic:
        raise unknown from None


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every topic."""
    told = error_fields(code, message)
    named = dict.fromkeys(_wanted(request)[:MOST_CHANGES])
    return {"responses": [{"name": name, "topic_id": uuid, **told} for name, uuid in named]}


API = Api(key=20, name="DeleteTopics", versions=(1, 6), handle=handle, refuse=refuse)
