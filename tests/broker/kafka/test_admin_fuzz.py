"""Whatever a well-formed request says, it is answered, and no answer is the server's own fault."""

from __future__ import annotations

import datetime
import typing
import uuid
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.index import load_request_schema
from kio.schema.errors import ErrorCode
from wire import Wire

from seawall.broker import Broker
from seawall.broker.errors import CatalogBusy
from seawall.broker.kafka.config_changes import BROKER, TOPIC
from seawall.broker.kafka.registry import load_apis

KEYS = (19, 20, 21, 32, 33, 35, 37, 44, 60, 61, 75)
KNOWN_ID = uuid.UUID(int=5)

NAMES = st.one_of(
    st.sampled_from(
        ["orders", "bills", "new", "1", "", ".", "no/name", "retention.ms", "cleanup.policy"]
    ),
    st.sampled_from(["min.insync.replicas", "num.partitions", "offsets.retention.minutes"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.sampled_from(["x" * 249, "é" * 16_000]),
)
VALUES = st.one_of(
    st.sampled_from(["delete", "compact", "1", "-1", "9" * 19, "9" * 40, "true", "producer", ""]),
    NAMES,
)
# No number of partitions that would take long to make.
NUMBERS = st.one_of(st.integers(-3, 4), st.sampled_from([10_001, 2**31 - 1, -(2**31)]))
BY_TYPE: dict[str, Any] = {
    "string": NAMES,
    "bool": st.booleans(),
    "int8": st.sampled_from([0, 1, 2, 3, 4, 8, 127, -128]),
    "int16": st.sampled_from([-1, 0, 1, 2, 3, -(2**15)]),
    "int32": NUMBERS,
    "int64": st.one_of(st.integers(-3, 20), st.sampled_from([2**63 - 1, -(2**63)])),
    "uuid": st.sampled_from([None, KNOWN_ID, uuid.UUID(int=7)]),
    "timedelta_i32": st.sampled_from([-(2**31), -1, 0, 1, 5_000]).map(
        lambda ms: datetime.timedelta(milliseconds=ms)
    ),
}
BY_NAME = {"value": VALUES, "resource_type": st.sampled_from([TOPIC, TOPIC, BROKER, 8, 0, -1])}


def nested(hint: Any) -> tuple[Any, bool, bool]:
    """The entity in a field's type, whether it is an array, whether it may be null."""
    if is_dataclass(hint) and isinstance(hint, type):
        return hint, False, False
    arguments = typing.get_args(hint)
    may_be_null = type(None) in arguments
    kind, is_array = None, typing.get_origin(hint) is tuple
    for each in arguments:
        inner, inner_is_array, inner_may_be_null = nested(each)
        kind = kind or inner
        is_array = is_array or inner_is_array
        may_be_null = may_be_null or inner_may_be_null
    return kind, is_array, may_be_null


def entities(kind: Any) -> st.SearchStrategy[Any]:
    """Any entity of one of kio's classes."""
    given_: dict[str, st.SearchStrategy[Any]] = {}
    for each in fields(kind):
        inner, is_array, may_be_null = nested(each.type)
        if inner is not None:
            values = entities(inner)
        elif each.name in BY_NAME:
            values = BY_NAME[each.name]
        else:
            values = BY_TYPE[each.metadata["kafka_type"]]
        if is_array:
            values = st.lists(values, max_size=3).map(tuple)
        if may_be_null:
            values = st.none() | values
        given_[each.name] = values
    return st.builds(kind, **given_)


def codes_in(answer: Any) -> Iterator[Any]:
    """All error codes of a response, however deep."""
    for each in fields(answer):
        value = getattr(answer, each.name)
        if isinstance(value, ErrorCode):
            yield value
        for item in value if isinstance(value, tuple) else (value,):
            if is_dataclass(item):
                yield from codes_in(item)


@pytest.mark.parametrize("key", KEYS)
def test_every_request_is_answered(wire: Wire, broker: Broker, key: int) -> None:
    low, high = load_apis()[key].versions

    @given(st.data())
    def check(data: st.DataObject) -> None:
        version = data.draw(st.integers(low, high))
        request = data.draw(entities(load_request_schema(key, version)))
        named = {each.name: getattr(request, each.name) for each in fields(request)}
        answer = wire.ask(key, version, **named)
        assert ErrorCode.unknown_server_error not in set(codes_in(answer))

    check()
    assert wire.ask(18, 0).error_code == 0, "the connection goes on"
    assert isinstance(broker.topics(), list)


def test_when_the_catalogue_cannot_be_read_every_request_is_answered(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each API has a way to say so in each version."""

    def busy(*_: object, **__: object) -> Any:
        raise CatalogBusy(path="catalog.db", timeout_ms=7)

    for name in ("topic", "topics", "config", "create_topic", "delete_topic", "producers"):
        monkeypatch.setattr(Broker, name, busy)
    apis = load_apis()

    @given(st.sampled_from(KEYS), st.data())
    def check(key: int, data: st.DataObject) -> None:
        version = data.draw(st.integers(*apis[key].versions))
        request = data.draw(entities(load_request_schema(key, version)))
        named = {each.name: getattr(request, each.name) for each in fields(request)}
        found = set(codes_in(wire.ask(key, version, **named)))
        assert ErrorCode.unknown_server_error not in found
        seen.update(found)

    seen: set[Any] = set()
    check()
    assert ErrorCode.request_timed_out in seen
