"""AlterConfigs and IncrementalAlterConfigs: what they have in common, and their arithmetic.

What removing a setting means for ``cleanup.policy`` is not seawall's own default
``acknowledged``, under which records go that a Kafka client may still want, but Kafka's
``delete``. And a topic that is ``acknowledged`` stays it unless a client names another policy:
under ``delete``, records would go by age that a group has not read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from seawall.broker.config import ACKNOWLEDGED, BROKER_SETTINGS, DELETE, SETTINGS, check_config
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import RequestContext
from seawall.broker.kafka.changes import Changes
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.config_entries import LISTS
from seawall.broker.kafka.items import (
    MOST_CHANGES,
    SUCCESS,
    check_count,
    error_fields,
    failure,
    repeated,
)
from seawall.broker.kafka.schema import Values
from seawall.broker.kafka.settings import ServerSettings, descriptions
from seawall.broker.kafka.topic_configs import check_key, checked_for_topic, without_effect

# Kafka's ConfigResource.Type
TOPIC: Final = 2
BROKER: Final = 4

# Kafka's AlterConfigOp.OpType
SET: Final = 0
DELETE_OP: Final = 1
APPEND: Final = 2
SUBTRACT: Final = 3

CLEANUP_POLICY: Final = "cleanup.policy"


class Rules(NamedTuple):
    """Which settings a resource has: stored ones, those that change nothing, and what gives the
    settings to store for those that a client gives, or raises."""

    settings: Collection[str]
    ignored: Collection[str]
    check: Callable[[Mapping[str, str | None]], dict[str, str]]


# From what is stored, and kio's configs of one resource, to the changes; None is "not set".
Arithmetic = Callable[[Mapping[str, str], Sequence[Any], Rules], dict[str, str | None]]


def replaced(
    stored: Mapping[str, str], configs: Sequence[Any], rules: Rules
) -> dict[str, str | None]:
    """AlterConfigs: what is named is set, and all else goes back to its default."""
    given = {each.name: each.value for each in configs}
    for key, value in given.items():
        if value is None:
            raise KafkaError(codes.INVALID_REQUEST, f"{key} needs a value, and has none")
    changes: dict[str, str | None] = dict.fromkeys(stored)
    return changes | rules.check(given)


def incremented(
    stored: Mapping[str, str], configs: Sequence[Any], rules: Rules
) -> dict[str, str | None]:
    """IncrementalAlterConfigs: what is named changes, and nothing else (KIP-339)."""
    changes: dict[str, str | None] = {}
    for each in configs:
        key, operation = each.name, each.config_operation
        if operation not in (SET, DELETE_OP, APPEND, SUBTRACT):
            raise KafkaError(codes.INVALID_REQUEST, f"there is no operation {operation}")
        if operation == DELETE_OP:
            if key in rules.settings:
                changes[key] = None
            elif key not in rules.ignored:
                rules.check({key: ""})  # says that there is no such setting
            continue
        if each.value is None:
            raise KafkaError(codes.INVALID_REQUEST, f"{key} needs a value, and has none")
        if operation == SET:
            changes |= rules.check({key: each.value})
            continue
        if key not in LISTS:
            raise KafkaError(codes.INVALID_CONFIG, f"{key} is not a list: set it, or take it back")
        current = _words(stored.get(key, ACKNOWLEDGED if key == CLEANUP_POLICY else ""))
        given = _words(each.value)
        if operation == APPEND:
            words = current + [word for word in given if word not in current]
        else:
            words = [word for word in current if word not in given]
        changes |= rules.check({key: ",".join(words)})
    return changes


def _words(text: str) -> list[str]:
    """The words of a list, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


async def alter(request: Any, context: RequestContext, arithmetic: Arithmetic) -> Values:
    """Answer either request."""
    check_count(len(request.resources), MOST_CHANGES, "resources")
    twice = repeated((each.resource_type, each.resource_name) for each in request.resources)
    jobs = [
        partial(_alter_one, each, twice, context, arithmetic, request.validate_only)
        for each in request.resources
    ]
    made = await context.node.part(Changes).make(jobs)
    return {
        "responses": [
            {**_named(each), **(SUCCESS if outcome is None else failure(outcome))}
            for each, outcome in zip(request.resources, made, strict=True)
        ]
    }


def _alter_one(
    resource: Any,
    twice: set[tuple[int, str]],
    context: RequestContext,
    arithmetic: Arithmetic,
    validate_only: bool,
) -> None:
    """In a thread of the executor."""
    kind, name, broker = resource.resource_type, resource.resource_name, context.broker
    if (kind, name) in twice:
        raise KafkaError(codes.INVALID_REQUEST, "the request names this resource twice")
    keys = repeated(each.name for each in resource.configs)
    if keys:
        raise KafkaError(codes.INVALID_REQUEST, f"{min(keys)} is there twice")
    check_resource(kind, name, context)
    if kind == TOPIC:
        stored = broker.topic(name).config
        changes = arithmetic(stored, resource.configs, topic_rules(context.settings))
        if changes.get(CLEANUP_POLICY, "") is None:
            changes[CLEANUP_POLICY] = DELETE
            if CLEANUP_POLICY not in {each.name for each in resource.configs}:
                changes[CLEANUP_POLICY] = _kept_policy(stored)
        if not validate_only:
            broker.alter_topic(name, changes)
    else:
        stored = {
            key: value
            for key, value in broker.config().items()
            if value != BROKER_SETTINGS[key].default
        }
        changes = arithmetic(stored, resource.configs, BROKER_RULES)
        if not validate_only:
            broker.set_config(changes)


def _kept_policy(stored: Mapping[str, str]) -> str:
    policy = stored.get(CLEANUP_POLICY, ACKNOWLEDGED)
    return ACKNOWLEDGED if policy == ACKNOWLEDGED else DELETE


def topic_rules(server: ServerSettings) -> Rules:
    """What a topic's settings may be."""
    return Rules(SETTINGS, without_effect(server), lambda config: checked_for_topic(config, server))


def _check_broker(config: Mapping[str, str | None]) -> dict[str, str]:
    for key in config:
        check_key(key)
        if key in descriptions():
            raise KafkaError(
                codes.INVALID_CONFIG,
                f"{key} is set when the server starts; start it anew with another value",
            )
    return check_config({key: value or "" for key, value in config.items()}, BROKER_SETTINGS)


BROKER_RULES: Final = Rules(BROKER_SETTINGS, (), _check_broker)


def check_resource(kind: int, name: str, context: RequestContext) -> None:
    """Raise INVALID_REQUEST unless it is a topic's name or this broker's."""
    own = str(context.node.node_id)
    if kind == BROKER:
        if name not in ("", own):
            raise KafkaError(
                codes.INVALID_REQUEST,
                f"there is one broker, {own!r}, and '' for all; not {name!r}",
            )
    elif kind != TOPIC:
        raise KafkaError(
            codes.INVALID_REQUEST,
            f"resources of type {kind} have no settings here; "
            f"give a topic ({TOPIC}) or the broker ({BROKER})",
        )
    elif not name:
        raise KafkaError(codes.INVALID_REQUEST, "there are no settings of all topics")


def _named(resource: Any) -> Values:
    return {"resource_type": resource.resource_type, "resource_name": resource.resource_name}


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every resource."""
    told = error_fields(code, message)
    return {"responses": [{**_named(each), **told} for each in request.resources[:MOST_CHANGES]]}
