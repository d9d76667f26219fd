"""Heartbeat (key 12): a member is there, and learns whether it has to join again.

Versions: 3 static members (KIP-345); 4 flexible.
"""

from __future__ import annotations

from typing import Any

from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.schema import Values


async def handle(request: Any, context: RequestContext) -> Values:
    code = await context.node.part(Coordinator).heartbeat(
        request.group_id,
        request.member_id,
        request.generation_id,
        getattr(request, "group_instance_id", None),
    )
    return {"error_code": code}


API = Api(key=12, name="Heartbeat", versions=(0, 4), handle=handle, is_of_coordinator=True)
