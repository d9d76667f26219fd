"""What the scenarios do without any client: raw requests, by kio."""

from __future__ import annotations

import struct
import time
from typing import Any

from wire import Wire, batch, batches_in

from seawall.wal.records import decode_batch

PATIENCE_S = 60.0
# What passes by itself: no leader yet, a coordinator that loads or is elsewhere.
TOPIC_ALREADY_EXISTS = 36
PASSING = {3, 5, 6, 14, 15, 16}


class Neutral:
    """Makes topics and records, and looks at what is there."""

    def __init__(self, address: str) -> None:
        self._wire = Wire(address)

    def close(self) -> None:
        self._wire.close()

    def __enter__(self) -> Neutral:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def create(self, topic: str, partitions: int = 1, *, is_there: bool = False) -> None:
        """Create a topic, which may be there already if `is_there`."""
        wanted = {
            "name": topic,
            "num_partitions": partitions,
            "replication_factor": 1,
            "assignments": (),
            "configs": (),
        }
        answer = self._wire.ask(19, 5, topics=[wanted], timeout=10_000, validate_only=False)
        if not (is_there and answer.topics[0].error_code == TOPIC_ALREADY_EXISTS):
            check(answer.topics[0].error_code)
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            [found] = self._wire.ask(3, 8, topics=[{"name": topic}], **NO_OPERATIONS).topics
            if not found.error_code and not any(each.error_code for each in found.partitions):
                return
            if time.monotonic() > deadline_s:
                check(found.error_code)
            time.sleep(0.02)

    def produce(self, topic: str, values: list[str], partition: int = 0) -> int:
        """The offset of the first one."""
        now_ms = int(time.time() * 1000)  # what is old may be removed
        data = batch(*[each.encode() for each in values], timestamp=now_ms)
        return self.produce_batch(topic, data, partition)

    def produce_batch(self, topic: str, records: bytes, partition: int = 0) -> int:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            answer = self._wire.produce(topic, records, partition=partition)
            if answer.error_code not in PASSING or time.monotonic() > deadline_s:
                check(answer.error_code)
                return int(answer.base_offset)
            time.sleep(0.02)

    def read(self, topic: str, partition: int = 0) -> list[tuple[int, str | None]]:
        """All offsets and values of a partition."""
        found: list[tuple[int, str | None]] = []
        offset = 0
        while True:
            answer = self._wire.fetch(topic, offset, partition=partition, max_wait_ms=100)
            check(answer.error_code)
            if offset >= answer.high_watermark:
                return found
            for each in batches_in(bytes(answer.records or b"")):
                for record in decode_batch(each, 0, topic, partition):
                    value = None if record.value is None else bytes(record.value).decode()
                    found.append((record.offset, value))
            offset = found[-1][0] + 1

    def headers(self, topic: str, offset: int) -> list[list[str | None]]:
        """The headers of one record of partition 0."""
        answer = self._wire.fetch(topic, offset, max_wait_ms=100)
        check(answer.error_code)
        for each in batches_in(bytes(answer.records)):
            for record in decode_batch(each, 0, topic, 0, min_offset=offset):
                return [
                    [name, None if value is None else bytes(value).decode()]
                    for name, value in record.headers
                ]
        raise RuntimeError(f"no record at offset {offset}")

    def codec_of(self, topic: str, partition: int = 0) -> int:
        """The compression of a partition's first batch, as its attributes have it."""
        answer = self._wire.fetch(topic, 0, partition=partition, max_wait_ms=100)
        check(answer.error_code)
        first = next(batches_in(bytes(answer.records)))
        return int(struct.unpack_from(">h", first, 21)[0]) & 7

    def commit(self, group: str, topic: str, offsets: dict[int, int]) -> None:
        """As somebody who is not a member."""
        partitions = [
            {
                "partition_index": partition,
                "committed_offset": offset,
                "committed_leader_epoch": -1,
                "committed_metadata": "",
            }
            for partition, offset in offsets.items()
        ]
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            self._wire.ask(10, 4, coordinator_keys=(group,), key_type=0)
            answer = self._wire.ask(
                8,
                6,
                group_id=group,
                generation_id_or_member_epoch=-1,
                member_id="",
                topics=[{"name": topic, "partitions": partitions}],
            )
            codes = {each.error_code for each in answer.topics[0].partitions}
            if not codes & PASSING or time.monotonic() > deadline_s:
                for code in codes:
                    check(code)
                return
            time.sleep(0.05)


NO_OPERATIONS = {
    "allow_auto_topic_creation": False,
    "include_cluster_authorized_operations": False,
    "include_topic_authorized_operations": False,
}


def check(code: Any) -> None:
    if code:
        raise RuntimeError(f"error {code!r}")
