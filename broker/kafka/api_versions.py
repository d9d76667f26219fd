"""ApiVersions (key 18): what the server understands, as the registry has it.

Versions: 1 and 2 throttle time; 3 flexible, with the client's name and version (KIP-511);
4 tells of features from version 0 on (KIP-1022). A version that is not known is answered in
version 0 with UNSUPPORTED_VERSION and the list, so that the client can ask again (KIP-511);
`dispatch` sees to that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.schema import Values

KEY = 18


def answer(apis: Mapping[int, Api], error_code: int = codes.NONE) -> Values:
    """The response, derived from what is registered."""
    return {
        "error_code": error_code,
        "api_keys": [
            {"api_key": key, "min_version": api.advertised[0], "max_version": api.advertised[1]}
            for key, api in sorted(apis.items())
        ],
        "throttle_time": 0,
    }


async def handle(request: Any, context: RequestContext) -> Values:
    return answer(context.node.apis)


API = Api(key=KEY, name="ApiVersions", versions=(0, 4), handle=handle)
