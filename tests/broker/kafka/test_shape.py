from __future__ import annotations

import datetime
import struct
import uuid
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from any_requests import entities
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.index import load_request_schema
from whole_requests import WHOLE
from wire import Wire, batch, request_bytes

from seawall.broker.kafka.dispatch import Call, Rejected, parse
from seawall.broker.kafka.registry import load_apis
from seawall.broker.kafka.schema import Undecodable, schema
from seawall.broker.kafka.shape import Malformed, TooManyItems, nested_in

APIS = load_apis()
# Tagged fields 99 and 20,000 that nobody knows, of three bytes and of none.
UNKNOWN = b"\x02\x63\x03xyz\xa0\x9c\x01\x00"


def items_in(value: Any) -> int:
    """How many items the arrays of an entity have, however deep."""
    if isinstance(value, tuple):
        return len(value) + sum(map(items_in, value))
    if hasattr(value, "__dataclass_fields__"):
        return sum(items_in(getattr(value, each.name)) for each in untagged(value))
    return 0


def untagged(value: Any) -> list[Any]:
    return [each for each in fields(value) if "tag" not in each.metadata]


def counted(value: int) -> bytes:
    """An unsigned varint."""
    rest = value >> 7
    return bytes([value & 0x7F | 0x80]) + counted(rest) if rest else bytes([value])


def with_unknown_tags(value: Any) -> bytes:
    """A flexible entity as bytes, written by hand, with unknown tagged fields in every place."""
    parts = []
    for each in untagged(value):
        found, (nested, is_array) = getattr(value, each.name), nested_in(each.type)
        kind = each.metadata.get("kafka_type", "")
        if is_array and found is None:
            parts.append(b"\0")
        elif is_array:
            parts.append(counted(len(found) + 1))
            parts += [with_unknown_tags(one) if nested else primitive(kind, one) for one in found]
        elif nested:
            is_nullable = nested is not each.type
            parts.append((b"\xff" if found is None else b"\x01") if is_nullable else b"")
            parts.append(b"" if found is None else with_unknown_tags(found))
        else:
            parts.append(primitive(kind, found))
    return b"".join(parts) + UNKNOWN


def primitive(kind: str, value: Any) -> bytes:
    if kind in ("string", "bytes", "records"):
        data = value.encode() if isinstance(value, str) else value
        return b"\0" if data is None else counted(len(data) + 1) + bytes(data)
    if kind == "uuid":
        return (value or uuid.UUID(int=0)).bytes
    if isinstance(value, datetime.timedelta):
        value = value // datetime.timedelta(milliseconds=1)
    forms = {"bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint16": "H"}
    forms |= {"timedelta_i32": "i", "timedelta_i64": "q"}
    return struct.pack(">" + forms[kind], value)


def without_tagged(request: Any) -> dict[str, Any]:
    return {each.name: bare(getattr(request, each.name)) for each in untagged(request)}


def bare(value: Any) -> Any:
    """A value whose tagged fields, however deep, are as if they were not there."""
    if isinstance(value, tuple):
        return tuple(map(bare, value))
    if not is_dataclass(value) or isinstance(value, type):
        return value
    absent = {each.name: each.default for each in fields(value) if "tag" in each.metadata}
    return replace(value, **absent, **without_tagged(value))


@pytest.mark.parametrize("key", APIS)
def test_items_are_counted_in_every_version(key: int) -> None:
    @settings(max_examples=15)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        version = data.draw(st.integers(*APIS[key].versions))
        request = data.draw(entities(load_request_schema(key, version)))
        named = {each.name: getattr(request, each.name) for each in fields(request)}
        known = schema(key, version)
        _, frame, body_at = known.header(request_bytes(key, version, 1, named)[4:])
        items = items_in(request)
        assert known.shape.items(frame, body_at, items) == items
        if items:
            with pytest.raises(TooManyItems):
                known.shape.items(frame, body_at, items - 1)
        assert known.shape.without_unknown_tags(frame, body_at) is None

    check()


FLEXIBLE = [
    key for key, api in APIS.items() if load_request_schema(key, api.versions[1]).__flexible__
]


@pytest.mark.parametrize("key", FLEXIBLE)
def test_unknown_tagged_fields_are_passed_over_wherever_they_are(key: int) -> None:
    @settings(max_examples=15)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        version = data.draw(st.integers(*APIS[key].versions))
        kind = load_request_schema(key, version)
        if not kind.__flexible__:
            return
        request = data.draw(entities(kind))
        known = schema(key, version)
        plain = request_bytes(key, version, 1, without_tagged(request))[4:]
        _, _, body_at = known.header(plain)
        wanted = known.decode(plain, body_at)
        header = plain[: body_at - 1] + UNKNOWN
        found, frame, at = known.header(header + with_unknown_tags(request))
        assert (found.correlation_id, found.client_id) == (1, "wire")
        assert known.decode(frame, at) == wanted

    check()
    assert FLEXIBLE


