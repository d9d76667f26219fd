"""DeleteGroups (key 42): forget groups that nobody is in, and what they have committed.

Versions: 2 flexible.
"""

from __future__ import annotations

from typing import Any

from seawall.broker.errors import BrokerError
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.schema import Values


async def handle(request: Any, context: RequestContext) -> Values:
    coordinator = context.node.part(Coordinator)
    await coordinator.loaded()
    results = []
    for name in dict.fromkeys(request.groups_names):
        code = codes.NON_EMPTY_GROUP
        if coordinator.group(name) is None:
            try:
                await context.run(context.broker.delete_group, name)
                code = codes.NONE
            except BrokerError as error:
                code = codes.code_of(error)
        results.append({"group_id": name, "error_code": code})
    return {"results": results}


def refuse(request: Any, code: int, message: str) -> Values:
    return {"results": [{"group_id": name, "error_code": code} for name in request.groups_names]}


API = Api(key=42, name="DeleteGroups", versions=(0, 2), handle=handle, refuse=refuse)
