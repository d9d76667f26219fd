"""Any well-formed request, by Hypothesis: from kio's classes."""

from __future__ import annotations

import datetime
import typing
import uuid
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

#: Of the APIs that look after topics and settings.
ADMIN_KEYS = (19, 20, 21, 32, 33, 35, 37, 44, 60, 61, 75)
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
    "timedelta_i64": st.sampled_from([-1, 0, 5_000]).map(
        lambda ms: datetime.timedelta(milliseconds=ms)
    ),
    "bytes": st.binary(max_size=5),
    "records": st.none() | st.binary(max_size=5),
}
# Kafka's types of resources: 2 is a topic, 4 a broker.
BY_NAME: dict[str, Any] = {"value": VALUES, "resource_type": st.sampled_from([2, 2, 4, 8, 0, -1])}


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


def milliseconds(*values: int) -> st.SearchStrategy[datetime.timedelta]:
    return st.sampled_from([datetime.timedelta(milliseconds=each) for each in values])


# Waiting is for other tests; and acks=0 has no answer.
BY_NAME["max_wait"] = milliseconds(-1, 0, 2)
BY_NAME["session_timeout"] = milliseconds(-1, 0, 500, 2**31 - 1)
BY_NAME["rebalance_timeout"] = milliseconds(-1, 0, 1, 50)
BY_NAME["acks"] = st.sampled_from([-1, -1, -1, 1, 2])


@cache
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
