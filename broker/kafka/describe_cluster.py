"""DescribeCluster (key 60): the one broker (KIP-700).

Versions: 1 asks for brokers or for controllers (KIP-919); 2 tells of fenced brokers.
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.metadata import CLUSTER_OPERATIONS, NOT_ASKED
from seawall.broker.kafka.schema import Values

BROKERS: Final = 1
CONTROLLERS: Final = 2


async def handle(request: Any, context: RequestContext) -> Values:
    endpoint_type = getattr(request, "endpoint_type", BROKERS)
    if endpoint_type != BROKERS:
        known = endpoint_type == CONTROLLERS
        code = codes.MISMATCHED_ENDPOINT_TYPE if known else codes.UNSUPPORTED_ENDPOINT_TYPE
        raise KafkaError(code, "this is a broker's endpoint")
    node = context.node
    wants_operations = request.include_cluster_authorized_operations
    broker = {
        "broker_id": node.node_id,
        "host": node.host,
        "port": node.port,
        "rack": None,
        "is_fenced": False,
    }
    return {
        "error_code": codes.NONE,
        "error_message": None,
        "endpoint_type": BROKERS,
        "cluster_id": node.broker.cluster_id,
        "controller_id": node.node_id,
        "brokers": [broker],
        "cluster_authorized_operations": CLUSTER_OPERATIONS if wants_operations else NOT_ASKED,
    }


def refuse(request: Any, code: int, message: str) -> Values:
    return {"error_code": code, "error_message": message, "cluster_id": "", "brokers": ()}


API = Api(key=60, name="DescribeCluster", versions=(0, 2), handle=handle, refuse=refuse)
