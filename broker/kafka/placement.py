"""Manual assignments: clients that say which broker gets which partition."""

from __future__ import annotations

from collections.abc import Sequence

from seawall.broker.kafka import codes
from seawall.broker.kafka.codes import KafkaError


def check_assignments(
    replicas: Sequence[Sequence[int]], node_id: int, *, numbers: Sequence[int] | None = None
) -> None:
    """Raise INVALID_REPLICA_ASSIGNMENT unless each partition is for the one broker alone.

    ``numbers`` are the partitions' own; they have to be 0, 1, 2, … in any order.
    """
    if numbers is not None and sorted(numbers) != list(range(len(numbers))):
        raise KafkaError(
            codes.INVALID_REPLICA_ASSIGNMENT,
            f"the partitions of an assignment are 0 to {len(numbers) - 1}, each once",
        )
    for each in replicas:
        if tuple(each) != (node_id,):
            raise KafkaError(
                codes.INVALID_REPLICA_ASSIGNMENT,
                f"there is one broker, {node_id}: assign [{node_id}] to every partition, "
                f"not {list(each[:10])}",
            )
