"""Topics that Kafka clients create.

They get Kafka's ``cleanup.policy=delete`` unless something else is asked for: a Kafka client
expects records to stay until they are old, whoever has read them, not seawall's own
``acknowledged``.
"""

from __future__ import annotations

from collections.abc import Mapping

from seawall.broker.broker import Broker
from seawall.broker.config import DELETE
from seawall.broker.topic_info import TopicInfo


def wire_config(config: Mapping[str, str]) -> dict[str, str]:
    """The settings of a topic that a Kafka client creates with these."""
    return {"cleanup.policy": DELETE, **config}


def create_wire_topic(
    broker: Broker, name: str, partitions: int, config: Mapping[str, str] | None = None
) -> TopicInfo:
    """Create a topic for a Kafka client; raises what `Broker.create_topic` raises."""
    return broker.create_topic(name, partitions, wire_config(config or {}))
