"""InitProducerId (key 22): an id for an idempotent producer.

Versions: 2 flexible; 3 a producer may bring the id that it has, to go on in the next epoch
(KIP-360); 4 PRODUCER_FENCED; 5 transactions, second protocol (KIP-890).

There are no transactions: a ``transactional.id`` is answered with
TRANSACTIONAL_ID_AUTHORIZATION_FAILED, which clients report at once and do not repeat.
"""

from __future__ import annotations

from typing import Any

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.schema import Values
from seawall.broker.producer_ids import ProducerId, ProducerIds


async def handle(request: Any, context: RequestContext) -> Values:
    if request.transactional_id is not None:
        return _answer(codes.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, -1, -1)
    producer_id = getattr(request, "producer_id", -1)
    epoch = getattr(request, "producer_epoch", -1)
    given = await context.run(_next, context.engine.producer_ids, producer_id, epoch)
    return _answer(codes.NONE, given.producer_id, given.epoch)


def _next(ids: ProducerIds, producer_id: int, epoch: int) -> ProducerId:
    """In a thread of the executor."""
    return ids.next() if producer_id < 0 else ids.after(producer_id, epoch)


def _answer(code: int, producer_id: int, epoch: int) -> Values:
    return {"error_code": code, "producer_id": producer_id, "producer_epoch": epoch}


API = Api(key=22, name="InitProducerId", versions=(0, 5), handle=handle)
