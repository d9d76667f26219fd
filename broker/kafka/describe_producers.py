"""DescribeProducers (key 61): the idempotent producers that partitions know (KIP-664).

Version 0. There are no transactions, so none of them is in one.
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.broker import Broker
from seawall.broker.errors import BrokerError
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.items import MOST_ASKED, SUCCESS, check_count, error_fields, failure
from seawall.broker.kafka.schema import Values

_NO_TRANSACTION: Final = -1


async def handle(request: Any, context: RequestContext) -> Values:
    # Once each, so that no answer is larger than all partitions together.
    wanted: dict[str, dict[int, None]] = {}
    for topic in request.topics:
        wanted.setdefault(topic.name, {}).update(dict.fromkeys(topic.partition_indexes))
    check_count(sum(map(len, wanted.values())), MOST_ASKED, "partitions")
    return {"topics": await context.run(_describe_all, wanted, context.broker)}


def _describe_all(wanted: dict[str, dict[int, None]], broker: Broker) -> list[Values]:
    """In a thread of the executor."""
    return [
        {"name": name, "partitions": [_describe(name, number, broker) for number in numbers]}
        for name, numbers in wanted.items()
    ]


def _describe(name: str, number: int, broker: Broker) -> Values:
    try:
        producers = broker.producers(name, number)
    except BrokerError as error:
        return {"partition_index": number, **failure(error), "active_producers": ()}
    return {
        "partition_index": number,
        **SUCCESS,
        "active_producers": [
            {
                "producer_id": each.producer_id,
                "producer_epoch": each.epoch,
                "last_sequence": each.last_sequence,
                "last_timestamp": each.last_timestamp,
                "coordinator_epoch": _NO_TRANSACTION,
                "current_txn_start_offset": _NO_TRANSACTION,
            }
            for each in producers
        ],
    }


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every partition."""
    told = {**error_fields(code, message), "active_producers": ()}
    return {
        "topics": [
            {
                "name": topic.name,
                "partitions": [
                    {"partition_index": number, **told} for number in topic.partition_indexes
                ],
            }
            for topic in request.topics[:MOST_ASKED]
        ]
    }


API = Api(
    key=61, name="DescribeProducers", versions=(0, 0), handle=handle, refuse=refuse, is_long=True
)
