"""Which APIs the server answers: the modules, and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from seawall.broker.kafka.api import Api

#: Each has an `API`. One line each, so that additions do not meet.
MODULES: Final = (
    "seawall.broker.kafka.alter_configs",
    "seawall.broker.kafka.api_versions",
    "seawall.broker.kafka.create_partitions",
    "seawall.broker.kafka.create_topics",
    "seawall.broker.kafka.delete_groups",
    "seawall.broker.kafka.delete_records",
    "seawall.broker.kafka.delete_topics",
    "seawall.broker.kafka.describe_cluster",
    "seawall.broker.kafka.describe_configs",
    "seawall.broker.kafka.describe_groups",
    "seawall.broker.kafka.describe_log_dirs",
    "seawall.broker.kafka.describe_producers",
    "seawall.broker.kafka.describe_topic_partitions",
    "seawall.broker.kafka.fetch",
    "seawall.broker.kafka.find_coordinator",
    "seawall.broker.kafka.heartbeat",
    "seawall.broker.kafka.incremental_alter_configs",
    "seawall.broker.kafka.init_producer_id",
    "seawall.broker.kafka.join_group",
    "seawall.broker.kafka.leave_group",
    "seawall.broker.kafka.list_groups",
    "seawall.broker.kafka.list_offsets",
    "seawall.broker.kafka.metadata",
    "seawall.broker.kafka.offset_commit",
    "seawall.broker.kafka.offset_delete",
    "seawall.broker.kafka.offset_fetch",
    "seawall.broker.kafka.offset_for_leader_epoch",
    "seawall.broker.kafka.produce",
    "seawall.broker.kafka.sync_group",
)


def load_apis() -> dict[int, Api]:
    """All APIs by their keys."""
    apis: dict[int, Api] = {}
    for name in MODULES:
        api: Api = import_module(name).API
        if api.key in apis:
            raise ValueError(f"{name} and {apis[api.key].name} have the same key {api.key}")
        apis[api.key] = api
    return apis
