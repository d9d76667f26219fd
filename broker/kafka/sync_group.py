"""SyncGroup (key 14): the leader says who gets what, and everybody learns it.

Versions: 3 static members (KIP-345); 4 flexible; 5 the protocol, to be compared (KIP-559).
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.coordinator_values import SyncRequest
from seawall.broker.kafka.schema import Values

# For each member on the average; kept in memory.
MOST_ASSIGNMENT_BYTES: Final = 1 << 20


async def handle(request: Any, context: RequestContext) -> Values:
    assignments = {each.member_id: bytes(each.assignment) for each in request.assignments}
    size = sum(map(len, assignments.values()))
    if size > MOST_ASSIGNMENT_BYTES * max(1, len(assignments)):
        raise KafkaError(codes.INVALID_REQUEST, f"assignments of {size} bytes are too large")
    answer = await context.node.part(Coordinator).sync(
        request.group_id,
        SyncRequest(
            member_id=request.member_id,
            instance_id=getattr(request, "group_instance_id", None),
            generation=request.generation_id,
            protocol_type=getattr(request, "protocol_type", None),
            protocol=getattr(request, "protocol_name", None),
            assignments=assignments,
        ),
    )
    return {
        "error_code": answer.code,
        "protocol_type": answer.protocol_type,
        "protocol_name": answer.protocol,
        "assignment": answer.assignment,
    }


API = Api(key=14, name="SyncGroup", versions=(0, 5), handle=handle, is_of_coordinator=True)
