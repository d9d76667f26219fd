"""InitProducerId (key 22): an id for an idempotent producer.

Versions: 2 flexible; 3 a producer may bring the id that it has, to go on in the next epoch
(KIP-360); 4 PRODUCER_FENCED; 5 transactions, second protocol (KIP-890).

There are no transactions: a ``transactional.id`` is answered with
TRANSACTIONAL_ID_AUTHORIZATION_FAILED, which clients report at once and do not repeat.
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.schema import Values
from seawall.broker.raw import new_producer_id

_LAST_EPOCH: Final = (1 << 15) - 2


async def handle(request: Any, context: RequestContext) -> Values:
    if request.transactional_id is not None:
        return _answer(codes.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, -1, -1)
    producer_id = getattr(request, "producer_id", -1)
    epoch = getattr(request, "producer_epoch", -1)
    if producer_id >= 0 and 0 <= epoch < _LAST_EPOCH:
        return _answer(codes.NONE, producer_id, epoch + 1)
    return _answer(codes.NONE, await context.run(new_producer_id), 0)


def _answer(code: int, producer_id: int, epoch: int) -> Values:
    return {"error_code": code, "producer_id": producer_id, "producer_epoch": epoch}


API = Api(key=22, name="InitProducerId", versions=(0, 5), handle=handle)
