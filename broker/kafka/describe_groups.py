"""DescribeGroups (key 15): who is in groups, and who reads what.

Versions: 3 authorized operations (KIP-430); 4 static members (KIP-345); 5 flexible; 6 says
GROUP_ID_NOT_FOUND of one that does not exist (KIP-1043), which is "Dead" before that.
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.errors import BrokerError
from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.group_views import GroupView, stored_view, view_of
from seawall.broker.kafka.schema import Values

# READ, DELETE and DESCRIBE, as bits: nobody is forbidden anything here.
_OPERATIONS: Final = 1 << 3 | 1 << 6 | 1 << 8
_NOT_ASKED: Final = -(1 << 31)
_SAYS_NOT_FOUND: Final = 6


async def handle(request: Any, context: RequestContext) -> Values:
    coordinator = context.node.part(Coordinator)
    await coordinator.loaded()
    wants_operations = getattr(request, "include_authorized_operations", False)
    operations = _OPERATIONS if wants_operations else _NOT_ASKED
    answered = []
    # Once each, so that no answer is larger than all groups together.
    for name in dict.fromkeys(request.groups):
        held = coordinator.group(name)
        try:
            view = view_of(held) if held else await context.run(stored_view, context.engine, name)
        except BrokerError as error:
            answered.append(_missing(name, codes.code_of(error), str(error)))
            continue
        if view is not None:
            answered.append({**_described(view), "authorized_operations": operations})
        elif context.version >= _SAYS_NOT_FOUND:
            answered.append(_missing(name, codes.GROUP_ID_NOT_FOUND, f"Group {name} not found."))
        else:
            answered.append(_missing(name, codes.NONE, None))
    return {"groups": answered}


def _described(view: GroupView) -> dict[str, Any]:
    return {
        "error_code": codes.NONE,
        "error_message": None,
        "group_id": view.name,
        "group_state": view.state,
        "protocol_type": view.protocol_type,
        "protocol_data": view.protocol,
        "members": [
            {
                "member_id": each.member_id,
                "group_instance_id": each.instance_id,
                "client_id": each.client_id,
                "client_host": each.client_host,
                "member_metadata": each.metadata,
                "member_assignment": each.assignment,
            }
            for each in view.members
        ],
    }


def _missing(name: str, code: int, message: str | None) -> dict[str, Any]:
    return {
        "error_code": code,
        "error_message": message,
        "group_id": name,
        "group_state": "Dead",
        "protocol_type": "",
        "protocol_data": "",
        "members": (),
        "authorized_operations": _NOT_ASKED,
    }


def refuse(request: Any, code: int, message: str) -> Values:
    return {"groups": [_missing(name, code, message) for name in request.groups]}


API = Api(key=15, name="DescribeGroups", versions=(0, 6), handle=handle, refuse=refuse)
