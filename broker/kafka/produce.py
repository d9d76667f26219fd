"""Produce (key 0): record batches to the end of partitions, answered when they are on disk.

Versions: 3 record batches (KIP-98); 5 log start offset; 7 zstd (KIP-110); 8 record errors
(KIP-467); 9 flexible; 10 leader hints (KIP-951); 12 transactions, second protocol (KIP-890);
13 topic ids (KIP-516). Lower ones are advertised, because librdkafka before 2.11.1 takes their
absence for a lack of compression (KAFKA-18659), and refused when they come.

``acks`` 1 and -1 are the same here: both wait for the sync. With 0 there is no response, and an
error closes the connection, as in Kafka.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from seawall.broker.errors import BrokerError
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.dispatch import Rejected
from seawall.broker.kafka.lanes import Lanes
from seawall.broker.kafka.schema import Values
from seawall.broker.kafka.topics import TopicKey, Topics, key_of
from seawall.broker.raw import Outcome, RawPlace, Stored
from seawall.broker.raw_batches import RawRules
from seawall.wal.records import COMPRESSION_CODES

logger = logging.getLogger("seawall.kafka")

_ACKS: Final = (-1, 0, 1)
_ZSTD_SINCE: Final = 7
_NO_TRANSACTIONS: Final = KafkaError(
    codes.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "this broker has no transactions"
)
_UNKNOWN: Final = KafkaError(codes.UNKNOWN_TOPIC_OR_PARTITION, "there is no such partition")
_UNKNOWN_ID: Final = KafkaError(codes.UNKNOWN_TOPIC_ID, "there is no topic with this id")

_Pending = list[tuple[Any, list[tuple[int, asyncio.Future[Outcome] | Outcome]]]]


async def handle(request: Any, context: RequestContext) -> Values | None:
    pending: _Pending = []
    if request.acks not in _ACKS:
        raise KafkaError(codes.INVALID_REQUIRED_ACKS, f"acks is -1, 0 or 1, not {request.acks}")
    if request.transactional_id is not None:
        raise _NO_TRANSACTIONS
    rules = _rules(context)
    lanes, topics = context.node.part(Lanes), context.node.part(Topics)
    # Requests of one connection are taken in the order in which they came, although they
    # are not waited for one by one.
    async with context.connection.in_turn:
        found = await topics.find(key_of(topic) for topic in request.topic_data)
        for topic in request.topic_data:
            places = found.get(key_of(topic))
            pending.append(
                (
                    topic,
                    [
                        (data.index, _append(lanes, key_of(topic), places, data, rules))
                        for data in topic.partition_data
                    ],
                )
            )
    await _all_stored(pending)
    answered = [
        _topic(topic, [_response(index, _outcome(each)) for index, each in partitions])
        for topic, partitions in pending
    ]
    if request.acks == 0:
        _close_on_error(answered)
        return None
    return {"responses": answered}


async def _all_stored(pending: _Pending) -> None:
    """Wait for every outcome, also if the client is gone meanwhile.

    What it sent is in the lanes then, and is stored all the same. Until it is, the request must
    not be over, or clients that come anew when they lose patience with a slow disk would fill
    the memory with what nobody counts.
    """
    waiting = [
        each
        for _, partitions in pending
        for _, each in partitions
        if isinstance(each, asyncio.Future)
    ]
    if not waiting:
        return
    try:
        await asyncio.wait(waiting)
    except asyncio.CancelledError:
        await asyncio.wait(waiting)
        raise


def _outcome(found: asyncio.Future[Outcome] | Outcome) -> Outcome:
    return found.result() if isinstance(found, asyncio.Future) else found


def _rules(context: RequestContext) -> RawRules:
    settings = context.settings
    zstd = COMPRESSION_CODES["zstd"]
    return RawRules(
        validate_records=settings.validate_records,
        timestamp_before_max_ms=settings.log_message_timestamp_before_max_ms,
        timestamp_after_max_ms=settings.log_message_timestamp_after_max_ms,
        codecs=zstd if context.version >= _ZSTD_SINCE else zstd - 1,
    )


def _append(
    lanes: Lanes, key: TopicKey, places: list[RawPlace] | None, data: Any, rules: RawRules
) -> asyncio.Future[Outcome] | Outcome:
    if places is None or not 0 <= data.index < len(places):
        return _UNKNOWN if places is not None or isinstance(key, str) else _UNKNOWN_ID
    return lanes.append(places[data.index], data.records, rules)


def _response(index: int, outcome: Outcome) -> Values:
    if isinstance(outcome, Stored):
        return {
            "index": index,
            "error_code": codes.NONE,
            "base_offset": outcome.base_offset,
            "log_append_time": outcome.log_append_time_ms,
            "log_start_offset": outcome.log_start,
            "record_errors": (),
        }
    if not isinstance(outcome, BrokerError | KafkaError):
        logger.error("storing a batch failed", exc_info=outcome)
    return _failed(index, codes.code_of(outcome), str(outcome))


def _failed(index: int, code: int, message: str) -> Values:
    return {
        "index": index,
        "error_code": code,
        "base_offset": -1,
        "record_errors": (),
        "error_message": message,
    }


def _topic(topic: Any, responses: list[Values]) -> Values:
    return {
        "name": getattr(topic, "name", None),
        "topic_id": getattr(topic, "topic_id", None),
        "partition_responses": responses,
    }


def _close_on_error(answered: list[Values]) -> None:
    for topic in answered:
        for response in topic["partition_responses"]:
            if response["error_code"] != codes.NONE:
                raise Rejected(f"produce with acks=0 failed: {response['error_message']}")


def refuse(request: Any, code: int, message: str) -> Values:
    """The error for every partition."""
    answered = [
        _topic(topic, [_failed(data.index, code, message) for data in topic.partition_data])
        for topic in request.topic_data
    ]
    if request.acks == 0:
        _close_on_error(answered)
    return {"responses": answered}


API = Api(
    key=0,
    name="Produce",
    versions=(3, 13),
    advertised_from=0,
    handle=handle,
    refuse=refuse,
    is_pipelined=True,
)
