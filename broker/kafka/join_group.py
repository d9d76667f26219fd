"""JoinGroup (key 11): become a member, and learn of the generation when all have come.

Versions: 1 a rebalance timeout; 4 MEMBER_ID_REQUIRED (KIP-394); 5 static members (KIP-345);
6 flexible; 7 the protocol type in the answer (KIP-559); 8 a reason (KIP-800); 9 a leader may
have nothing to divide (KIP-814).
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.coordinator_values import JoinAnswer, JoinRequest
from seawall.broker.kafka.schema import Values, milliseconds

# What one member may say of itself. It is kept in memory, and told to the leader.
MOST_METADATA_BYTES: Final = 1 << 20
_WITH_TYPE: Final = 7


async def handle(request: Any, context: RequestContext) -> Values:
    protocols = {each.name: bytes(each.metadata) for each in request.protocols}
    size = sum(len(name) + len(metadata) for name, metadata in protocols.items())
    if size > MOST_METADATA_BYTES:
        raise KafkaError(
            codes.INVALID_REQUEST, f"protocols of {size} bytes, above {MOST_METADATA_BYTES}"
        )
    session_ms = milliseconds(request.session_timeout)
    rebalance = getattr(request, "rebalance_timeout", None)
    rebalance_ms = session_ms if rebalance is None else milliseconds(rebalance)
    answer = await context.node.part(Coordinator).join(
        request.group_id,
        JoinRequest(
            member_id=request.member_id,
            instance_id=getattr(request, "group_instance_id", None),
            client_id=context.client_id,
            client_host=context.connection.peer,
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=max(rebalance_ms, 0),
            protocol_type=request.protocol_type,
            protocols=protocols,
            takes_id_first=context.version >= 4,
            can_skip_assignment=context.version >= 9,
        ),
    )
    return told(answer, context.version)


def told(answer: JoinAnswer, version: int) -> Values:
    """The response. Without a protocol: null, or "" for those who know no null."""
    return {
        "error_code": answer.code,
        "generation_id": answer.generation,
        "protocol_type": answer.protocol_type,
        "protocol_name": answer.protocol if version >= _WITH_TYPE else answer.protocol or "",
        "leader": answer.leader,
        "skip_assignment": answer.skip_assignment,
        "member_id": answer.member_id,
        "members": [
            {"member_id": member_id, "group_instance_id": instance_id, "metadata": metadata}
            for member_id, instance_id, metadata in answer.members
        ],
    }


def refuse(request: Any, code: int, message: str) -> Values:
    return told(JoinAnswer(code=code, member_id=request.member_id), int(request.__version__))


API = Api(
    key=11, name="JoinGroup", versions=(0, 9), handle=handle, refuse=refuse, is_of_coordinator=True
)
