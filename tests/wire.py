"""A Kafka client of few words: one socket, kio's messages, and raw bytes where wanted."""

from __future__ import annotations

import io
import itertools
import socket
import struct
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from seawall.broker.kafka.schema import builder
from seawall.wal.records import RecordTuple, encode_batch

# For answers that are on their way, however slow the machine is.
TIMEOUT_S = 60.0
# A server holds what it may hold longer than anybody here waits: whoever is answered, was woken.
LONG_MS = 600_000


def address_of(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def request_bytes(
    key: int, version: int, correlation_id: int, fields: dict[str, Any], client_id: str = "wire"
) -> bytes:
    """A request frame, its length included."""
    kind = load_request_schema(key, version)
    header_kind: Any = kind.__header_schema__
    header = header_kind(
        request_api_key=key,
        request_api_version=version,
        correlation_id=correlation_id,
        client_id=client_id,
    )
    buffer = io.BytesIO()
    entity_writer(header_kind)(buffer, header)
    entity_writer(kind)(buffer, builder(kind)(fields))
    body = buffer.getvalue()
    return struct.pack(">i", len(body)) + body


class Wire:
    """One connection. Requests are kio's, built from keyword arguments."""

    _open: ClassVar[weakref.WeakSet[Wire]] = weakref.WeakSet()

    def __init__(self, address: str) -> None:
        self.socket = socket.create_connection(address_of(address), timeout=TIMEOUT_S)
        self._open.add(self)
        self._ids = itertools.count(1)
        self._sent: list[tuple[int, int, int]] = []

    def send(self, key: int, version: int, /, **fields: Any) -> None:
        """Send a request without waiting for its response."""
        correlation_id = next(self._ids)
        self.socket.sendall(request_bytes(key, version, correlation_id, fields))
        self._sent.append((key, version, correlation_id))

    def receive(self) -> Any:
        """The response to the oldest request that has none yet."""
        key, version, correlation_id = self._sent.pop(0)
        kind = load_response_schema(key, version)
        frame = self.receive_frame()
        header_kind: Any = kind.__header_schema__
        header, at = entity_reader(header_kind)(frame, 0)
        assert header.correlation_id == correlation_id
        response, size = entity_reader(kind)(frame, at)
        assert at + size == len(frame), "bytes behind the response"
        return response

    def ask(self, key: int, version: int, /, **fields: Any) -> Any:
        self.send(key, version, **fields)
        return self.receive()

    def receive_frame(self) -> bytes:
        """A response frame without its length."""
        [length] = struct.unpack(">i", self._receive(4))
        return self._receive(length)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return data

    def is_closed(self) -> bool:
        """Wait for the server to close the connection; False if it sends something."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self._open.discard(self)
        self.socket.close()

    @classmethod
    def close_all(cls) -> None:
        """Those that a test which failed did not get to close."""
        for each in list(cls._open):
            each.close()

    # -- what most tests do ------------------------------------------------------------

    def produce(
        self,
        topic: str,
        records: bytes,
        *,
        partition: int = 0,
        acks: int = -1,
        version: int = 9,
        **fields: Any,
    ) -> Any:
        """Produce to one partition; the partition's response."""
        self.send_produce(topic, records, partition=partition, acks=acks, version=version, **fields)
        return self.receive().responses[0].partition_responses[0]

    def send_produce(
        self,
        topic: str,
        records: bytes | None,
        *,
        partition: int = 0,
        acks: int = -1,
        version: int = 9,
        **fields: Any,
    ) -> None:
        data = [{"index": partition, "records": records}]
        self.send(
            0,
            version,
            acks=acks,
            timeout=1000,
            topic_data=[{"name": topic, "partition_data": data}],
            **fields,
        )
        if acks == 0:
            self._sent.pop()

    @staticmethod
    def produce_elsewhere(address: str, topic: str, records: bytes) -> int:
        """Produce over another connection; the error code."""
        wire = Wire(address)
        code: int = wire.produce(topic, records).error_code
        wire.close()
        return code

    def send_fetch(
        self,
        topic: str,
        offset: int,
        *,
        partition: int = 0,
        max_wait_ms: int = 0,
        min_bytes: int = 1,
        max_bytes: int = 1 << 20,
        partition_max_bytes: int = 1 << 20,
        version: int = 12,
    ) -> None:
        wanted = {
            "partition": partition,
            "fetch_offset": offset,
            "partition_max_bytes": partition_max_bytes,
        }
        self.send(
            1,
            version,
            max_wait=max_wait_ms,
            min_bytes=min_bytes,
            max_bytes=max_bytes,
            topics=[{"topic": topic, "partitions": [wanted]}],
            forgotten_topics_data=(),
        )

    def fetch(self, topic: str, offset: int, **fields: Any) -> Any:
        """Fetch from one partition; the partition's response."""
        self.send_fetch(topic, offset, **fields)
        return self.receive().responses[0].partitions[0]


def batch(*values: bytes | None, timestamp: int = 1_000, **settings: Any) -> bytes:
    """A record batch as a client sends it."""
    records: Sequence[RecordTuple] = [(timestamp, b"k", value, ()) for value in values]
    return bytes(encode_batch(records, **settings))


def batches_in(data: bytes | None) -> Iterator[bytes]:
    """The batches of a fetch response, one by one."""
    at = 0
    while data and at < len(data):
        [length] = struct.unpack_from(">i", data, at + 8)
        yield data[at : at + 12 + length]
        at += 12 + length
