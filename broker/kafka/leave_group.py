"""LeaveGroup (key 13): members go, and their partitions to others.

Versions: 3 several at once, and static ones by their instance id (KIP-345); 4 flexible;
5 a reason (KIP-800).
"""

from __future__ import annotations

from typing import Any

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.schema import Values


async def handle(request: Any, context: RequestContext) -> Values:
    members = getattr(request, "members", None)
    leaving = (
        [(request.member_id, None)]
        if members is None
        else [(each.member_id, each.group_instance_id) for each in members]
    )
    found = await context.node.part(Coordinator).leave(request.group_id, leaving)
    if members is None:
        return {"error_code": found[0]}
    return {
        "error_code": codes.NONE,
        "members": [
            {"member_id": member_id, "group_instance_id": instance_id, "error_code": code}
            for (member_id, instance_id), code in zip(leaving, found, strict=True)
        ],
    }


API = Api(key=13, name="LeaveGroup", versions=(0, 5), handle=handle, is_of_coordinator=True)
