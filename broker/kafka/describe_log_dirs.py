"""DescribeLogDirs (key 35): how large partitions are, and how much room the disk has.

Versions: 1 as 0; 2 flexible; 3 an error for the whole; 4 the disk's bytes (KIP-827); 5 whether
new partitions go elsewhere, which they do not.
"""

from __future__ import annotations

from typing import Any, Final

from seawall.broker.kafka import codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.items import MOST_ASKED, check_count
from seawall.broker.kafka.schema import Values
from seawall.wal.errors import LogGone
from seawall.wal.files import disk_bytes

# Kafka's lag of a leader's log behind its own high watermark.
_NO_LAG: Final = 0


async def handle(request: Any, context: RequestContext) -> Values:
    topics = request.topics
    if topics is not None:
        check_count(sum(1 + len(each.partitions) for each in topics), MOST_ASKED, "partitions")
    return {"error_code": codes.NONE, "results": [await context.run(_describe, topics, context)]}


def _describe(topics: Any, context: RequestContext) -> Values:
    """In a thread of the executor. As in Kafka, what is not there is left out."""
    present = {info.name: info for info in context.broker.topics()}
    if topics is None:
        wanted = {name: set(range(len(info.partitions))) for name, info in present.items()}
    else:
        wanted = {}
        for each in topics:
            wanted.setdefault(each.topic, set()).update(each.partitions)
    described: list[Values] = []
    for name, numbers in wanted.items():
        if name not in present:
            continue
        sizes = [
            (each.number, _size_bytes(each.id, context))
            for each in present[name].partitions
            if each.number in numbers
        ]
        partitions = [
            {
                "partition_index": number,
                "partition_size": size_bytes,
                "offset_lag": _NO_LAG,
                "is_future_key": False,
            }
            for number, size_bytes in sizes
            if size_bytes is not None
        ]
        if partitions:
            described.append({"name": name, "partitions": partitions})
    total_bytes, usable_bytes = disk_bytes(context.broker.path)
    return {
        "error_code": codes.NONE,
        "log_dir": context.broker.path,
        "topics": described,
        "total_bytes": total_bytes,
        "usable_bytes": usable_bytes,
        "is_cordoned": False,
    }


def _size_bytes(partition_id: int, context: RequestContext) -> int | None:
    try:
        return context.engine.log(partition_id).size_bytes()
    except LogGone:  # deleted meanwhile
        return None


def refuse(request: Any, code: int, message: str) -> Values:
    return {"error_code": code, "results": [{"error_code": code, "log_dir": "", "topics": ()}]}


API = Api(
    key=35, name="DescribeLogDirs", versions=(1, 5), handle=handle, refuse=refuse, is_long=True
)
