"""Fetch (key 1): slices of partitions, waiting for them if there is nothing yet.

Versions: 4 record batches (KIP-98); 5 log start offset; 7 sessions (KIP-227), which are declined:
the answer's session id is 0, so clients name all partitions each time; 9 leader epochs
(KIP-320); 11 racks (KIP-392); 12 flexible; 13 topic ids (KIP-516); 15 replica state (KIP-903);
16 leader hints (KIP-951); 17 directory ids (KIP-853).

Records are not parsed. They come in whole batches, the first of which may begin before the
offset that was asked for. The first batch of the response is given however long it is; for all
others ``max_bytes`` and ``partition_max_bytes`` hold.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from seawall.broker.errors import BrokerError
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.metadata import LEADER_EPOCH
from seawall.broker.kafka.schema import Values, milliseconds
from seawall.broker.kafka.topics import TopicKey, Topics, key_of
from seawall.broker.kafka.wakes import Wakes
from seawall.broker.raw import RawChunk, RawPlace, RawReaders
from seawall.broker.translation import translated
from seawall.wal.records import parse_header

if TYPE_CHECKING:
    from seawall.broker.kafka.node import Node

logger = logging.getLogger("seawall.kafka")

GATHER_S: Final = 0.01
READER_IDLE_S: Final = 30.0

_NOTHING: Final = RawChunk(b"", -1, -1)


class Readers:
    """A `Part` of the node: open places in logs, where the next fetch goes on."""

    def __init__(self, node: Node) -> None:
        self.raw = RawReaders(node.broker.engine)
        self._node = node
        self._expiring = node.loop.create_task(self._expire())

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(READER_IDLE_S)
            await self._node.run(self.raw.expire, READER_IDLE_S)

    async def close(self) -> None:
        self._expiring.cancel()
        await asyncio.wait((self._expiring,))
        await self._node.run(self.raw.close)


@dataclass(slots=True, kw_only=True)
class _Wanted:
    """One partition of a request, and what was found of it so far."""

    index: int
    offset: int
    max_bytes: int
    place: RawPlace | None
    code: int = codes.NONE
    found: RawChunk = _NOTHING
    # Whether there is more than the limits let through: then a response is not waited for.
    has_more: bool = False


async def handle(request: Any, context: RequestContext) -> Values:
    if getattr(request, "session_id", 0) != 0:
        raise KafkaError(codes.FETCH_SESSION_ID_NOT_FOUND, "there are no fetch sessions here")
    node = context.node
    loop = node.loop
    wakes, readers = node.part(Wakes), node.part(Readers).raw
    deadline_s = loop.time() + milliseconds(request.max_wait) / 1000
    max_bytes = max(0, min(request.max_bytes, context.settings.fetch_max_bytes))
    min_bytes = request.min_bytes
    topics = await _wanted(request, context)
    everything = [each for _, partitions in topics for each in partitions]
    while True:
        changes = wakes.changes
        await context.hold(min(max_bytes, sum(max(0, each.max_bytes) for each in everything)))
        await node.run(_read, readers, everything, max_bytes, min_bytes)
        size = sum(len(each.found.data) for each in everything)
        context.hold_only(size)
        left_s = deadline_s - loop.time()
        if (
            size >= min_bytes
            or (size and any(each.has_more for each in everything))
            or left_s <= 0
            or node.stopping.is_set()
            or any(each.code for each in everything)
            or not everything
        ):
            break
        known = {
            each.place.partition_id: each.found.durable_end
            for each in everything
            if each.place is not None
        }
        # Nothing is held while it waits: what there is now will be read again.
        for each in everything:
            each.found = _NOTHING
        context.hold_only(0)
        await wakes.wait(known, changes, left_s)
        if size:
            # Some was there, but less than min_bytes: let more gather before all is read again.
            await asyncio.sleep(min(GATHER_S, max(0.0, deadline_s - loop.time())))
    return {
        "error_code": codes.NONE,
        "session_id": 0,
        "responses": [_topic(topic, map(_partition, partitions)) for topic, partitions in topics],
    }


async def _wanted(request: Any, context: RequestContext) -> list[tuple[Any, list[_Wanted]]]:
    found = await context.node.part(Topics).find(key_of(topic) for topic in request.topics)
    topics = []
    for topic in request.topics:
        key = key_of(topic)
        places = found.get(key)
        partitions = [_one(key, places, each) for each in topic.partitions]
        topics.append((topic, partitions))
    return topics


def _one(key: TopicKey, places: list[RawPlace] | None, asked: Any) -> _Wanted:
    index = asked.partition
    wanted = _Wanted(
        index=index, offset=asked.fetch_offset, max_bytes=asked.partition_max_bytes, place=None
    )
    if places is None and not isinstance(key, str):
        wanted.code = codes.UNKNOWN_TOPIC_ID
    elif places is None or not 0 <= index < len(places):
        wanted.code = codes.UNKNOWN_TOPIC_OR_PARTITION
    elif getattr(asked, "current_leader_epoch", -1) > LEADER_EPOCH:
        wanted.code = codes.UNKNOWN_LEADER_EPOCH
    else:
        wanted.place = places[index]
    return wanted


def _read(readers: RawReaders, wanted: list[_Wanted], max_bytes: int, min_bytes: int) -> None:
    """In a thread of the executor: read what there is, within the limits."""
    is_first = True
    for each in wanted:
        place = each.place
        if place is None:
            continue
        limit = min(each.max_bytes, max_bytes)
        try:
            with translated(place.topic.name, place.partition):
                each.found = readers.read(
                    place.partition_id, each.offset, limit, at_least_one=is_first
                )
        except BrokerError as error:
            each.code, each.found = codes.code_of(error), _NOTHING
            if each.code != codes.OFFSET_OUT_OF_RANGE:
                logger.warning("fetch: %s", str(error))  # not its traceback, which holds files
        else:
            size = len(each.found.data)
            if size:
                is_first = False
                max_bytes -= size

    if sum(len(each.found.data) for each in wanted) < min_bytes:
        for each in wanted:
            each.has_more = _next_offset(each) < each.found.durable_end


def _next_offset(wanted: _Wanted) -> int:
    """Where a partition goes on behind what was found of it."""
    data, at, offset = wanted.found.data, 0, wanted.offset
    while at < len(data):
        header = parse_header(data, at)
        at, offset = at + header.size_bytes, header.next_offset
    return offset


def _topic(topic: Any, partitions: Any) -> Values:
    return {
        "topic": getattr(topic, "topic", None),
        "topic_id": getattr(topic, "topic_id", None),
        "partitions": list(partitions),
    }


def _partition(wanted: _Wanted) -> Values:
    data, log_start, durable_end = wanted.found
    return {
        "partition_index": wanted.index,
        "error_code": wanted.code,
        "high_watermark": durable_end,
        "last_stable_offset": durable_end,
        "log_start_offset": log_start,
        "aborted_transactions": (),
        "records": data,
    }


def refuse(request: Any, code: int, message: str) -> Values:
    """The error at the top, and for every partition where the version has none there."""
    return {
        "error_code": code,
        "session_id": 0,
        "responses": [
            _topic(
                topic,
                [
                    _partition(
                        _Wanted(index=each.partition, offset=0, max_bytes=0, place=None, code=code)
                    )
                    for each in topic.partitions
                ],
            )
            for topic in request.topics
        ],
    }


API = Api(key=1, name="Fetch", versions=(4, 17), handle=handle, refuse=refuse)
