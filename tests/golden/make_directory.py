"""Make ``directory-1``: a small broker directory of the present layout, and what is in it.

    python tests/golden/make_directory.py

Run it only when the layout changes before it has been released, or into a new folder for
a new layout; what a released version wrote is never made again. See README.md.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

from seawall.broker import Broker
from seawall.wal.records import COMPRESSION_CODES, encode_batch

HERE = Path(__file__).parent
TARGET = HERE / "directory-1"
EXPECTED = HERE / "directory-1.json"
SMALL = {"segment.bytes": 4096, "cleanup.policy": "delete", "retention.ms": -1}


def fill(broker: Broker) -> None:
    broker.create_topic("deleted", 3)
    broker.create_topic("orders", 2, SMALL)
    broker.create_topic("stamped", 1, {**SMALL, "message.timestamp.type": "LogAppendTime"})
    broker.create_topic("trimmed", 1, SMALL)
    broker.create_topic("empty", 1, SMALL)
    broker.delete_topic("deleted")
    for compression in COMPRESSION_CODES:
        with broker.producer(compression=compression, batch_bytes=1500) as producer:
            for number in range(24):
                producer.send(
                    "orders",
                    None if number % 8 == 7 else b"%s %d " % (compression.encode(), number) * 9,
                    key=None if number % 5 == 4 else b"key-%d" % number,
                    headers=[("line", b"%d" % number), ("twice", None), ("twice", b"\xff\0")],
                    partition=number % 2,
                    timestamp=1_700_000_000_000 + 1000 * number,
                )
    with broker.producer() as producer:
        producer.send("stamped", b"", timestamp=1)
        producer.send("stamped", b"second")
        producer.flush()
        for number in range(60):
            producer.send("trimmed", b"%d" % number * 200, timestamp=number).result()
    log = broker.engine.log(broker.topic("orders").partitions[1].id)
    rows = [(1_700_000_100_000, b"key", b"of a transaction", ())]
    control = [(1_700_000_100_001, b"\0\0\0\1", b"\0\0\0\0\0\0", ())]
    ids: dict[str, Any] = {"producer_id": 4000, "producer_epoch": 3, "is_transactional": True}
    log.append([encode_batch(rows, base_sequence=17, **ids)])
    log.append([encode_batch(control, is_control=True, **ids)])
    log.sync()
    with broker.consumer(["orders", "trimmed"], group="billing") as consumer:
        records = [each for _ in range(1000) for each in consumer.poll(10)]
        consumer.ack([each for each in records if each.offset == 20 + each.partition])
    with broker.consumer("orders", group="audit", auto_offset_reset="latest"):
        pass
    broker.reset_group("audit", "orders", {0: 7})
    trimmed = broker.topic("trimmed").partitions[0].id
    broker.engine.state.set_log_start(trimmed, 25)
    broker.engine.log(trimmed).drop_segments(25)


def describe(broker: Broker) -> dict[str, Any]:
    """Everything in a directory, as JSON can hold it."""

    def text(data: bytes | None) -> str | None:
        return None if data is None else base64.b64encode(data).decode()

    records: dict[str, list[list[Any]]] = {}
    for info in broker.topics():
        with broker.consumer(info.name) as consumer:
            while found := consumer.poll():
                for each in found:
                    headers = [[name, text(content)] for name, content in each.headers]
                    row = [each.offset, each.timestamp, text(each.key), text(each.value), headers]
                    records.setdefault(f"{each.topic}/{each.partition}", []).append(row)
    return {
        "cluster_id": broker.cluster_id,
        "topics": {
            info.name: {
                "uuid": str(info.uuid),
                "partition_ids": [partition.id for partition in info.partitions],
                "config": dict(info.config),
                "ends": [list(broker.ends(info.name, each.number)) for each in info.partitions],
            }
            for info in broker.topics()
        },
        "records": {place: sorted(rows) for place, rows in sorted(records.items())},
        "groups": {
            name: [
                [each.topic, each.partition, each.committed] for each in broker.group(name).offsets
            ]
            for name in broker.groups()
        },
    }


def main() -> None:
    if TARGET.exists():
        shutil.rmtree(TARGET)
    with Broker.open(TARGET) as broker:
        fill(broker)
        EXPECTED.write_text(json.dumps(describe(broker), indent=1) + "\n")
    # What belongs to this boot or to open files is no part of the layout.
    shutil.rmtree(TARGET / "run")
    for name in ("LOCK", "lock.mdb"):
        for path in TARGET.rglob(name):
            path.unlink()


if __name__ == "__main__":
    main()
