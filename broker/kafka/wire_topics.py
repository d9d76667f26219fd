"""Topics that Kafka clients create.

They get Kafka's ``cleanup.policy=delete`` unless something else is asked for: a Kafka client
expects records to stay until they are old, whoever has read them, not seawall's own
``acknowledged``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from seawall.broker.broker import Broker
from seawall.broker.config import DELETE
from seawall.broker.kafka import codes
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.topic_info import TopicInfo


def wire_config(config: Mapping[str, str]) -> dict[str, str]:
    """The settings of a topic that a Kafka client creates with these."""
    return {"cleanup.policy": DELETE, **config}


def check_collision(name: str, present: Collection[str]) -> None:
    """Kafka's rule (``Topic.hasCollision``): INVALID_TOPIC_EXCEPTION if dots and underscores are
    all that the name and that of another topic differ in, as they are one in names of metrics.

    A topic that is there collides with none, so that asking for it again is answered as usual.
    """
    unified = _unified(name)
    if "_" not in unified or name in present:
        return
    for other in present:
        if len(other) == len(name) and _unified(other) == unified:
            raise KafkaError(
                codes.INVALID_TOPIC_EXCEPTION,
                f"topic {name!r} collides with {other!r}, which is there: '.' and '_' are the same "
                "in the names of metrics; use that one, or choose another name",
            )


def _unified(name: str) -> str:
    return name.replace(".", "_")


def create_wire_topic(
    broker: Broker, name: str, partitions: int, config: Mapping[str, str] | None = None
) -> TopicInfo:
    """Create a topic for a Kafka client.

    Raises what `Broker.create_topic` and `check_collision` raise.
    """
    check_collision(name, {info.name for info in broker.topics()})
    return broker.create_topic(name, partitions, wire_config(config or {}))
