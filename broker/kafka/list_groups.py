"""ListGroups (key 16): which groups there are, whoever is in them.

Versions: 3 flexible; 4 their states, and only those in some (KIP-518); 5 their types, and
only those of some (KIP-848). All are "classic".
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.coordinator import Coordinator
from seawall.broker.kafka.group_views import stored_views, view_of
from seawall.broker.kafka.schema import Values

CLASSIC: Final = "classic"


async def handle(request: Any, context: RequestContext) -> Values:
    coordinator = context.node.part(Coordinator)
    await coordinator.loaded()
    views = await context.run(stored_views, context.engine)
    views |= {group.name: view_of(group) for group in coordinator.groups()}
    states = {each.lower() for each in getattr(request, "states_filter", ())}
    kinds = {each.lower() for each in getattr(request, "types_filter", ())}
    return {
        "error_code": codes.NONE,
        "groups": [
            {
                "group_id": view.name,
                "protocol_type": view.protocol_type,
                "group_state": view.state,
                "group_type": CLASSIC,
            }
            for _, view in sorted(views.items())
            if (not states or view.state.lower() in states) and (not kinds or CLASSIC in kinds)
        ],
    }


API = Api(key=16, name="ListGroups", versions=(0, 5), handle=handle)
