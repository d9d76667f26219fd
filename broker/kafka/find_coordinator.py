"""FindCoordinator (key 10): who coordinates a group. There is one node, so it does.

Versions: 1 key types and a message; 3 flexible; 4 several keys (KIP-699); 5 transactional
errors (KIP-890); 6 share groups (KIP-932), which there are none of.
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.schema import Values

_GROUP: Final = 0
_TRANSACTION: Final = 1


async def handle(request: Any, context: RequestContext) -> Values:
    node = context.node
    keys = getattr(request, "coordinator_keys", None)
    kind = getattr(request, "key_type", _GROUP)
    if kind in (_GROUP, _TRANSACTION):
        found: dict[str, Any] = {
            "error_code": codes.NONE,
            "error_message": None,
            "node_id": node.node_id,
            "host": node.host,
            "port": node.port,
        }
    else:
        found = _unknown(codes.INVALID_REQUEST, f"there are no coordinators of kind {kind}")
    if keys is None:
        return found
    return {"coordinators": [{"key": key, **found} for key in keys]}


def _unknown(code: int, message: str) -> dict[str, Any]:
    return {"error_code": code, "error_message": message, "node_id": -1, "host": "", "port": -1}


def refuse(request: Any, code: int, message: str) -> Values:
    """The error, for every key that was asked for."""
    found = _unknown(code, message)
    keys = getattr(request, "coordinator_keys", ())
    return {**found, "coordinators": [{"key": key, **found} for key in keys]}


API = Api(key=10, name="FindCoordinator", versions=(0, 6), handle=handle, refuse=refuse)
