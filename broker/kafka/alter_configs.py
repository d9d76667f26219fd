"""AlterConfigs (key 33): set the settings that are named, and take back all others.

Versions: 2 flexible. Clients that can use IncrementalAlterConfigs instead (KIP-339).
"""

from __future__ import annotations

from typing import Any

from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.config_changes import alter, refuse, replaced
from seawall.broker.kafka.schema import Values


async def handle(request: Any, context: RequestContext) -> Values:
    return await alter(request, context, replaced)


API = Api(key=33, name="AlterConfigs", versions=(0, 2), handle=handle, refuse=refuse)