def test_known_tagged_fields_stay() -> None:
    """ClusterId is tagged field 0 of Fetch, and 99 is none."""
    fields_ = {"max_wait": 0, "min_bytes": 0, "topics": (), "forgotten_topics_data": ()}
    plain = request_bytes(1, 12, 1, {**fields_, "cluster_id": "mine"})[4:]
    known = schema(1, 12)
    _, _, body_at = known.header(plain)
    assert plain[-7:] == b"\x01\x00\x05\x05mine"[-7:]
    told = plain[:-8] + b"\x02\x00\x05\x05mine\x63\x01x"
    assert known.decode(told, body_at) == known.decode(plain, body_at)
    assert known.decode(told, body_at).cluster_id == "mine"


def has_arrays(kind: Any) -> bool:
    found = [nested_in(each.type) for each in fields(kind)]
    return any(is_array or (inner and has_arrays(inner)) for inner, is_array in found)


@pytest.mark.parametrize("key", APIS)
def test_no_array_is_in_a_tagged_field(key: int) -> None:
    """Tagged fields are stepped over: the claims of an array in one would not be looked at."""
    for version in range(APIS[key].versions[0], APIS[key].versions[1] + 1):
        kinds = [load_request_schema(key, version)]
        while kinds:
            kind = kinds.pop()
            for each in fields(kind):
                inner, is_array = nested_in(each.type)
                if "tag" in each.metadata:
                    assert not is_array
                    assert inner is None or not has_arrays(inner)
                elif inner is not None:
                    kinds.append(inner)


CLAIMS = [struct.pack(">i", 2**31 - 1)] + [
    bytes.fromhex(each) for each in ("ffffff7f", "ffffffff07", "ffffffff0f")
]


def read_as_a_server_does(frame: bytes) -> None:
    try:
        call = parse(frame, APIS)
    except Rejected:
        return
    if isinstance(call, Call):
        call.memory_bytes(50_000)
        call.schema.decode(call.frame, call.body_at)


@pytest.mark.parametrize("whole", WHOLE, ids=lambda whole: f"{whole[4:8].hex()}-{len(whole)}")
def test_claims_of_more_items_than_there_can_be(whole: bytes) -> None:
    """kio reserves memory for as many as are claimed: for 96 GiB, that ends the process."""
    frame = whole[4:]
    read_as_a_server_does(frame)
    for at in range(8, len(frame)):
        for claim in CLAIMS:
            for replaced in (1, 4):
                with suppress(Rejected, Undecodable):
                    read_as_a_server_does(frame[:at] + claim + frame[at + replaced :])


@pytest.mark.parametrize("cut", range(1, 12))
def test_what_is_cut_off_has_no_shape(cut: int) -> None:
    data = [{"index": 0, "records": batch(b"a")}]
    topics = [{"name": "orders", "partition_data": data}]
    frame = request_bytes(0, 9, 1, {"acks": -1, "timeout": 1, "topic_data": topics})[4:]
    known = schema(0, 9)
    _, _, body_at = known.header(frame)
    assert known.shape.items(frame, body_at, 9) == 2
    with pytest.raises(Malformed):
        known.shape.items(frame[:-cut], body_at, 9)
    assert known.shape.without_unknown_tags(frame[:-cut], body_at) is None
    endless = frame[:body_at] + b"\xff" * 40
    with pytest.raises(Malformed):
        known.shape.items(endless, body_at, 9)


def test_a_client_that_knows_more_is_answered(wire: Wire) -> None:
    data = [{"index": 0, "records": batch(b"a")}]
    topics = [{"name": "orders", "partition_data": data}]
    frame = request_bytes(0, 9, 7, {"acks": -1, "timeout": 1, "topic_data": topics})[4:]
    _, _, body_at = schema(0, 9).header(frame)
    told = frame[: body_at - 1] + UNKNOWN + frame[body_at:-1] + UNKNOWN
    wire.socket.sendall(struct.pack(">i", len(told)) + told)
    assert wire.receive_frame()[:4] == struct.pack(">i", 7)
    assert wire.produce("orders", batch(b"b")).base_offset == 1, "the one before was stored"
