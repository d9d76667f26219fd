"""One whole request of each kind, as bytes: what fuzzing begins with."""

from __future__ import annotations

from typing import Any

from wire import batch, request_bytes
from wire_groups import GROUP_REQUESTS

TOPICS = [{"name": "orders", "partition_data": [{"index": 0, "records": batch(b"a", b"b")}]}]
PARTITION = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1000}
# One whole request of each kind: key, version, fields.
REQUESTS: list[tuple[int, int, dict[str, Any]]] = [
    (0, 3, {"acks": 1, "timeout": 1, "topic_data": TOPICS}),
    (0, 9, {"acks": -1, "timeout": 1, "topic_data": TOPICS}),
    (
        1,
        12,
        {
            "max_wait": 0,
            "min_bytes": 0,
            "topics": [{"topic": "orders", "partitions": [PARTITION]}],
            "forgotten_topics_data": (),
        },
    ),
    (
        2,
        6,
        {
            "replica_id": -1,
            "isolation_level": 0,
            "topics": [{"name": "orders", "partitions": [{"partition_index": 0, "timestamp": -1}]}],
        },
    ),
    (3, 4, {"topics": [{"name": "orders"}], "allow_auto_topic_creation": False}),
    (18, 3, {"client_software_name": "fuzz", "client_software_version": "1"}),
    (22, 4, {"transactional_id": None, "transaction_timeout": 1}),
]
REQUESTS += GROUP_REQUESTS
WHOLE = [request_bytes(key, version, 1, fields) for key, version, fields in REQUESTS]
