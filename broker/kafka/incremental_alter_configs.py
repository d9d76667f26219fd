"""IncrementalAlterConfigs (key 44): set, take back, append to and subtract from settings.

Versions: 1 flexible. KIP-339.
"""

from __future__ import annotations

from typing import Any

from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.config_changes import alter, incremented, refuse
from seawall.broker.kafka.schema import Values


async def handle(request: Any, context: RequestContext) -> Values:
    return await alter(request, context, incremented)


API = Api(key=44, name="IncrementalAlterConfigs", versions=(0, 1), handle=handle, refuse=refuse)
