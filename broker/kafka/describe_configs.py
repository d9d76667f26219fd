"""DescribeConfigs (key 32): the settings of topics and of the broker.

Versions: 1 sources and synonyms (KIP-226); 3 types and documentation (KIP-569); 4 flexible.
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.config import BROKER_SETTINGS
from seawall.broker.errors import BrokerError, UnknownTopic
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.config_changes import TOPIC, check_resource
from seawall.broker.kafka.config_entries import (
    broker_entries,
    chosen,
    directory_entries,
    topic_entries,
)
from seawall.broker.kafka.items import MOST_ASKED, SUCCESS, check_count, error_fields, failure
from seawall.broker.kafka.schema import Values
from seawall.broker.names import check_topic_name
from seawall.broker.topic_info import TopicInfo

# What the settings of a topic or broker take in memory until they have been sent, rounded up.
# More than a few are described where there is memory for responses.
RESOURCE_BYTES: Final = 1 << 15
FEW_RESOURCES: Final = 4


async def handle(request: Any, context: RequestContext) -> Values:
    # Once each, so that no answer is larger than all topics together.
    wanted = {(each.resource_type, each.resource_name): each for each in request.resources}
    check_count(len(wanted), MOST_ASKED, "resources")
    if len(wanted) > FEW_RESOURCES:
        await context.hold(len(wanted) * RESOURCE_BYTES)
    return {"results": await context.run(_describe_all, list(wanted.values()), request, context)}


def _describe_all(resources: list[Any], request: Any, context: RequestContext) -> list[Values]:
    """In a thread of the executor."""
    topics = {info.name: info for info in context.broker.topics()}
    results: list[Values] = []
    for each in resources:
        try:
            entries = chosen(
                _entries(each, topics, context),
                each.configuration_keys,
                synonyms=request.include_synonyms,
                documentation=getattr(request, "include_documentation", False),
            )
            told: Values = {**SUCCESS, "configs": entries}
        except (BrokerError, KafkaError) as error:
            told = {**failure(error), "configs": ()}
        results.append({**_named(each), **told})
    return results


def _entries(resource: Any, topics: dict[str, TopicInfo], context: RequestContext) -> list[Values]:
    kind, name = resource.resource_type, resource.resource_name
    check_resource(kind, name, context)
    if kind == TOPIC:
        check_topic_name(name)
        if name not in topics:
            raise UnknownTopic(topic=name)
        return topic_entries(topics[name].config, context.settings)
    stored = {
        key: value
        for key, value in context.broker.config().items()
        if value != BROKER_SETTINGS[key].default
    }
    if not name:  # the defaults of all brokers: what was set of them
        return directory_entries(stored, only_stored=True)
    return broker_entries(stored, context.settings)


def _named(resource: Any) -> Values:
    return {"resource_type": resource.resource_type, "resource_name": resource.resource_name}


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every resource."""
    told = {**error_fields(code, message), "configs": ()}
    return {"results": [{**_named(each), **told} for each in request.resources[:MOST_ASKED]]}


API = Api(
    key=32, name="DescribeConfigs", versions=(1, 4), handle=handle, refuse=refuse, is_long=True
)
