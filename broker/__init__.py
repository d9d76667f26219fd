"""The broker: topics, producers, consumers and groups, over a directory or a cluster.

What stands in ``__all__`` is for users. It is imported when it is first asked for, so
that a program which needs one part does not wait for the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seawall.broker.aio import AsyncConsumer, AsyncProducer
    from seawall.broker.broker import Broker
    from seawall.broker.catalog import PartitionInfo, TopicInfo
    from seawall.broker.connecting import connect
    from seawall.broker.consumer import Consumer
    from seawall.broker.dead_letter_format import DeadLetter, DeadLetterChoice
    from seawall.broker.dead_letters import DeadLetterTopic
    from seawall.broker.delivery import Delivery, RecordMetadata
    from seawall.broker.errors import BrokerError
    from seawall.broker.groups import GroupInfo, GroupOffset
    from seawall.broker.handling import (
        DeliveredRecord,
        Failure,
        Handled,
        Lag,
        Reject,
        RetryLater,
    )
    from seawall.broker.inspect import BrokerInfo, Finding
    from seawall.broker.interface import AnyBroker, AnyConsumer, AnyDelivery, AnyProducer
    from seawall.broker.mirror_session import Mirrored, MirrorProgress
    from seawall.broker.mirroring import mirror
    from seawall.broker.producer import Producer
    from seawall.broker.producer_ids import ProducerInfo
    from seawall.broker.repair import Repaired
    from seawall.broker.trimming import Hold, Removal, Trimmed
    from seawall.wal.log import LogEnds
    from seawall.wal.records import Record

__all__ = [
    "AnyBroker",
    "AnyConsumer",
    "AnyDelivery",
    "AnyProducer",
    "AsyncConsumer",
    "AsyncProducer",
    "Broker",
    "BrokerError",
    "BrokerInfo",
    "Consumer",
    "DeadLetter",
    "DeadLetterChoice",
    "DeadLetterTopic",
    "DeliveredRecord",
    "Delivery",
    "Failure",
    "Finding",
    "GroupInfo",
    "GroupOffset",
    "Handled",
    "Hold",
    "Lag",
    "LogEnds",
    "MirrorProgress",
    "Mirrored",
    "PartitionInfo",
    "Producer",
    "ProducerInfo",
    "Record",
    "RecordMetadata",
    "Reject",
    "Removal",
    "Repaired",
    "RetryLater",
    "TopicInfo",
    "Trimmed",
    "connect",
    "mirror",
]

_WHERE = {
    "AnyBroker": "seawall.broker.interface",
    "AnyConsumer": "seawall.broker.interface",
    "AnyDelivery": "seawall.broker.interface",
    "AnyProducer": "seawall.broker.interface",
    "AsyncConsumer": "seawall.broker.aio",
    "AsyncProducer": "seawall.broker.aio",
    "Broker": "seawall.broker.broker",
    "BrokerError": "seawall.broker.errors",
    "BrokerInfo": "seawall.broker.inspect",
    "Consumer": "seawall.broker.consumer",
    "DeadLetter": "seawall.broker.dead_letter_format",
    "DeadLetterChoice": "seawall.broker.dead_letter_format",
    "DeadLetterTopic": "seawall.broker.dead_letters",
    "DeliveredRecord": "seawall.broker.handling",
    "Delivery": "seawall.broker.delivery",
    "Failure": "seawall.broker.handling",
    "Finding": "seawall.broker.inspect",
    "GroupInfo": "seawall.broker.groups",
    "GroupOffset": "seawall.broker.groups",
    "Handled": "seawall.broker.handling",
    "Hold": "seawall.broker.trimming",
    "Lag": "seawall.broker.handling",
    "LogEnds": "seawall.wal.log",
    "MirrorProgress": "seawall.broker.mirror_session",
    "Mirrored": "seawall.broker.mirror_session",
    "PartitionInfo": "seawall.broker.catalog",
    "Producer": "seawall.broker.producer",
    "ProducerInfo": "seawall.broker.producer_ids",
    "Record": "seawall.wal.records",
    "RecordMetadata": "seawall.broker.delivery",
    "Reject": "seawall.broker.handling",
    "Removal": "seawall.broker.trimming",
    "Repaired": "seawall.broker.repair",
    "RetryLater": "seawall.broker.handling",
    "TopicInfo": "seawall.broker.catalog",
    "Trimmed": "seawall.broker.trimming",
    "connect": "seawall.broker.connecting",
    "mirror": "seawall.broker.mirroring",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
